"""What is served follows the intent's files and the scraper's snapshot.

::

    intent's files ───────────────────────────> divide ─┐
                                                        ├─> Outlet: a server, or a directory
    snapshot ─> ready endpoints ─> weights ─> members ──┘

An intent that cannot be used changes nothing: what was served is served on, and the status pages say why. So does a snapshot
that cannot be read. Pools that the snapshot does not know keep the endpoints of the intent.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from shunter.envoyconf.core.documents import spell
from shunter.envoyconf.core.envoy.dynamic import Division, Source, divide, pool_load_assignment
from shunter.envoyconf.core.intent import Intent
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.schema import Schema, problems
from shunter.envoyconf.core.xds.members import Member
from shunter.envoyconf.errors import IntentError
from shunter.envoyconf.shell.fleet import Fleet
from shunter.envoyconf.shell.speeds import Speeds
from shunter.envoyconf.shell.watch import Watch
from shunter.snapshot import SnapshotReader, View

__all__ = ["Live", "Outlet"]

# Reading a sequence number in memory; endpoints are with every Envoy within a tenth of a second.
SNAPSHOT_PERIOD_S = 0.02

# Asking for the metadata of a few files.
FILES_PERIOD_S = 0.25

# For a scraper that is started at the same time. Until then nothing is served: an Envoy that comes back would otherwise be told
# that its endpoints are gone.
FIRST_VIEW_S = 10.0

# A scraper publishes once a second at least.
SILENT_SCRAPER_S = 10.0


class Outlet(Protocol):
    """Who passes on what is to be served."""

    trouble: dict[str, str]  # why something newer is not served, by whose doing

    async def replace(self, division: Division) -> None:
        """Serve this; raise IntentError if it cannot be."""
        ...

    async def move(self, members: Mapping[str, Sequence[Member]]) -> None:
        """Serve these endpoints, by the names of their load assignments; all else stays."""
        ...


class Live:
    """Follows an intent, and a snapshot if there is one."""

    def __init__(
        self,
        read: Callable[[], Intent],
        watched: Sequence[Path],
        outlet: Outlet,
        *,
        schema: Schema,
        source: Source,
        settings: Settings,
        snapshot: Path | None,
        warn: Callable[[Iterable[str]], None],
        learned: Path | None = None,
    ) -> None:
        """``read`` returns the intent as it is now or raises IntentError; ``watched`` are its files.

        ``warn`` is told why a changed intent is not served. ``learned`` is the runtime directory of a picker whose collector
        knows how fast endpoints are.
        """
        self._read = read
        self._watch = Watch(watched)
        self._outlet = outlet
        self._warn = warn
        self._schema = schema
        self._source = source
        self._settings = settings
        self._reader = SnapshotReader(snapshot) if snapshot else None
        self._intent: Intent  # from the start on
        self._view: View | None = None
        self._members: dict[str, tuple[Member, ...]] = {}  # of the pools that the snapshot knows
        self._fleet = Fleet()
        self._speeds = Speeds(learned) if learned else None

    async def start(self) -> None:
        """Serve for the first time; raise IntentError if the intent cannot be used."""
        self._intent = self._read()
        deadline_s = time.monotonic() + FIRST_VIEW_S
        while self._reader and not self._look() and time.monotonic() < deadline_s:  # noqa: ASYNC110 # memory rings no bell
            await asyncio.sleep(SNAPSHOT_PERIOD_S)
        self._gather()
        await self._outlet.replace(self._divide(self._intent))

    async def run(self) -> None:
        """Follow both until cancelled."""
        files_s = time.monotonic()
        while True:
            await asyncio.sleep(SNAPSHOT_PERIOD_S if self._reader else FILES_PERIOD_S)
            if time.monotonic() - files_s >= FILES_PERIOD_S:
                files_s = time.monotonic()
                if self._watch.changed():
                    await self._reload()
            if self._look():
                await self._follow()

    def close(self) -> None:
        """Let go of the snapshot."""
        for reader in (self._reader, self._speeds):
            if reader:
                reader.close()

    async def _reload(self) -> None:
        """Take the intent anew, or say why not."""
        before, members = self._intent, self._members
        try:
            self._intent = self._read()
            self._gather()
            await self._outlet.replace(self._divide(self._intent))
        except IntentError as error:
            self._intent, self._members = before, members
            self._outlet.trouble["intent"] = str(error)
            self._warn([f"{error} What was served is served on."])
        else:
            self._outlet.trouble.pop("intent", None)

    async def _follow(self) -> None:
        """Pass on endpoints that have moved."""
        before = self._members
        self._gather()
        try:
            if before.keys() != self._members.keys():  # a pool became known, or is no longer: its clusters change
                await self._outlet.replace(self._divide(self._intent))
            elif moved := {pool_load_assignment(name): each for name, each in self._members.items() if before[name] != each}:
                await self._outlet.move(moved)
        except IntentError as error:
            self._members = before  # to be tried again with the next view
            self._outlet.trouble["endpoints"] = str(error)
        else:
            self._outlet.trouble.pop("endpoints", None)

    def _divide(self, intent: Intent) -> Division:
        """Return the intent's resources, all held against Envoy's schema."""
        division = divide(intent, self._settings, self._source, self._members)
        for kind, resources in division.resources.items():
            for name, resource in resources.items():
                for problem in problems(self._schema, resource, kind.message, self._settings.envoy_version):
                    raise IntentError(f"{kind.short} {name}: {spell(problem.path)}: {problem}")
        return division

    def _look(self) -> bool:
        """Read the snapshot; say whether it is another than before."""
        if self._reader is None:
            return False
        now_ns = time.monotonic_ns()
        view = self._reader.view(now_ns)
        if view is None:
            self._outlet.trouble["snapshot"] = self._reader.trouble or "there is none; does the scraper run?"
            return False
        if (age_s := view.age_s(now_ns)) > SILENT_SCRAPER_S:
            self._outlet.trouble["snapshot"] = f"{age_s:.0f} s old; does the scraper run?"
        else:
            self._outlet.trouble.pop("snapshot", None)
        changed, self._view = view is not self._view, view
        return changed

    def _gather(self) -> None:
        """Find the ready endpoints of each pool."""
        if self._view:
            speeds = self._speeds.read(time.monotonic_ns()) if self._speeds else {}
            self._members = self._fleet.members(self._intent, self._view, time.monotonic(), speeds)
