"""The counters of one seat in shared memory: what its worker did and has in flight, summed over all seats when somebody asks.

A *seat* is a worker's place; the processes that sit in it one after the other are its *lives*. The worker alone writes, with
plain stores of 8 bytes; whoever shows metrics reads. Totals go on over the lives, so a counter never falls because a process
died; what is in flight belongs to a life and begins at zero with the next.

Words of 8 bytes, native byte order::

    0     magic; until a worker has begun the memory is all zero, which counts nothing
    1     life, pid, started_ns (CLOCK_MONOTONIC), ready, beat_ns (when the worker last said that it lives)
    6     totals, in the order of TOTALS
    21    refusals: REFUSALS rows of ``core.named_counts``
    149   number of endpoint rows in use
    150   endpoints, one row per slot: the incarnation it counts for, then the columns of Account
    …     what waits, and what became of whom that waited: ``core.queue_counters``
    …     what rules made of models: RULINGS rows of ``core.named_counts``
    …     requests by class, and service levels: ``core.account_book``
"""

from collections.abc import Iterable

import msgspec

from shunter.picker.core.account_book import ACCOUNT_WORDS, AccountBook, Class, ClassTally, add_classes
from shunter.picker.core.ledger import Booking, Key
from shunter.picker.core.named_counts import NamedCounts
from shunter.picker.core.queue_counters import QUEUE_WORDS, QueueCounters, QueueTally, add_up
from shunter.picker.core.service_levels import LevelTally, add_levels
from shunter.snapshot import Buffer

__all__ = ["COUNTERS_BYTES", "Account", "Counters", "Ruling", "Tally", "fold"]

MAGIC = int.from_bytes(b"SHUNTCN\x04", "little")  # of this order of words
TOTALS = (
    "picks",
    "released",
    "incomplete",
    "rewrites",
    "plugin_errors",
    "laps",
    "named",
    "nameless",
    "tokenised",
    "untokenised",
    "spans_exported",
    "spans_failed",
    "spans_full",
    "unscheduled",
    "turned_away",
)
TOTALS_AT = 6
REFUSALS_AT = TOTALS_AT + len(TOTALS)

# There are a dozen reasons; whatever a plugin may add beyond these is counted as the last one, "other". Of a name 56 bytes.
REFUSALS = 16
REFUSAL_WORDS = 8

IN_USE_AT = REFUSALS_AT + REFUSAL_WORDS * REFUSALS
ROWS_AT = IN_USE_AT + 1

# Slots are small numbers, little more than there are endpoints; 10,000 of those is the largest pool the snapshot is made for.
# A pick for a slot beyond is counted in the totals only. It makes the counters a mebibyte.
SLOTS = 16_384


class Account(msgspec.Struct):
    """What one endpoint was given."""

    picks: int = 0
    prefix_blocks: int = 0  # of all prompts it was sent
    prefix_hits: int = 0  # of these, the blocks it had seen before
    in_flight: int = 0
    tokens_in_flight: int = 0  # of prompts
    prefill_tokens_in_flight: int = 0  # of these, what the endpoint has probably not cached
    decode_tokens_in_flight: int = 0  # expected of the answers


PICKS, BLOCKS, HITS, IN_FLIGHT, TOKENS, PREFILL, DECODE = range(1, 8)
ROW = 1 + len(Account.__struct_fields__)
QUEUE_AT = ROWS_AT + ROW * SLOTS

# A rule, a model and what it became, by Kubernetes' and the API's limits at most 900 bytes; most are a tenth of that. More
# than 64 at a time nobody follows.
RULINGS = 64
RULING_WORDS = 128
RULINGS_AT = QUEUE_AT + QUEUE_WORDS
ACCOUNTS_AT = RULINGS_AT + RULING_WORDS * RULINGS
COUNTERS_BYTES = 8 * (ACCOUNTS_AT + ACCOUNT_WORDS)

Ruling = tuple[str, str, str]
"""The resource that says what a model is called, the client's name for it ("" for any), the engine's."""


class Tally(msgspec.Struct):
    """Counters as a value. ``by_endpoint`` lists also endpoints that are gone, until their slot has a new owner."""

    picks: int = 0
    released: int = 0
    incomplete: int = 0  # of those released
    rewrites: int = 0
    plugin_errors: int = 0  # how often a plugin raised; the requests went on without it
    laps: int = 0  # how often this worker was too slow to follow another one's journal
    named: int = 0  # requests whose model the body router told the gateway
    nameless: int = 0  # requests that it found no model in
    tokenised: int = 0  # prompts whose tokens an engine told
    untokenised: int = 0  # those that were to be asked for, and no tokens came
    spans_exported: int = 0  # spans of traces that a collector took
    spans_failed: int = 0  # that it did not take
    spans_full: int = 0  # for which there was no room in the queue
    unscheduled: int = 0  # requests that filters left no endpoint for
    turned_away: int = 0  # streams that were too many
    rulings: dict[Ruling, int] = msgspec.field(default_factory=dict[Ruling, int])
    refusals: dict[str, int] = msgspec.field(default_factory=dict[str, int])  # by drop reason, else by code
    by_endpoint: dict[Key, Account] = msgspec.field(default_factory=dict[Key, Account])
    queue: QueueTally = msgspec.field(default_factory=QueueTally)
    classes: dict[Class, ClassTally] = msgspec.field(default_factory=dict[Class, ClassTally])
    folded: int = 0  # requests whose class is not told apart any more
    given_up: int = 0  # requests that ended and of which nobody told in time
    levels: dict[str, LevelTally] = msgspec.field(default_factory=dict[str, LevelTally])  # also former ones


class _Word:
    """A word of the head as an attribute."""

    def __init__(self, at: int) -> None:
        self._at = at

    def __get__(self, counters: "Counters", _owner: type) -> int:
        return counters.words[self._at]

    def __set__(self, counters: "Counters", value: int) -> None:
        counters.words[self._at] = value


class Counters:
    """A view of the memory; for the worker to write, for others to read."""

    life = _Word(1)
    pid = _Word(2)
    started_ns = _Word(3)
    ready = _Word(4)
    beat_ns = _Word(5)

    def __init__(self, buffer: Buffer) -> None:
        """Change nothing yet. Raises ValueError if the buffer is smaller than COUNTERS_BYTES."""
        if len(buffer) < COUNTERS_BYTES:
            raise ValueError(f"{len(buffer)} bytes for counters; they need {COUNTERS_BYTES}")
        self.words = memoryview(buffer)[:COUNTERS_BYTES].cast("B").cast("Q")
        self.queue = QueueCounters(self.words[QUEUE_AT:])
        """What flow control counts."""
        self._refusals = NamedCounts(self.words[REFUSALS_AT:IN_USE_AT], REFUSAL_WORDS)
        self._rulings = NamedCounts(self.words[RULINGS_AT:ACCOUNTS_AT], RULING_WORDS)
        self.accounts = AccountBook(self.words[ACCOUNTS_AT:])
        """What is counted by class of requests."""

    def begin(self, life: int, pid: int, now_ns: int) -> None:
        """Sit down: nothing is in flight, the totals go on."""
        if self.words[0] != MAGIC:
            self.words[:] = memoryview(bytes(COUNTERS_BYTES)).cast("Q")
            self.words[0] = MAGIC
        self.clear_in_flight()
        self._refusals.begin()
        self._rulings.begin()
        self.accounts.begin()
        self.life, self.pid, self.started_ns, self.ready, self.beat_ns = life, pid, now_ns, 0, now_ns

    def clear_in_flight(self) -> None:
        """Forget what was in flight; for whoever knows that the process is dead."""
        for row in self._rows():
            self._clear_row(row)
        self.queue.clear()
        self.accounts.clear()

    def picked(self, booking: Booking, blocks: int, hits: int) -> None:
        """Count a pick, in flight from now on, and how many of its prompt's blocks the endpoint had seen before."""
        words = self.words
        words[TOTALS_AT] += 1
        row = self.booked(booking)
        if row:
            words[row + PICKS] += 1
            words[row + BLOCKS] += blocks
            words[row + HITS] += hits

    def booked(self, booking: Booking) -> int:
        """Count a request in flight, everywhere; return where its endpoint's row begins, 0 if there is no room for it."""
        for each in booking.companions:
            self.booked(each)
        words, slot = self.words, booking.slot
        row = ROWS_AT + slot * ROW
        if slot >= SLOTS:
            return 0
        if words[row] != booking.incarnation:
            self._begin_row(row, booking)
        words[row + IN_FLIGHT] += 1
        words[row + TOKENS] += booking.tokens
        words[row + PREFILL] += booking.prefill_tokens
        words[row + DECODE] += booking.decode_tokens
        return row

    def unbooked(self, booking: Booking) -> None:
        """Count it no longer; it was counted in this life."""
        for each in booking.companions:
            self.unbooked(each)
        words = self.words
        row = ROWS_AT + booking.slot * ROW
        # The slot may have a new owner, who has nothing to do with it.
        if booking.slot < SLOTS and words[row] == booking.incarnation:
            try:
                words[row + IN_FLIGHT] -= 1
                words[row + TOKENS] -= booking.tokens
                words[row + PREFILL] -= booking.prefill_tokens
                words[row + DECODE] -= booking.decode_tokens
            except ValueError:  # below 0: the slot had another owner in between, with whom the count began anew
                self._clear_row(row)

    def refused(self, name: str) -> None:
        """Count a refusal."""
        self._refusals.add(name)

    def ruled(self, rule: str, model: str, target: str) -> None:
        """Count what a rule said a model is to be called."""
        self._rulings.add(f"{rule}\0{model}\0{target}")

    def released(self, *, complete: bool) -> None:
        """Count a request that ended."""
        self.words[TOTALS_AT + 1] += 1
        if not complete:
            self.words[TOTALS_AT + 2] += 1

    def rewrote(self) -> None:
        """Count a request whose model was rewritten."""
        self.words[TOTALS_AT + 3] += 1

    def broke(self) -> None:
        """Count a plugin that raised."""
        self.words[TOTALS_AT + 4] += 1

    def asked(self, *, known: bool) -> None:
        """Count a prompt whose tokens an engine was to tell."""
        self.words[TOTALS_AT + (8 if known else 9)] += 1

    def lapped(self) -> None:
        """Count another worker's journal that was overwritten before it was read."""
        self.words[TOTALS_AT + 5] += 1

    def named(self, *, known: bool) -> None:
        """Count a request that the body router looked at."""
        self.words[TOTALS_AT + (6 if known else 7)] += 1

    def spans(self, result: str, count: int) -> None:
        """Count spans of traces: exported, failed or full."""
        self.words[TOTALS_AT + TOTALS.index(f"spans_{result}")] += count

    def left_over(self) -> None:
        """Count a request that filters left no endpoint for."""
        self.words[TOTALS_AT + TOTALS.index("unscheduled")] += 1

    def turn_away(self) -> None:
        """Count a stream that was too many."""
        self.words[TOTALS_AT + TOTALS.index("turned_away")] += 1

    def account(self) -> bytes:
        """Return totals and refusals as they stand, for whoever asks no more than whether they have changed."""
        return self.words[TOTALS_AT:IN_USE_AT].tobytes()

    def tally(self) -> Tally:
        """Return what is counted at this moment."""
        words = self.words
        if words[0] != MAGIC:
            return Tally()
        rows = [words[row : row + ROW].tolist() for row in self._rows()]
        return Tally(
            **dict(zip(TOTALS, words[TOTALS_AT : TOTALS_AT + len(TOTALS)].tolist(), strict=True)),
            refusals=self._refusals.counts(),
            rulings={_ruling(name): count for name, count in self._rulings.counts().items()},
            by_endpoint={
                (slot, incarnation): Account(*counts) for slot, (incarnation, *counts) in enumerate(rows) if any(counts)
            },
            queue=self.queue.tally(),
            classes=self.accounts.tally(),
            folded=self.accounts.folded,
            given_up=self.accounts.given_up,
            levels=self.accounts.levels.tally(),
        )

    def _clear_row(self, row: int) -> None:
        for column in (IN_FLIGHT, TOKENS, PREFILL, DECODE):
            self.words[row + column] = 0

    def _rows(self) -> range:
        """Where the rows in use begin."""
        return range(ROWS_AT, ROWS_AT + min(self.words[IN_USE_AT], SLOTS) * ROW, ROW)

    def _begin_row(self, row: int, booking: Booking) -> None:
        """Make a row empty that was another one's."""
        words = self.words
        words[row : row + ROW] = memoryview(bytes(8 * ROW)).cast("Q")
        words[row] = booking.incarnation
        words[IN_USE_AT] = max(words[IN_USE_AT], booking.slot + 1)


def _ruling(name: str) -> Ruling:
    rule, _, rest = name.partition("\0")
    model, _, target = rest.partition("\0")
    return rule, model, target


def fold(tallies: Iterable[Tally]) -> Tally:
    """Return the sum of all seats' tallies."""
    tallies = list(tallies)
    total = Tally(
        queue=add_up(each.queue for each in tallies),
        classes=add_classes(each.classes for each in tallies),
        folded=sum(each.folded for each in tallies),
        given_up=sum(each.given_up for each in tallies),
        levels=add_levels(each.levels for each in tallies),
    )
    for each in tallies:
        for name in TOTALS:
            setattr(total, name, getattr(total, name) + getattr(each, name))
        for name, count in each.refusals.items():
            total.refusals[name] = total.refusals.get(name, 0) + count
        for ruling, count in each.rulings.items():
            total.rulings[ruling] = total.rulings.get(ruling, 0) + count
        for key, account in each.by_endpoint.items():
            before = msgspec.structs.astuple(total.by_endpoint.get(key, Account()))
            total.by_endpoint[key] = Account(*map(sum, zip(before, msgspec.structs.astuple(account), strict=True)))
    return total
