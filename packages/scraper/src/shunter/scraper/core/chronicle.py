"""The log of who holds which blocks, kept such that whoever begins to read it at its oldest record misses nothing that holds.

A log of fixed size forgets its beginning; a block that an engine holds for hours would be forgotten with it. So a statement
that still holds is repeated before it is overwritten: every one is among the last half of the log's bytes. A reader that
starts, or was too slow and lost something, forgets everything, reads from the oldest record on and knows all again. Nobody has
to ask for it, and the writer does not know its readers.

Repeating costs at most as many bytes as are written anyway while what holds fills no more than a quarter of the log; beyond
that the statements made longest ago are given up, as an index of bounded memory would.
"""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from msgspec.structs import replace

from shunter.snapshot import Begun, Cleared, Dropped, Held, LogWriter, Statement, encode_statement
from shunter.snapshot.blocks import MAX_NAMES

__all__ = ["LOG_BYTES", "Chronicle"]

# A quarter of it holds the names of 200,000 strides: 12.8 million tokens, the caches of 25 engines of half a million each.
LOG_BYTES = 8 << 20

BATCHES = 16  # in which what is in front of the horizon comes to it
NAME_BYTES = 10  # a name with its share of the record around it


class Told(NamedTuple):
    """A statement that may still hold."""

    serial: int
    at_bytes: int  # where in all that was ever written
    held: Held


class Chronicle:
    """The writing half; the reading one is the picker's."""

    def __init__(self, log: LogWriter, size_bytes: int = LOG_BYTES) -> None:
        """Void what a former writer said. ``size_bytes`` is the log's."""
        self._append = log.append
        self._horizon_bytes = size_bytes // 2
        self._max_names = size_bytes // 4 // NAME_BYTES
        self._written_bytes = 0
        self._serial = 0
        self._told: deque[Told] = deque()
        # (slot, incarnation) → tier → name → serial of the statement that counts
        self._current: dict[tuple[int, int], dict[str, dict[int, int]]] = {}
        self.names = 0
        """How many (endpoint, tier, block) hold."""
        self._write(Begun())

    def tell(self, statements: Iterable[Statement]) -> None:
        """Write statements, and again what would soon be overwritten."""
        for statement in statements:
            match statement:
                case Held():
                    self._hold(statement)
                case Dropped():
                    self._write(statement)
                    self._drop(statement)
                case Cleared():
                    self._write(statement)
                    gone = self._current.pop((statement.slot, statement.incarnation), {})
                    self.names -= sum(map(len, gone.values()))
                case Begun():
                    raise ValueError("a chronicle begins once")
            self._repeat()

    def _hold(self, held: Held) -> None:
        tiers = self._current.setdefault((held.slot, held.incarnation), {})
        current = tiers.setdefault(held.tier, {})
        before = len(current)
        self._serial += 1
        current.update(dict.fromkeys(held.names, self._serial))
        self.names += len(current) - before
        self._write(held)
        self._told.append(Told(self._serial, self._written_bytes, held))

    def _drop(self, dropped: Dropped) -> None:
        whose = dropped.slot, dropped.incarnation
        tiers = self._current.get(whose, {})
        current = tiers.get(dropped.tier, {})
        before = len(current)
        for name in dropped.names:
            current.pop(name, None)
        self.names += len(current) - before
        if not current:
            tiers.pop(dropped.tier, None)
        if not tiers:
            self._current.pop(whose, None)

    def _repeat(self) -> None:
        """Say again what has come to the horizon, many statements of one endpoint as one: single blocks are mostly frame."""
        due_bytes = self._written_bytes - self._horizon_bytes
        if not self._told or self._told[0].at_bytes >= due_bytes:
            return
        due_bytes += self._horizon_bytes // BATCHES
        together: dict[Held, list[int]] = {}
        while self._told and self._told[0].at_bytes < due_bytes:
            serial, _, held = self._told.popleft()
            current = self._current.get((held.slot, held.incarnation), {}).get(held.tier, {})
            names = [name for name in held.names if current.get(name) == serial]
            if names:
                together.setdefault(replace(held, names=()), []).extend(names)
        for held, names in together.items():
            for at in range(0, len(names), MAX_NAMES):
                some = tuple(names[at : at + MAX_NAMES])
                if self.names > self._max_names:
                    dropped = Dropped(held.slot, held.incarnation, held.tier, some)
                    self._write(dropped)
                    self._drop(dropped)
                else:
                    self._hold(replace(held, names=some))

    def _write(self, statement: Statement) -> None:
        record = encode_statement(statement)
        self._append(record)
        self._written_bytes += 8 + len(record) + -len(record) % 8
