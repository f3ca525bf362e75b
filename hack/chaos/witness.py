"""Dates when picks are answered again after a strike, and what is booked, by the workers' own counters in shared memory.

No page is asked and no request of its own is sent: what falls on a process must not fall on who is watching it.
"""

import asyncio
import math
import time
from collections.abc import Callable, Collection
from typing import TypeVar

import msgspec

from shunter.picker.shell.memory import watch

T = TypeVar("T")

__all__ = ["Strike", "Witness", "until"]

LOOK_S = 0.005


async def until(ask: Callable[[], T | None], within_s: float = math.inf, look_s: float = LOOK_S) -> T | None:
    """Ask until the answer is true, or for so long, and return it."""
    deadline_s = time.monotonic() + within_s
    while not (answer := ask()) and time.monotonic() < deadline_s:  # noqa: ASYNC110  there is no event across processes
        await asyncio.sleep(look_s)
    return answer


class Strike(msgspec.Struct):
    """One blow, and how long it was felt; None: it still is."""

    at_s: float
    over: Callable[[], bool]
    felt_s: float | None = None


class Witness:
    """Looks at all seats every few milliseconds while ``watch`` runs."""

    def __init__(self, directory, workers):
        seats = len(list(directory.glob("counters-*")))
        *self._seats, self.collector = watch(directory, seats)
        self.workers = workers
        self.strikes: list[Strike] = []
        self.silence_s = 0.0  # the longest time in which nobody answered a pick
        self._total: int | None = None
        self._heard_s: float | None = None

    def pids(self) -> set[int]:
        """Who sits, or sat last, in a worker's seat."""
        return {counters.pid for counters in self._seats}

    @property
    def all_over(self) -> bool:
        """Whether no strike is felt any more."""
        return all(strike.felt_s is not None for strike in self.strikes)

    @property
    def booked(self) -> int:
        """How many requests are in flight by the accounts of all workers and the collector."""
        tallies = [counters.tally() for counters in (*self._seats, self.collector)]
        return sum(account.in_flight for tally in tallies for account in tally.by_endpoint.values())

    def struck(self, over: Callable[[], bool]):
        """Note a strike that is over when ``over`` says so."""
        self.strikes.append(Strike(time.monotonic(), over))

    def struck_workers(self, pids: Collection[int]):
        """Note a strike that is over once as many workers as there should be, none of ``pids``, have answered picks."""
        before = self._picks()
        answered: set[int] = set()

        def over():
            for seat, (pid, picks) in enumerate(self._picks()):
                if pid in pids or pid != before[seat][0]:
                    before[seat] = pid, picks
                elif picks > before[seat][1]:
                    answered.add(pid)
            return len(answered) >= self.workers

        self.struck(over)

    async def watch(self, done: asyncio.Event):
        """Look until the event ``done``."""
        while not done.is_set():
            self.look(time.monotonic())
            await asyncio.sleep(LOOK_S)

    def look(self, now_s: float):
        """See who has picked since, and whom that relieves. Silence is counted from the first pick on."""
        total = sum(picks for _, picks in self._picks())
        if self._heard_s is not None:
            self.silence_s = max(self.silence_s, now_s - self._heard_s)
        if total != self._total:
            self._heard_s = now_s if self._total is not None else None
            self._total = total
        for strike in self.strikes:
            if strike.felt_s is None and strike.over():
                strike.felt_s = now_s - strike.at_s

    def _picks(self) -> list[tuple[int, int]]:
        return [(counters.pid, counters.tally().picks) for counters in self._seats]
