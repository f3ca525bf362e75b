"""Runs the scraper: one loop follows what should exist, one loop per endpoint scrapes, one publishes."""

import asyncio
import logging
import random
import time

from msgspec.structs import replace

from shunter.scraper.core.cadence import Cadence
from shunter.scraper.core.cluster import Cluster, Import, Source, dns_names, survey
from shunter.scraper.core.fold import Reader, fail
from shunter.scraper.core.http import Response
from shunter.scraper.core.scrapes import Scrapes
from shunter.scraper.core.slots import Slots
from shunter.scraper.core.tidings import Tidings, tally
from shunter.scraper.errors import ExpositionError
from shunter.scraper.shell.fetch import DEFAULT_TIMEOUT_S, Failure, Fetcher
from shunter.scraper.shell.kvevents import KvEvents
from shunter.scraper.shell.models import Models
from shunter.scraper.shell.names import Names
from shunter.scraper.shell.publish import Publisher
from shunter.scraper.shell.registry import Registry
from shunter.snapshot import Endpoint, Health, LoadRow, SnapshotError, SnapshotWriter, Topology

__all__ = ["Scraper"]

# How often to see whether names have aged or engines told other models.
POLL_S = 0.1
# How old an address may get. Headless services change theirs within seconds; resolvers cache anyway.
LOOK_UP_S = 5.0
# How often to say how many endpoints there are, while that goes on changing; what it has come to is always said.
COUNT_S = 1.0
# After so many lines about single endpoints in this time, one says how it stands with all of them.
MANY, TALLY_S = 10, 10.0

log = logging.getLogger(__name__)


class Scraper:
    """Everything from the registry to the snapshot. Its public attributes are what its page shows (`shell.admin`)."""

    def __init__(
        self,
        registry: Registry,
        writer: SnapshotWriter,
        *,
        cadence: Cadence | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        kv_events: KvEvents | None = None,
        models: Models | None = None,
    ) -> None:
        """Read what is known at once and take over the slots of the former run; raises ConfigError."""
        former = writer.last_topology()
        self.registry = registry
        self.scrapes = Scrapes()
        self.kv_events = kv_events
        self.imports: tuple[Import, ...] = ()
        self._cluster = registry.load()
        self._cadence = cadence or Cadence()
        self._timeout_s = timeout_s
        self._models = models
        self._names = Names()
        self._spare: list[bytearray] = []  # receive buffers, see Response
        self._slots = Slots(former)
        self.publisher = Publisher(writer)
        # The wall clock names a run: it differs from that of any other run of this machine. Without a former topology it
        # numbers generations too: if somebody removed the snapshot, readers that live on may remember smaller ones.
        now_ns = time.time_ns()
        self.topology = Topology(epoch=now_ns, generation=former.generation if former else now_ns // 1_000_000)
        self.trouble = ""
        """Why the newest topology is not published, for people; the one before stays in force then."""
        self.lines = 0  # about single endpoints, since the last tally
        self._watches: dict[tuple[int, int], tuple[Source, asyncio.Task[None]]] = {}

    @property
    def troubles(self) -> dict[str, str]:
        """Why each part of the snapshot is not up to date, for people; empty for those that are."""
        return {
            "topology": self.trouble,
            "load": self.publisher.trouble,
            "kv_events": self.kv_events.trouble if self.kv_events else "",
        }

    async def run(self) -> None:
        """Scrape and publish until cancelled; raises SnapshotError if there is no room for the first snapshot."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.registry.run())
                if self._cluster is None:
                    log.info("waiting for %s", self.registry.title)
                    self._cluster = await self.registry.changed()
                await self._look_up(self._cluster)
                self._settle(group, self._cluster)
                if self.trouble:
                    raise SnapshotError(self.trouble)
                log.info("scraping %d endpoints of %s", len(self.topology.endpoints), self.registry.title)
                group.create_task(self.publisher.run())
                group.create_task(self._follow(group, self._cluster))
                group.create_task(self._sum_up())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None  # one loop failed; the others were only cancelled

    async def _follow(self, group: asyncio.TaskGroup, cluster: Cluster) -> None:
        looked_up_s = counted_s = time.monotonic()
        counted = len(cluster.members)
        change = asyncio.ensure_future(self.registry.changed())
        try:
            while True:
                await asyncio.wait({change}, timeout=POLL_S)
                changed = change.done()
                if changed:
                    cluster = change.result()
                    change = asyncio.ensure_future(self.registry.changed())
                if counted != len(cluster.members) and not (changed and time.monotonic() - counted_s < COUNT_S):
                    counted, counted_s = len(cluster.members), time.monotonic()
                    log.info("%s: %d endpoints", self.registry.title, counted)
                names_aged = time.monotonic() - looked_up_s >= LOOK_UP_S
                if names_aged or (changed and dns_names(cluster)):
                    await self._look_up(cluster)
                    looked_up_s = time.monotonic()
                if changed or names_aged or (self._models is not None and self._models.changed):
                    self._settle(group, cluster)
        finally:
            change.cancel()

    async def _look_up(self, cluster: Cluster) -> None:
        failed_before = self._names.failures
        await self._names.look_up(dns_names(cluster))
        for name, reason in self._names.failures.items():
            if name not in failed_before:
                kept = ", ".join(self._names.addresses[name]) or "none"
                log.warning("%s: cannot be resolved: %s; addresses kept: %s", name, reason, kept)

    def _settle(self, group: asyncio.TaskGroup, cluster: Cluster) -> None:
        """Publish the topology if it differs from the last one, and let exactly its endpoints be watched."""
        last = self.topology
        self.imports = cluster.imports
        topology, sources = survey(
            cluster,
            self._names.addresses,
            self._slots,
            epoch=last.epoch,
            generation=last.generation + 1,
            now_ns=time.monotonic_ns(),
        )
        if self._models is not None:
            self._models.changed = False
            told = [(endpoint, self._models.of(endpoint)) for endpoint in topology.endpoints]
            endpoints = tuple(replace(endpoint, models=its.names, adapters=its.adapters) for endpoint, its in told)
            topology = replace(topology, endpoints=endpoints)
        # The first one also when there is nobody: a former run's endpoints must not stay in force.
        if replace(topology, generation=last.generation) != last or not self.publisher.published_ns:
            if not self._publish(topology):
                return
            stray_before = {(one.slot, one.incarnation) for one in last.endpoints if not one.pools}
            for endpoint in topology.endpoints:
                if not endpoint.pools and (endpoint.slot, endpoint.incarnation) not in stray_before:
                    log.warning("%s belongs to no pool: give it a pool or labels that match", _title(endpoint))
        wanted = {(one.slot, one.incarnation): (one, source) for one, source in zip(topology.endpoints, sources, strict=True)}
        for pair, (source, task) in list(self._watches.items()):
            if pair not in wanted or wanted[pair][1] != source:
                task.cancel()
                del self._watches[pair]
        for pair, (endpoint, source) in wanted.items():
            if pair not in self._watches:
                self._watches[pair] = (source, group.create_task(self._watch(group, endpoint, source)))

    def _publish(self, topology: Topology) -> bool:
        """Publish a topology; tell whether there was room for it."""
        try:
            self.publisher.publish(topology)
        except SnapshotError as error:
            if not self.trouble and self.publisher.published_ns:
                log.error("%s; the snapshot before stays in force", error)  # noqa: TRY400  the message is the whole story
            self.trouble = str(error)
            return False
        if self.trouble:
            log.info("the snapshot has room again: %d endpoints", len(topology.endpoints))
        self.topology, self.trouble = topology, ""
        return True

    async def _sum_up(self) -> None:
        """Say now and then how it stands with all endpoints, if single ones gave much to say."""
        while True:
            await asyncio.sleep(TALLY_S)
            if self.lines > MANY:
                log.warning("%s: %s", self.registry.title, tally(self.publisher.rows))
            self.lines = 0

    def report(self, endpoint: Endpoint, words: str, *, failing: bool) -> None:
        """Log what is to be said of an endpoint."""
        self.lines += 1
        log.log(logging.WARNING if failing else logging.INFO, "%s: %s", _title(endpoint), words)

    async def _watch(self, group: asyncio.TaskGroup, endpoint: Endpoint, source: Source) -> None:
        """Scrape one endpoint, follow its KV events and ask for its models, until cancelled."""
        fetcher = Fetcher(source.host, source.port, source.path, timeout_s=self._timeout_s, spare=self._spare)
        following: list[asyncio.Task[None]] = []
        if self.kv_events is not None and self.kv_events.publishes(source):
            following.append(group.create_task(self.kv_events.follow(endpoint, source)))
        if self._models is not None:
            following.append(group.create_task(self._models.follow(endpoint)))
        try:
            await Watch(endpoint, source, fetcher, self._cadence, self).run()
        finally:
            for task in following:
                task.cancel()
            self.scrapes.forget(endpoint.slot, endpoint.incarnation)


class Watch:
    """One endpoint, asked again and again: a chain of callbacks, since a task would have to be woken twice for each page."""

    def __init__(
        self,
        endpoint: Endpoint,
        source: Source,
        fetcher: Fetcher,
        cadence: Cadence,
        scraper: Scraper,
    ) -> None:
        self._endpoint = endpoint
        self._source = source
        self._fetcher = fetcher
        self._cadence = cadence
        self._scraper = scraper
        self._publisher = scraper.publisher
        self._scrapes = scraper.scrapes
        self._tidings = Tidings()
        self._reader = Reader(source.dialect)
        self._row = LoadRow(slot=endpoint.slot, incarnation=endpoint.incarnation)
        self._interval_s = cadence.min_s
        self._asked_ns = 0
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Scrape until cancelled; raise what goes wrong here (what goes wrong there is in the row)."""
        self._loop = asyncio.get_running_loop()
        self._broken: asyncio.Future[None] = self._loop.create_future()
        self._wait(self._cadence.first_s(random.random()))  # noqa: S311  jitter, no secret
        try:
            await self._broken
        finally:
            if self._timer:
                self._timer.cancel()
            self._fetcher.close()

    def _wait(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._ask)

    def _ask(self) -> None:
        self._asked_ns = time.monotonic_ns()
        self._fetcher.ask(self._take)

    def _take(self, answer: Response | Failure) -> None:
        try:
            now_ns = time.monotonic_ns()
            before, self._row = self._row, self._read(answer, now_ns)
            self._publisher.update(self._row)
            if words := self._tidings.hear(before, self._row, now_ns):
                self._scraper.report(self._endpoint, words, failing=self._tidings.failing)
            took_s = (now_ns - self._asked_ns) / 1e9
            self._scrapes.note(
                self._row.slot,
                self._row.incarnation,
                took_s,
                answered=isinstance(answer, Response),
                readable=not self._row.failures,
            )
            self._interval_s = self._cadence.next_s(self._interval_s, before, self._row, took_s)
            self._wait(self._cadence.jittered(self._interval_s, random.random()))  # noqa: S311  jitter
        except Exception as error:  # noqa: BLE001  the event loop would only log it
            if not self._broken.done():
                self._broken.set_exception(error)

    def _read(self, answer: Response | Failure, now_ns: int) -> LoadRow:
        before = self._row
        if isinstance(answer, Failure):
            # A metrics port of its own says nothing about the port where requests go.
            gone = answer.refused and self._source.port == self._endpoint.port
            return fail(before, answer.reason, Health.UNREACHABLE if gone else Health.FAILED)
        try:
            return self._reader.read(answer.content, answer.start, answer.stop, before, now_ns)
        except ExpositionError as error:
            return fail(before, str(error))


def _title(endpoint: Endpoint) -> str:
    return f"{endpoint.namespace}/{endpoint.name} ({endpoint.authority})"
