"""Follows what engines publish of their KV caches: a ZeroMQ subscriber for each endpoint, which has repeated what it missed.

A subscription joins late and loses what overflows, so holes are ordinary. An engine with a replay socket fills them; without
one, or if it has forgotten that much itself (vLLM keeps 10,000 publications), everything known of the endpoint is cleared: to
believe in blocks that are gone costs a whole prompt, not to know of some that are there costs as much as not listening.

An engine that is restarted in place has an empty cache. Its connection ends, which clears what was known, and its sequence
numbers begin anew, which does so too if the first went unnoticed.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from shunter.scraper.core.chronicle import LOG_BYTES, Chronicle
from shunter.scraper.core.cluster import Source
from shunter.scraper.core.holdings import Holdings
from shunter.scraper.core.kvevents import END_OF_REPLAY, Order, Verdict, decode, sequence_of
from shunter.scraper.errors import KvEventError
from shunter.snapshot import BLOCK_LOG, Endpoint, SnapshotError, map_log

__all__ = ["KvCounts", "KvEvents", "Patience"]

# A publication tells at most the blocks of one step: of a hundred thousand tokens it is a megabyte.
MAX_MESSAGE_BYTES = 16 << 20
# After so many in a row, up to 8 ms, others have their turn: to wait for what is there already does not give it to them.
BURST = 64

log = logging.getLogger(__name__)


# After something was missing here: room for the log, descriptors. Whoever makes some expects that to be noticed soon.
AGAIN_S = 5.0
# Three for each endpoint: the subscriber, and the two ends of what reports its connections.
MAX_SOCKETS = 32_768


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long a replay may take: altogether, between two answers, and until there may be another. As in llm-d-router."""

    total_s: float = 120.0
    idle_s: float = 2.0
    cooldown_s: float = 30.0


class KvCounts(msgspec.Struct):
    """What was heard of one endpoint, since it exists."""

    publications: int = 0
    gaps: int = 0  # holes in the sequence, however they were filled
    lost: int = 0  # publications that nobody could repeat
    unreadable: int = 0
    replays: int = 0
    restarts: int = 0  # connections and sequences that began anew
    blocks: int = 0  # known to be cached there now
    orphans: int = 0  # blocks without a name, for want of a parent


class KvEvents:
    """All endpoints' KV events, and the log they end up in. Nothing is opened before the first endpoint that publishes."""

    def __init__(
        self,
        directory: Path,
        *,
        events_port: int | None = None,
        replay_port: int | None = None,
        patience: Patience | None = None,
    ) -> None:
        """The ports are those of rank 0 at endpoints that do not name their own; None: those do not publish."""
        self._directory = directory
        self._events_port = events_port
        self._replay_port = replay_port
        self._patience = patience or Patience()
        self._context: zmq.asyncio.Context | None = None
        self._chronicle: Chronicle | None = None
        self._opening = asyncio.Lock()  # one of those who wait for room tries
        self._full = ""
        self._listeners: dict[str, Listener] = {}

    @property
    def trouble(self) -> str:
        """What hinders us here, for people. Cached prefixes that are told of are not known meanwhile."""
        if self._full:
            return self._full
        (first, why), *others = [(where, each.trouble) for where, each in self._listeners.items() if each.trouble] or [("", "")]
        more = f" and {len(others)} more" if others else ""
        return f"KV events of {first}{more} are not followed: {why}" if first else ""

    @property
    def counts(self) -> dict[str, KvCounts]:
        """By ``address:port`` of the endpoints that are followed."""
        return {authority: listener.counts for authority, listener in self._listeners.items()}

    def publishes(self, source: Source) -> bool:
        """Is there anything to follow?"""
        return bool(source.kv_events_port or self._events_port)

    async def follow(self, endpoint: Endpoint, source: Source) -> None:
        """Follow one endpoint that publishes, until cancelled."""
        events_port = source.kv_events_port or _of_rank(self._events_port, endpoint.rank)
        replay_port = source.kv_replay_port or _of_rank(self._replay_port, endpoint.rank)
        context, chronicle = await self._open()
        host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
        listener = Listener(
            context,
            endpoint,
            f"tcp://{host}:{events_port}",
            f"tcp://{host}:{replay_port}" if replay_port else None,
            chronicle,
            self._patience,
        )
        self._listeners[endpoint.authority] = listener
        try:
            await listener.run()
        finally:
            if self._listeners.get(endpoint.authority) is listener:
                del self._listeners[endpoint.authority]

    async def _open(self) -> tuple[zmq.asyncio.Context, Chronicle]:
        """Return what all endpoints share, as soon as there is room for it."""
        async with self._opening:
            while self._context is None or self._chronicle is None:
                try:
                    self._chronicle = Chronicle(map_log(self._directory / BLOCK_LOG, LOG_BYTES))
                except SnapshotError as error:
                    if not self._full:
                        log.error("%s; nobody is told of cached prefixes until there is room", error)  # noqa: TRY400  its words are all
                    self._full = str(error)
                    await asyncio.sleep(AGAIN_S)
                    continue
                if self._full:
                    log.info("the log of KV events has room now")
                self._full = ""
                self._context = zmq.asyncio.Context(io_threads=1)
                self._context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
            return self._context, self._chronicle

    def close(self) -> None:
        """Close what is open; the log stays."""
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None


class Listener:
    """One endpoint's."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        endpoint: Endpoint,
        events: str,
        replay: str | None,
        chronicle: Chronicle,
        patience: Patience,
    ) -> None:
        self._context = context
        self.trouble = ""
        """Why it is not followed now, for people."""
        self._title = f"{endpoint.namespace}/{endpoint.name}"
        self._events = events
        self._replay = replay
        self._chronicle = chronicle
        self._patience = patience
        self._holdings = Holdings(endpoint.slot, endpoint.incarnation)
        self._order = Order()
        self._replay_after_s = 0.0
        self._counts = KvCounts()

    @property
    def counts(self) -> KvCounts:
        """What was heard so far."""
        self._counts.blocks, self._counts.orphans = len(self._holdings), self._holdings.orphans
        return self._counts

    async def run(self) -> None:
        """Follow until cancelled, and begin anew where sockets, or descriptors for them, are missing here."""
        while True:
            try:
                await self._listen()
            except zmq.ZMQError as error:
                if not self.trouble:
                    log.warning("%s: KV events are not followed: %s in the scraper", self._title, error.strerror)
                self.trouble = f"{error.strerror} in the scraper"
            await asyncio.sleep(AGAIN_S)

    async def _listen(self) -> None:
        """Follow until cancelled or hindered; then nothing is known of the endpoint any longer."""
        with self._socket(zmq.SUB) as subscriber:
            subscriber.setsockopt(zmq.SUBSCRIBE, b"")
            monitor = subscriber.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
            poller = zmq.asyncio.Poller()
            poller.register(subscriber, zmq.POLLIN)
            poller.register(monitor, zmq.POLLIN)
            subscriber.connect(self._events)
            self.trouble = ""
            try:
                while True:
                    ready = dict(await poller.poll())
                    if monitor in ready:
                        event = parse_monitor_message(await monitor.recv_multipart())["event"]
                        await self._turn(connected=event == zmq.EVENT_HANDSHAKE_SUCCEEDED)
                    if subscriber in ready:
                        await self._drain(subscriber)
                        await asyncio.sleep(0)
            finally:
                subscriber.disable_monitor()
                monitor.close(linger=0)
                self._clear()

    async def _turn(self, *, connected: bool) -> None:
        """Begin anew: with a connection comes a publisher whose past is not known, and without one nothing is."""
        self._clear()
        self._order = Order()
        self._counts.restarts += connected
        if connected:
            log.info("%s: publishes KV events at %s", self._title, self._events)
            self._replay_after_s = 0.0
            await self._catch_up()
        else:
            log.info("%s: publishes no longer at %s", self._title, self._events)

    async def _drain(self, subscriber: "zmq.asyncio.Socket") -> None:
        with contextlib.suppress(zmq.Again):
            for _ in range(BURST):
                await self._hear(await subscriber.recv_multipart(zmq.NOBLOCK))

    async def _hear(self, frames: Sequence[bytes]) -> None:
        try:
            sequence = sequence_of(frames)
        except KvEventError as error:
            self._counts.unreadable += 1
            self._forget(str(error))
            return
        verdict = self._order.live(sequence)
        if verdict is Verdict.RESTARTED:
            await self._turn(connected=True)
            verdict = self._order.live(sequence)
        if verdict is Verdict.GAP:
            self._counts.gaps += 1
            await self._catch_up()
            verdict = self._order.repeated(sequence)
        if verdict is Verdict.KNOWN:
            return
        if verdict is Verdict.GAP and self._order.next:
            self._counts.lost += sequence - self._order.next
            self._forget(f"publications {self._order.next} to {sequence - 1} were missed")
        self._take(sequence, frames[-1])

    async def _catch_up(self) -> None:
        """Have everything repeated from the first publication that is missing on, if the engine can and it is time."""
        now_s = time.monotonic()
        if self._replay is None or now_s < self._replay_after_s:
            return
        self._replay_after_s = now_s + self._patience.cooldown_s
        self._counts.replays += 1
        with self._socket(zmq.DEALER) as dealer:
            dealer.connect(self._replay)
            await dealer.send(b"", zmq.SNDMORE)
            await dealer.send(self._order.next.to_bytes(8, "big"))
            try:
                async with asyncio.timeout(self._patience.total_s):
                    repeated = 0
                    while await self._repeat(dealer):
                        repeated += 1
                        if repeated % BURST == 0:
                            await asyncio.sleep(0)
            except TimeoutError:
                log.warning("%s: no answer to the request for a replay at %s", self._title, self._replay)
            except KvEventError as error:
                self._forget(f"replay: {error}")

    async def _repeat(self, dealer: "zmq.asyncio.Socket") -> bool:
        """Take one publication of a replay; was it not the end?"""
        async with asyncio.timeout(self._patience.idle_s):
            frames = await dealer.recv_multipart()
        sequence = sequence_of(frames)
        if sequence == END_OF_REPLAY:
            return False
        verdict = self._order.repeated(sequence)
        if verdict is Verdict.GAP and self._order.next:
            self._counts.lost += sequence - self._order.next
            self._forget(f"publications {self._order.next} to {sequence - 1} are forgotten there too")
        if verdict is not Verdict.KNOWN:
            self._take(sequence, frames[-1])
        return True

    def _take(self, sequence: int, payload: bytes) -> None:
        self._order.take(sequence)
        self._counts.publications += 1
        try:
            self._chronicle.tell(self._holdings.apply(decode(payload)))
        except KvEventError as error:
            self._counts.unreadable += 1
            self._forget(f"publication {sequence}: {error}")

    def _forget(self, reason: str) -> None:
        log.warning("%s: KV events: %s; what it has cached is learnt anew", self._title, reason)
        self._clear()

    def _clear(self) -> None:
        if len(self._holdings):
            self._chronicle.tell([self._holdings.clear()])

    @contextlib.contextmanager
    def _socket(self, kind: int) -> "Generator[zmq.asyncio.Socket]":
        socket = self._context.socket(kind)
        try:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.IPV6, 1)
            socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
            yield socket
        finally:
            socket.close(linger=0)


def _of_rank(port: int | None, rank: int) -> int | None:
    """Data-parallel ranks publish at consecutive ports."""
    return None if port is None else port + rank
