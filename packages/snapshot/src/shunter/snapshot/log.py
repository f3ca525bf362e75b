"""A bounded log of events in shared memory: one writer, many readers, each at its own pace.

The ring of ``ring.py`` carries the newest value of something; this carries everything that happened, in order, for as long as
it fits. Both work on a buffer that is handed in: a mapped file between processes, a ``bytearray`` in a simulation.

Promises
--------
1. A reader returns whole records only, in the order of writing, each once. If it was so slow that records were overwritten
   before it came, it says so (``Batch.lost``) and goes on with the oldest that are left.
2. A writer killed at any instruction leaves a log that readers go on reading and the next writer goes on writing: a record
   that was not finished is never seen.
3. Whatever the bytes, a reader does not raise: it skips what is no record and says ``lost``.
4. A reader costs the writer nothing. To look and find nothing new costs one 8-byte load.

Layout (native byte order; all processes are on one machine)::

    0     magic "SHUNTLOG" with the version in its last byte
    64    u64 head: bytes written since the beginning, wrapped around the data as often as need be
    72    u64 reserved: where the head will be when the record being written is complete
    128   data: records, each u32 length, u32 crc32, payload, padding to 8 bytes

``append`` stores ``reserved``, writes the records, then stores ``head``, each by one aligned 8-byte store. A reader copies what
is below ``head`` first and looks at ``reserved`` afterwards: what may have been overwritten meanwhile it does not use. The
checksum is seeded with the record's position, so that an old record in the same place does not pass for a new one. On x86-64
stores become visible in order; elsewhere Python offers no barrier and the checksum alone rejects what arrived out of order
(arm64: designed for, not measured).
"""

import struct
from collections.abc import Sequence
from zlib import crc32

import msgspec

__all__ = ["LEAST_BYTES", "MAX_RECORD_BYTES", "Batch", "Buffer", "LogReader", "LogWriter"]

Buffer = bytearray | memoryview
"""A writable buffer, or one that is only read; its size is the log's for good."""

MAGIC = int.from_bytes(b"SHUNTLO\x01", "little")
HEAD = 8  # words
RESERVED = 9
DATA_AT = 128
HEADER_BYTES = 8
SEEDS = (1 << 32) - 1
END_OF_TIME = 1 << 63  # positions beyond are nonsense: at a gigabyte a second that is 292 years

# The blocks of a prompt of any size that fits into memory are less than half of it. It bounds what a reader spends on each
# place where a record might begin, when it has to search for one.
MAX_RECORD_BYTES = 1 << 15
LARGEST_BLOCK = HEADER_BYTES + MAX_RECORD_BYTES
LEAST_BYTES = DATA_AT + 2 * LARGEST_BLOCK

_header = struct.Struct("=II")
pack = _header.pack
_PADDING = tuple(bytes(-length % 8) for length in range(8))


class Batch(msgspec.Struct, frozen=True):
    """What was written since the last time."""

    records: Sequence[bytes]
    lost: bool = False  # something between the last batch and this one was missed


class _Log:
    """The words and the data of a buffer."""

    def __init__(self, buffer: Buffer) -> None:
        whole = memoryview(buffer)
        self.size = (len(whole) - DATA_AT) // 8 * 8
        if len(whole) < LEAST_BYTES:
            raise ValueError(f"a log of {len(whole)} bytes; it needs {LEAST_BYTES}")
        self.words = whole[:DATA_AT].cast("Q")  # an item is loaded and stored as one word
        self.data = whole[DATA_AT : DATA_AT + self.size]

    def makes_sense(self, head: int) -> bool:
        """Can this be the head of a log of ours?"""
        ahead = self.words[RESERVED] - head  # more than one record if the writer has gone on since the head was read
        aligned = head % 8 == ahead % 8 == 0
        return self.words[0] == MAGIC and aligned and 0 <= ahead <= LARGEST_BLOCK and head < END_OF_TIME

    def copy(self, at: int, end: int) -> bytes:
        """Return what was written from position ``at`` to ``end``, which is something."""
        start, stop = at % self.size, end % self.size
        if start < stop:
            return bytes(self.data[start:stop])
        return b"".join((self.data[start:], self.data[:stop]))


class LogWriter:
    """The one writer of a log. Goes on where a former one stopped, however that one ended."""

    def __init__(self, buffer: Buffer) -> None:
        """Take the log over, or begin one where none is. Raises ValueError if the buffer is too small."""
        log = _Log(buffer)
        self._words, self._data, self._size = log.words, log.data, log.size
        words = self._words
        if not log.makes_sense(words[HEAD]):
            words[HEAD] = words[RESERVED] = 0
            words[0] = MAGIC
        self._head = words[HEAD]

    def append(self, record: bytes) -> None:
        """Write a record. Raises ValueError if it is empty or larger than MAX_RECORD_BYTES."""
        length, at, words = len(record), self._head, self._words
        if not 0 < length <= MAX_RECORD_BYTES:
            raise ValueError(f"a record of {length} bytes; it may have 1 to {MAX_RECORD_BYTES}")
        block = pack(length, crc32(record, at & SEEDS)) + record + _PADDING[length % 8]
        end = at + len(block)
        words[RESERVED] = max(end, words[RESERVED])  # a predecessor killed while it wrote may have spoilt more
        start = at % self._size
        room = self._size - start
        if len(block) <= room:
            self._data[start : start + len(block)] = block
        else:
            self._data[start:] = block[:room]
            self._data[: len(block) - room] = block[room:]
        words[HEAD] = self._head = end


class LogReader:
    """One reader of a log; the writer does not know of it."""

    def __init__(self, buffer: Buffer, *, from_start: bool = True) -> None:
        """Begin with the oldest record there is, or with the next one. Raises ValueError if the buffer is too small."""
        self._log = _Log(buffer)
        self._words = self._log.words
        head = self._words[HEAD] if self._log.makes_sense(self._words[HEAD]) else 0
        self._at = max(0, head - self._log.size) if from_start else head
        self._aligned = not from_start or self._at == 0  # is _at where a record begins, or anywhere inside one

    def read(self) -> Batch | None:
        """Return what is new; None if nothing is, or if it has to be looked at again."""
        head, at = self._words[HEAD], self._at
        if head == at:
            return None
        log, aligned = self._log, self._aligned
        if not log.makes_sense(head):
            return None
        self._at, self._aligned = head, True
        lost = not at < head <= at + log.size
        if lost:
            at = max(0, head - log.size)
            aligned = at == 0
        data = log.copy(at, head)
        spoilt = self._words[RESERVED] - log.size  # what lies before this the writer may have been writing on meanwhile
        if spoilt > at:
            data, at, lost, aligned = data[spoilt - at :], spoilt, lost or aligned, False
        records, whole = _parse(data, at, aligned=aligned)
        return Batch(records, lost or not whole)


def _parse(data: bytes, at: int, *, aligned: bool) -> tuple[list[bytes], bool]:
    """Return the records in ``data``, which was written at position ``at``, and whether nothing among them is damaged.

    If not ``aligned``, what lies before the first whole record is the rest of one, and no damage.
    """
    records: list[bytes] = []
    offset, end, whole = 0, len(data), True
    while offset + HEADER_BYTES <= end:
        length, crc = _header.unpack_from(data, offset)
        start = offset + HEADER_BYTES
        record = data[start : start + length] if length <= MAX_RECORD_BYTES else b""
        if record and len(record) == length and crc32(record, (at + offset) & SEEDS) == crc:
            records.append(record)
            offset = start + length + -length % 8
        else:
            whole = whole and not (records or aligned)
            offset += 8
    return records, whole
