"""The endpoints that may get a request, as columns: what the snapshot says of them plus what the ledger knows better.

Unknown load is never idle. A value is known if the endpoint's last scrape succeeded, its sample is younger than
``STALE_AFTER_NS`` and the engine exports it. In place of an unknown one stands the worst known value of the pool, so a pod
that has just appeared, or one that stopped answering, gets what is left over instead of the herd. Where nobody's is known
all are equal at zero and only the ledger tells them apart: a pool whose scraper died is served round robin by requests in
flight, never refused.

An endpoint where nobody has accepted a connection twice in a row is left out while there are others. The gateway's retry
would carry its requests to the next choice anyway; this saves the detour. It comes back with its first answer, and as one
that has nothing cached, or when the scraper itself has fallen silent.
"""

from collections.abc import Iterable, Sequence
from operator import add, itemgetter
from typing import Protocol, TypeVar, cast

from shunter.picker.core.ledger import Booking, Key, Ledger
from shunter.snapshot import NEVER, Endpoint, Health, Load, Pool, Topology, View

__all__ = ["REFUSED_TIMES", "STALE_AFTER_NS", "Fleet", "Roster", "endpoints_of", "is_called"]

# Five times the slowest scrape interval (1 s): one lost scrape does not make a row unknown, a dead engine is noticed at once
# by its failed scrape, and a dead scraper within seconds.
STALE_AFTER_NS = 5_000_000_000

# The caller's clock may have been read a little before the snapshot was taken; a sample further ahead is from another boot.
CLOCK_SLACK_NS = 1_000_000_000

# One connection may be refused by an engine that is just being restarted in place.
REFUSED_TIMES = 2

FRESH = Health.FRESH  # an enum looks its members up anew each time
INFINITY = float("inf")

T = TypeVar("T")

COLUMNS = (
    "endpoints", "authorities", "fresh", "sampled_ns", "reported_waiting", "waiting", "running", "kv_usage", "in_flight",
    "tokens_in_flight", "busy_until_ns", "max_adapters", "running_adapters", "waiting_adapters", "cache_tokens",
)  # fmt: skip


FOLLOWING = ("waiting", "running", "in_flight", "tokens_in_flight", "busy_until_ns")
"""The columns that follow bookings."""

# Each is told of every booking, and a pool may have hundreds of adapters. A Fleet lasts until the next scrape.
MOST_KEEPERS = 24


class Keeper(Protocol):
    """Keeps something that follows from a Fleet's columns."""

    touched: set[int]
    """Positions that changed since it looked last."""


class Fleet:
    """Candidates. All columns are aligned; a position means something only within one Fleet.

    ``waiting``, ``running``, ``in_flight``, ``tokens_in_flight`` and ``busy_until_ns`` follow every booking. ``keepers`` are
    told the positions that changed so.
    """

    __slots__ = (*COLUMNS, "_keys", "index", "keepers", "lasting", "ledger")

    endpoints: Sequence[Endpoint]
    authorities: Sequence[str]
    fresh: Sequence[bool]  # is the load known and recent
    sampled_ns: Sequence[int]
    reported_waiting: Sequence[float]  # requests, as the engine says
    waiting: list[float]  # requests: reported, and of ours those that the engine cannot have reported yet
    running: list[float]  # requests, likewise
    kv_usage: Sequence[float]  # 0 to 1
    in_flight: list[int]  # requests of ours
    tokens_in_flight: list[int]
    busy_until_ns: list[int]  # when the prompts of those requests will have been computed; in the past: they have
    max_adapters: Sequence[int | None]
    running_adapters: Sequence[tuple[str, ...]]
    waiting_adapters: Sequence[tuple[str, ...]]
    cache_tokens: Sequence[int | None]  # size of the engine's KV cache, where it tells
    index: dict[int, int]  # slot → position
    ledger: Ledger  # the account behind the columns, for what none of them holds
    lasting: bool  # will the next request meet the same Fleet; one made for a single request is not worth keeping scores of
    keepers: dict[object, Keeper]  # who keeps something that follows from these columns, by whose it is

    def __init__(
        self, columns: Iterable[Sequence[object]], ledger: Ledger, *, lasting: bool = True, index: dict[int, int] | None = None
    ) -> None:
        """Take the columns in the order of COLUMNS, and the ``index`` if it is known already."""
        for name, column in zip(COLUMNS, columns, strict=True):
            setattr(self, name, column)
        self.index = {endpoint.slot: at for at, endpoint in enumerate(self.endpoints)} if index is None else index
        self.ledger = ledger
        self.lasting = lasting
        self.keepers = {}
        self._keys: Sequence[Key] | None = None

    def __len__(self) -> int:
        """Number of candidates."""
        return len(self.endpoints)

    def key(self, at: int) -> Key:
        """Return who the candidate is."""
        endpoint = self.endpoints[at]
        return endpoint.slot, endpoint.incarnation

    @property
    def keys(self) -> Sequence[Key]:
        """Return who all candidates are."""
        if self._keys is None:
            self._keys = [(endpoint.slot, endpoint.incarnation) for endpoint in self.endpoints]
        return self._keys

    def add(self, booking: Booking, sign: int) -> None:
        """Follow a booking (+1) or its release (-1), and its companions, each if its endpoint is here."""
        for each in booking.companions:
            self.add(each, sign)
        slot, incarnation = booking.slot, booking.incarnation
        at = self.index.get(slot)
        if at is None or self.endpoints[at].incarnation != incarnation:
            return
        self.in_flight[at] += sign
        self.busy_until_ns[at] = self.ledger.busy_until_ns((slot, incarnation))
        self.tokens_in_flight[at] += sign * booking.tokens
        if booking.booked_ns >= self.sampled_ns[at]:
            self.waiting[at] += sign
            self.running[at] += sign
        for keeper in self.keepers.values():
            keeper.touched.add(at)

    def cache_size(self, slot: int) -> int | None:
        """Return the tokens that an endpoint's cache holds, if it is here and tells."""
        at = self.index.get(slot)
        return None if at is None else self.cache_tokens[at]

    def narrow(self, kept: Sequence[int]) -> "Fleet":
        """Return the candidates at these positions: this Fleet if they are all, else one that follows no bookings.

        Of a tuple, which whoever gives it will give again, it is one that lasts and follows them.
        """
        if len(kept) == len(self):
            return self
        if self.lasting and isinstance(kept, tuple):
            part = self.keepers.get(id(kept))
            if part is None and len(self.keepers) < MOST_KEEPERS:
                part = self.keepers[id(kept)] = Part(self, kept)
            if isinstance(part, Part):
                return part.follow(self)
        if len(kept) > 1:
            take = itemgetter(*kept)
            return Fleet((take(getattr(self, name)) for name in COLUMNS), self.ledger, lasting=False)
        return Fleet(([getattr(self, name)[at] for at in kept] for name in COLUMNS), self.ledger, lasting=False)

    def among(self, subset: Sequence[str]) -> list[int]:
        """Return the positions of the candidates that a gateway's hint names, each entry ``ip`` or ``ip:port``."""
        wanted = {entry.strip() for entry in subset}
        return [
            at
            for at, endpoint in enumerate(self.endpoints)
            if self.authorities[at] in wanted or endpoint.address in wanted or f"[{endpoint.address}]" in wanted
        ]


class Part:
    """Candidates that are chosen from again and again, as a Fleet of their own: a Keeper of the whole one."""

    def __init__(self, whole: Fleet, kept: tuple[int, ...]) -> None:
        """Take the candidates at these positions."""
        self.touched: set[int] = set()
        self._kept = kept  # while it is here nothing else has its id
        self._fleet = Fleet(([getattr(whole, name)[at] for at in kept] for name in COLUMNS), whole.ledger)

    def follow(self, whole: Fleet) -> Fleet:
        """Return them as they are in the whole Fleet, which is always the same one."""
        fleet = self._fleet
        for at in self.touched:
            own = fleet.index.get(whole.endpoints[at].slot)
            if own is not None:
                for name in FOLLOWING:
                    getattr(fleet, name)[own] = getattr(whole, name)[at]
                for keeper in fleet.keepers.values():
                    keeper.touched.add(own)
        self.touched.clear()
        return fleet


class Roster:
    """Makes the Fleet of one pool out of the newest snapshot, and only when something changed."""

    def __init__(self, ledger: Ledger, *, pool: str | None = None, stale_after_ns: int = STALE_AFTER_NS) -> None:
        """``pool`` is a name or ``namespace/name``; None takes every endpoint there is."""
        self._ledger = ledger
        self._pool = pool
        self._stale_after_ns = stale_after_ns
        self.view: View | None = None
        """What ``fleet`` was made of last."""
        self.good_until_ns = 0
        """So long nothing in it grows stale."""
        self.current = Fleet(([] for _ in COLUMNS), ledger)
        """What ``fleet`` returned last."""
        self.gone: frozenset[Key] = frozenset()
        """Who did not accept connections then."""
        # What is kept while the topology is the same, and while the load lists the same rows.
        self._topology: Topology | None = None
        self._ready: tuple[Endpoint, ...] = ()
        self._endpoints: tuple[Endpoint, ...] = ()
        self._authorities: tuple[str, ...] = ()
        self._keys: list[Key] = []
        self._index: dict[int, int] = {}
        self._listed: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
        self._rows: list[int] = []  # the load's row of each endpoint; -1 where it has none
        self._in_order = False  # every endpoint ready and listed: the columns fit as they are

    def fleet(self, view: View | None, now_ns: int) -> Fleet:
        """Return the ready endpoints of the pool; the same Fleet while the view is the same and nothing has grown stale."""
        if view is not self.view or now_ns > self.good_until_ns:
            self.current = self._build(view, now_ns)
            self.view = view
        return self.current

    def _build(self, view: View | None, now_ns: int) -> Fleet:
        self.good_until_ns = 1 << 63
        if view is None:
            return Fleet(([] for _ in COLUMNS), self._ledger)
        load, ledger = view.load, self._ledger
        self._match(view.topology, load, self._unreachable(load, now_ns))
        oldest_ns, newest_ns = now_ns - self._stale_after_ns, now_ns + CLOCK_SLACK_NS
        fresh = [
            health is FRESH and at is not None and oldest_ns <= at <= newest_ns
            for health, at in zip(self._align(load.health), self._align(load.sampled_ns), strict=True)
        ]
        sampled_ns = [at if known and at else NEVER for known, at in zip(fresh, self._align(load.sampled_ns), strict=True)]
        # What is stale already changes no more.
        turning_ns = [at for at in sampled_ns if at] + ([load.published_ns] if self.gone else [])
        self.good_until_ns = min(turning_ns, default=1 << 62) + self._stale_after_ns
        unreported, in_flight, tokens_in_flight, busy_until_ns = ledger.columns(self._keys, sampled_ns)
        waiting = worst_for_unknown(self._align(load.waiting), fresh)
        sizes = zip(self._align(load.block_size), self._align(load.num_blocks), strict=True)
        return Fleet((
            self._endpoints,
            self._authorities,
            fresh,
            sampled_ns,
            waiting,
            list(map(add, waiting, unreported)),
            list(map(add, worst_for_unknown(self._align(load.running), fresh), unreported)),
            worst_for_unknown(self._align(load.kv_usage), fresh),
            in_flight,
            tokens_in_flight,
            busy_until_ns,
            self._align(load.max_adapters),
            [names or () for names in self._align(load.running_adapters)],
            [names or () for names in self._align(load.waiting_adapters)],
            [size * count if size and count else None for size, count in sizes],
        ), ledger, index=self._index)  # fmt: skip

    def _unreachable(self, load: Load, now_ns: int) -> frozenset[Key]:
        """Who does not accept connections, if the scraper lives to tell when that changes."""
        if Health.UNREACHABLE not in load.health or now_ns - load.published_ns > self._stale_after_ns:
            return frozenset()
        rows = zip(load.slot, load.incarnation, load.health, load.failures, strict=True)
        return frozenset(
            (slot, i) for slot, i, health, times in rows if health is Health.UNREACHABLE and times >= REFUSED_TIMES
        )

    def _match(self, topology: Topology, load: Load, gone: frozenset[Key]) -> None:
        """Find out which row of the load is whose; usually that is known from the last time."""
        same = topology is self._topology and gone == self.gone
        if not same:
            if topology is not self._topology:
                # Remembered decisions keep their candidates: most topologies differ in a few, the others need not exist twice.
                known = {(each.slot, each.incarnation): each for each in self._ready}
                ready = tuple(each for each in endpoints_of(topology, self._pool) if each.ready)
                self._ready = tuple(
                    old if (old := known.get((each.slot, each.incarnation))) == each else each for each in ready
                )
            self._topology, self.gone = topology, gone
            left = tuple(each for each in self._ready if (each.slot, each.incarnation) not in gone)
            self._endpoints = left or self._ready
            self._authorities = tuple(endpoint.authority for endpoint in self._endpoints)
            self._keys = [(endpoint.slot, endpoint.incarnation) for endpoint in self._endpoints]
            self._index = {slot: at for at, (slot, _) in enumerate(self._keys)}
        listed = (load.slot, load.incarnation)
        if not same or listed != self._listed:
            self._listed = listed
            position = {key: row for row, key in enumerate(zip(*listed, strict=True))}
            self._rows = [position.get(key, -1) for key in self._keys]
            self._in_order = self._rows == list(range(len(position)))

    def _align(self, column: Sequence[T]) -> Sequence[T | None]:
        """Align a column of the load with the endpoints; None where it has no row (or an older writer no such column)."""
        if not column:
            return [None] * len(self._rows)
        return column if self._in_order else [column[row] if row >= 0 else None for row in self._rows]


def worst_for_unknown(column: Sequence[float | None], fresh: Sequence[bool]) -> list[float]:
    """Put the worst known value of a column in place of every unknown one; 0 where none is known."""
    # Usually everything is known, which is found out faster for all values together; a NaN among them makes their sum one.
    if all(fresh) and None not in column:
        given = cast("Sequence[float]", column)
        if min(given, default=0.0) >= 0 and sum(given) < INFINITY:
            return list(given)
    values = [
        value if known and value is not None and 0 <= value < INFINITY else None
        for value, known in zip(column, fresh, strict=True)
    ]
    worst = max((value for value in values if value is not None), default=0.0)
    return [worst if value is None else value for value in values]


def endpoints_of(topology: Topology, pool: str | None) -> tuple[Endpoint, ...]:
    """Return the endpoints of a pool; everybody if ``pool`` is None."""
    if pool is None:
        return topology.endpoints
    wanted = {at for at, each in enumerate(topology.pools) if is_called(each, pool)}
    return tuple(endpoint for endpoint in topology.endpoints if wanted.intersection(endpoint.pools))


def is_called(pool: Pool, name: str) -> bool:
    """Tell whether a pool is meant by ``name``: its own, or ``namespace/name``."""
    return name in (pool.name, f"{pool.namespace}/{pool.name}")
