"""Maps what the workers share: a journal and counters for each seat, files in a directory on tmpfs.

::

    journal-<seat>     what the worker tells the others (core/journal.py over shunter.snapshot.log)
    counters-<seat>    what it counted (core/tables.py)
    seat-<seat>.lock   held by the process that sits there; the kernel takes it back from a dead one
    lives              the number of the newest life

The files stay when their process ends: a successor goes on with the counters, and what its predecessor learnt of prefixes it
reads in the journal. A file of zeros is an empty one, so it does not matter who comes first and creates it.
"""

import fcntl
import mmap
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from shunter.picker.core.journal import Journal, Peers
from shunter.picker.core.tables import COUNTERS_BYTES, Counters
from shunter.picker.errors import PickerError
from shunter.snapshot import LogReader, LogWriter

__all__ = ["Memory", "Seat", "new_life", "watch"]

# Of all seats together: as many blocks as a prefix index remembers, and what a new worker reads in a fifth of a second.
JOURNALS_BYTES = 2 << 20

# A prompt of 500 KB is a record of 2.9 KB, one of 1 KB is 100 bytes with its end. Everybody reads twenty times a second, so
# nobody is lapped before one worker takes 1,700 of the longest a second, or is stopped while 2,500 short ones go by.
LEAST_JOURNAL_BYTES = 256 << 10


class Seat(msgspec.Struct, frozen=True):
    """Where one worker process sits.

    A seat has one occupant at a time. So that a successor can begin while its predecessor still ends its streams, there should
    be one seat more than processes.
    """

    directory: Path
    index: int
    seats: int  # how many there are, whoever sits in them
    life: int  # unique over all seats and restarts, see new_life


class Memory:
    """One worker's share: its own seat to write, the others' journals to read."""

    def __init__(self, seat: Seat) -> None:
        """Sit down. Raises PickerError if the seat is taken or the files cannot be made."""
        self._lock = _take(seat)
        size_bytes = max(LEAST_JOURNAL_BYTES, JOURNALS_BYTES // seat.seats)
        self._index = seat.index
        try:
            self._journals = journals = [_map(seat.directory / f"journal-{index}", size_bytes) for index in range(seat.seats)]
            self.counters = Counters(_map(seat.directory / f"counters-{seat.index}", COUNTERS_BYTES))
        except BaseException:
            self._lock.close()
            raise
        self.peers = Peers([LogReader(journal) for journal in journals], seat.life)
        self.journal = Journal(LogWriter(journals[seat.index]), seat.life)
        self.journal.begun()
        self.counters.begin(seat.life, os.getpid(), time.monotonic_ns())

    def others(self) -> dict[int, LogReader]:
        """Return the journals of all other seats, to be read from the oldest record that is left."""
        return {index: LogReader(journal) for index, journal in enumerate(self._journals) if index != self._index}

    def close(self) -> None:
        """Leave the seat; the files stay."""
        self._lock.close()


def watch(directory: Path, seats: int) -> Sequence[Counters]:
    """Return all seats' counters, to read. Raises PickerError if the files cannot be made."""
    return [Counters(_map(directory / f"counters-{index}", COUNTERS_BYTES)) for index in range(seats)]


def new_life(directory: Path) -> int:
    """Return a number that no life in this directory had. Only one process may ask, the supervisor."""
    path = directory / "lives"
    try:
        last = int(path.read_text())
    except (FileNotFoundError, ValueError):
        last = 0
    fresh = path.with_suffix(".new")
    fresh.write_text(f"{last + 1}\n")
    fresh.replace(path)
    return last + 1


def _take(seat: Seat) -> BinaryIO:
    path = seat.directory / f"seat-{seat.index}.lock"
    lock = os.fdopen(_open(path), "rb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise PickerError(f"{path}: another process sits in seat {seat.index}; a seat has one occupant") from None
    return lock


def _open(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PickerError(f"{path}: {error.strerror}; the directory must exist and be writable") from error
    owner = os.fstat(fd).st_uid
    if owner != os.geteuid():
        os.close(fd)
        raise PickerError(f"{path}: belongs to user {owner}, not {os.geteuid()}; remove it or choose another directory")
    return fd


def _map(path: Path, size_bytes: int) -> memoryview:
    fd = _open(path)
    try:
        # Reserved before it is mapped: writing to a page that a full tmpfs cannot give is a SIGBUS.
        os.posix_fallocate(fd, 0, size_bytes)
        return memoryview(mmap.mmap(fd, size_bytes))
    except OSError as error:
        raise PickerError(f"{path}: {error.strerror}; it needs {size_bytes} bytes") from error
    finally:
        os.close(fd)
