"""The load we have caused and the engines may not have reported yet.

A request is booked on its endpoint in the same breath as it is chosen, so the very next choice sees it: polled gauges are as
old as the scrape interval, and without this account a burst between two scrapes all goes to whoever looked idle in the
first (measured by others: 10 ms of blindness cost 14 % of p99 time to first token, 100 ms more than triple it).

Scrapes correct it: a request booked when an endpoint's sample was taken, or later, counts on top of the sample; one booked
before is taken to be in it, as running or waiting. Which of the two a fresh request will be nobody knows, so it counts in both
columns. Requests that ended since the sample are not subtracted: that would be guessing in the direction that attracts traffic.

A ticket is ``life << 32 | sequence``; a life is one process of a worker (``journal.py``). That it stays below 2**53 lets it
travel as a JSON number.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence

import msgspec

__all__ = ["Booking", "Key", "Ledger", "first_ticket", "life_of", "next_ticket"]

Key = tuple[int, int]
"""(slot, incarnation): who an endpoint is, over all generations of the snapshot."""


SEQUENCE = (1 << 32) - 1


def first_ticket(life: int) -> int:
    """Return the ticket before the first one of a life."""
    return life << 32


def next_ticket(ticket: int) -> int:
    """Return the next one. A sequence begins again after four thousand million requests; nobody is in flight so long."""
    return ticket & ~SEQUENCE | ticket + 1 & SEQUENCE


def life_of(ticket: int) -> int:
    """Return the life that gave the ticket out."""
    return ticket >> 32


class Booking(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request in flight."""

    slot: int
    incarnation: int
    booked_ns: int
    tokens: int = 0  # of its prompt, estimated
    hashes: Sequence[int] = ()  # of its prompt's blocks: whoever serves it has them cached


class _Row(msgspec.Struct):
    """One endpoint's requests in flight."""

    times_ns: list[int] = msgspec.field(default_factory=list[int])  # when each was booked, ascending
    tokens: int = 0


class Ledger:
    """All requests in flight, by ticket and by endpoint."""

    def __init__(self) -> None:
        """Start with nobody in flight."""
        self._by_ticket: dict[int, Booking] = {}
        self._by_endpoint: dict[Key, _Row] = {}  # an endpoint without any request has no entry

    def book(self, ticket: int, booking: Booking) -> Booking:
        """Enter a request and return it; a ticket is used once. Bookings of others may come later than newer ones of ours."""
        self._by_ticket[ticket] = booking
        row = self._by_endpoint.setdefault((booking.slot, booking.incarnation), _Row())
        insort(row.times_ns, booking.booked_ns)
        row.tokens += booking.tokens
        return booking

    def release(self, ticket: int) -> Booking | None:
        """Strike a request out and return it; None if it is not in the book (any longer)."""
        booking = self._by_ticket.pop(ticket, None)
        if booking is not None:
            key = (booking.slot, booking.incarnation)
            row = self._by_endpoint[key]
            del row.times_ns[bisect_left(row.times_ns, booking.booked_ns)]
            row.tokens -= booking.tokens
            if not row.times_ns:
                del self._by_endpoint[key]
        return booking

    def void(self, life: int) -> list[Booking]:
        """Strike out and return all requests of one life, which cannot release them any more."""
        tickets = [ticket for ticket in self._by_ticket if life_of(ticket) == life]
        return [booking for ticket in tickets if (booking := self.release(ticket)) is not None]

    def in_flight(self, key: Key) -> int:
        """Requests of one endpoint."""
        row = self._by_endpoint.get(key)
        return len(row.times_ns) if row else 0

    def tokens_in_flight(self, key: Key) -> int:
        """Estimated prompt tokens of one endpoint's requests."""
        row = self._by_endpoint.get(key)
        return row.tokens if row else 0

    def unreported(self, key: Key, sampled_ns: int) -> int:
        """Requests of one endpoint that a sample of ``sampled_ns`` cannot have seen."""
        row = self._by_endpoint.get(key)
        return len(row.times_ns) - bisect_left(row.times_ns, sampled_ns) if row else 0

    def __len__(self) -> int:
        """All requests in flight."""
        return len(self._by_ticket)
