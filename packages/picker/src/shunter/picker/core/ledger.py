"""The load we have caused and the engines may not have reported yet.

A request is booked on its endpoint in the same breath as it is chosen, so the very next choice sees it: polled gauges are as
old as the scrape interval, and without this account a burst between two scrapes all goes to whoever looked idle in the
first (measured by others: 10 ms of blindness cost 14 % of p99 time to first token, 100 ms more than triple it).

Scrapes correct it: a request booked when an endpoint's sample was taken, or later, counts on top of the sample; one booked
before is taken to be in it, as running or waiting. Which of the two a fresh request will be nobody knows, so it counts in both
columns. Requests that ended since the sample are not subtracted: that would be guessing in the direction that attracts traffic.

Of every request three quantities are booked: that it is there, the tokens of its prompt that the endpoint has probably not
cached, and the tokens its answer is expected to have. Nobody tells in time when a prompt has been computed (in profile
``lean`` the response never comes by), so the backlog of prefill is worked off at the rate of an engine.

A request whose stages are done by several endpoints has a companion booking for each further one: of the prompt's on whoever
computes it, of the answer's on whoever gives it. They end with the request, since nobody tells earlier.

A ticket is ``life << 32 | sequence``; a life is one process of a worker (``journal.py``). That it stays below 2**53 lets it
travel as a JSON number.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from math import sqrt

import msgspec

from shunter.picker.core.tenants import Tenants

__all__ = ["Booking", "Key", "Ledger", "attended", "first_ticket", "life_of", "next_ticket", "unattended"]

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


# What an engine of unknown speed is taken to prefill, in tokens per second: what a model of 70 thousand million parameters
# does on four large GPUs; a small one does several times that. Taken too low the backlog looks too long, and traffic that
# would be welcome goes elsewhere; taken too high it looks short and attracts more.
PREFILL_PER_S = 8_000.0

# A token of a prompt attends to each one before it, and to so many of them for as long as all else that is done for it takes:
# 31,000 in models of 8 and of 32 thousand million parameters, 54,000 in one of 70 (4 FLOP × layers × heads × their size for
# each pair of tokens, 2 for each parameter). Without it 60,000 tokens seem to take half of what they do.
ATTENTION_TOKENS = 32_000


def attended(uncached: float, prompt: float) -> float:
    """Return how many tokens of a short prompt take as long as the last ``uncached`` ones of a ``prompt`` of so many."""
    return uncached * (1.0 + (max(prompt, uncached) - uncached / 2.0) / ATTENTION_TOKENS)


def unattended(work: float, prompt: float = 0.0) -> float:
    """Return how many last tokens of a ``prompt`` take as long as ``work`` of a short one: what ``attended`` makes of it.

    Where not even all of it takes so long it is as many as a longer prompt would have.
    """
    if work <= attended(prompt, prompt):
        return ATTENTION_TOKENS + prompt - sqrt((ATTENTION_TOKENS + prompt) ** 2 - 2.0 * ATTENTION_TOKENS * work)
    return ATTENTION_TOKENS * (sqrt(1.0 + 2.0 * work / ATTENTION_TOKENS) - 1.0)


class Booking(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request in flight."""

    slot: int
    incarnation: int
    booked_ns: int
    tokens: int = 0  # of its prompt, estimated
    hashes: Sequence[int] = ()  # of its prompt's blocks: whoever serves it has them cached
    prefill_tokens: int = 0  # of the prompt, those that the endpoint has probably not cached
    decode_tokens: int = 0  # expected of the answer
    companions: tuple["Booking", ...] = ()  # the same request's on others, without hashes

    @property
    def holders(self) -> Sequence["Booking"]:
        """Whoever will have the prompt cached: its endpoint, and a companion that computes it."""
        return (self, *[each for each in self.companions if each.tokens]) if self.companions else (self,)


class _Row(msgspec.Struct):
    """One endpoint's requests in flight."""

    times_ns: list[int]  # when each was booked, ascending
    tokens: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    token_ns: float = 0.0  # what the endpoint takes for each token of a prompt
    backlog_until_ns: int = 0  # with the prompts that were booked, if all their tokens took equally long
    work_tokens: float = 0.0  # of those prompts, as ``attended`` counts
    busy_until_ns: int = 0  # with them, in truth


NO_REQUESTS: list[int] = []


class Ledger:
    """All requests in flight, by ticket and by endpoint."""

    def __init__(self, prefill_per_s: float = PREFILL_PER_S) -> None:
        """Start with nobody in flight; ``prefill_per_s`` tokens of prompts is what an engine of unknown speed gets through."""
        self._token_ns = 1e9 / prefill_per_s
        self._paces = Tenants[float]()  # ns per token, of those whose speed is known
        self._by_ticket: dict[int, Booking] = {}
        self._by_endpoint: dict[Key, _Row] = {}  # an endpoint without any request has no entry

    def book(self, ticket: int, booking: Booking) -> Booking:
        """Enter a request and return it; a ticket is used once. Bookings of others may come later than newer ones of ours."""
        self._by_ticket[ticket] = booking
        self._enter(booking)
        for each in booking.companions:
            self._enter(each)
        return booking

    def crowd(self, key: Key, count: int, sums: Booking) -> None:
        """Enter so many requests of which only the sums are known, for good: they have no tickets."""
        self._enter(sums)
        self._by_endpoint[key].times_ns += [sums.booked_ns] * (count - 1)

    def release(self, ticket: int) -> Booking | None:
        """Strike a request out and return it; None if it is not in the book (any longer)."""
        booking = self._by_ticket.pop(ticket, None)
        if booking is not None:
            self._strike(booking)
            for each in booking.companions:
                self._strike(each)
        return booking

    def get(self, ticket: int) -> Booking | None:
        """Return the request, if it is in the book."""
        return self._by_ticket.get(ticket)

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

    def columns(self, keys: Iterable[Key], sampled_ns: Iterable[int]) -> tuple[list[int], list[int], list[int], list[int]]:
        """Return of each of these ``unreported``, ``in_flight``, ``tokens_in_flight`` and ``busy_until_ns``."""
        find = self._by_endpoint.get
        unreported, in_flight, tokens, busy_until_ns = list[int](), list[int](), list[int](), list[int]()
        for key, at_ns in zip(keys, sampled_ns, strict=True):
            row = find(key)
            times_ns = row.times_ns if row is not None else NO_REQUESTS
            count = len(times_ns)
            unreported.append(count - bisect_left(times_ns, at_ns))
            in_flight.append(count)
            tokens.append(row.tokens if row is not None else 0)
            busy_until_ns.append(self.busy_until_ns(key) if row is not None else 0)
        return unreported, in_flight, tokens, busy_until_ns

    def decode_tokens(self, key: Key) -> int:
        """Tokens that the answers to one endpoint's requests are expected to have."""
        row = self._by_endpoint.get(key)
        return row.decode_tokens if row else 0

    def busy_until_ns(self, key: Key) -> int:
        """When one endpoint will have computed the prompts that were booked on it, at its pace; in the past: it has.

        Only the prompts of those that are left count: what has ended waits for nothing.
        """
        row = self._by_endpoint.get(key)
        if row is None:
            return 0
        busy_until_ns, most_ns = row.busy_until_ns, row.times_ns[-1] + int(row.work_tokens * row.token_ns)
        return busy_until_ns if busy_until_ns < most_ns else most_ns  # noqa: FURB136  a call costs more than the rest

    def prefill_backlog(self, key: Key, now_ns: int) -> float:
        """Prompt tokens that one endpoint has still to compute: what was booked, less what it has got through since."""
        return self.prefill_backlogs((key,), now_ns)[0]

    def prefill_backlogs(self, keys: Iterable[Key], now_ns: int) -> list[float]:
        """Return that of each of these: at a thousand endpoints a call for each would be most of the cost."""
        find, found = self._by_endpoint.get, list[float]()
        for key in keys:
            row = find(key)
            left = (row.backlog_until_ns - now_ns) / row.token_ns if row is not None else 0.0
            found.append(0.0 if row is None or left < 0.0 else min(left, row.prefill_tokens))
        return found

    def pace(self, key: Key, prefill_per_s: float) -> None:
        """Take note of how many tokens of prompts per second one endpoint gets through."""
        token_ns = 1e9 / prefill_per_s
        self._paces.put(key, token_ns)
        row = self._by_endpoint.get(key)
        if row is not None:
            row.token_ns = token_ns

    def unreported(self, key: Key, sampled_ns: int) -> int:
        """Requests of one endpoint that a sample of ``sampled_ns`` cannot have seen."""
        row = self._by_endpoint.get(key)
        return len(row.times_ns) - bisect_left(row.times_ns, sampled_ns) if row else 0

    def __len__(self) -> int:
        """All requests in flight."""
        return len(self._by_ticket)

    def _enter(self, booking: Booking) -> None:
        key = booking.slot, booking.incarnation
        row = self._by_endpoint.get(key)
        if row is None:
            row = self._by_endpoint[key] = _Row([], token_ns=self._paces.get(key) or self._token_ns)
        booked_ns, prefill_tokens = booking.booked_ns, booking.prefill_tokens
        insort(row.times_ns, booked_ns)
        row.tokens += booking.tokens
        row.prefill_tokens += prefill_tokens
        row.decode_tokens += booking.decode_tokens
        row.backlog_until_ns = max(row.backlog_until_ns, booked_ns) + int(prefill_tokens * row.token_ns)
        work_tokens = attended(prefill_tokens, booking.tokens)
        row.work_tokens += work_tokens
        row.busy_until_ns = max(row.busy_until_ns, booked_ns) + int(work_tokens * row.token_ns)

    def _strike(self, booking: Booking) -> None:
        key = (booking.slot, booking.incarnation)
        row = self._by_endpoint[key]
        times_ns = row.times_ns
        if len(times_ns) == 1:
            del self._by_endpoint[key]
            return
        del times_ns[bisect_left(times_ns, booking.booked_ns)]
        row.tokens -= booking.tokens
        row.prefill_tokens -= booking.prefill_tokens
        row.work_tokens -= attended(booking.prefill_tokens, booking.tokens)
        row.decode_tokens -= booking.decode_tokens
