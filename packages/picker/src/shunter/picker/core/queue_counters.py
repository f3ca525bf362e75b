"""The part of a seat's counters that flow control writes: of each priority what waits, what became of whom, and after how long.

Words of 8 bytes, after those of ``core.tables``::

    0     saturation of the pool as it was read last, in millionths; requests and bytes that may wait (0: no bound)
    3     number of rows in use
    4     ROWS rows, one for each priority: the priority plus 2**63; requests and bytes that wait, and how many may;
          the outcomes, in the order of OUTCOMES; how many of those who went on had waited no longer than each of WAITS_S, and
          the others; how long they had waited together, in microseconds
"""

from bisect import bisect_left
from collections.abc import Iterable

import msgspec

from shunter.picker.core.buckets import WAITS_S
from shunter.picker.core.flow import BandSettings, FlowSettings

__all__ = ["OUTCOMES", "QUEUE_WORDS", "BandTally", "QueueCounters", "QueueTally", "add_up"]

# The reference's names, of those that there are here.
OUTCOMES = (
    "Dispatched",
    "RejectedCapacity",
    "RejectedNoEndpoints",
    "EvictedTTL",
    "EvictedNoEndpoints",
    "EvictedContextCancelled",
    "EvictedOther",
)
DISPATCHED = 0

# Priorities come from a configuration and from objectives; what there is beyond is counted with the last one.
ROWS = 32
OFFSET = 1 << 63

ROWS_AT = 4
OUTCOMES_AT = 5
WAITS_AT = OUTCOMES_AT + len(OUTCOMES)
WAITED_AT = WAITS_AT + len(WAITS_S) + 1
ROW = WAITED_AT + 1
QUEUE_WORDS = ROWS_AT + ROWS * ROW


class BandTally(msgspec.Struct):
    """One priority's."""

    requests: int = 0
    size_bytes: int = 0
    max_requests: int = 0  # in each worker the same: a bound is for all together
    max_bytes: int = 0
    outcomes: list[int] = msgspec.field(default_factory=lambda: [0] * len(OUTCOMES))
    waits: list[int] = msgspec.field(default_factory=lambda: [0] * (len(WAITS_S) + 1))
    waited_us: int = 0


class QueueTally(msgspec.Struct):
    """What waits and what became of whom, by priority."""

    saturation: float = 0.0
    max_requests: int = 0
    max_bytes: int = 0
    bands: dict[int, BandTally] = msgspec.field(default_factory=dict[int, BandTally])


class QueueCounters:
    """A view of the memory; for the worker to write, for others to read."""

    def __init__(self, words: memoryview) -> None:
        """Change nothing yet."""
        self._words = words
        self._rows: dict[int, int] = {}  # priority → where its row begins

    def begin(self, settings: FlowSettings) -> None:
        """Nothing waits; totals go on."""
        self.clear()
        self._rows = {priority: at for at, priority in self._priorities()}
        self._words[1], self._words[2] = settings.max_requests, settings.max_bytes

    def clear(self) -> None:
        """Forget what waited; for whoever knows that the process is dead."""
        for at, _ in self._priorities():
            self._words[at + 1] = self._words[at + 2] = 0

    def read(self, saturation: float) -> None:
        """Take down how full the pool is."""
        self._words[0] = int(min(saturation, 1e6) * 1e6)

    def wait(self, priority: int, requests: int, size_bytes: int, settings: BandSettings) -> None:
        """Count so many requests and bytes more that wait, or fewer."""
        words, at = self._words, self._row(priority)
        words[at + 1] += requests
        words[at + 2] += size_bytes
        words[at + 3], words[at + 4] = settings.max_requests, settings.max_bytes

    def end(self, priority: int, outcome: str, waited_s: float) -> None:
        """Count what became of a request."""
        words, at, which = self._words, self._row(priority), OUTCOMES.index(outcome)
        words[at + OUTCOMES_AT + which] += 1
        if which == DISPATCHED:
            words[at + WAITS_AT + bisect_left(WAITS_S, waited_s)] += 1
            words[at + WAITED_AT] += int(waited_s * 1e6)

    def tally(self) -> QueueTally:
        """Return what is counted at this moment."""
        words = self._words
        tally = QueueTally(words[0] / 1e6, words[1], words[2])
        for at, priority in self._priorities():
            _, requests, size_bytes, max_requests, max_bytes, *rest = words[at : at + ROW].tolist()
            outcomes, waits, waited_us = rest[: len(OUTCOMES)], rest[len(OUTCOMES) : -1], rest[-1]
            tally.bands[priority] = BandTally(requests, size_bytes, max_requests, max_bytes, outcomes, waits, waited_us)
        return tally

    def _priorities(self) -> list[tuple[int, int]]:
        starts = range(ROWS_AT, ROWS_AT + min(self._words[3], ROWS) * ROW, ROW)
        return [(at, self._words[at] - OFFSET) for at in starts]

    def _row(self, priority: int) -> int:
        at = self._rows.get(priority)
        if at is None:
            number = min(len(self._rows), ROWS - 1)
            at = self._rows[priority] = ROWS_AT + number * ROW
            self._words[at] = priority + OFFSET
            self._words[3] = max(self._words[3], number + 1)
        return at


def add_up(tallies: Iterable[QueueTally]) -> QueueTally:
    """Return the sum of all seats' tallies; bounds and saturation are those of the one that has the highest."""
    total = QueueTally()
    for each in tallies:
        total.saturation = max(total.saturation, each.saturation)
        total.max_requests = max(total.max_requests, each.max_requests)
        total.max_bytes = max(total.max_bytes, each.max_bytes)
        for priority, band in each.bands.items():
            sum_ = total.bands.setdefault(priority, BandTally())
            sum_.requests += band.requests
            sum_.size_bytes += band.size_bytes
            sum_.max_requests = max(sum_.max_requests, band.max_requests)
            sum_.max_bytes = max(sum_.max_bytes, band.max_bytes)
            sum_.outcomes = [one + other for one, other in zip(sum_.outcomes, band.outcomes, strict=True)]
            sum_.waits = [one + other for one, other in zip(sum_.waits, band.waits, strict=True)]
            sum_.waited_us += band.waited_us
    return total
