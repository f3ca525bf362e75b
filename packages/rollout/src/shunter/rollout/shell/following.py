"""Reads a file again whenever it has changed: an edit, a rename over it, or the symlink swap of a mounted ConfigMap.

A changed file is read once it has been still from one look to the next: half of a file that is being written may well be
a valid one with fewer adapters.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from shunter.rollout.core.documents import MAX_FILE_BYTES
from shunter.rollout.errors import ConfigError

__all__ = ["Following", "read_file"]

Content = TypeVar("Content")
Look = tuple[int, int, int, int]


class Following(Generic[Content]):
    """The newest content of a file that could be used, and why a newer one cannot."""

    def __init__(self, path: Path, read: Callable[[str, bytes], Content]) -> None:
        """Read it for the first time; raises ConfigError."""
        self._path = path
        self._understand = read
        self._seen = self._read = _look(path)
        self.content = read(str(path), read_file(path))
        self.trouble: str | None = None

    def poll(self) -> bool:
        """Look whether the file has changed and take what it says; tell whether it did or cannot be used."""
        before, self._seen = self._seen, _look(self._path)
        if self._seen == self._read or self._seen != before:
            return False
        self._read = self._seen
        try:
            self.content = self._understand(str(self._path), read_file(self._path))
            self.trouble = None
        except ConfigError as error:
            self.trouble = str(error)
        return True


def read_file(path: Path) -> bytes:
    """Return what is in a file, up to a little more than is allowed; raises ConfigError."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _look(path: Path) -> Look:
    """Return what tells one content from the next: device, inode, size and time of what the path leads to."""
    try:
        info = path.stat()
    except OSError:
        return (0, 0, 0, 0)
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
