"""The commands at work: a sync that goes on until it is ended, and a rollout until it is over."""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from shunter.rollout.core.desired import Desired, read_desired
from shunter.rollout.core.dialects import find_dialect
from shunter.rollout.core.machine import State, advance, begin
from shunter.rollout.core.sight import check_engines, check_targets
from shunter.rollout.core.spec import Rollout, check_url
from shunter.rollout.core.telling import clock, outline
from shunter.rollout.errors import ConfigError, ServerError, StateError
from shunter.rollout.shell.fleet import Fleet
from shunter.rollout.shell.following import Following
from shunter.rollout.shell.looking import Outlook
from shunter.rollout.shell.running import Runner
from shunter.rollout.shell.servers import Access, open_session
from shunter.rollout.shell.status import serve_status
from shunter.rollout.shell.store import Store
from shunter.rollout.shell.syncing import Sync, Target
from shunter.rollout.shell.traffic import RewriteFile, Traffic

__all__ = ["SyncOptions", "preview", "sync_once", "sync_until_cancelled", "take_up", "work"]

# A file is looked at that often, whatever the interval: a change should have its effect while one looks at it.
POLL_S = 0.5
# What a rollout waits for is told again after so long.
TELL_S = 30.0

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class SyncOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What ``shunter rollout sync`` was told."""

    config: Path
    access: Access = Access()
    server: str | None = None
    engine: str = "vllm"
    snapshot: Path | None = None
    pool: str = ""
    interval_s: float = 5.0
    prune: bool = False
    status_host: str = "127.0.0.1"
    status_port: int = 8080
    dry_run: bool = False


async def sync_once(options: SyncOptions) -> tuple[str, bool]:
    """Look once; return how everything stands, in words, and whether it is as it should be.

    Raises ConfigError, and ServerError if it is not known who is there.
    """
    async with _syncing(options) as (sync, config, targets):
        await sync.look(targets(), config.content)
        lines = [f"{url}: {report.trouble}" for url, report in sync.reports.items() if report.trouble]
        for url, report in sync.reports.items():
            for adapter, standing in report.adapters.items():
                reason = report.reasons.get(adapter)
                lines.append(f"{url}: {adapter} {standing}{f': {reason}' if reason else ''}")
        return "\n".join(lines) or "there is no endpoint", sync.settled


async def sync_until_cancelled(options: SyncOptions) -> None:
    """Look again and again until SIGINT or SIGTERM; raises ConfigError at start."""
    await _until_ended(_sync(options))


async def _sync(options: SyncOptions) -> None:
    async with (
        _syncing(options) as (sync, config, targets),
        serve_status(options.status_host, options.status_port, sync, config),
    ):
        trouble = ""
        while True:
            try:
                await sync.look(targets(), config.content)
            except ServerError as error:
                if str(error) != trouble:
                    log.warning("%s", error)
                trouble = str(error)
            wake_s = time.monotonic() + options.interval_s
            while time.monotonic() < wake_s:
                await asyncio.sleep(min(POLL_S, options.interval_s))
                if config.poll():
                    if config.trouble:
                        log.error("%s; what was read before stays in force", config.trouble)
                    break


@asynccontextmanager
async def _syncing(options: SyncOptions) -> AsyncGenerator[tuple[Sync, Following[Desired], Callable[[], tuple[Target, ...]]]]:
    if options.snapshot is None:
        if options.server:
            check_url("--server", options.server)
        find_dialect(options.engine)
    config = Following(options.config, read_desired)
    async with open_session(options.access) as session:
        sync = Sync(session, options.access, prune=options.prune, dry_run=options.dry_run)
        if options.snapshot is None:
            yield sync, config, lambda: (Target(options.server or config.content.server, options.engine),)
            return
        fleet = Fleet(options.snapshot, options.pool, scheme=options.access.scheme)
        try:
            yield sync, config, fleet.targets
        finally:
            fleet.close()


async def preview(rollout: Rollout) -> str:
    """Return what a rollout is going to do, and what it would wait for now; raises ConfigError."""
    async with open_session(Access()) as session:
        outlook = Outlook(rollout, session, _traffic(rollout))
        seen = await outlook.look()
    check_engines(rollout, seen.to)
    check_targets(rollout, seen.others)
    now_s = time.time()
    state, _ = advance(rollout, begin(rollout, now_s), seen, now_s)
    return f"{outline(rollout)}\n\nnow: {outlook.trouble or state.waiting or state.events[-1].words}"


async def work(
    store: Store, rollout: Rollout | None, access: Access, tell: Callable[[str], None], *, look_s: float
) -> State | None:
    """Run a rollout, by default the one that is kept, until it is over or halts, and tell how it goes.

    Returns what it has come to; None if SIGINT or SIGTERM has ended it before. Raises ConfigError, and StateError if somebody
    else is at it or the one that is kept is another.
    """
    return await _until_ended(_work(store, rollout, access, tell, look_s))


async def _work(store: Store, rollout: Rollout | None, access: Access, tell: Callable[[str], None], look_s: float) -> State:
    with store.at_it() as alone:
        if not alone:
            raise StateError(f"another process is at {store.name}")
        rollout, state = take_up(store, rollout)
        async with open_session(access) as session:
            return await Runner(rollout, session, access, _traffic(rollout), store, look_s=look_s).run(
                state, _Progress(tell, state)
            )


def take_up(store: Store, rollout: Rollout | None) -> tuple[Rollout, State | None]:
    """Return what is to be done and, unless that is new, how far it is; raises StateError. One has to be at it."""
    record = store.load()
    if record and not record.state.over:
        if rollout not in (None, record.rollout):
            raise StateError(
                f"{store.name} is under way, and not as this file says: roll it back, or give this one another name"
            )
        return record.rollout, record.state
    if rollout is None:
        raise StateError(f"{store.name} is over")
    if record:
        store.fulfil(store.wish())  # it was for the one before
    return rollout, None


class _Progress:
    """Tells what happens when it does, and what is waited for now and then."""

    def __init__(self, tell: Callable[[str], None], state: State | None) -> None:
        self._tell = tell
        self._told = state.events[-1].at_s if state else 0.0
        self._words = ""
        self._again_s = 0.0

    def __call__(self, state: State, trouble: str) -> None:
        for event in state.events:
            if event.at_s > self._told:
                self._tell(clock(event))
                self._again_s = time.monotonic() + TELL_S
        self._told = max(self._told, *(event.at_s for event in state.events))
        words = trouble or state.waiting
        if words and words != self._words and (trouble or time.monotonic() >= self._again_s):
            self._tell(f"          {'trouble: ' if trouble else 'waiting '}{words}")
            self._words, self._again_s = words, time.monotonic() + TELL_S


def _traffic(rollout: Rollout) -> Traffic:
    if rollout.traffic.rewrite_file:
        return RewriteFile(rollout)
    try:
        from shunter.rollout.shell import kube  # noqa: PLC0415  an extra
    except ImportError as error:
        raise ConfigError(f"$.traffic: for Kubernetes install shunter-rollout[kubernetes]: {error}") from None
    api = kube.connect()
    return kube.HttpRoute(rollout, api) if rollout.traffic.http_route else kube.RewriteResource(rollout, api)


async def _until_ended(running: Coroutine[None, None, Result]) -> Result | None:
    """Return what comes of it; None if it was ended by SIGINT or SIGTERM, to which a container's first process is deaf."""
    task = asyncio.ensure_future(running)
    with contextlib.suppress(RuntimeError):  # in another thread than the first, signals are somebody else's
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        return await task
    return None
