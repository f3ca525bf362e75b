"""Runs a rollout: looks, lets the machine decide, keeps what it decided, and does it, again and again.

A store's calls block, some of them on a network, so they are made in a thread: meanwhile everything else goes on. Who is told
to end does so after the call that is under way.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Protocol, TypeVar

import aiohttp
from msgspec.structs import replace

from shunter.rollout.core.desired import Desired
from shunter.rollout.core.machine import Orders, Phase, Seen, State, Wish, advance, begin
from shunter.rollout.core.sight import Holders, check_engines, check_targets
from shunter.rollout.core.spec import Rollout, Side
from shunter.rollout.errors import ServerError
from shunter.rollout.shell.looking import Outlook
from shunter.rollout.shell.servers import Access
from shunter.rollout.shell.store import Record, Store
from shunter.rollout.shell.syncing import Sync, Target
from shunter.rollout.shell.traffic import Traffic

__all__ = ["Clock", "Runner", "Say", "SystemClock"]

Result = TypeVar("Result")

# What is only waited for is written down that often.
SAVE_S = 5.0
# A load may take minutes, and a name server half of one. Meanwhile the store is touched that often: a ConfigMap's holder is
# taken for dead after 20 s.
TOUCH_S = 2.0

Say = Callable[[State, str], None]
"""Hears of each state and, if something could not be seen or done, why."""


class Clock(Protocol):
    """What tells the time, and lets it pass."""

    def now_s(self) -> float:
        """Return the seconds since 1970."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let them pass."""
        ...


class SystemClock:
    """Everybody's time when it began, and since then time that passes: nobody sets it back."""

    def __init__(self) -> None:
        self._began_s = time.time() - time.monotonic()

    def now_s(self) -> float:
        """Return the seconds since 1970."""
        return self._began_s + time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Let them pass."""
        await asyncio.sleep(seconds)


class Runner:
    """One rollout at work."""

    def __init__(
        self,
        rollout: Rollout,
        session: aiohttp.ClientSession,
        access: Access,
        traffic: Traffic,
        store: Store,
        *,
        look_s: float,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._rollout = rollout
        self._traffic = traffic
        self._store = store
        self._scheme = access.scheme
        self._look_s = look_s
        self._outlook = Outlook(rollout, session, traffic)
        self._sync = Sync(session, access)
        self._saved: tuple[State, float] | None = None

    async def run(self, state: State | None, say: Say) -> State:
        """Go on from a state, or begin, until it is over or halts; raises StateError and ConfigError."""
        if state is None:
            state = begin(self._rollout, self._clock.now_s())
        while True:
            try:
                state, trouble = await self._go_on(state)
            except ServerError as error:  # the store does not answer: nothing was decided
                trouble = str(error)
            say(state, trouble or self._outlook.trouble)
            if state.over or state.halted:
                return state
            await self._clock.sleep(self._look_s)

    async def _go_on(self, state: State) -> tuple[State, str]:
        """Look once, and do what follows; return what it has come to, and what failed. Raises what the store does."""
        wish = await asyncio.to_thread(self._store.wish)
        seen = await self._held(self._outlook.look())
        if state.phase is Phase.LOADING and not state.backwards and wish is not Wish.ROLLBACK:
            check_engines(self._rollout, seen.to)
            check_targets(self._rollout, seen.others)
        state, orders = advance(self._rollout, state, seen, self._clock.now_s(), wish)
        await self._save(state)
        if wish in (Wish.RESUME, Wish.ROLLBACK):
            await asyncio.to_thread(self._store.fulfil, wish)  # the state has it now
        return state, await self._held(self._obey(orders, seen))

    async def _held(self, doing: Coroutine[None, None, Result]) -> Result:
        """Do something that may take long, and let the store hear that somebody is at it; raises StateError if another is."""
        task = asyncio.ensure_future(doing)
        try:
            while not (await asyncio.wait({task}, timeout=TOUCH_S))[0]:
                with contextlib.suppress(ServerError):
                    await asyncio.to_thread(self._store.wish)
            return await task
        finally:
            task.cancel()

    async def _save(self, state: State) -> None:
        """Keep a state before anything is done by it; the seconds that are left of a pause need not be up to date."""
        now_s = self._clock.now_s()
        if self._saved:
            saved, saved_s = self._saved
            if state == saved or (replace(state, waiting=saved.waiting) == saved and abs(now_s - saved_s) < SAVE_S):
                return
        await asyncio.to_thread(self._store.save, Record(self._rollout, state))
        self._saved = state, now_s

    async def _obey(self, orders: Orders, seen: Seen) -> str:
        """Do what is to be done; return what failed of it, to be tried again after the next look."""
        trouble = ""
        if orders.load and orders.load.load and (there := self._holders(orders.load, seen)):
            trouble = await self._settle(there, there.lacking, Desired(wanted=(orders.load.load,)))
        if orders.unload and (there := self._holders(orders.unload, seen)):
            trouble = await self._settle(there, there.having, Desired(unwanted=(orders.unload.listed,))) or trouble
        if orders.share is not None:
            try:
                await self._traffic.move(orders.share)
            except ServerError as error:
                trouble = str(error)
        return trouble

    def _holders(self, side: Side, seen: Seen) -> Holders | None:
        return seen.to if side is self._rollout.to else seen.from_

    async def _settle(self, there: Holders, authorities: tuple[str, ...], desired: Desired) -> str:
        targets = tuple(Target(f"{self._scheme}://{each}", there.engines[each]) for each in authorities)
        await self._sync.look(targets, desired)
        failed = [
            f"{url}: {why}"
            for url, report in self._sync.reports.items()
            for why in (report.trouble, *report.reasons.values())
            if why
        ]
        return failed[-1] if failed else ""
