"""Requests whose end only Envoy's records tell: those of dead workers, and those whose stream ended before them.

A worker that dies takes its part of the account with it, while the responses it had given away go on. And in the profiles
strict and headers Envoy closes the stream of every request right after the pick. Of both kinds Envoy tells every second while
they last. A request of a living worker stays in that worker's account, as it was booked; the worker is told that it lasts and
where, before it would give it up, and when it has ended. One whose worker is dead gets into an account of our own, where it
counts on its endpoint for everybody.

::

    record while it lasts, its stream is over     → its worker is told, again after RENEW_S, and at once if it is elsewhere now
    record while it lasts, its worker is dead     → booked under a ticket of ours, anew if it is elsewhere now
    its worker dies after a record                → the same
    record at its end, its stream is over         → its worker is told
    record at its end, booked here                → our ticket released
    no record for LEASE_S                         → as at its end, and counted

A ticket of ours is released once, by whichever comes first; of one that it does not know a worker hears without harm.
"""

from collections.abc import Collection

import msgspec

from shunter.picker.core.journal import Journal
from shunter.picker.core.learned import Learned
from shunter.picker.core.ledger import Booking, Key, first_ticket, life_of, next_ticket
from shunter.picker.core.records import Record
from shunter.picker.core.tables import Counters

__all__ = ["KEPT_S", "LEASE_S", "MAX_ADOPTED", "Adoption", "Leases"]

# Envoy tells every second; its flush takes up to 0.15 s, and a collector that is started again is told of what was kept
# meanwhile. After five times that Envoy is dead or has lost the record, and the engines' own figures have to do.
LEASE_S = 5.0

# How long a worker keeps a request that it was told of, and how often it is told: a collector that dies, and whose successor is
# never told the end, leaves load behind for a minute at most.
KEPT_S = 60.0
RENEW_S = 20.0

# As many streams as Envoy opens to a picker at all (its circuit breaker, see envoyconf). Beyond it nobody is adopted.
MAX_ADOPTED = 65_536


class _Child(msgspec.Struct, gc=False):
    booking: Booking  # without tokens, which its worker alone knows
    seen_ns: int
    told_ns: int = 0  # when its worker was told that it lasts; 0: never
    ticket: int = 0  # ours; 0: it is in its worker's account


class Adoption:
    """The account of such requests, told to all workers through our seat's journal."""

    def __init__(self, life: int, journal: Journal, counters: Counters, learned: Learned) -> None:
        """Start with nobody adopted; ``life`` is that of our seat, and who was adopted is counted in ``learned``."""
        self._learned = learned
        learned.adopting = 0
        self._life = life
        self._ticket = first_ticket(life)
        self._journal = journal
        self._counters = counters
        self._living: frozenset[int] = frozenset()  # as it was looked at last
        self._children: dict[int, _Child] = {}  # by the ticket in the records; who was heard of last stands last

    def take(self, record: Record, endpoint: Key | None, living: Collection[int], now_ns: int) -> None:
        """Act on a record of a request that is on ``endpoint``; ``living`` are the lives of all seats that are taken."""
        ticket = record.ticket
        if ticket is None or life_of(ticket) == self._life:  # ours are in no record: whoever names one lies
            return
        if record.over:
            well = record.flags == "-" and record.status < 500
            self._end(ticket, well=well)
            if record.releases is not None:
                self._journal.ended(ticket, complete=well)
            return
        orphan = life_of(ticket) not in living
        child = self._children.pop(ticket, None)
        if child is None:
            if endpoint is None or not (orphan or record.releases) or len(self._children) >= MAX_ADOPTED:
                return
            since_ns = now_ns - max(record.duration_ms or 0, 0) * 1_000_000
            child = _Child(Booking(*endpoint, booked_ns=max(since_ns, 0)), now_ns)
        child.seen_ns = now_ns
        self._children[ticket] = child
        moved = endpoint is not None and endpoint != (child.booking.slot, child.booking.incarnation)
        if moved and endpoint is not None:
            self._move(child, endpoint)
        if orphan:
            self._adopt(child)
        elif record.host is not None and (moved or not child.told_ns or now_ns - child.told_ns >= RENEW_S * 1e9):
            child.told_ns = now_ns
            self._journal.lasts(ticket, record.host)

    def look(self, living: Collection[int], now_ns: int) -> None:
        """Adopt those whose worker has died, and give up whom Envoy does not speak of any more."""
        if self._living != living:
            self._living = frozenset(living)
            for ticket, child in self._children.items():
                if life_of(ticket) not in living:
                    self._adopt(child)
        while self._children:
            ticket, child = next(iter(self._children.items()))
            if now_ns - child.seen_ns < LEASE_S * 1e9:
                return
            self._learned.expired += 1
            self._end(ticket, well=False)
            self._journal.ended(ticket, complete=False)

    def _adopt(self, child: _Child) -> None:
        if child.ticket:
            return
        self._learned.adopted += 1
        self._learned.adopting += 1
        self._ticket = child.ticket = next_ticket(self._ticket)
        self._counters.booked(child.booking)
        self._journal.booked(child.ticket, child.booking)

    def _move(self, child: _Child, endpoint: Key) -> None:
        """Take note that a retry has brought it elsewhere."""
        before, child.booking = child.booking, Booking(*endpoint, booked_ns=child.booking.booked_ns)
        if child.ticket:
            self._counters.unbooked(before)
            self._counters.booked(child.booking)
            self._journal.booked(child.ticket, child.booking)

    def _end(self, ticket: int, *, well: bool) -> None:
        child = self._children.pop(ticket, None)
        if child is None or not child.ticket:
            return
        self._learned.adopting -= 1
        self._counters.unbooked(child.booking)
        self._counters.released(complete=well)
        self._journal.released(child.ticket)


class Leases:
    """A worker's requests whose stream is over, and until when each is kept unless more is told of it. Times in seconds."""

    def __init__(self) -> None:
        """Keep nobody yet."""
        self._untold: dict[int, float] = {}  # by ticket; in both, whoever is due first stands first
        self._told: dict[int, float] = {}

    def begin(self, ticket: int, now_s: float) -> None:
        """Keep one of which nothing was told yet, as a rule."""
        if ticket not in self._told:
            self._untold[ticket] = now_s + LEASE_S

    def renew(self, ticket: int, now_s: float) -> None:
        """Keep one that is told to last."""
        self.end(ticket)
        self._told[ticket] = now_s + KEPT_S

    def end(self, ticket: int) -> None:
        """Keep it no longer."""
        self._untold.pop(ticket, None)
        self._told.pop(ticket, None)

    def overdue(self, now_s: float) -> list[int]:
        """Return whom nobody has told of in time, and keep them no longer."""
        found: list[int] = []
        for leases in (self._untold, self._told):
            while leases and (due := next(iter(leases.items())))[1] <= now_s:
                del leases[due[0]]
                found.append(due[0])
        return found
