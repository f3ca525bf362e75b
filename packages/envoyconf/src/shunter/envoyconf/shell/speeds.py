"""How fast each endpoint generates, as the picker's collector learnt it from Envoy's records.

The collector publishes what it learnt into the ring ``learned`` of the picker's ``--runtime`` directory, as MessagePack; of
that one number for each endpoint is read, and everything else passed over.
"""

import contextlib
from pathlib import Path

import msgspec

from shunter.snapshot import RingError, RingReader

__all__ = ["Key", "Speeds"]

RING = "learned"
SCHEMA = 2

Key = tuple[int, int]  # slot and incarnation


class Row(msgspec.Struct):
    """One endpoint."""

    slot: int
    incarnation: int
    decode_per_s: float | None = None  # tokens; None where Envoy reads no usage


class Learned(msgspec.Struct):
    """What is read of it."""

    schema: int
    rows: dict[str, Row]


class Speeds:
    """Reads the newest; there need not be a collector."""

    def __init__(self, directory: Path) -> None:
        self._ring = RingReader(directory / RING)
        self._decoder = msgspec.msgpack.Decoder(Learned)
        self._speeds: dict[Key, float] = {}

    def read(self, now_ns: int) -> dict[Key, float]:
        """Return tokens per second by endpoint, of those that are known. Never raises."""
        with contextlib.suppress(RingError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            if frame := self._ring.poll(now_ns):
                learned = self._decoder.decode(frame.payload)
                rows = learned.rows.values() if learned.schema == SCHEMA else ()
                self._speeds = {(row.slot, row.incarnation): row.decode_per_s for row in rows if row.decode_per_s}
        return self._speeds

    def close(self) -> None:
        """Unmap the ring."""
        self._ring.close()
