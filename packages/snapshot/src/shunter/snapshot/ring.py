"""One value shared by one writer with any number of readers, in a memory-mapped file that survives the death of either.

Promises
--------
1. A reader returns whole payloads only, each newer than the one before; it never waits for the writer.
2. A writer killed at any instruction leaves a ring that readers go on reading and the next writer goes on writing.
3. Nobody is told to look: a reader asks ``poll``, which costs one 8-byte load while nothing has changed.

Layout (native byte order; all processes are on one machine)::

    0     magic "SHUNTRNG", u32 version, u32 number of slots, u64 capacity of a slot in bytes
    64    u64 sequence: 0 nothing published yet, 2^64-1 this file is retired (open the path again), else the newest frame
    4096  slots, each: u64 sequence, u64 length, u64 published_ns, u64 crc32, padding to 64 bytes, payload

Publishing frame ``n`` writes slot ``n mod 4`` completely and then stores ``n`` with one aligned 8-byte store. A slot is thus
overwritten only after three newer frames; a reader that was paused that long sees a wrong slot sequence or checksum and reads
again. The checksum covers the slot's header too. On x86-64, stores become visible in order; elsewhere Python offers no barrier
and the checksum alone rejects what arrived out of order (arm64: designed for, not measured).

A payload larger than a slot moves the ring into a new file: written under another name, renamed over the path, then the old
file is retired. If the writer dies between those two steps the old file stays silent for ever, so a reader whose ring has been
silent for a while compares inodes. A file whose newest frame neither follows nor equals the one returned last was begun anew
(somebody removed the ring), and its frames are news whatever their numbers.

Why not ``multiprocessing.shared_memory``: on Python 3.11 and 3.12 a process that merely attaches unlinks the segment when it
exits. Why not a lock: the holder may be killed.
"""

import fcntl
import mmap
import os
import stat
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from shunter.snapshot.errors import RingBusyError, RingError

__all__ = ["MAX_PAYLOAD_BYTES", "Frame", "RingReader", "RingWriter"]

MAGIC = b"SHUNTRNG"
VERSION = 1
SLOTS = 4
SLOTS_AT = 4096
SEQUENCE_AT = 64
SLOT_HEADER_BYTES = 64
EMPTY = 0
RETIRED = 2**64 - 1
ROOT = 0

# 10,000 endpoints with long names and labels encode to about 5 MB; beyond this the writer has gone mad, and tmpfs is memory.
MAX_PAYLOAD_BYTES = 64 << 20
# A frame is overwritten only after three more publications; a reader that loses this often is being starved, not unlucky.
READ_ATTEMPTS = 8
# How long a ring may be silent, or missing, before the reader looks at the path again.
LOOK_AGAIN_NS = 200_000_000

_head = struct.Struct("=8sIIQ")
_slot = struct.Struct("=QQQQ")


class Frame(NamedTuple):
    """One published payload."""

    sequence: int
    published_ns: int
    payload: bytes


def _stride(capacity_bytes: int) -> int:
    return SLOT_HEADER_BYTES + (capacity_bytes + 63) // 64 * 64


def _checksum(sequence: int, published_ns: int, payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack("=QQQ", sequence, len(payload), published_ns)))


class _Mapping:
    """The mapped file: geometry, the sequence word and the slots."""

    def __init__(self, fd: int, path: Path, *, writable: bool) -> None:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise RingError(f"{path}: not a regular file; remove it or choose another directory")
        head = os.pread(fd, _head.size, 0)
        if len(head) < _head.size or head[:8] != MAGIC:
            raise RingError(f"{path}: not a Shunter ring (it begins with {head[:8]!r}); remove it or choose another directory")
        _, version, slots, capacity = _head.unpack(head)
        if version != VERSION:
            raise RingError(
                f"{path}: ring version {version}, this program speaks {VERSION}; run the same version of writer and reader"
            )
        size = SLOTS_AT + slots * _stride(capacity)
        if slots != SLOTS or info.st_size != size:
            raise RingError(f"{path}: {info.st_size} bytes, but its head promises {size}: truncated or damaged; remove it")
        self.inode = info.st_ino
        self.capacity_bytes = capacity
        self._map = mmap.mmap(fd, size, prot=mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))
        self._bytes = memoryview(self._map)
        self._word = self._bytes[SEQUENCE_AT : SEQUENCE_AT + 8].cast("Q")  # an item is loaded and stored as one word

    @property
    def sequence(self) -> int:
        return self._word[0]

    @sequence.setter
    def sequence(self, value: int) -> None:
        self._word[0] = value

    def write(self, sequence: int, published_ns: int, payload: bytes) -> None:
        at = SLOTS_AT + sequence % SLOTS * _stride(self.capacity_bytes)
        start = at + SLOT_HEADER_BYTES
        _slot.pack_into(self._map, at, EMPTY, 0, 0, 0)
        self._bytes[start : start + len(payload)] = payload
        _slot.pack_into(self._map, at, sequence, len(payload), published_ns, _checksum(sequence, published_ns, payload))

    def read(self, sequence: int) -> Frame | None:
        """Return frame ``sequence``, or None if its slot holds anything else."""
        at = SLOTS_AT + sequence % SLOTS * _stride(self.capacity_bytes)
        found, length, published_ns, crc = _slot.unpack_from(self._map, at)
        if found != sequence or length > self.capacity_bytes:
            return None
        start = at + SLOT_HEADER_BYTES
        payload = bytes(self._bytes[start : start + length])
        return Frame(sequence, published_ns, payload) if _checksum(sequence, published_ns, payload) == crc else None

    def close(self) -> None:
        self._word.release()
        self._bytes.release()
        self._map.close()


class RingWriter:
    """The one writer of a ring. Goes on where a former writer stopped, however that one ended."""

    def __init__(self, path: Path, *, capacity_bytes: int = 1 << 16, mode: int = 0o600) -> None:
        """Open or create the ring at ``path``; ``mode`` is 0o600, or 0o640 to let the group read.

        Raises RingBusyError while another writer lives and RingError if the path holds something that is not a ring of ours.
        """
        self._path = path
        self._mode = mode
        self._lock = self._take_lock()
        try:
            self._mapping = self._adopt() or self._create(capacity_bytes)
        except BaseException:
            os.close(self._lock)
            raise
        self._sequence = self._mapping.sequence

    @property
    def sequence(self) -> int:
        """The newest frame published, 0 if none."""
        return self._sequence

    def publish(self, payload: bytes, now_ns: int) -> int:
        """Make ``payload`` the newest frame and return its sequence number. ``now_ns``: CLOCK_MONOTONIC."""
        self.reserve(len(payload))
        sequence = self._sequence + 1
        self._mapping.write(sequence, now_ns, payload)
        self._mapping.sequence = self._sequence = sequence
        return sequence

    def reserve(self, payload_bytes: int) -> None:
        """Make room for a payload of this size; raises RingError if there is none, and then the ring is as it was."""
        if payload_bytes > self._mapping.capacity_bytes:
            self._grow(payload_bytes)

    def newest(self) -> Frame | None:
        """Return what a reader would read: also what a former writer left."""
        return self._mapping.read(self._sequence) if self._sequence else None

    def close(self) -> None:
        """Let go; the file stays, for readers and for the next writer."""
        self._mapping.close()
        os.close(self._lock)

    def _take_lock(self) -> int:
        # A file of its own, because growing replaces the ring's. The kernel frees the lock of a killed process.
        lock_path = self._path.with_name(self._path.name + ".lock")
        try:
            fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RingError(f"{lock_path}: {error.strerror}; the directory must exist and be writable") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise RingBusyError(f"{self._path}: process {holder or 'unknown'} is its writer; a ring has exactly one") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return fd

    def _adopt(self) -> _Mapping | None:
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RingError(f"{self._path}: {error.strerror}; remove it or choose another directory") from error
        try:
            owner = os.fstat(fd).st_uid
            if owner != os.geteuid():
                raise RingError(
                    f"{self._path}: belongs to user {owner}, not {os.geteuid()}; remove it or choose another directory"
                )
            head = os.pread(fd, _head.size, 0)
            if len(head) == _head.size and head[:8] == MAGIC and _head.unpack(head)[1] != VERSION:
                return None  # a ring of ours from another release: replace it
            os.fchmod(fd, self._mode)
            return _Mapping(fd, self._path, writable=True)
        finally:
            os.close(fd)

    def _create(self, capacity_bytes: int) -> _Mapping:
        # One name, not a random one: the lock makes it ours, and what a killed writer left there does not pile up.
        fresh = self._path.with_name(self._path.name + ".new")
        size = SLOTS_AT + SLOTS * _stride(capacity_bytes)
        try:
            fresh.unlink(missing_ok=True)
            fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RingError(f"{self._path.parent}: {error.strerror}; the directory must exist and be writable") from error
        try:
            os.fchmod(fd, self._mode)
            # Reserved before it is mapped: writing to a page that a full tmpfs cannot give is a SIGBUS.
            os.posix_fallocate(fd, 0, size)
            os.pwrite(fd, _head.pack(MAGIC, VERSION, SLOTS, capacity_bytes), 0)
            mapping = _Mapping(fd, self._path, writable=True)
            fresh.replace(self._path)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise RingError(f"{self._path}: {error.strerror}; the ring needs {size} bytes") from error
        finally:
            os.close(fd)
        return mapping

    def _grow(self, wanted_bytes: int) -> None:
        if wanted_bytes > MAX_PAYLOAD_BYTES:
            raise RingError(f"{self._path}: a payload of {wanted_bytes} bytes; the limit is {MAX_PAYLOAD_BYTES}")
        old = self._mapping
        frame = self.newest()
        new = self._create(min(2 * wanted_bytes, MAX_PAYLOAD_BYTES))
        if frame is not None:  # so that whoever opens the new file finds the newest frame in it
            new.write(*frame)
            new.sequence = frame.sequence
        self._mapping = new
        old.sequence = RETIRED
        old.close()


class RingReader:
    """One reader of a ring. May be opened before the ring exists."""

    def __init__(self, path: Path, *, trusted_uid: int | None = None) -> None:
        """Read the ring at ``path`` if it belongs to this user, to root or to ``trusted_uid``."""
        self._path = path
        self._trusted = {os.geteuid(), ROOT} | ({trusted_uid} if trusted_uid is not None else set[int]())
        self._mapping: _Mapping | None = None
        self._look_again_ns = 0
        self.sequence = EMPTY
        self.published_ns = 0

    def poll(self, now_ns: int) -> Frame | None:
        """Return the newest frame if it has not been returned before, else None.

        Raises RingError, at most once per LOOK_AGAIN_NS, when there is no readable ring at the path; the caller keeps what it
        has and polls on. ``now_ns``: CLOCK_MONOTONIC.
        """
        mapping = self._mapping
        if mapping is None:
            if now_ns < self._look_again_ns:
                return None
            mapping = self._open(now_ns)
        newest = mapping.sequence
        if newest == self.sequence and now_ns < self._look_again_ns:
            return None
        if newest in {self.sequence, RETIRED}:
            mapping = self._follow(mapping, now_ns)
        return self._take(mapping, now_ns)

    def age_s(self, now_ns: int) -> float:
        """Seconds since the frame returned last was published; infinite before the first one (or on another boot's file)."""
        if self.sequence == EMPTY or self.published_ns > now_ns:
            return float("inf")
        return (now_ns - self.published_ns) / 1e9

    def close(self) -> None:
        """Unmap the file."""
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None

    def _take(self, mapping: _Mapping, now_ns: int) -> Frame | None:
        for _ in range(READ_ATTEMPTS):
            newest = mapping.sequence
            if newest in {EMPTY, self.sequence, RETIRED}:
                return None  # retired while we looked: the next poll follows
            frame = mapping.read(newest)
            if frame is not None:
                self.sequence, self.published_ns = frame.sequence, frame.published_ns
                self._look_again_ns = now_ns + LOOK_AGAIN_NS
                return frame
        return None

    def _open(self, now_ns: int) -> _Mapping:
        self._look_again_ns = now_ns + LOOK_AGAIN_NS
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise RingError(f"{self._path}: does not exist; is the scraper running with this snapshot directory?") from None
        except OSError as error:
            raise RingError(f"{self._path}: {error.strerror}") from error
        try:
            info = os.fstat(fd)
            if info.st_uid not in self._trusted:
                raise RingError(f"{self._path}: belongs to user {info.st_uid}, who is not trusted to write it")
            if stat.S_IMODE(info.st_mode) & 0o022:
                raise RingError(
                    f"{self._path}: mode {stat.S_IMODE(info.st_mode):04o} lets others write it; it should be 0600 or 0640"
                )
            self._mapping = mapping = _Mapping(fd, self._path, writable=False)
        finally:
            os.close(fd)
        newest = mapping.read(mapping.sequence)
        if newest is None or (newest.sequence <= self.sequence and newest[:2] != (self.sequence, self.published_ns)):
            self.sequence = EMPTY  # not what the file we knew grew into: somebody began anew
        return mapping

    def _follow(self, mapping: _Mapping, now_ns: int) -> _Mapping:
        """Open the path again if it names another file than the one mapped."""
        self._look_again_ns = now_ns + LOOK_AGAIN_NS
        try:
            if self._path.stat(follow_symlinks=False).st_ino == mapping.inode:
                return mapping
        except OSError:
            return mapping  # removed: what is mapped stays readable
        mapping.close()
        self._mapping = None
        return self._open(now_ns)
