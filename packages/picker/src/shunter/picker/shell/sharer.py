"""The sharer: tells other replicas of this picker what its workers do, and the workers what the others do, by way of a Redis.

A process of its own beside the workers, off the way of any request, like the collector. It reads all journals, puts what is
new into a stream of a Redis or Valkey server (XADD) and reads there what others put in (XREAD), which it books in the journal
of its own seat; see `core.sharing`. Without the server replicas are what they are without a sharer: each complete, and alone.

A replica that starts reads what is left of the stream, and so learns which prompts were sent where: as many of the last ones
as one journal holds, for all is written at once, and workers read what is left of it. Times are taken from the ids of the
stream, which are of the server's clock: the clocks of replicas need not agree.

Whoever can write to the stream is believed: a peer can spoil the account of requests in flight and the prefix index, within
bounds. Give it a password, and TLS (``rediss://``) outside of a network that is trusted.
"""

import asyncio
import contextlib
import logging
import secrets
import socket
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from shunter.picker.core.ledger import Key
from shunter.picker.core.sharing import HEARTBEAT_S, Hearer, Message, Teller, decode, encode
from shunter.picker.errors import ConfigError, SharingError
from shunter.picker.shell.control import Decided, Recalled, Status
from shunter.picker.shell.memory import Memory, Seat
from shunter.picker.shell.service import end_tasks, serve
from shunter.snapshot import SnapshotReader, Topology

__all__ = ["Settings", "Sharer", "share"]

# How long news may wait for more. In virtual time 10 ms change nothing measurable, 50 ms cost a tenth (docs/decisions/028).
FLUSH_S = 0.005
# Messages that the server keeps, about: those of some seconds under load, of minutes without; a few tens of megabytes at most.
KEPT = 10_000
# At once, so that others of this event loop have their turn.
READ_MESSAGES = 200
WAIT_MS = 1000
# Longer than a read may wait for news.
TIMEOUT_S = 5.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
# Between looks at the server's clock: one that is set while we listen would make all news look old, or new, for good.
CLOCK_S = 10.0
FIELD = b"m"

log = logging.getLogger(__name__)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Where replicas meet: a Redis, and the name of their stream there."""

    url: str
    group: str
    snapshot: Path
    drain_s: float = 1.0


class Sharer:
    """A service of the supervisor's, and in tests one that stands alone."""

    def __init__(self, settings: Settings, seat: Seat) -> None:
        """Connect to nobody yet. Raises PickerError if the seat is taken or the files cannot be made."""
        self._stream = f"shunter:{settings.group}"
        self._redis: Any = _client(settings.url)
        self._title = _title(settings.url)
        self._snapshot = SnapshotReader(settings.snapshot)
        self._memory = Memory(seat)
        self._journals = self._memory.others()
        replica = f"{socket.gethostname()[:40]}-{secrets.token_hex(4)}"
        self._teller = Teller(replica)
        self.hearer = Hearer(replica, seat.life, self._memory.journal)
        self._topology: Topology | None = None
        self._authorities: dict[Key, str] = {}
        self._keys: dict[str, Key] = {}
        self._read = b""  # the id of the last message that was read
        self._away: set[str] = set()  # what does not get through: "told", "heard"
        self.tasks: Sequence[asyncio.Task[None]] = ()

    async def start(self) -> int:
        """Begin; there is no port."""
        self.tasks = [asyncio.create_task(each()) for each in (self._speak, self._listen)]
        self._memory.counters.ready = 1
        return 0

    async def drain(self, deadline_s: float) -> None:  # noqa: ARG002  a Service's signature: it holds nobody up
        """Stop; what is in flight is told by whoever ends it no longer, and expires elsewhere."""
        await end_tasks(self.tasks)
        await self._redis.aclose()
        self._snapshot.close()
        self._memory.close()

    def status(self) -> Status:
        """Say how it is, to the supervisor: streams are the replicas that it hears. Without the server it is not ready."""
        hearer = self.hearer
        words = f"{hearer.replicas} other replicas, {hearer.in_flight} of their requests in flight"
        words += f", {hearer.gaps} times messages were missed" if hearer.gaps else ""
        words += f", {hearer.refused} requests not booked, since they are too many" if hearer.refused else ""
        away = (f"{self._title} does not answer",) if self._away else ()
        return Status(streams=hearer.replicas, hindrances=away, reports={"sharing": "; ".join((words, *away))})

    def explain(self, last: int, request_id: str | None, before_s: float | None) -> Decided:  # noqa: ARG002  a Service's signature
        """Return decisions before a time: it made none."""
        return Decided()

    def recall(self, most: int, before_s: float | None) -> Recalled:  # noqa: ARG002  as above
        """Return decisions before a time: it made none."""
        return Recalled()

    async def _speak(self) -> None:
        """Tell what is new, whether or not anybody can be told: what was not told is missed as a gap."""
        said_s = 0.0
        while True:
            await asyncio.sleep(FLUSH_S)
            self._look()
            now_s = time.monotonic()
            batches = {seat: batch for seat, journal in self._journals.items() if (batch := journal.read()) is not None}
            messages = self._teller.tell(batches, self._authorities, time.monotonic_ns())
            if not messages and now_s - said_s >= HEARTBEAT_S:
                messages = [self._teller.heartbeat()]
            if messages:
                said_s = now_s
                await self._put(messages)

    async def _put(self, messages: list[Message]) -> None:
        try:
            for message in messages:
                await self._redis.xadd(self._stream, {FIELD: encode(message)}, maxlen=KEPT, approximate=True)
            self._found("told")
        except _failures() as error:
            self._lost("told", error)

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                seconds, micros = await self._redis.time()
                ahead_ms = seconds * 1000 + micros // 1000 - time.monotonic_ns() // 1_000_000
                if not self._read:
                    self._take(reversed(await self._redis.xrevrange(self._stream, count=KEPT)), ahead_ms)
                    self._read = self._read or b"0"
                self._found("heard")
                failures = 0
                looked_s = time.monotonic()
                while time.monotonic() - looked_s < CLOCK_S:
                    answer = await self._redis.xread({self._stream: self._read}, count=READ_MESSAGES, block=WAIT_MS)
                    for _, entries in answer or ():
                        self._take(entries, ahead_ms)
                    self.hearer.expire(time.monotonic_ns())
            except _failures() as error:
                self._lost("heard", error)
                self.hearer.expire(time.monotonic_ns())
                await asyncio.sleep(min(FIRST_PAUSE_S * 2**failures, LONGEST_PAUSE_S))
                failures = min(failures + 1, 16)

    def _take(self, entries: Any, ahead_ms: int) -> None:
        self._look()
        for number, fields in entries:
            self._read = number
            now_ns = time.monotonic_ns()
            late_ms = max(0, now_ns // 1_000_000 + ahead_ms - int(number.split(b"-")[0]))
            with contextlib.suppress(SharingError):  # somebody else's, or of a release that says more
                self.hearer.hear(decode(fields.get(FIELD, b"")), self._keys, now_ns, late_ms)

    def _look(self) -> None:
        """Follow who exists."""
        now_ns = time.monotonic_ns()
        self._memory.counters.beat_ns = now_ns
        view = self._snapshot.view(now_ns)
        if view is not None and view.topology is not self._topology:
            self._topology = view.topology
            self._authorities = {(each.slot, each.incarnation): each.authority for each in view.topology.endpoints}
            self._keys = {authority: key for key, authority in self._authorities.items()}

    def _lost(self, what: str, error: Exception) -> None:
        if not self._away:
            log.warning("%s: %s; replicas know nothing of each other until it answers", self._title, error)
        self._away.add(what)

    def _found(self, what: str) -> None:
        """Note that this gets through; a server may let us read and not write, as one that copies another does."""
        if self._away == {what}:
            log.info("%s answers again: replicas know of each other", self._title)
        self._away.discard(what)


async def share(end: socket.socket, seat: Seat, settings: Settings) -> int:
    """Be the sharer of a supervisor at the other ``end``, until it says so or is gone, and return the exit code."""
    return await serve(end, partial(Sharer, settings, seat), settings.drain_s)


def _client(url: str) -> Any:
    try:
        import redis.asyncio  # noqa: PLC0415  an optional extra
        from redis.asyncio.retry import Retry  # noqa: PLC0415  as above
        from redis.backoff import NoBackoff  # noqa: PLC0415  as above
        from redis.exceptions import ConnectionError as Cut  # noqa: PLC0415  as above
    except ImportError as error:
        raise ConfigError(f"--share needs {error.name}: pip install 'shunter-picker[sharing]'") from error
    try:
        client: Any = redis.asyncio.Redis
        # Once more at once: a connection that was kept does not know that its server has been started anew. A message that is
        # put twice by that is read once.
        again: Any = Retry(NoBackoff(), retries=1)
        return client.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=again,
            retry_on_error=[Cut],
        )
    except ValueError as error:
        raise ConfigError(f"--share: {error}") from error


def _failures() -> tuple[type[Exception], ...]:
    import redis.exceptions  # noqa: PLC0415  as above

    return redis.exceptions.RedisError, OSError, TimeoutError


def _title(url: str) -> str:
    """Return where it is, without who we are there."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
