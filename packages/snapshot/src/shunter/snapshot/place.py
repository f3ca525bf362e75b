"""Where the rings live: on tmpfs if there is one, else in an ordinary directory."""

import os
import tempfile
from pathlib import Path

from shunter.snapshot.errors import SnapshotError

__all__ = ["runtime_directory"]

SHM = Path("/dev/shm")  # noqa: S108  what is made below is private and its owner is checked


def runtime_directory(name: str = "default", *, create: bool = True) -> Path:
    """Return this user's private runtime directory for the installation ``name``; who only looks does not ``create`` it.

    ``/dev/shm`` is memory (a write-back to disk would cost a ring that changes twenty times a second dearly); without it the
    system's temporary directory serves, more slowly and no less correctly. Raises SnapshotError if it cannot be made, or exists
    and belongs to somebody else, who could otherwise feed us snapshots.
    """
    base = SHM if SHM.is_dir() and os.access(SHM, os.W_OK) else Path(tempfile.gettempdir())
    directory = base / f"shunter-{os.geteuid()}" / name
    for path in (directory.parent, directory):
        if create:
            try:
                path.mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                remedy = "; remove what is there" if isinstance(error, FileExistsError | NotADirectoryError) else ""
                raise SnapshotError(f"{path}: no directory can be made: {error.strerror}{remedy}") from error
        elif not path.exists():
            break
        info = path.stat(follow_symlinks=False)
        if info.st_uid != os.geteuid() or info.st_mode & 0o022:
            raise SnapshotError(f"{path}: belongs to user {info.st_uid} or others may write it; remove it")
    return directory
