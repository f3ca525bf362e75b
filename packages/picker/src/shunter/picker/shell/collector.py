"""The collector: takes Envoy's records, learns from them, and keeps the account of requests whose worker is dead.

A process of its own beside the workers, off the way of any request. While it is away Envoy keeps what it has to tell; what was
learnt is published several times a second and read again by a successor. So one that is killed loses what it was sent and had
not published: about a quarter of a second, and figures only, for bookings are in the journal at once.

::

    Envoy ──fluentd, TCP──> Records ──> Outcomes ──> ring `learned` ──> metrics
                               └──────> Adoption ──> journal of our seat ──> every worker's account

It listens on loopback unless told otherwise and believes what it is told: a peer can spoil figures and, by naming tickets, the
account of requests in flight. It cannot make this process large: connections, the bytes each may keep, rows and adopted
requests are bounded.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import msgspec

from shunter.picker.core.adoption import Adoption
from shunter.picker.core.fleet import endpoints_of
from shunter.picker.core.learned import Learned, decode_learned, encode_learned
from shunter.picker.core.ledger import Key
from shunter.picker.core.outcomes import Outcomes, outcome_of
from shunter.picker.core.records import Record, Records
from shunter.picker.errors import ConfigError, PickerError, RecordsError
from shunter.picker.shell.control import Decided, Recalled, Status
from shunter.picker.shell.memory import Memory, Seat, watch
from shunter.picker.shell.service import end_tasks, serve
from shunter.snapshot import RingError, RingReader, RingWriter, SnapshotReader, Topology
from shunter.snapshot.addresses import why_not

__all__ = ["Collector", "LearnedReader", "Settings", "collect"]

LEARNED_RING = "learned"

# What reads it, metrics and people, does not look more often.
PUBLISH_S = 0.25

# One for each worker thread of an Envoy and each of its listeners: several Envoys on a large machine. Of more than that some
# are of nodes that were lost without a word, so whoever has been silent for the longest makes room.
MAX_CONNECTIONS = 256

log = logging.getLogger(__name__)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Where it listens, and which endpoints there are. Port 0 takes any free one."""

    snapshot: Path
    host: str = "127.0.0.1"
    port: int = 24224
    pool: str | None = None
    drain_s: float = 5.0


class Collector:
    """A service of the supervisor's, and in tests one that stands alone."""

    def __init__(self, settings: Settings, seat: Seat) -> None:
        """Listen to nobody yet. Raises PickerError if the seat is taken or the files cannot be made."""
        self._settings = settings
        self._snapshot = SnapshotReader(settings.snapshot)
        self._memory = memory = Memory(seat)
        self._seats = watch(seat.directory, seat.seats)
        try:
            self._ring = RingWriter(seat.directory / LEARNED_RING)
        except RingError as error:
            memory.close()
            raise PickerError(str(error)) from error
        self._published = True  # what was learnt last
        self._learned = self._remember()
        self._outcomes = Outcomes(self._learned)
        self._adoption = Adoption(seat.life, memory.journal, memory.counters, self._learned)
        self._topology: Topology | None = None
        self._endpoints: dict[str, Key] = {}
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self.tasks: Sequence[asyncio.Task[None]] = ()

    async def start(self) -> int:
        """Listen and return the port, or raise ConfigError."""
        host, port = self._settings.host, self._settings.port
        make = partial(_Connection, self._connections, self._take, self._lose)
        try:
            # A successor binds while the supervisor holds the port for it.
            self._server = await asyncio.get_running_loop().create_server(make, host, port, reuse_port=True)
        except OSError as error:
            raise ConfigError(
                f"cannot take records on {host}:{port}: {why_not(error)}; choose another with --collector-port"
            ) from error
        self._publish()
        self.tasks = [asyncio.create_task(self._tick())]
        self._memory.counters.ready = 1
        return self._server.sockets[0].getsockname()[1]

    async def drain(self, deadline_s: float) -> None:
        """Take what was sent, and stop: Envoy is told that we hang up, sends the rest, hangs up too, and keeps what follows."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.hang_up()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await asyncio.gather(*[connection.lost.wait() for connection in self._connections])
        for connection in [*self._connections]:
            connection.abort()
        await end_tasks(self.tasks)
        self._publish()
        self._ring.close()
        self._snapshot.close()
        self._memory.close()

    def status(self) -> Status:
        """Say how it is, to the supervisor."""
        return Status(streams=len(self._connections))

    def explain(self, last: int, request_id: str | None, before_s: float | None) -> Decided:  # noqa: ARG002  a Service's signature
        """Return decisions before a time: it made none."""
        return Decided()

    def recall(self, most: int, before_s: float | None) -> Recalled:  # noqa: ARG002  as above
        """Return decisions before a time: it made none."""
        return Recalled()

    def _take(self, records: list[Record]) -> None:
        now_ns = time.monotonic_ns()
        view = self._snapshot.view(now_ns)
        if view is not None and view.topology is not self._topology:
            self._topology = view.topology
            endpoints = endpoints_of(view.topology, self._settings.pool)
            self._endpoints = {each.authority: (each.slot, each.incarnation) for each in endpoints}
            self._outcomes.retain(self._endpoints.values())
        living = self._living()
        for record in records:
            if record.over:
                self._outcomes.take(record, self._endpoints)
            self._adoption.take(record, self._endpoints.get(record.host or ""), living, now_ns)
            if record.over and record.ticket is not None and record.host is not None:  # after its end, of which this tells more
                self._memory.journal.measured(record.ticket, outcome_of(record))

    def _living(self) -> set[int]:
        return {counters.life for counters in self._seats}

    def _lose(self, unread: int, *, refused: bool) -> None:
        """Note that a connection is gone, or had entries that nobody could read."""
        self._learned.unread += unread
        self._learned.refused_peers += refused

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(PUBLISH_S)
            self._adoption.look(self._living(), time.monotonic_ns())
            self._publish()

    def _publish(self) -> None:
        now_ns = time.monotonic_ns()
        self._memory.counters.beat_ns = now_ns
        try:
            self._ring.publish(encode_learned(self._learned), now_ns)
            self._published = True
        except RingError as error:  # it has to grow, and cannot
            if self._published:
                log.error("what was learnt cannot be published, which is tried again and again: %s", error)  # noqa: TRY400  words do
            self._published = False

    def _remember(self) -> Learned:
        """Return what a predecessor learnt."""
        frame = self._ring.newest()
        with contextlib.suppress(PickerError):
            if frame is not None:
                return decode_learned(frame.payload)
        return Learned()


class _Connection(asyncio.Protocol):
    """One of Envoy's; what comes is handled as it comes, so nothing queues up here."""

    def __init__(self, others: "set[_Connection]", take: Callable[[list[Record]], None], lose: Callable[..., None]) -> None:
        self.lost = asyncio.Event()
        self.heard_s = time.monotonic()
        self._others = others
        self._take = take
        self._lose = lose
        self._records = Records()
        self._transport: asyncio.Transport | None = None
        self._peer = ""
        self._unreadable = False  # some of what it sent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._peer = str(transport.get_extra_info("peername"))
        if len(self._others) >= MAX_CONNECTIONS:
            silent = min(self._others, key=lambda each: each.heard_s)
            self._others.discard(silent)
            silent.refuse(f"it is silent, and there are more than {MAX_CONNECTIONS}")
        self._others.add(self)

    def data_received(self, data: bytes) -> None:
        self.heard_s = time.monotonic()
        try:
            records = self._records.feed(data)
        except RecordsError as error:
            self.refuse(str(error))
            return
        if self._records.unread:
            if not self._unreadable:  # of what follows the same would have to be said
                self._unreadable = True
                log.warning("%s sends entries that are no records as shunter envoyconf has Envoy write them", self._peer)
            self._lose(self._records.unread, refused=False)
            self._records.unread = 0
        if records:
            self._take(records)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        self._others.discard(self)
        self.lost.set()

    def hang_up(self) -> None:
        """Say that nothing more is wanted; what was sent is still read."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def abort(self) -> None:
        """End it at once."""
        if self._transport is not None:
            self._transport.abort()

    def refuse(self, words: str) -> None:
        """Cut it off, and say why."""
        log.warning("the connection of %s for records is refused: %s", self._peer, words)
        self._lose(0, refused=True)
        self.abort()


class LearnedReader:
    """Reads what the collector of a runtime directory learnt."""

    def __init__(self, directory: Path) -> None:
        """Open nothing yet; there need not be a collector."""
        self._ring = RingReader(directory / LEARNED_RING)
        self._newest: Learned | None = None

    def read(self, now_ns: int) -> Learned | None:
        """Return the newest; None if nothing was ever published. Never raises."""
        with contextlib.suppress(RingError, PickerError):
            frame = self._ring.poll(now_ns)
            if frame is not None:
                self._newest = decode_learned(frame.payload)
        return self._newest

    def close(self) -> None:
        """Unmap the ring."""
        self._ring.close()


async def collect(end: socket.socket, seat: Seat, settings: Settings) -> int:
    """Be the collector of a supervisor at the other ``end``, until it says so or is gone, and return the exit code."""
    return await serve(end, partial(Collector, settings, seat), settings.drain_s)
