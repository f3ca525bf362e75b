"""Sessions behind our own HTTP/2: one TCP read, all it means, one write. No task and no queue per stream.

The asyncio shell around ``transport.grpc``. How a stream ends is the same as behind grpc.aio (``transport.grpcio``). What is
limited here is time and what only sockets know:

=================================================== ============================================================
a peer that has not said HTTP/2 within GREETING_S   is cut off; TLS has as much time again, before that
a peer that sends or is sent much                   waits after a read of TURN_BYTES, or half a mebibyte written,
                                                    until everybody else has had a turn
a peer that takes nothing of what we write          nothing more is read from it; after STALL_S it is cut off
a peer that is silent for SILENCE_S                 is pinged, and cut off when that brings nothing
more than CONNECTIONS                               are cut off at once
a connection of more than ``max_age_s``             is told to go (GOAWAY); it serves what runs, and new ones are opened to
                                                    whom the kernel or the gateway chooses now. After as much time again its
                                                    idle streams are ended, which costs their requests nothing
a connection that is over (GOAWAY)                  has HANG_UP_S to hang up
=================================================== ============================================================
"""

import asyncio
import logging
import math
import os
import random
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.errors import ConfigError, FullError
from shunter.picker.transport.grpc import Exchange, GrpcConnection, Service, StatusCode, StatusError
from shunter.picker.transport.h2 import Terms
from shunter.picker.transport.health import Health
from shunter.picker.transport.parking import Parking
from shunter.picker.transport.server import (
    ENVELOPE_BYTES,
    LAST_WORDS_S,
    MAX_STREAMS,
    PROCESS,
    SWEEP_S,
    bind_name,
    explain_taken,
    introduce,
    refuse_name,
    refuse_taken,
)
from shunter.picker.transport.services import Process, Unary, Watch
from shunter.picker.transport.tls import ALPN, Identity, Tls

__all__ = ["NativeServer"]

# An Envoy has one per worker thread; a thousand are many Envoys, and far below the usual limit of open files.
CONNECTIONS = 1000

# Written but not taken by the peer, until we stop reading from it.
UNSENT_BYTES = 1 << 20

# Read from one peer, and it is others' turn. libuv would read on from one that sends faster than we read, up to 8 MB: 10 ms.
TURN_BYTES = 128 << 10

# Who comes between two turns of the loop; a gateway has some dozen connections, which may all come at once.
BACKLOG = 1024

# A gateway greets with its first packet; the rest is for slow networks and busy machines.
GREETING_S = 10.0

# Nothing of ours is taken: by now each request has long given up waiting for us (a generated Envoy waits one second).
STALL_S = 30.0
# When we are done the last answers are written, not read: a gateway short of CPU would lose them if we hung up before it did.
HANG_UP_S = 5.0

# A gateway without requests is silent, so it is asked; one that is gone without a word holds its streams no longer than this.
SILENCE_S = 60.0

# Each connection's age is this much more or less than asked, as behind the gRPC library, so that a gateway's many do not all
# go at once.
JITTER = 0.1

log = logging.getLogger(__name__)


class NativeServer:
    """An ext_proc server. ``make_session`` is called for each stream, may raise FullError; ``clock`` is monotonic, in seconds.

    ``parking`` is of the judge behind the sessions, if it lets requests wait. ``max_age_s`` matters where workers share a port:
    connections are what the kernel spreads over them, so those of a worker that has restarted come to it only as others end.
    """

    def __init__(
        self,
        make_session: Callable[[], Session],
        health: Health,
        limits: Limits,
        *,
        max_streams: int = MAX_STREAMS,
        max_age_s: float | None = None,
        reuse_port: bool = False,
        socket_mode: int = 0o600,
        tls: Tls | None = None,
        clock: Callable[[], float] = time.monotonic,
        dice: random.Random | None = None,
        parking: Parking | None = None,
    ) -> None:
        self.make_session = make_session
        self.health = health
        self.clock = clock
        self.parking = parking
        self.max_message_bytes = limits.body_bytes + ENVELOPE_BYTES
        self.unfinished = Budget(limits.buffered_bytes)  # messages of which a part is here, of all connections
        self.waiting = Budget(limits.buffered_bytes)  # answers that a peer does not take, of all connections too
        self.terms = Terms(streams=max_streams)
        self.connections: set[_Connection] = set()
        self.streams = 0
        """Open ext_proc streams."""
        self.draining = False
        self._max_age_s = math.inf if max_age_s is None else max_age_s
        self._dice = dice or random.Random()  # noqa: S311  no secret depends on it
        self._identity = Identity(tls) if tls else None
        self._reuse_port = reuse_port
        self._socket_mode = socket_mode
        self._listeners: list[asyncio.Server] = []
        self._socket: tuple[str, int] | None = None  # its path and inode
        self._sweeping: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    @property
    def certificate_expires_s(self) -> float | None:
        """See ``Server``."""
        return self._identity and self._identity.material.expires_s

    async def start(self, host: str, port: int, health_port: int | None = None) -> int:
        """Listen; see ``Server``. Who may ask at a socket by name, its mode says."""
        try:
            if host.startswith("unix:"):
                await self._listen_unix(host.removeprefix("unix:"))
                bound = 0
            else:
                bound = await self._listen(host, port)
                if health_port is not None:
                    await self._listen(host, health_port, for_probes=True)
        except BaseException:
            self._close_listeners()
            raise
        self._sweep()
        return bound

    async def drain(self, deadline_s: float) -> None:
        """End well; see ``Server``."""
        end_s = self.clock() + deadline_s
        self.health.close()
        await self._let_in()
        self._close_listeners()
        self.draining = True
        for connection in self.connections:
            connection.leave()
        self._dismiss(at_once=False)
        await self._until(lambda: not any(connection.processes for connection in self.connections), deadline_s)
        self._dismiss(at_once=True)
        left_s = max(LAST_WORDS_S, end_s - self.clock())
        await self._until(lambda: not self.connections, min(left_s, HANG_UP_S))
        await self.stop()

    async def stop(self) -> None:
        """Cut everything off."""
        self.draining = True
        self.health.close()
        self._close_listeners()
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connection in [*self.connections]:
            connection.abort()
        await self._until(lambda: not self.connections, LAST_WORDS_S)

    def draw_age_s(self) -> float:
        """Draw the age at which a connection goes."""
        return self._max_age_s * self._dice.uniform(1 - JITTER, 1 + JITTER)

    def note_change(self) -> None:
        """Note that a stream or a connection is gone."""
        self._changed.set()

    async def _until(self, condition: Callable[[], bool], deadline_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()

    def _dismiss(self, *, at_once: bool) -> None:
        now_s = self.clock()
        for connection in [*self.connections]:
            connection.dismiss(now_s, at_once=at_once)

    async def _listen(self, host: str, port: int, *, for_probes: bool = False) -> int:
        loop = asyncio.get_running_loop()
        tls = self._identity if not for_probes else None
        try:
            listener = await loop.create_server(
                lambda: _Connection(self, for_probes=for_probes),
                host,
                port,
                reuse_port=self._reuse_port or None,
                backlog=BACKLOG,
                ssl=tls and tls.door,
                ssl_handshake_timeout=GREETING_S if tls else None,
            )
        except OSError as error:
            raise explain_taken(host, port) from error
        self._listeners.append(listener)
        return listener.sockets[0].getsockname()[1]

    async def _listen_unix(self, path: str) -> None:
        """Replace a socket that a dead picker left; one at which somebody answers only if names are shared as ports are.

        It is replaced in one step: at no moment is there nobody.
        """
        refuse_name(path)
        if not self._reuse_port:
            refuse_taken(path)
        fresh = f"{path}.new"
        door: socket.socket | None = None
        try:
            door = bind_name(fresh, self._socket_mode)
            tls = self._identity
            listener = await asyncio.get_running_loop().create_unix_server(
                lambda: _Connection(self),
                sock=door,
                backlog=BACKLOG,
                ssl=tls and tls.door,
                ssl_handshake_timeout=GREETING_S if tls else None,
            )
            self._socket = path, os.stat(fresh).st_ino  # noqa: PTH116  a path as the user wrote it
            os.replace(fresh, path)  # noqa: PTH105  as above
        except OSError as error:
            if door is not None:
                door.close()
            raise ConfigError(f"cannot listen on unix:{path}: {error.strerror or error}") from error
        self._listeners.append(listener)

    async def _let_in(self) -> None:
        """Take whom the kernel has let in already: a listener that closes resets them. A turn of the loop may take but one."""
        doors = select.poll()
        for listener in self._listeners:
            for door in listener.sockets:
                doors.register(door.fileno(), select.POLLIN)
        for _ in range(BACKLOG):
            if not doors.poll(0):
                break
            await asyncio.sleep(0)
        await asyncio.sleep(0)  # the last one is told so a turn later

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        if self._socket is not None:
            path, number = self._socket
            with suppress(OSError):
                if os.stat(path).st_ino == number:  # noqa: PTH116  else it is a successor's
                    os.unlink(path)  # noqa: PTH108  a path as the user wrote it
            self._socket = None

    def _sweep(self) -> None:
        self._sweeping = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)  # whatever comes of this one
        now_s = self.clock()
        if self._identity is not None:
            self._identity.refresh()
        for connection in [*self.connections]:
            connection.sweep(now_s)


class _Connection(asyncio.Protocol):
    """One connection: bytes between the transport and ``GrpcConnection``, and their times."""

    _transport: asyncio.Transport

    def __init__(self, server: NativeServer, *, for_probes: bool = False) -> None:
        self.processes: set[Process] = set()
        self._server = server
        self._clock = server.clock
        self._for_probes = for_probes
        self._grpc = GrpcConnection(
            self._services(),
            server.unfinished,
            max_message_bytes=server.max_message_bytes,
            terms=server.terms,
            waiting=server.waiting,
        )
        self._begun_s = self._heard_s = server.clock()
        self._age_s = server.draw_age_s()
        self._stalled_s: float | None = None
        self._much = False  # was written in this turn, and more is left: not before the next one
        self._pinged_s = -math.inf
        self._over = False
        self._over_s = math.inf  # since when
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_s = math.inf  # when it rings
        self._peer = ""

    def _services(self) -> dict[str, Service]:
        health = self._server.health
        checks: dict[str, Service] = {
            "/grpc.health.v1.Health/Check": lambda _: Unary(health.check),
            "/grpc.health.v1.Health/List": lambda _: Unary(health.list),
            "/grpc.health.v1.Health/Watch": lambda exchange: Watch(health, exchange, self.flush, self._clock),
        }
        return checks if self._for_probes else {PROCESS: self._process, **checks}

    def _process(self, exchange: Exchange) -> Process:
        try:
            session = self._server.make_session()
        except FullError as full:
            raise StatusError(StatusCode.UNAVAILABLE, str(full)) from None
        introduce(session, exchange.metadata)
        process = Process(session, exchange, self._peer, self._forget, self.flush, self._server.parking)
        process.leaving = self._server.draining
        self.processes.add(process)
        self._server.streams += 1
        return process

    def _forget(self, process: Process) -> None:
        self.processes.discard(process)
        self._server.streams -= 1
        if self._server.draining:
            self._server.note_change()

    # -- what the event loop calls -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._peer = str(transport.get_extra_info("peername") or "unix")
        self._server.connections.add(self)
        if len(self._server.connections) > CONNECTIONS:
            log.warning("%s is cut off: more than %d connections", self._peer, CONNECTIONS)
            self.abort()
            return
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != ALPN:
            log.warning("%s is cut off: over TLS it does not offer HTTP/2 (ALPN %s)", self._peer, ALPN)
            self.abort()
            return
        self._transport.set_write_buffer_limits(high=UNSENT_BYTES)
        if self._server.draining:  # it was in the middle of its handshake when the others were told
            self._grpc.http.leave()
        self.flush()

    def data_received(self, data: bytes) -> None:
        if not self._over:
            now_s = self._heard_s = self._clock()
            self._grpc.receive(data, now_s)
            self.flush()
            if len(data) >= TURN_BYTES:
                self._transport.pause_reading()
                asyncio.get_running_loop().call_soon(self._read_on)

    def pause_writing(self) -> None:
        self._stalled_s = self._clock()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._stalled_s = None
        self._transport.resume_reading()
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # the same to us whoever hung up
        if self._alarm is not None:
            self._alarm.cancel()
        self._grpc.close(self._clock())
        self._server.connections.discard(self)
        self._server.note_change()

    # -- what the server calls ---------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what there is, a turn's worth of much, and hang up if that was the last of it."""
        if self._over or self._transport.is_closing():
            return
        http = self._grpc.http
        out = http.take_pieces() if self._stalled_s is None and not self._much else ()
        if len(out) == 1:
            self._transport.write(out[0])
        elif out:
            self._transport.writelines(out)
            if not http.drained:
                self._much = True
                asyncio.get_running_loop().call_soon(self._write_on)
        if (http.leaving or http.closed) and http.done and http.drained:
            self._over, self._over_s = True, self._clock()
            if http.fault:
                log.warning("connection of %s ended: %s", self._peer, http.fault)
            if self._transport.can_write_eof():
                # Not close: bytes of the peer that nobody reads would make the kernel throw away our last words.
                self._transport.write_eof()
            else:  # TLS, whose close says so first and reads on until the peer has said it too
                self._transport.close()
        agenda = self._grpc.agenda
        if agenda and agenda[0][0] < self._alarm_s:
            self._set_alarm(agenda[0][0])

    def _read_on(self) -> None:
        if self._stalled_s is None:
            self._transport.resume_reading()

    def _write_on(self) -> None:
        self._much = False
        self.flush()

    def leave(self) -> None:
        """Tell the peer to go elsewhere."""
        self._grpc.http.leave()
        self.flush()

    def dismiss(self, now_s: float, *, at_once: bool) -> None:
        """End what nobody loses anything by, or everything; the rest as soon as it is so."""
        for process in [*self.processes]:
            process.leave(now_s, at_once=at_once)
        self.flush()

    def abort(self) -> None:
        """Cut the connection off."""
        self._transport.abort()

    def sweep(self, now_s: float) -> None:
        """Cut off who is too slow, and see who is still there."""
        http = self._grpc.http
        http.forgive()
        silent_s = now_s - self._heard_s
        pinged = self._pinged_s > self._heard_s
        trouble = (
            (now_s - self._over_s >= HANG_UP_S and "it does not hang up")
            or (not http.greeted and now_s - self._begun_s > GREETING_S and "it does not say HTTP/2")
            or (self._stalled_s is not None and now_s - self._stalled_s > STALL_S and "it does not take our answers")
            or (pinged and silent_s > SILENCE_S + SWEEP_S and "it does not answer a ping")
        )
        if trouble:
            log.info("%s is cut off: %s", self._peer, trouble)
            self.abort()
            return
        age_s = now_s - self._begun_s
        if age_s > self._age_s:
            self.leave()
        if age_s > 2 * self._age_s:
            self.dismiss(now_s, at_once=False)
        if silent_s > SILENCE_S and not pinged:
            self._pinged_s = now_s
            http.ping()
            self.flush()

    def _set_alarm(self, at_s: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_s = at_s
        self._alarm = asyncio.get_running_loop().call_later(max(0.0, at_s - self._clock()), self._ring)

    def _ring(self) -> None:
        self._alarm_s = math.inf
        self._grpc.expire(self._clock())
        self.flush()
