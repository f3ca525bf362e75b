"""One worker: one event loop that answers Envoy, and the admin pages beside it.

From start to end::

    configuration read → ports bound → ready as soon as a snapshot can be read
    SIGTERM or SIGINT  → not ready, no new streams → those that run end well → exit 0
"""

import asyncio
import contextlib
import gc
import logging
import random
import signal
import time
from pathlib import Path
from typing import Literal

import msgspec
import uvloop

from shunter.picker.core.judge import FleetJudge, Policy
from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.overview import Overview, look
from shunter.picker.core.session import Session
from shunter.picker.shell.admin import Admin
from shunter.picker.shell.allocator import keep_large_blocks
from shunter.picker.shell.metrics import Metrics
from shunter.picker.transport.health import Health
from shunter.picker.transport.native import NativeServer
from shunter.picker.transport.server import Server
from shunter.picker.transport.tls import Tls
from shunter.snapshot import SnapshotReader

__all__ = ["Settings", "Worker", "run"]

# Readiness follows the snapshot; nobody needs to know within less.
LOOK_S = 0.1

log = logging.getLogger(__name__)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Where a worker listens and what it reads. Port 0 takes any free one; ``unix:PATH`` is a host too."""

    snapshot: Path
    host: str = "127.0.0.1"
    port: int = 9002
    health_port: int = 9003
    admin_port: int = 9090
    transport: Literal["native", "grpcio"] = "native"
    pool: str | None = None
    drain_s: float = 30.0
    limits: Limits = Limits()
    tls: Tls | None = None
    seed: int | None = None  # of the dice, for a run that can be repeated


class Worker:
    """A picker that can be started and stopped, more than once in a process if need be."""

    def __init__(self, policy: Policy, settings: Settings) -> None:
        """Open nothing yet. To be called in the event loop that will serve: grpc.aio binds itself to it."""
        self._settings = settings
        self._reader = SnapshotReader(settings.snapshot)
        dice = random.Random(settings.seed)  # noqa: S311  no secret depends on it
        self.judge = FleetJudge(policy, self._reader.view, dice, pool=settings.pool)
        self._budget = Budget(settings.limits.buffered_bytes)
        self._health = Health()
        self._server = self._choose_server()
        self._admin = Admin(
            metrics=Metrics(self.judge.counters.tally, self.overview, settings.pool or "default"),
            look=self.overview,
            decisions=self.judge.decisions,
            hindrances=self.hindrances,
            now_s=time.monotonic,
        )
        self._draining = False
        self._watch: asyncio.Task[None] | None = None
        self.ports = (0, 0)

    async def start(self) -> None:
        """Listen everywhere, or raise ConfigError naming the port that is taken, with nothing left open."""
        settings = self._settings
        host = "127.0.0.1" if settings.host.startswith("unix:") else settings.host
        admin = await self._admin.start(host, settings.admin_port)
        try:
            port = await self._server.start(settings.host, settings.port, settings.health_port)
        except BaseException:
            await self._admin.stop()
            raise
        self.ports = (port, admin)
        self._watch = asyncio.create_task(self._follow_snapshot())

    async def drain(self) -> None:
        """Say that we are going, let requests end, and stop."""
        self._draining = True
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        await self._server.drain(self._settings.drain_s)
        await self._admin.stop()
        self._reader.close()

    def overview(self) -> Overview:
        """Show the fleet and the account at this moment."""
        now_ns = time.monotonic_ns()
        view = self._reader.view(now_ns)
        tally, complaints = self.judge.counters.tally(), self.judge.complaints
        return look(view, self._reader.trouble, tally, now_ns, pool=self._settings.pool, complaints=complaints)

    def hindrances(self) -> list[str]:
        """Say why requests should not come here, in words; nothing if they should.

        An old snapshot is no hindrance: picks go on by the in-flight counts, and a pool without picker would be worse off.
        """
        hindrances = ["draining"] if self._draining else []
        if self._reader.view(time.monotonic_ns()) is None:
            hindrances.append(self._reader.trouble or "no snapshot yet")
        return hindrances

    def _choose_server(self) -> Server:
        if self._settings.transport == "native":
            return NativeServer(self._session, self._health, self._settings.limits, tls=self._settings.tls)
        from shunter.picker.transport.grpcio import GrpcServer  # noqa: PLC0415  57 ms and 28 MB that the native one does without

        return GrpcServer(self._session, self._health, self._settings.limits, tls=self._settings.tls)

    def _session(self) -> Session:
        return Session(self.judge, self._settings.limits, self._budget)

    async def _follow_snapshot(self) -> None:
        said: bool | None = None
        while True:
            hindrances = self.hindrances()
            ready = not hindrances
            self._health.set_ready(ready)
            if ready != said:
                log.info("ready" if ready else "not ready: %s", *hindrances[:1])
                said = ready
            await asyncio.sleep(LOOK_S)


def run(policy: Policy, settings: Settings) -> None:
    """Run one worker until SIGTERM or SIGINT, then drain. Raises ConfigError if it cannot start."""
    keep_large_blocks()
    uvloop.run(_run(policy, settings))


async def _run(policy: Policy, settings: Settings) -> None:
    worker = Worker(policy, settings)
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, end.set)
    await worker.start()
    # What is there now stays for good: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    port, admin = worker.ports
    if settings.host.startswith("unix:"):
        log.info("ext_proc and health on %s, admin on port %d", settings.host, admin)
    else:
        log.info("ext_proc on %s:%d, health on port %d, admin on port %d", settings.host, port, settings.health_port, admin)
    await end.wait()
    log.info("draining, at most %g s", settings.drain_s)
    await worker.drain()
