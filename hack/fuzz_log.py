"""Fuzz target: whatever the bytes of a log, a reader does not raise, and what the next writer writes is read."""

from shunter.snapshot.log import LEAST_BYTES, LogReader, LogWriter

SIZE = LEAST_BYTES


def written(*records):
    buffer = bytearray(SIZE)
    for record in records:
        LogWriter(buffer).append(record)
    return bytes(buffer).rstrip(b"\0")


CORPUS = [
    b"",
    written(b"a"),
    written(b"first", b"second record", bytes(3000)),
    written(*[b"x" * 5000] * 12),  # wrapped around
]


def target(data):
    buffer = bytearray(data[:SIZE].ljust(SIZE, b"\0"))
    readers = [LogReader(buffer), LogReader(buffer, from_start=False)]
    for reader in readers:
        reader.read()
    writer = LogWriter(buffer)
    writer.append(b"good")
    for reader in [*readers, LogReader(buffer)]:
        batch = reader.read()
        assert batch is not None, "news were not seen"
        assert batch.records[-1:] == [b"good"], "the newest record was missed"
