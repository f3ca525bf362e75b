"""A log in a file of mapped memory: made by its writer, found by readers who may come sooner, later or in between."""

import mmap
import os
import stat
from pathlib import Path

from shunter.snapshot.errors import SnapshotError
from shunter.snapshot.log import Batch, LogReader, LogWriter

__all__ = ["MappedLogReader", "map_log"]

ROOT = 0
# How long a file may be missing, or be another one under the same name, before that is noticed.
LOOK_AGAIN_NS = 1_000_000_000


def map_log(path: Path, size_bytes: int, *, mode: int = 0o600) -> LogWriter:
    """Become the writer of the log at ``path``: of the one there if it has that size, else of a new one.

    There is one writer; whoever may write the snapshot of this directory is. Raises SnapshotError.
    """
    try:
        if path.exists() and path.stat(follow_symlinks=False).st_size != size_bytes:
            path.unlink()  # not truncated: readers have it mapped
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            owner = os.fstat(fd).st_uid
            if owner != os.geteuid():
                raise SnapshotError(f"{path}: belongs to user {owner}, not {os.geteuid()}; remove it")
            os.fchmod(fd, mode)
            # Reserved before it is mapped: writing to a page that a full tmpfs cannot give is a SIGBUS.
            os.posix_fallocate(fd, 0, size_bytes)
            return LogWriter(memoryview(mmap.mmap(fd, size_bytes)))
        finally:
            os.close(fd)
    except OSError as error:
        raise SnapshotError(f"{path}: {error.strerror}; the log needs {size_bytes} bytes") from error


class MappedLogReader:
    """One reader of a log that need not exist yet, and may be replaced."""

    def __init__(self, path: Path) -> None:
        """Read the log at ``path`` if it belongs to this user or root and nobody else may write it."""
        self._path = path
        self._memory: memoryview | None = None
        self._reader: LogReader | None = None
        self._inode = 0
        self._look_again_ns = 0
        self.trouble: str | None = None
        """Why there is nothing to read; None while there is."""

    def read(self, now_ns: int) -> Batch | None:
        """Return what is new; None if nothing is. After a loss, and of another file than before, it is all there is."""
        replaced = now_ns >= self._look_again_ns and self._look(now_ns)
        batch = self._reader.read() if self._reader is not None else None
        if batch is not None and batch.lost and self._memory is not None:
            self._reader = LogReader(self._memory)
            batch = self._reader.read()
            return Batch(batch.records if batch else (), lost=True)
        return Batch(batch.records if batch else (), lost=True) if replaced else batch

    def _look(self, now_ns: int) -> bool:
        """Map the file if it is not the one mapped; was another one mapped before?"""
        self._look_again_ns = now_ns + LOOK_AGAIN_NS
        try:
            info = self._path.stat(follow_symlinks=False)
            if self._reader is not None and info.st_ino == self._inode:
                return False
            if info.st_uid not in {os.geteuid(), ROOT} or stat.S_IMODE(info.st_mode) & 0o022:
                self.trouble = f"{self._path}: belongs to user {info.st_uid} or others may write it; remove it"
                return False
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                memory = memoryview(mmap.mmap(fd, 0, prot=mmap.PROT_READ))
                reader = LogReader(memory)
            finally:
                os.close(fd)
        except (OSError, ValueError) as error:  # ValueError: empty, or too small for a log: not finished yet
            self.trouble = f"{self._path}: {getattr(error, 'strerror', None) or error}"
            return False
        known, self._reader, self._memory = self._reader, reader, memory
        self._inode, self.trouble = info.st_ino, None
        return known is not None
