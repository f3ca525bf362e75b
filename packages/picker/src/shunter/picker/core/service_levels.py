"""What was promised to whom: whether requests were as fast as their service level says, counted exactly.

A level names requests, by model, objective and priority, and what is fast enough for them. A request belongs to every level
that names it. Of each *signal* that a level has a threshold for, requests are counted, and the good ones among them:

====== ============================================================ =========================================
signal what is measured                                             what counts and is never good
====== ============================================================ =========================================
ttft   to the first byte of a streamed response                     a stream that failed
tpot   per output token after the first one, of streamed responses
e2e    from a request's arrival to its end                          a request that failed
====== ============================================================ =========================================

To fail is to be refused for want of room (429, 503), by the picker or an engine, or to end with another status from 500 on. A
request that is the client's own mistake (any other 4xx) counts nowhere; one that was cut short, perhaps by its client, counts
for its ttft alone.

In shared memory there is a row for each level: its name, then for each signal requests and good ones. They go on over restarts
and over changed thresholds, as long as the name stays.
"""

from collections.abc import Iterable, Sequence

import msgspec

from shunter.picker.core.decisions import Entry
from shunter.picker.core.judgement import Outcome

__all__ = [
    "LEVEL_WORDS",
    "MOST_LEVELS",
    "SIGNALS",
    "Level",
    "LevelCounters",
    "LevelTally",
    "add_levels",
    "has_failed",
    "tpot_s",
]

SIGNALS = ("ttft", "tpot", "e2e")

# Each is a row of alerts and a panel that somebody has to look at; a dozen is many. Names are labels, as short as such are.
MOST_LEVELS = 32
LONGEST_NAME = 63

NAME_WORDS = 8
ROW = NAME_WORDS + 2 * len(SIGNALS)
LEVEL_WORDS = ROW * MOST_LEVELS

SHORTAGES = frozenset({429, 503})


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """Who is promised what. None: whoever, and nothing."""

    name: str
    target: float  # the share of requests that is to be good
    model: str | None = None  # as the client says
    objective: str | None = None
    priority: int | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    def names(self, entry: Entry) -> bool:
        """Tell whether a request is one of these."""
        return (
            self.model in {None, entry.model}
            and self.objective in {None, entry.objective}
            and self.priority in {None, entry.priority}
        )

    @property
    def thresholds(self) -> tuple[float | None, ...]:
        """In the order of SIGNALS."""
        return (self.ttft_s, self.tpot_s, self.e2e_s)


class LevelTally(msgspec.Struct):
    """One level's counts, in the order of SIGNALS."""

    requests: list[int] = msgspec.field(default_factory=lambda: [0] * len(SIGNALS))
    good: list[int] = msgspec.field(default_factory=lambda: [0] * len(SIGNALS))

    def add(self, other: "LevelTally") -> None:
        """Add another seat's."""
        self.requests = [one + two for one, two in zip(self.requests, other.requests, strict=True)]
        self.good = [one + two for one, two in zip(self.good, other.good, strict=True)]


class LevelCounters:
    """A view of the memory; for the worker to write, for others to read."""

    def __init__(self, words: memoryview) -> None:
        """Change nothing yet."""
        self._words = words
        self._levels: tuple[tuple[Level, int], ...] = ()  # and where its row begins

    def begin(self, levels: Sequence[Level]) -> None:
        """Count these from now on; raise ValueError if they are more than MOST_LEVELS."""
        if len(levels) > MOST_LEVELS:
            raise ValueError(f"{len(levels)} service levels; {MOST_LEVELS} are counted")
        wanted = {level.name for level in levels}
        known = dict(self._rows())
        places = {name: at for at, name in known.items() if name in wanted}
        # Former levels come back, with the next reload perhaps: their rows are taken last.
        free = iter(sorted({*range(0, LEVEL_WORDS, ROW)} - {*places.values()}, key=lambda at: (at in known, at)))
        for name in sorted(wanted - places.keys()):
            at = places[name] = next(free)
            self._words[at : at + ROW] = memoryview(name.encode().ljust(8 * ROW, b"\0")).cast("Q")
        self._levels = tuple((level, places[level.name]) for level in levels)

    def find(self, entry: Entry) -> tuple[tuple[Level, int], ...]:
        """Return the levels that a request belongs to, for ``settle``."""
        return tuple([each for each in self._levels if each[0].names(entry)]) if self._levels else ()

    def refuse(self, levels: Iterable[tuple[Level, int]], status: int, *, stream: bool) -> None:
        """Count a request that got no endpoint."""
        if status in SHORTAGES:
            self._fail(levels, stream=stream)

    def settle(self, levels: Iterable[tuple[Level, int]], outcome: Outcome, *, stream: bool) -> None:
        """Count a request that ended, by all that is known of it."""
        status = outcome.status or 0
        if has_failed(status):
            self._fail(levels, stream=stream)
        elif 200 <= status < 400:
            values = (
                outcome.first_token_s if stream else None,
                tpot_s(outcome) if stream and outcome.complete else None,
                outcome.duration_s if outcome.complete else None,
            )
            for level, at in levels:
                for which, (limit_s, value_s) in enumerate(zip(level.thresholds, values, strict=True)):
                    if limit_s is not None and value_s is not None:
                        self._count(at, which, good=value_s <= limit_s)

    def tally(self) -> dict[str, LevelTally]:
        """Return what is counted at this moment, by the levels' names."""
        found: dict[str, LevelTally] = {}
        for at, name in self._rows():
            counts = self._words[at + NAME_WORDS : at + ROW].tolist()
            found[name] = LevelTally(counts[0::2], counts[1::2])
        return found

    def _fail(self, levels: Iterable[tuple[Level, int]], *, stream: bool) -> None:
        for level, at in levels:
            if level.ttft_s is not None and stream:
                self._count(at, 0, good=False)
            if level.e2e_s is not None:
                self._count(at, 2, good=False)

    def _count(self, at: int, which: int, *, good: bool) -> None:
        place = at + NAME_WORDS + 2 * which
        self._words[place] += 1
        if good:
            self._words[place + 1] += 1

    def _rows(self) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        for at in range(0, LEVEL_WORDS, ROW):
            name = self._words[at : at + NAME_WORDS].tobytes().rstrip(b"\0").decode("utf-8", "replace")
            if name:
                found.append((at, name))
        return found


def add_levels(tallies: Iterable[dict[str, LevelTally]]) -> dict[str, LevelTally]:
    """Return the sum of all seats' service levels."""
    total: dict[str, LevelTally] = {}
    for each in tallies:
        for name, tally in each.items():
            total.setdefault(name, LevelTally()).add(tally)
    return total


def has_failed(status: int) -> bool:
    """Tell whether a status is no fault of the client's."""
    return status >= 500 or status in SHORTAGES


def tpot_s(outcome: Outcome) -> float | None:
    """Return the time per output token after the first one; None if it is not known, or there is none."""
    first_s, duration_s, tokens = outcome.first_token_s, outcome.duration_s, outcome.completion_tokens
    if first_s is None or duration_s is None or tokens is None or tokens < 2 or duration_s < first_s:
        return None
    return (duration_s - first_s) / (tokens - 1)
