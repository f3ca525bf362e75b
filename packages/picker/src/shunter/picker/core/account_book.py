"""What is counted of each class of requests, in shared memory: how many, what became of them, how long and how dear they were.

A class is a model, what the engine was asked for instead, a fairness id and a priority. All but the last may be a client's
text, and each class is two hundred series of metrics; so classes are bounded:

* models' names that an InferenceModelRewrite, an InferenceModel or an engine's list has, and the fairness id of who has none,
  are *known*; all others are *strange*;
* classes with strange names get STRANGE_ROWS rows, first come, first served; beyond them strange names are counted as "other";
* the remaining rows are for classes of known names and "other"; beyond them everything is "other".

So a client that invents names cannot crowd out a model that the cluster knows, and every request is counted somewhere; how many
were folded is counted too.

Words of 8 bytes::

    0     rows in use, those of strange names among them, requests that were folded, those of which nobody told in time
    4     ROWS rows: the names, zeros between them, and the priority plus 2**63; requests, and those running; ERRORS rows of
          ``core.named_counts``; one for each of STAGES; then each of FIGURES: counts by bucket, and the sum as a double
    …     service levels: ``core.service_levels``
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

import msgspec

from shunter.picker.core import buckets
from shunter.picker.core.buckets import Histogram
from shunter.picker.core.named_counts import OTHER, NamedCounts
from shunter.picker.core.request import DEFAULT_FLOW
from shunter.picker.core.service_levels import LEVEL_WORDS, LevelCounters

__all__ = [
    "ACCOUNT_WORDS", "ENCODED", "FIGURES", "PREFILLED", "STRANGE_ROWS", "AccountBook", "Class", "ClassTally", "add_classes",
]  # fmt: skip

Class = tuple[str, str, str, int]
"""Model, target model, fairness id, priority."""

# Ten models for a dozen tenants fit. If all is known of each class, their page was measured to have 4.2 MB and to take 0.3 s.
ROWS = 128
STRANGE_ROWS = 64

# No figure of a request is larger, and sums of such stay numbers.
MOST = 2.0**63

# Of a name: models' are up to 96 characters on the hub; what is longer shares the row of what begins alike.
LONGEST_NAME_BYTES = 127

# Which stages endpoints did for the one that decodes, in the reference's words: a bit for prefill, one for encode.
STAGES = ("decode-only", "prefill-decode", "encode-decode", "encode-prefill-decode")
PREFILLED, ENCODED = 1, 2

# Codes of refusals there are a handful.
ERRORS = 8
ERROR_WORDS = 4

NAME_WORDS = 48
PRIORITY_AT = NAME_WORDS
REQUESTS_AT = PRIORITY_AT + 1
RUNNING_AT = REQUESTS_AT + 1
ERRORS_AT = RUNNING_AT + 1
STAGES_AT = ERRORS_AT + ERRORS * ERROR_WORDS
FIGURES_AT = STAGES_AT + len(STAGES)
OFFSET = 1 << 63
HEAD = 4


class Figure(NamedTuple):
    """A distribution: its bounds, where its counts begin in a row and where its sum stands."""

    bounds: tuple[float, ...]
    counts_at: int
    sum_at: int


def _lay_out(**figures: tuple[float, ...]) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    at = FIGURES_AT
    for name, bounds in figures.items():
        kind = type(bounds[0])  # all of one, and as values are: comparing an int with a float takes twice as long
        found[name] = Figure(tuple(map(kind, bounds)), at, at + len(bounds) + 1)
        at = found[name].sum_at + 1
    return found


FIGURES = _lay_out(
    duration=buckets.DURATION_S,
    ttft=buckets.TTFT_S,  # of streamed responses
    first_byte=buckets.TTFT_S,  # of the others
    tpot=buckets.TPOT_S,
    ntpot=buckets.NTPOT_S,
    input_tokens=buckets.PROMPT_TOKENS,
    cached_tokens=buckets.CACHED_TOKENS,
    output_tokens=buckets.COMPLETION_TOKENS,
    request_bytes=buckets.REQUEST_BYTES,
    response_bytes=buckets.RESPONSE_BYTES,
    processing=buckets.PROCESSING_S,
    scheduler=buckets.SCHEDULER_S,
    hit_ratio=buckets.HIT_RATIO,
)
"""What is known of a class' requests, by name."""

ROW = max(figure.sum_at for figure in FIGURES.values()) + 1
LEVELS_AT = HEAD + ROWS * ROW
ACCOUNT_WORDS = LEVELS_AT + LEVEL_WORDS


class ClassTally(msgspec.Struct):
    """One class' account as a value; of figures only those that are known of some request."""

    requests: int = 0
    running: int = 0
    errors: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    stages: dict[str, int] = msgspec.field(default_factory=dict[str, int])  # where a handler divides them
    figures: dict[str, Histogram] = msgspec.field(default_factory=dict[str, Histogram])

    def add(self, other: "ClassTally") -> None:
        """Add another seat's."""
        self.requests += other.requests
        self.running += other.running
        for mine, theirs in ((self.errors, other.errors), (self.stages, other.stages)):
            for name, count in theirs.items():
                mine[name] = mine.get(name, 0) + count
        for name, histogram in other.figures.items():
            mine = self.figures.get(name)
            self.figures[name] = histogram if mine is None else mine.plus(histogram)


class AccountBook:
    """A view of the memory; for the worker to write, for others to read."""

    def __init__(self, words: memoryview) -> None:
        """Change nothing yet."""
        self.words = words
        self._sums = words.cast("B").cast("d")  # the same memory, as numbers with a fraction
        self.levels = LevelCounters(words[LEVELS_AT:])
        """What service levels count."""
        self._rows: dict[Class, int] = {}  # where each begins
        self._errors: dict[int, NamedCounts] = {}

    def begin(self) -> None:
        """Nothing is running; totals go on."""
        self.clear()
        self._rows = {self._read_class(at): at for at in self._in_use()}
        self._errors = {}

    def clear(self) -> None:
        """Forget what was running; for whoever knows that the process is dead."""
        for at in self._in_use():
            self.words[at + RUNNING_AT] = 0

    def row(self, key: Class, known: Callable[[], Collection[str]]) -> int:
        """Return where the row of a class begins, of what it is folded into if there is no room; ``known`` are models."""
        at = self._rows.get(key)
        if at is not None:
            return at
        model, target, fairness_id, priority = key
        names = known()
        priority = max(-OFFSET, min(priority, OFFSET - 1))
        cut = (_cut(model), _cut(target), _cut(fairness_id), priority)
        folded = (
            cut[0] if not model or model in names else OTHER,
            cut[1] if not target or target in names else OTHER,
            cut[2] if fairness_id == DEFAULT_FLOW else OTHER,
            priority,
        )
        at = self._rows.get(cut) or self._enter(cut, strange=cut != folded)
        if at is None:
            self.words[2] += 1
            at = self._rows.get(folded) or self._enter(folded, strange=False) or self._last()
        return at

    def begin_requests(self, at: int, count: int) -> None:
        """Count requests that got an endpoint."""
        self.words[at + REQUESTS_AT] += count
        self.words[at + RUNNING_AT] += count

    def end_requests(self, at: int, count: int) -> None:
        """Count them as running no longer."""
        self.words[at + RUNNING_AT] -= count

    def stage(self, at: int, others: int) -> None:
        """Count a request by what was done for it elsewhere, the sum of PREFILLED and ENCODED."""
        self.words[at + STAGES_AT + others] += 1

    def distribute(self, at: int, name: str, values: Sequence[float]) -> None:
        """Count values of one of FIGURES; a bound belongs to its bucket.

        What is no number from 0 to MOST would spoil the sum for good: it is left out.
        """
        if not values:
            return
        total, ordered = sum(values), sorted(values)
        if math.isnan(total) or ordered[0] < 0 or ordered[-1] > MOST:
            self.distribute(at, name, [value for value in values if 0 <= value <= MOST])
            return
        figure = FIGURES[name]
        words, bounds, counts_at, above = self.words, figure.bounds, at + figure.counts_at, len(figure.bounds)
        begin = 0
        while begin < len(ordered):  # a step for each bucket in use, not for each value: half the time
            bucket = bisect_left(bounds, ordered[begin])
            end = len(ordered) if bucket == above else bisect_right(ordered, bounds[bucket], begin)
            words[counts_at + bucket] += end - begin
            begin = end
        self._sums[at + figure.sum_at] += total

    def err(self, at: int, code: str) -> None:
        """Count an error in a row."""
        errors = self._errors.get(at)
        if errors is None:
            errors = self._errors[at] = self._read_errors(at)
            errors.begin()
        errors.add(code)

    def give_up(self) -> None:
        """Count a request of which nobody told in time."""
        self.words[3] += 1

    @property
    def given_up(self) -> int:
        """How many requests nobody told of in time."""
        return self.words[3]

    @property
    def folded(self) -> int:
        """How many requests were counted under "other"."""
        return self.words[2]

    def tally(self) -> dict[Class, ClassTally]:
        """Return what is counted at this moment."""
        found: dict[Class, ClassTally] = {}
        for at in self._in_use():
            row = self.words[at : at + ROW].tolist()
            figures: dict[str, Histogram] = {}
            for name, figure in FIGURES.items():
                counts = row[figure.counts_at : figure.sum_at]
                if any(counts):
                    figures[name] = Histogram(counts, self._sums[at + figure.sum_at])
            stages = {name: count for name, count in zip(STAGES, row[STAGES_AT:FIGURES_AT], strict=True) if count}
            tally = ClassTally(row[REQUESTS_AT], row[RUNNING_AT], self._read_errors(at).counts(), stages, figures)
            found.setdefault(self._read_class(at), ClassTally()).add(tally)
        return found

    def _in_use(self) -> range:
        return range(HEAD, HEAD + min(self.words[0], ROWS) * ROW, ROW)

    def _enter(self, key: Class, *, strange: bool) -> int | None:
        """Return the row of a new class; None if there is no room for it. The last row is for what has none."""
        used, strangers = self.words[0], self.words[1]
        if used >= ROWS - 1 or (strange and strangers >= STRANGE_ROWS):
            return None
        self.words[1] = strangers + strange
        return self._write_class(key)

    def _last(self) -> int:
        everything = (OTHER, OTHER, OTHER, 0)
        return self._rows.get(everything) or self._write_class(everything)

    def _write_class(self, key: Class) -> int:
        number = min(self.words[0], ROWS - 1)
        at = self._rows[key] = HEAD + number * ROW
        names = b"\0".join(name.encode() for name in key[:3])
        self.words[at : at + NAME_WORDS] = memoryview(names.ljust(8 * NAME_WORDS, b"\0")).cast("Q")
        self.words[at + PRIORITY_AT] = key[3] + OFFSET
        self.words[0] = number + 1
        return at

    def _read_class(self, at: int) -> Class:
        names = self.words[at : at + NAME_WORDS].tobytes().decode("utf-8", "replace")
        model, target, fairness_id, *_ = (*names.split("\0"), "", "")
        return model, target, fairness_id, self.words[at + PRIORITY_AT] - OFFSET

    def _read_errors(self, at: int) -> NamedCounts:
        return NamedCounts(self.words[at + ERRORS_AT : at + STAGES_AT], ERROR_WORDS)


def add_classes(tallies: Iterable[dict[Class, ClassTally]]) -> dict[Class, ClassTally]:
    """Return the sum of all seats' tallies."""
    total: dict[Class, ClassTally] = {}
    for each in tallies:
        for key, tally in each.items():
            total.setdefault(key, ClassTally()).add(tally)
    return total


def _cut(name: str) -> str:
    """Return what a row has room for, and can be told from the zeros between names."""
    if len(name) <= LONGEST_NAME_BYTES // 4 and name.isprintable():
        return name
    return name.replace("\0", "").encode("utf-8", "replace")[:LONGEST_NAME_BYTES].decode("utf-8", "ignore")
