"""Who sits where in the runtime directory: seats are given out, cleared after the dead, and left to orphans until they go.

::

    0 … 2N + 1    workers
    2N + 2        the sharer
    2N + 3        the collector

Of N workers one more may drain, relieved by its successor. If their supervisor is killed just then, N + 1 orphans go on while
the next one seats as many: its N, and one more if it is told to reload.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from pathlib import Path

from shunter.picker.core.tables import Tally, fold
from shunter.picker.errors import PickerError
from shunter.picker.shell.claim import LOOK_S, await_seats, taken_seats
from shunter.picker.shell.memory import Memory, Seat, new_life, watch
from shunter.picker.shell.service import LAST_WORDS_S, ORPHAN_S

__all__ = ["Seating"]

# Seats of those who are one of a kind, and whose successor sits where they sat.
LASTING = 2

log = logging.getLogger(__name__)


class Seating:
    """The seats of one supervisor with that many workers."""

    def __init__(self, directory: Path, workers: int) -> None:
        """Give out none yet. Raises PickerError if the files cannot be made."""
        self._directory = directory
        self._workers = workers
        self._seats = 2 * workers + 4
        self._counters = watch(directory, self._seats)
        self._free: list[int] = []
        self._orphans: set[int] = set()

    @property
    def orphaned(self) -> bool:
        """Whether workers that a killed supervisor has left still sit here."""
        return bool(self._orphans)

    async def open(self) -> None:
        """Wait until there is room, and strike out what those had in flight whose supervisor died with them.

        Raises ConfigError if orphans leave no room.
        """
        self._orphans = await await_seats(self._directory, self._leave_room)
        for index in set(range(self._seats)) - self._orphans:
            if self._counters[index].life:  # somebody sat here
                self._strike_out(index)
        self._free = [index for index in range(self._seats - LASTING) if index not in self._orphans]

    def take(self) -> Seat:
        """Give a worker a seat, and a new life in it."""
        seat = self._seat(self._free[0])
        del self._free[0]
        return seat

    def take_last(self) -> Seat:
        """Give the collector its seat, and a new life in it."""
        return self._seat(self._seats - 1)

    def take_sharers(self) -> Seat:
        """Give the sharer its seat, and a new life in it."""
        return self._seat(self._seats - LASTING)

    def give_back(self, seat: Seat) -> None:
        """Take a seat back in which nobody ever sat."""
        self._release(seat.index)

    def clear(self, seat: Seat) -> None:
        """Strike out what the dead of this seat had in flight, in its counters and in the others' accounts."""
        self._clear(seat.index)

    def account(self, seat: Seat) -> bytes:
        """Return what has been counted in a seat, to be compared."""
        return self._counters[seat.index].account()

    def tally(self) -> Tally:
        """Add up what was counted in all seats."""
        return fold(counters.tally() for counters in self._counters)

    async def relieve_orphans(self) -> None:
        """End the workers that went on without their supervisor; to be called when there are others."""
        for number, patience_s in ((signal.SIGTERM, ORPHAN_S + LAST_WORDS_S), (signal.SIGKILL, LAST_WORDS_S)):
            for index in taken_seats(self._directory, self._orphans):
                pid = self._counters[index].pid
                if not pid:  # who is killed while he sits down has not said; and 0 is our own process group
                    continue
                log.info("process %d, which a killed supervisor has left, is told to go: %s", pid, number.name)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            deadline_s = time.monotonic() + patience_s
            while self._orphans and time.monotonic() < deadline_s:
                taken = taken_seats(self._directory, self._orphans)
                for index in self._orphans - taken:
                    self._clear(index)
                self._orphans = taken
                await asyncio.sleep(LOOK_S)

    def _leave_room(self, taken: set[int]) -> bool:
        # Those of a larger picker sit further back; they go as soon as any others.
        return max(taken, default=0) < self._seats - LASTING and len(taken) <= self._workers + 1

    def _seat(self, index: int) -> Seat:
        return Seat(self._directory, index, self._seats, new_life(self._directory))

    def _clear(self, index: int) -> None:
        self._strike_out(index)
        self._release(index)

    def _strike_out(self, index: int) -> None:
        try:
            Memory(self._seat(index)).close()
        except (OSError, PickerError):
            log.exception(
                "what was in flight in seat %d cannot be struck out: it counts as load until somebody sits there", index
            )

    def _release(self, index: int) -> None:
        if index < self._seats - LASTING:
            self._free.append(index)
            self._free.sort()
