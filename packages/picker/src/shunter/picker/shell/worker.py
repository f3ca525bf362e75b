"""One worker: one event loop that answers Envoy, out of its own account and what its peers tell it.

It stands alone in tests; the supervisor runs several, each a process of its own (``work``), and shares memory between them.
"""

import asyncio
import gc
import logging
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from shunter.picker import config
from shunter.picker.config.base_models import read_base_models
from shunter.picker.config.service_levels import read_service_levels
from shunter.picker.config.tracing import TracingSettings
from shunter.picker.core.account_book import ENCODED, PREFILLED
from shunter.picker.core.accounts import Accounts
from shunter.picker.core.body_routing import ModelNamer
from shunter.picker.core.canonical import Canon, describe
from shunter.picker.core.decisions import Entry
from shunter.picker.core.fleet import is_called
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.kinds import Named
from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.policy import Policy
from shunter.picker.core.precedents import precedent, write
from shunter.picker.core.recorder import Recorder
from shunter.picker.core.service_levels import Level
from shunter.picker.core.session import Session
from shunter.picker.core.shadow import Shadow
from shunter.picker.errors import ConfigError, FullError
from shunter.picker.plugins.disagg import Stages
from shunter.picker.shell.allocator import keep_large_blocks
from shunter.picker.shell.control import Decided, Recalled, Status
from shunter.picker.shell.garbage import Garbage, look_at_the_young_only
from shunter.picker.shell.memory import Memory, Seat
from shunter.picker.shell.recording import Recording
from shunter.picker.shell.service import ALONE_S, end_tasks, serve
from shunter.picker.transport.health import Health
from shunter.picker.transport.native import NativeServer
from shunter.picker.transport.parking import Parking
from shunter.picker.transport.server import MAX_STREAMS, Server
from shunter.picker.transport.tls import Tls
from shunter.snapshot import BLOCK_LOG, MappedLogReader, SnapshotReader

if TYPE_CHECKING:
    from shunter.picker.shell.telemetry import Telemetry

__all__ = ["Role", "Settings", "Worker", "work"]

# Readiness follows the snapshot; nobody needs to know within less. Peers' news are read before each choice; a worker without
# requests reads them too, and a busy peer takes longer to fill half a journal. Each look finds the caches cold: oftener would
# cost a worker with little to do more than its requests.
LOOK_S = 0.1

# Recalled at once, of all decisions together: 1,000 candidates take 4 ms to write down.
RECALL_CANDIDATES = 1_000

# Explained at once, of all decisions together: their candidates times their scorers take 4 ms so, and a decision is not had for
# less than a few.
EXPLAIN_SCORES = 3_000
FEWEST_SCORES = 30

# Sampled decisions are written when they can be, a few at a time and off the way of any request.
TELL_S = 0.25

log = logging.getLogger(__name__)
decisions_log = logging.getLogger("shunter.picker.decisions")


Role = Literal["endpoint-picker", "body-router"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Where a worker listens and what it reads. Port 0 takes any free one; ``unix:PATH`` is a host too."""

    snapshot: Path
    host: str = "127.0.0.1"
    port: int = 9002
    health_port: int = 9003
    socket_mode: int = 0o600  # of one by name: who may write to it may ask
    transport: Literal["native", "grpcio"] = "native"
    tls: Tls | None = None
    pool: str | None = None
    drain_s: float = 30.0
    limits: Limits = Limits()
    max_streams: int = MAX_STREAMS  # of one connection
    max_age_s: float | None = None  # of a connection
    shared_ports: bool = False  # with other workers, or with a successor
    seed: int | None = None  # of the dice, for a run that can be repeated
    role: Role = "endpoint-picker"
    serve_models: bool = False
    shadow: str | None = None  # a configuration that decides too, without a say
    shadow_sample: float = 0.0  # the part of requests, 0 to 1
    record: Path | None = None  # directory for decisions
    record_sample: float = 0.0  # the part of them, 0 to 1
    log_decisions: float = 0.0  # the part of them that has a line in the log, 0 to 1
    tracing: TracingSettings | None = None  # no spans


class Worker:
    """A picker that can be started and stopped, more than once in a process if need be."""

    def __init__(
        self,
        policy: Policy,
        settings: Settings,
        seat: Seat | None = None,
        *,
        bases: Mapping[str, str] | None = None,
        levels: Sequence[Level] = (),
    ) -> None:
        """Listen to nobody yet. To be called in the event loop that will serve: grpc.aio binds itself to it.

        Without a ``seat`` it knows of no others, and keeps its account to itself. A body router has ``bases``, the base model
        of each model; it needs no snapshot. ``levels`` are those that it counts the requests of.
        """
        self._settings = settings
        self._reader = SnapshotReader(settings.snapshot)
        dice = random.Random(settings.seed)  # noqa: S311  no secret depends on it
        self._memory = memory = Memory(seat) if seat is not None else None
        self._telemetry = None
        if settings.tracing is not None and bases is None:
            self._telemetry = _make_telemetry(settings.tracing, seat, self._count_spans)
            policy = msgspec.structs.replace(
                policy, others=(*policy.others, Named(self._telemetry.tracer.name, self._telemetry.tracer))
            )
        self.judge = FleetJudge(
            policy,
            self._reader.view,
            dice,
            pool=settings.pool,
            life=seat.life if seat else 1,
            counters=memory.counters if memory else None,
            journal=memory.journal if memory else None,
            peers=memory.peers if memory else None,
            blocks=MappedLogReader(settings.snapshot / BLOCK_LOG).read if policy.precise else None,
            serve_models=settings.serve_models,
            shadow=_make_shadow(settings),
            stopwatch=time.perf_counter,
        )
        if self._telemetry is not None:
            self.judge.decisions.witnesses.append(self._telemetry.tracer)  # the first: others log the traces that it begins
        accounts = self.judge.counters.accounts
        accounts.levels.begin(levels)
        self.judge.decisions.witnesses.append(Accounts(accounts, lambda: self.judge.models, _stages(policy)))
        self._recording: Recording | None = None
        if settings.record is not None:
            recorder = Recorder(random.Random(settings.seed), settings.record_sample)  # noqa: S311  as above
            self.judge.decisions.witnesses.append(recorder)
            self._recording = Recording(settings.record, seat.index if seat else 0, recorder)
        self._canon: Canon | None = None
        if settings.log_decisions:
            self._canon = Canon(random.Random(settings.seed), settings.log_decisions)  # noqa: S311  as above
            self.judge.decisions.witnesses.append(self._canon)
            decisions_log.setLevel(logging.INFO)  # whatever else is logged: who asks for them wants them
        self._asked = (
            self.judge if bases is None else ModelNamer(bases, self.judge.counters, serve_models=settings.serve_models)
        )
        self._budget = Budget(settings.limits.buffered_bytes)
        self._health = Health()
        self._server = self._choose_server(Parking(self.judge, time.monotonic) if policy.flow else None)
        self._draining = False
        self._full = False
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> int:
        """Listen and return the port, or raise ConfigError naming the one that is taken, with nothing left open."""
        settings = self._settings
        # The first look replays whole journals, up to half a second of a busy core: requests must not wait for it.
        self.judge.catch_up(time.monotonic())
        port = await self._server.start(settings.host, settings.port, settings.health_port)
        self.tasks.append(asyncio.create_task(self._look_around()))
        if self._recording is not None:
            self.tasks.append(asyncio.create_task(self._recording.run()))
        if self._telemetry is not None:
            self.tasks.append(asyncio.create_task(self._telemetry.run()))
        if self._canon is not None:
            self.tasks.append(asyncio.create_task(self._tell_decisions(self._canon)))
        if self.judge.precise is not None:
            from shunter.picker.shell.tokens import Tokeniser  # noqa: PLC0415  aiohttp: 11 MB that who asks nobody spares

            self.tasks.append(asyncio.create_task(Tokeniser(self.judge.precise, self.judge.counters).run()))
        return port

    async def drain(self, deadline_s: float | None = None) -> None:
        """Say that we are going, let requests end while all else goes on, and stop."""
        self._draining = True
        await self._server.drain(self._settings.drain_s if deadline_s is None else deadline_s)
        await end_tasks(self.tasks)
        self.judge.decisions.tell()
        if self._recording is not None:
            await self._recording.finish()
        if self._telemetry is not None:
            await self._telemetry.finish()
        if self._canon is not None:
            _tell(self._canon.take(None))
        self._reader.close()
        if self._memory is not None:
            self._memory.close()

    def hindrances(self) -> list[str]:
        """Say why requests should not come here, in words; nothing if they should.

        An old snapshot is no hindrance: picks go on by the in-flight counts, and a pool without picker would be worse off.
        """
        hindrances = ["draining"] if self._draining else []
        if self._asked is not self.judge:
            return hindrances
        view, pool = self._reader.view(time.monotonic_ns()), self._settings.pool
        if view is None:
            hindrances.append(self._reader.trouble or "no snapshot yet")
        elif pool is not None and not any(is_called(each, pool) for each in view.topology.pools):
            known = ", ".join(f"{each.namespace}/{each.name}" for each in view.topology.pools) or "none"
            hindrances.append(f"the snapshot has no pool {pool} (--pool); pools in it: {known}")
        return hindrances

    def status(self) -> Status:
        """Say how it is, to the supervisor."""
        server, complaints, precise = self._server, dict(self.judge.complaints), self.judge.precise
        if precise is not None and (doubt := precise.doubt):
            complaints[precise.producer] = doubt
        shadow = self.judge.shadow.account if self.judge.shadow is not None else None
        return Status(
            tuple(self.hindrances()), complaints, server.streams, server.certificate_expires_s, shadow, self.judge.reports()
        )

    def explain(self, last: int, request_id: str | None = None, before_s: float | None = None) -> Decided:
        """Return decisions before a time, or those of one request, newest first; requests do not wait for long meanwhile."""
        self.judge.decisions.tell()  # of a trace that begins here the entry knows when the tracer does
        told: list[dict[str, Any]] = []
        scores = 0
        for entry in self.judge.decisions.before(before_s):
            if request_id is not None and entry.request_id != request_id:
                continue
            if len(told) == last:
                break
            if scores >= EXPLAIN_SCORES and entry.at_s != before_s:  # else it would be left out of what follows
                return Decided(tuple(told), before_s)
            before_s = entry.at_s
            told.append(entry.explain())
            scores += FEWEST_SCORES + (entry.candidates * len(entry.decision.scores) if entry.decision is not None else 0)
        return Decided(tuple(told))

    def recall(self, most: int, before_s: float | None = None) -> Recalled:
        """Return decisions before a time, newest first; requests do not wait for more than some milliseconds meanwhile."""
        told: list[bytes] = []
        candidates = 0
        for entry in self.judge.decisions.before(before_s):
            if len(told) == most:
                break
            if candidates >= RECALL_CANDIDATES:
                return Recalled(tuple(told), before_s)
            before_s = entry.at_s
            found = precedent(entry)
            if found is not None:
                candidates += len(found.fleet.endpoints)
                told.append(write([found]))
        return Recalled(tuple(told))

    def _count_spans(self, result: str, count: int) -> None:
        self.judge.counters.spans(result, count)

    def _choose_server(self, parking: Parking | None) -> Server:
        settings = self._settings
        if settings.transport == "native":
            kind = NativeServer
        else:
            from shunter.picker.transport.grpcio import GrpcServer  # noqa: PLC0415  57 ms, 28 MB that the native one spares

            kind = GrpcServer
        return kind(
            self._session,
            self._health,
            settings.limits,
            max_streams=settings.max_streams,
            max_age_s=settings.max_age_s,
            reuse_port=settings.shared_ports,
            socket_mode=settings.socket_mode,
            tls=settings.tls,
            parking=parking,
        )

    def _session(self) -> Session:
        most = self._settings.limits.streams
        if self._server.streams >= most:
            if not self._full:
                log.warning("full: %d streams are open; until some end gateways are told to ask another worker", most)
            self._full = True
            self.judge.counters.turn_away()
            raise FullError(f"{most} streams are open, and this worker takes no more")
        return Session(self._asked, self._settings.limits, self._budget)

    async def _look_around(self) -> None:
        said: bool | None = None
        garbage = Garbage(time.monotonic())
        while True:
            now_s = time.monotonic()
            self.judge.catch_up(now_s)
            garbage.look(now_s, self._server.streams)
            self._full = self._full and self._server.streams >= self._settings.limits.streams
            hindrances = self.hindrances()
            ready = not hindrances
            self._health.set_ready(ready)
            if ready != said:
                log.info("ready" if ready else "not ready: %s", *hindrances[:1])
                said = ready
            self.judge.decisions.tell()
            while self.judge.unlogged:
                name, error = self.judge.unlogged.popitem()
                log.error("%s failed: requests go on without it, and further failures are counted only", name, exc_info=error)
            while self.judge.shadow is not None and self.judge.shadow.unlogged:
                name, error = self.judge.shadow.unlogged.popitem()
                log.error("the shadow's %s failed: it decides without it, and says so once only", name, exc_info=error)
            await asyncio.sleep(LOOK_S)

    async def _tell_decisions(self, canon: Canon) -> None:
        while True:
            await asyncio.sleep(TELL_S)
            _tell(canon.take(time.monotonic()))


def _tell(entries: Sequence[Entry]) -> None:
    for entry in entries:
        decisions_log.info("decision", extra={"fields": describe(entry)})


def _make_telemetry(settings: TracingSettings, seat: Seat | None, note: Callable[[str, int], None]) -> "Telemetry":
    try:
        from shunter.picker.shell.telemetry import Telemetry  # noqa: PLC0415  25 MB that who sends no spans spares
    except ImportError as error:
        raise ConfigError(
            f"a collector of spans is named, and there is no {error.name}: install shunter-picker[tracing],"
            " or set OTEL_SDK_DISABLED=true"
        ) from error
    return Telemetry(settings, seat.index if seat else 0, note, time.monotonic)


def _stages(policy: Policy) -> Mapping[str, int] | None:
    """Return what is done where the configuration lets several endpoints have a part in a request."""
    stages: Stages | None = getattr(policy.handler.plugin, "stages", None) if policy.handler is not None else None
    return None if stages is None else {stages.prefill: PREFILLED, stages.encode: ENCODED}


def _make_shadow(settings: Settings) -> Shadow | None:
    if settings.shadow is None:
        return None
    dice = random.Random(settings.seed)  # noqa: S311  no secret depends on it; its own, lest it changes what is drawn
    return Shadow(config.load(settings.shadow).policy, dice, settings.shadow_sample, time.perf_counter)


async def work(end: socket.socket, seat: Seat, settings: Settings, configuration: str, service_levels: str = "") -> int:
    """Be the worker of a supervisor at the other ``end``, until it says so or is gone, and return the exit code."""
    keep_large_blocks()
    look_at_the_young_only()
    return await serve(end, partial(_make, seat, settings, configuration, service_levels), settings.drain_s, ALONE_S)


def _make(seat: Seat, settings: Settings, configuration: str, service_levels: str) -> Worker:
    if settings.role == "body-router":
        worker = Worker(config.load().policy, settings, seat, bases=read_base_models(configuration))
    else:
        worker = Worker(config.load(configuration).policy, settings, seat, levels=read_service_levels(service_levels))
    # What is there now stays for good: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    return worker
