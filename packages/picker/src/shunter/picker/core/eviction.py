"""Whom to send away for somebody better who waits: requests in flight of negative priority, the lowest and newest first.

What an eviction frees shows only after a while: in the account when the stream has ended, in an engine's figures with its next
sample. So no more than MOST_AT_ONCE go at a time, and nobody else before these have ended and that while is over.
"""

from collections.abc import Sequence
from heapq import nsmallest

from shunter.picker.core.judgement import DropReason, Refusal

__all__ = ["EVICTED", "Evictor"]

# As the reference has it.
MOST_AT_ONCE = 2

# How long an eviction that does not end is waited for (the reference's bound), and how long after it has ended until the next:
# an engine reports it has room within one scrape of a busy pool, which takes 50 ms to a few hundred.
LONGEST_S = 10.0
SETTLE_S = 0.5

EVICTED = Refusal(429, "ResourceExhausted", "request evicted by flow control", DropReason.EVICTED)


class Evictor:
    """One worker's requests that may be evicted: it cannot reach those of others."""

    def __init__(self) -> None:
        """Nobody is in flight."""
        self._in_flight: dict[int, int] = {}  # ticket → priority, in the order in which they were picked
        self._leaving: set[int] = set()
        self._next_s = 0.0  # nobody else before

    def begin(self, ticket: int, priority: int) -> None:
        """Take note of a request that was picked."""
        self._in_flight[ticket] = priority

    def end(self, ticket: int, now_s: float) -> None:
        """Take note that it is over, or cannot be reached any longer."""
        self._in_flight.pop(ticket, None)
        if ticket in self._leaving:
            self._leaving.discard(ticket)
            self._next_s = now_s + SETTLE_S if not self._leaving else self._next_s

    def choose(self, priority: int, now_s: float) -> Sequence[int]:
        """Return whom to evict for somebody of this priority who waits."""
        if now_s < self._next_s:
            return ()
        newest_first = [ticket for ticket in reversed(self._in_flight) if self._in_flight[ticket] < priority]
        chosen = nsmallest(MOST_AT_ONCE, newest_first, key=self._in_flight.__getitem__)
        if chosen:
            self._leaving = set(chosen)
            self._next_s = now_s + LONGEST_S
            for ticket in chosen:
                del self._in_flight[ticket]
        return chosen
