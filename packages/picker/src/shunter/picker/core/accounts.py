"""The account of each class of requests: how many came, what became of them, how long they took and what they cost.

A class is a model, what the engine was asked for instead, a fairness id and a priority. All but the last may be a client's
text, and each class is a hundred series of metrics; so classes are bounded:

* models' names that an InferenceModelRewrite, an InferenceModel or an engine's list has, and the fairness id of who has none,
  are *known*; all others are *strange*;
* classes with strange names get STRANGE_ROWS rows, first come, first served; beyond them strange names are counted as "other";
* the remaining rows are for classes of known names and "other"; beyond them everything is "other".

So a client that invents names cannot crowd out a model that the cluster knows, and every request is counted somewhere; how many
were folded is counted too.

A request is counted when it is picked, when it has ended, and when somebody has *told* how it went, which may be the same
moment (the picker sees the response) or later (Envoy's record). Each of its figures is counted once, however often it is told.

Words of 8 bytes in shared memory::

    0     rows in use, those of strange names among them, requests that were folded
    3     ROWS rows: the names, zeros between them, and the priority plus 2**63; requests, and those running; ERRORS rows of
          ``core.named_counts``; one for each of STAGES; then each of FIGURES: counts by bucket, and the sum as a double
    …     service levels: ``core.service_levels``
"""

from bisect import bisect_left
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from shunter.picker.core import buckets
from shunter.picker.core.buckets import Histogram
from shunter.picker.core.decisions import Entry
from shunter.picker.core.judgement import Outcome
from shunter.picker.core.named_counts import OTHER, NamedCounts
from shunter.picker.core.request import DEFAULT_FLOW
from shunter.picker.core.service_levels import LEVEL_WORDS, Level, LevelCounters, LevelTally, tpot_s

__all__ = [
    "ACCOUNT_WORDS",
    "ENCODED",
    "FIGURES",
    "PREFILLED",
    "AccountBook",
    "Accounts",
    "Class",
    "ClassTally",
    "add_classes",
    "add_levels",
]

Class = tuple[str, str, str, int]
"""Model, target model, fairness id, priority."""

# A class has up to 240 series. Ten models for a dozen tenants fit; a page of 128 classes is five megabytes at worst, and
# takes Prometheus and us half a second.
ROWS = 128
STRANGE_ROWS = 64

# Of a name: models' are up to 96 characters on the hub; what is longer shares the row of what begins alike.
LONGEST_NAME_BYTES = 127

# Which stages endpoints did for the one that decodes, in the reference's words: a bit for prefill, one for encode.
STAGES = ("decode-only", "prefill-decode", "encode-decode", "encode-prefill-decode")
PREFILLED, ENCODED = 1, 2

# Codes of refusals there are a handful.
ERRORS = 8
ERROR_WORDS = 4

# Requests that ended and of which nobody has told yet: Envoy's record comes within a quarter of a second, which is a thousand
# requests of a busy worker. Where no record ever comes they must not cost much: this is a megabyte.
MOST_UNTOLD = 4096

# Requests whose figures are entered together: a fifth of a millisecond of work. A worker that is killed takes those with it
# that wait, a tenth of a second's at most; requests and errors it has counted.
BATCH = 64

NAME_WORDS = 48
PRIORITY_AT = NAME_WORDS
REQUESTS_AT = PRIORITY_AT + 1
RUNNING_AT = REQUESTS_AT + 1
ERRORS_AT = RUNNING_AT + 1
STAGES_AT = ERRORS_AT + ERRORS * ERROR_WORDS
FIGURES_AT = STAGES_AT + len(STAGES)
OFFSET = 1 << 63
HEAD = 3

SERVER_ERROR = "ModelServerError"  # the reference's word for a response with an error status


class Figure(NamedTuple):
    """A distribution: its bounds, where its counts begin in a row and where its sum stands."""

    bounds: tuple[float, ...]
    counts_at: int
    sum_at: int


def _lay_out(**figures: tuple[float, ...]) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    at = FIGURES_AT
    for name, bounds in figures.items():
        found[name] = Figure(tuple(map(float, bounds)), at, at + len(bounds) + 1)
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

    def add(self, at: int, figure: Figure, values: Sequence[float]) -> None:
        """Count values in a row's figure; a bound belongs to its bucket."""
        words, counts_at = self.words, at + figure.counts_at
        for bucket, count in Counter(map(partial(bisect_left, figure.bounds), values)).items():
            words[counts_at + bucket] += count
        self._sums[at + figure.sum_at] += sum(values)

    def err(self, at: int, code: str) -> None:
        """Count an error in a row."""
        errors = self._errors.get(at)
        if errors is None:
            errors = self._errors[at] = self._read_errors(at)
            errors.begin()
        errors.add(code)

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


class _Open(msgspec.Struct, gc=False):
    row: int
    stream: bool
    levels: tuple[tuple[Level, int], ...]
    timed: bool = False  # its duration is counted


class _Waiting:
    """Values of one row that are yet to be entered, by figure."""

    __slots__ = tuple(FIGURES)

    def __init__(self) -> None:
        for name in FIGURES:
            setattr(self, name, [])


class Accounts:
    """A Witness that keeps the account of one worker's requests.

    Requests and errors are counted at once. Figures are entered some dozen requests at a time, at the latest when ``flush`` is
    called: one by one, with all that a pick does in between, they were measured to cost twice as much.
    """

    def __init__(
        self, book: AccountBook, known: Callable[[], Collection[str]], stages: Mapping[str, int] | None = None
    ) -> None:
        """``known`` returns the models' names that resources have; ``stages`` are PREFILLED or ENCODED by a profile's name."""
        self._book = book
        self._stages = stages
        self._known = known
        self._running: dict[int, _Open] = {}  # by ticket
        self._untold: OrderedDict[int, _Open] = OrderedDict()  # have ended; of these nobody has told yet
        self._waiting: defaultdict[int, Any] = defaultdict(_Waiting)  # by row
        self._waits = 0

    def add(self, entry: Entry) -> None:
        """Count a request that was picked or refused."""
        book, decision = self._book, entry.decision
        at = book.row((entry.model or "", entry.target_model or "", entry.fairness_id, entry.priority), self._known)
        levels = book.levels.find(entry)
        if decision is None:
            if entry.refusal is not None:
                book.err(at, entry.refusal.code)
                book.levels.refuse(levels, entry.refusal.status, stream=entry.stream)
            return
        words = book.words
        words[at + REQUESTS_AT] += 1
        words[at + RUNNING_AT] += 1
        if self._stages is not None:
            others, bits = entry.others, self._stages
            words[at + STAGES_AT + sum([bits.get(name, 0) for name, each in others.items() if each.chosen])] += 1
        self._running[entry.ticket] = _Open(at, entry.stream, levels)
        waiting, prefix = self._waiting[at], entry.prefix
        waiting.request_bytes.append(entry.size_bytes)
        if entry.began_s is not None:
            waiting.processing.append(entry.at_s - entry.began_s)
        if entry.took_s is not None:
            waiting.scheduler.append(entry.took_s)
        if prefix.hashes:
            waiting.hit_ratio.append(prefix.share.get(decision.candidates[decision.chosen[0]].slot, 0.0))
        self._waits += 1
        if self._waits >= BATCH:
            self.flush()

    def close(self, ticket: int, outcome: Outcome) -> None:
        """Count how a request went, as far as it is known by now; nothing of another worker's, or of one that was told of."""
        request = self._running.pop(ticket, None)
        if request is not None:
            self._book.words[request.row + RUNNING_AT] -= 1
        else:
            request = self._untold.pop(ticket, None)
            if request is None:
                return
        if outcome.duration_s is not None and not request.timed:
            request.timed = True
            self._waiting[request.row].duration.append(outcome.duration_s)
        if outcome.sent_bytes is not None:
            self._tell(request, outcome, outcome.sent_bytes)
            return
        self._untold[ticket] = request
        if len(self._untold) > MOST_UNTOLD:
            self._untold.popitem(last=False)

    def _tell(self, request: _Open, outcome: Outcome, sent_bytes: int) -> None:
        if (outcome.status or 0) >= 400:
            self._book.err(request.row, SERVER_ERROR)
        if request.levels:
            self._book.levels.settle(request.levels, outcome, stream=request.stream)
        waiting, tokens, duration_s = self._waiting[request.row], outcome.completion_tokens, outcome.duration_s
        waiting.response_bytes.append(sent_bytes)
        if outcome.first_byte_s is not None:
            (waiting.ttft if request.stream else waiting.first_byte).append(outcome.first_byte_s)
        if outcome.prompt_tokens:
            waiting.input_tokens.append(outcome.prompt_tokens)
        if outcome.cached_tokens is not None:
            waiting.cached_tokens.append(outcome.cached_tokens)
        if tokens:
            waiting.output_tokens.append(tokens)
            if duration_s is not None:
                waiting.ntpot.append(duration_s / tokens)
            if request.stream and (pace_s := tpot_s(outcome)) is not None:
                waiting.tpot.append(pace_s)

    def flush(self) -> None:
        """Enter the figures that wait."""
        self._waits = 0
        for at, waiting in self._waiting.items():
            for name, figure in FIGURES.items():
                if values := getattr(waiting, name):
                    self._book.add(at, figure, values)
                    values.clear()


def add_classes(tallies: Iterable[dict[Class, ClassTally]]) -> dict[Class, ClassTally]:
    """Return the sum of all seats' tallies."""
    total: dict[Class, ClassTally] = {}
    for each in tallies:
        for key, tally in each.items():
            total.setdefault(key, ClassTally()).add(tally)
    return total


def add_levels(tallies: Iterable[dict[str, LevelTally]]) -> dict[str, LevelTally]:
    """Return the sum of all seats' service levels."""
    total: dict[str, LevelTally] = {}
    for each in tallies:
        for name, tally in each.items():
            total.setdefault(name, LevelTally()).add(tally)
    return total


def _cut(name: str) -> str:
    """Return what a row has room for, and can be told from the zeros between names."""
    if len(name) <= LONGEST_NAME_BYTES // 4 and name.isprintable():
        return name
    return name.replace("\0", "").encode("utf-8", "replace")[:LONGEST_NAME_BYTES].decode("utf-8", "ignore")
