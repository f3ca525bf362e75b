"""Requests that nobody else keeps the account of: those of dead workers, and those whose stream ended before them.

A worker that dies takes its part of the account with it, while the responses it had given away go on. And in the profile strict
Envoy closes the stream of every request right after the pick. Of both kinds Envoy tells every second while they last; the first
such record of a request puts it into an account of our own, where it counts on its endpoint for everybody, and its last record
strikes it out.

::

    record while it lasts: worker dead, or its stream is over     → booked under a ticket of ours, its own ticket released
    record at its end, adopted                                    → our ticket released
    record at its end, not adopted, its stream is over            → its own ticket released
    no record for LEASE_S                                         → our ticket released, and counted

A ticket is released once, by whichever comes first; releasing one that nobody has booked does nothing.
"""

from collections.abc import Collection

import msgspec

from shunter.picker.core.journal import Journal
from shunter.picker.core.learned import Learned
from shunter.picker.core.ledger import Booking, Key, first_ticket, life_of, next_ticket
from shunter.picker.core.records import Record
from shunter.picker.core.tables import Counters

__all__ = ["LEASE_S", "MAX_ADOPTED", "Adoption"]

# Envoy tells every second; its flush takes up to 0.15 s, and a collector that is started again is told of what was kept
# meanwhile. After five times that Envoy is dead or has lost the record, and the engines' own figures have to do.
LEASE_S = 5.0

# As many streams as Envoy opens to a picker at all (its circuit breaker, see envoyconf). Beyond it nobody is adopted.
MAX_ADOPTED = 65_536


class _Child(msgspec.Struct, gc=False):
    ticket: int  # ours
    booking: Booking
    orphan: bool  # its worker is dead: its end is ours to count
    seen_ns: int


class Adoption:
    """The account of adopted requests, told to all workers through our seat's journal."""

    def __init__(self, life: int, journal: Journal, counters: Counters, learned: Learned) -> None:
        """Start with nobody adopted; ``life`` is that of our seat, and who was adopted is counted in ``learned``."""
        self._learned = learned
        learned.adopting = 0
        self._life = life
        self._ticket = first_ticket(life)
        self._journal = journal
        self._counters = counters
        self._children: dict[int, _Child] = {}  # by the ticket in the records; who was heard of last stands last

    def take(self, record: Record, endpoint: Key | None, living: Collection[int], now_ns: int) -> None:
        """Act on a record of a request that is on ``endpoint``; ``living`` are the lives of all seats that are taken."""
        ticket = record.ticket
        if ticket is None or life_of(ticket) == self._life:  # ours are in no record: whoever names one lies
            return
        handed_over = record.releases is not None
        if record.over:
            self._release(ticket, well=record.flags == "-")
            if handed_over:
                self._journal.released(ticket)
            return
        child = self._children.pop(ticket, None)
        if child is not None:
            child.seen_ns = now_ns
            self._children[ticket] = child
            return
        orphan = life_of(ticket) not in living
        if endpoint is None or not (orphan or handed_over) or len(self._children) >= MAX_ADOPTED:
            return
        self._adopt(ticket, endpoint, now_ns - max(record.duration_ms or 0, 0) * 1_000_000, now_ns, orphan=orphan)
        if handed_over:
            self._journal.released(ticket)

    def expire(self, now_ns: int) -> None:
        """Give up whom Envoy does not speak of any more."""
        while self._children:
            ticket, child = next(iter(self._children.items()))
            if now_ns - child.seen_ns < LEASE_S * 1e9:
                return
            self._learned.expired += 1
            self._release(ticket, well=False)

    def _adopt(self, ticket: int, endpoint: Key, since_ns: int, now_ns: int, *, orphan: bool) -> None:
        self._learned.adopted += 1
        self._learned.adopting += 1
        self._ticket = next_ticket(self._ticket)
        booking = Booking(*endpoint, booked_ns=max(since_ns, 0))
        self._children[ticket] = _Child(self._ticket, booking, orphan, now_ns)
        self._counters.booked(booking)
        self._journal.booked(self._ticket, booking)

    def _release(self, ticket: int, *, well: bool) -> None:
        child = self._children.pop(ticket, None)
        if child is None:
            return
        self._learned.adopting -= 1
        self._counters.unbooked(child.booking)
        if child.orphan:
            self._counters.released(complete=well)
        self._journal.released(child.ticket)
