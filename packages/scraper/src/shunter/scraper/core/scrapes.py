"""Counts of what became of scrapes: of each endpoint while it exists, and of all since the start."""

from bisect import bisect_left

from msgspec import Struct

__all__ = ["BOUNDS_S", "EndpointScrapes", "Scrapes"]

# From a page of a server beside us to the longest time-out that makes sense: a page of vLLM takes it 3.4 ms.
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class EndpointScrapes(Struct):
    """Those of one endpoint."""

    answered: int = 0
    failed: int = 0


class Scrapes:
    """Those of all; by slot and incarnation for those that exist."""

    def __init__(self) -> None:
        self.by_endpoint: dict[tuple[int, int], EndpointScrapes] = {}
        self.unanswered = 0
        self.unreadable = 0
        self.seconds = 0.0
        self.durations = [0] * (len(BOUNDS_S) + 1)
        """How many took at most as long as each of BOUNDS_S and longer than the one before; the last: longer than all."""

    def note(self, slot: int, incarnation: int, took_s: float, *, answered: bool, readable: bool) -> None:
        """Count one more."""
        mine = self.by_endpoint.get((slot, incarnation))
        if mine is None:
            mine = self.by_endpoint[slot, incarnation] = EndpointScrapes()
        if readable:
            mine.answered += 1
        else:
            mine.failed += 1
            if answered:
                self.unreadable += 1
            else:
                self.unanswered += 1
        self.seconds += took_s
        self.durations[bisect_left(BOUNDS_S, took_s)] += 1

    def forget(self, slot: int, incarnation: int) -> None:
        """An endpoint is gone."""
        self.by_endpoint.pop((slot, incarnation), None)
