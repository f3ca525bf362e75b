"""Keeps the adapters of one server, or of every endpoint of a pool, as they should be."""

import asyncio
import logging
import random
import time
from collections.abc import Mapping

import aiohttp
import msgspec

from shunter.rollout.core.desired import Desired
from shunter.rollout.core.dialects import find_dialect
from shunter.rollout.core.reconcile import Known, Standing, Step, hear, plan, settle, standings
from shunter.rollout.errors import ConfigError, ServerError
from shunter.rollout.shell.servers import Access, Server

__all__ = ["Report", "Sync", "Target"]

# Each call is cheap here and dear there (a load reads files): enough at a time to be through a large pool in minutes.
AT_ONCE = 16

log = logging.getLogger(__name__)


class Target(msgspec.Struct, frozen=True):
    """A server: its URL, the engine that it is, and which owner of that address it is, where several have had it."""

    url: str
    engine: str = "vllm"
    incarnation: tuple[int, int] = (0, 0)


class Report(msgspec.Struct, frozen=True):
    """What came of the last look at one server: how each adapter stands, what is wrong with any, and with the server."""

    adapters: dict[str, Standing] = {}
    reasons: dict[str, str] = {}
    trouble: str | None = None

    @property
    def settled(self) -> bool:
        """Whether everything is as it should be."""
        waits = (Standing.MISSING, Standing.CHANGED, Standing.LEFT)
        return self.trouble is None and not any(standing in waits for standing in self.adapters.values())


class Sync:
    """All servers; ``reports`` has what is known of each, by URL, and ``calls`` counts (URL, load or unload, succeeded)."""

    def __init__(self, session: aiohttp.ClientSession, access: Access, *, prune: bool = False, dry_run: bool = False) -> None:
        self.reports: dict[str, Report] = {}
        self.calls: dict[tuple[str, str, bool], int] = {}
        self._session = session
        self._access = access
        self._prune = prune
        self._dry_run = dry_run
        self._known: dict[Target, Known] = {}
        self._room = asyncio.Semaphore(AT_ONCE)

    @property
    def settled(self) -> bool:
        """Whether there is somebody, and everything is as it should be everywhere."""
        return bool(self.reports) and all(report.settled for report in self.reports.values())

    async def look(self, targets: tuple[Target, ...], desired: Desired) -> None:
        """Look at all servers once, and do what is due."""
        self._known = {target: self._known.get(target, Known()) for target in targets}
        reports = await asyncio.gather(*(self._settle(target, desired) for target in targets))
        for target, report in zip(targets, reports, strict=True):
            _tell(target.url, self.reports.get(target.url), report)
        self.reports = {target.url: report for target, report in zip(targets, reports, strict=True)}
        self.calls = {call: count for call, count in self.calls.items() if call[0] in self.reports}

    async def _settle(self, target: Target, desired: Desired) -> Report:
        async with self._room:
            try:
                dialect = find_dialect(target.engine)
                server = Server(self._session, target.url, dialect, self._access)
                listed = await server.adapters()
                known = hear(self._known[target], listed)
                steps = plan(desired, listed, known, time.monotonic(), prune=self._prune and dialect.sources)
                if steps and not self._dry_run:
                    for step in steps:
                        error = await self._do(server, step)
                        known = settle(known, step, time.monotonic(), error=error, dice=random.random())  # noqa: S311  jitter
                    listed = await server.adapters()
                    known = hear(known, listed)
                self._known[target] = known
            except (ServerError, ConfigError) as error:
                return Report(trouble=str(error))
        found = standings(desired, listed, known)
        return Report(found, {each: trouble.reason for each, trouble in known.troubles.items() if each in found})

    async def _do(self, server: Server, step: Step) -> str | None:
        """Make a step's calls; return why one failed."""
        verb = "unload"
        try:
            if step.unload:
                await server.unload(step.id)
                self._count(server.url, verb, succeeded=True)
            if step.load:
                verb = "load"
                await server.load(step.load)
                self._count(server.url, verb, succeeded=True)
        except ServerError as error:
            self._count(server.url, verb, succeeded=False)
            return str(error)
        return None

    def _count(self, url: str, verb: str, *, succeeded: bool) -> None:
        key = (url, verb, succeeded)
        self.calls[key] = self.calls.get(key, 0) + 1


def _tell(url: str, before: Report | None, after: Report) -> None:
    """Log what has changed."""
    if after.trouble and (before is None or before.trouble != after.trouble):
        log.warning("%s: %s", url, after.trouble)
    elif before and before.trouble and not after.trouble:
        log.info("%s: answers again", url)
    standing: Mapping[str, Standing] = before.adapters if before else {}
    for adapter, now in after.adapters.items():
        reason = after.reasons.get(adapter)
        if standing.get(adapter) != now or (before and before.reasons.get(adapter) != reason):
            log.log(
                logging.WARNING if reason else logging.INFO, "%s: %s %s%s", url, adapter, now, f": {reason}" if reason else ""
            )
