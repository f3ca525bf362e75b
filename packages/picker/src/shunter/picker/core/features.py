"""The fleet as a decision met it, kept at the price of what changed since the decision before.

Between two scrapes a Fleet stays the same but for the positions that bookings touch. So its columns are copied once, and every
decision adds the touched positions to a history and remembers how long that was: measured 0.6 µs with one of them, however many
endpoints there are. Only who looks pays for putting the columns together again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from shunter.picker.core.fleet import COLUMNS, FOLLOWING, Fleet
from shunter.picker.core.ledger import PREFILL_PER_S, Booking, Ledger, unattended
from shunter.snapshot import Endpoint

__all__ = ["Columns", "Diary", "Features", "note", "restore"]

FIXED = tuple(name for name in COLUMNS if name not in (*FOLLOWING, "authorities"))

# Where no scrape makes a new Fleet, a history would grow for ever: beyond four changes an endpoint, each of
# seven values, the columns are copied.
CHANGES_PER_ENDPOINT = 4 * 7
FEWEST_CHANGES = 256 * 7


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of a Fleet, aligned, and what its ledger says beside them."""

    endpoints: tuple[Endpoint, ...]
    fresh: tuple[bool, ...]  # is the load known and recent
    sampled_ns: tuple[int, ...]  # on the clock of the decision
    reported_waiting: tuple[float, ...]
    waiting: tuple[float, ...]
    running: tuple[float, ...]
    kv_usage: tuple[float, ...]
    in_flight: tuple[int, ...]
    tokens_in_flight: tuple[int, ...]
    busy_until_ns: tuple[int, ...]
    decode_tokens: tuple[int, ...]  # expected of the answers in flight
    max_adapters: tuple[int | None, ...]
    running_adapters: tuple[tuple[str, ...], ...]
    waiting_adapters: tuple[tuple[str, ...], ...]
    cache_tokens: tuple[int | None, ...]


class Page(msgspec.Struct):
    """A Fleet's columns at some time, and what changed since."""

    fixed: Sequence[Any]
    start: Sequence[Sequence[Any]]
    changes: list[Any]  # one after the other: a position, then the values of FOLLOWING and decode_tokens there


class Features(msgspec.Struct, frozen=True, gc=False):
    """A moment in a diary."""

    page: Page
    length: int  # of the changes that had happened

    def columns(self) -> Columns:
        """Put the columns together."""
        following = [list(column) for column in self.page.start]
        changes = iter(self.page.changes[: self.length])
        last = {change[0]: change for change in zip(*[changes] * (1 + len(following)), strict=True)}  # of each position
        for at, *values in last.values():
            for column, value in zip(following, values, strict=True):
                column[at] = value
        named = dict(zip(FIXED, self.page.fixed, strict=True))
        named |= dict(zip((*FOLLOWING, "decode_tokens"), following, strict=True))
        return Columns(**{name: tuple(column) for name, column in named.items()})


class Diary:
    """A Keeper: writes down how one Fleet changes."""

    def __init__(self, fleet: Fleet) -> None:
        """Begin with the Fleet as it is. A Fleet that kept itself through its keepers would only be found by the collector."""
        self.touched: set[int] = set()
        self._most = FEWEST_CHANGES + CHANGES_PER_ENDPOINT * len(fleet)
        self._decode_tokens = fleet.ledger.decode_tokens
        self._following: tuple[list[Any], ...] = tuple([getattr(fleet, name) for name in FOLLOWING])
        self._begin(fleet)

    def note(self, fleet: Fleet) -> Features:
        """Return the features of the Fleet, which is always the same one, at this moment."""
        changes = self._page.changes
        if self.touched:
            waiting, running, in_flight, tokens, busy = self._following
            keys, expected = fleet.keys, self._decode_tokens
            for at in self.touched:
                changes += (at, waiting[at], running[at], in_flight[at], tokens[at], busy[at], expected(keys[at]))
            self.touched.clear()
            if len(changes) > self._most:
                self._begin(fleet)
                changes = self._page.changes
        return Features(self._page, len(changes))

    def _begin(self, fleet: Fleet) -> None:
        expected = self._decode_tokens
        decode_tokens = [expected(fleet.key(at)) if count else 0 for at, count in enumerate(fleet.in_flight)]
        fixed = tuple([getattr(fleet, name) for name in FIXED])
        self._page = Page(fixed, (*[tuple(column) for column in self._following], decode_tokens), [])


def note(fleet: Fleet) -> Features:
    """Return the features of a Fleet at this moment; one that lasts has a diary."""
    diary = fleet.keepers.get(Diary)
    if not isinstance(diary, Diary):
        diary = Diary(fleet)
        if fleet.lasting:
            fleet.keepers[Diary] = diary
    return diary.note(fleet)


def restore(columns: Columns, at_ns: int) -> Fleet:
    """Return the Fleet of these columns at that time, over a ledger that says what they say.

    How fast an endpoint is is not known here, nor how many prompts are left: all that is in flight counts as one prompt, of
    which as many tokens are left as an engine of ordinary speed computes until ``busy_until_ns``.
    """
    ledger = Ledger()
    column: Callable[[str], Any] = columns.__getattribute__
    for at, endpoint in enumerate(columns.endpoints):
        count, tokens = columns.in_flight[at], columns.tokens_in_flight[at]
        if not count:
            continue
        work = max(0, columns.busy_until_ns[at] - at_ns) * PREFILL_PER_S / 1e9
        prefill_tokens, decode_tokens = round(unattended(work, tokens)), columns.decode_tokens[at]
        slot, incarnation = key = endpoint.slot, endpoint.incarnation
        sums = Booking(slot, incarnation, at_ns, tokens, prefill_tokens=prefill_tokens, decode_tokens=decode_tokens)
        ledger.crowd(key, count, sums)
    given = {name: list(column(name)) for name in COLUMNS if name != "authorities"}
    given["authorities"] = [endpoint.authority for endpoint in columns.endpoints]
    return Fleet([given[name] for name in COLUMNS], ledger, lasting=False)
