"""A post: work for one child at a time, which is always manned, and handed over without a gap.

::

    hire ──> serves ──> dies ──> hire at once
      └ several short lives in a row ──> hire after a delay, longer each time
    relieve: hire a second one ──> it is ready ──> it has the post ──> the first one ends well
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable

from shunter.picker.shell.process import START_S, Child, Fate
from shunter.picker.shell.service import LAST_WORDS_S

__all__ = ["Post"]

# Short lives in a row after which the next child is hired at once all the same: whatever killed them may have passed.
SPARED = 3
# Then later and later, for each start costs half a second of CPU.
FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 10.0

LOOK_S = 0.02

log = logging.getLogger(__name__)


class Post:
    """One post; ``hire`` starts a child for it, and ``bury`` is told of each that has ended."""

    def __init__(self, name: str, address: str, hire: Callable[[], Awaitable[Child]], bury: Callable[[Child], None]) -> None:
        self.name = name
        self.address = address  # where whoever has it listens
        self.child: Child | None = None  # who has the post
        self.children: set[Child] = set()  # who live; a predecessor that drains is one of them
        self.tried = asyncio.Event()  # to man it
        self.restarts: Counter[str] = Counter()  # by reason
        self._hire = hire
        self._bury = bury
        self._short_lives = 0  # in a row
        self._noted: Child | None = None  # who ended last of those that were not relieved
        self._ended = asyncio.Event()  # one of the children has
        self._closed = False
        self._changing = asyncio.Lock()

    async def man(self) -> None:
        """Keep it manned until it is closed."""
        while True:
            try:
                child = await self._occupant()
            except OSError as error:  # no memory, no process to be had
                log.error("%s cannot be started: %s; next try in %g s", self.name, error, LONGEST_DELAY_S)  # noqa: TRY400  words do
                self.restarts["failure"] += 1  # lest a post that stays empty beside others is seen by nobody
                self.tried.set()
                await asyncio.sleep(LONGEST_DELAY_S)
                continue
            self.tried.set()
            if child is None:
                return
            while not child.end.done():
                self._ended.clear()
                await self._ended.wait()
                child = self.child or child  # who has it now: one that was relieved may drain for long, and its successor die
            if not self._closed:
                await asyncio.sleep(self._note(child, child.end.result()))

    async def relieve(self, drain_s: float) -> bool:
        """Put a new child in the old one's place; return False, with the old one still there, if the new one will not serve."""
        async with self._changing:
            old = self.child
            if old is None or old.end.done():
                return True  # whoever comes next is a new one anyway
            try:
                new = await self._begin()
            except OSError as error:
                log.error("%s is not relieved: %s", self.name, error)  # noqa: TRY400  words do
                return False
            try:
                ready = await _takes_over(new, old)
            except asyncio.CancelledError:
                new.kill()
                raise
            if not ready:
                new.kill()
                await asyncio.wait({new.end})
                log.error("%s is not relieved: process %d, %s", self.name, new.pid, new.end.result())
                return False
            self.child = new
            self.restarts["relieved"] += 1
        log.info("%s is now process %d; process %d drains", self.name, new.pid, old.pid)
        fate = await old.leave(drain_s + LAST_WORDS_S)
        if fate.code and old is not self._noted:  # it may have died by itself while its successor started
            log.warning("%s, process %d, which was relieved: %s", self.name, old.pid, fate)
        return True

    async def close(self, drain_s: float) -> None:
        """Let the child end well, and hire nobody any more."""
        self._closed = True
        async with self._changing:
            children = [*self.children]
        for fate in await asyncio.gather(*[child.leave(drain_s + LAST_WORDS_S) for child in children]):
            if fate.code:
                log.warning("%s: %s", self.name, fate)

    async def _occupant(self) -> Child | None:
        async with self._changing:
            if self._closed:
                return None
            if self.child is None or self.child.end.done():
                self.child = await self._begin()
            return self.child

    async def _begin(self) -> Child:
        child = await self._hire()
        self.children.add(child)
        child.end.add_done_callback(lambda _: self._forget(child))
        return child

    def _forget(self, child: Child) -> None:
        self.children.discard(child)
        self._ended.set()
        if not child.end.cancelled():  # as when the event loop is closed
            self._bury(child)

    def _note(self, child: Child, fate: Fate) -> float:
        """Count and log how a child ended, and return how long to wait for the next one."""
        self._noted = child
        self.restarts[fate.reason] += 1
        self._short_lives = self._short_lives + 1 if fate.is_short else 0
        beyond = min(self._short_lives - SPARED, 16)  # a power that a float holds
        delay_s = min(FIRST_DELAY_S * 2 ** (beyond - 1), LONGEST_DELAY_S) if beyond > 0 else 0.0
        log.warning(
            "%s, process %d: %s; the next one starts %s",
            self.name,
            child.pid,
            fate,
            f"in {delay_s:g} s, after {self._short_lives} short lives in a row" if delay_s else "at once",
        )
        return delay_s


async def _takes_over(new: Child, old: Child) -> bool:
    """Wait until ``new`` is as ready as ``old``."""
    deadline_s = asyncio.get_running_loop().time() + START_S
    while not new.end.done() and asyncio.get_running_loop().time() < deadline_s:
        if new.status is not None and (not new.hindrances or old.hindrances):
            return True
        await asyncio.sleep(LOOK_S)
    return False
