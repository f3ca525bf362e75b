"""Sessions behind grpc.aio: one stream, one session; bytes in, bytes out.

The gRPC library does HTTP/2 and framing; messages stay bytes until ``transport.wire`` reads them. How a stream ends:

==================================== ====================================================
the request is over                  Envoy ends or resets the stream; the session is closed
the session had its last word        status 0 (Envoy answers the client itself)
the peer broke the protocol          INVALID_ARGUMENT with what was wrong; Envoy applies its failure mode
a bug of ours                        INTERNAL, logged with its traceback; Envoy applies its failure mode
the picker drains                    status 0 as soon as nobody loses anything by it
==================================== ====================================================
"""

# grpc-stubs leaves the behavior of method handlers unannotated.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

import grpc
import grpc.aio

from shunter.picker.core.events import Reply
from shunter.picker.core.judgement import Pick, Refusal
from shunter.picker.core.limits import Limits
from shunter.picker.core.session import Session
from shunter.picker.errors import FullError, ProtocolError
from shunter.picker.transport.health import Health, UnknownServiceError
from shunter.picker.transport.parking import Parking
from shunter.picker.transport.server import (
    ENVELOPE_BYTES,
    LAST_WORDS_S,
    MAX_STREAMS,
    PROCESS,
    SWEEP_S,
    explain_taken,
    introduce,
    making_sockets,
)
from shunter.picker.transport.tls import Identity, Material, Tls
from shunter.picker.transport.wire import decode, encode

__all__ = ["GrpcServer"]

Context: TypeAlias = "grpc.aio.ServicerContext[object, bytes]"  # what it reads is bytes or grpc.aio.EOF

# A message in a gRPC status goes into an HTTP/2 header, percent-encoded.
DETAILS_CHARS = 512

# The library hangs up together with the last status. Where Envoy 1.40 reads the last reply and the hang-up at once, and has no
# more use for the stream, it takes the one for a failure of the other: one drain in ten cost a client its request.
LINGER_S = 0.1

log = logging.getLogger(__name__)


class GrpcServer:
    """An ext_proc server. ``make_session`` is called for each stream, may raise FullError; ``clock`` is monotonic, in s."""

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
        parking: Parking | None = None,
    ) -> None:
        self._make_session = make_session
        self._parking = parking
        self._health = health
        self._clock = clock
        self._socket_mode = socket_mode
        self._streams: set[_Stream] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._draining = False
        self._identity = Identity(tls) if tls else None
        self._sweeping: asyncio.TimerHandle | None = None
        options: list[tuple[str, int]] = [
            ("grpc.max_receive_message_length", limits.body_bytes + ENVELOPE_BYTES),
            ("grpc.max_send_message_length", limits.body_bytes + ENVELOPE_BYTES),
            ("grpc.max_concurrent_streams", max_streams),
            ("grpc.so_reuseport", int(reuse_port)),
            # The library's own limit is one ping in five minutes; Envoy's keepalive would be cut off as an attack.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 1000),
        ]
        if max_age_s is not None:
            options.append(("grpc.max_connection_age_ms", round(max_age_s * 1000)))  # the library adds the jitter
        _, service, method = PROCESS.split("/")
        process = grpc.method_handlers_generic_handler(service, {method: grpc.stream_stream_rpc_method_handler(self._process)})
        checks = grpc.method_handlers_generic_handler(
            "grpc.health.v1.Health",
            {
                "Check": grpc.unary_unary_rpc_method_handler(self._check),
                "List": grpc.unary_unary_rpc_method_handler(self._list),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
            },
        )
        self._server = grpc.aio.server(handlers=(process, checks), options=options)
        self._probes = grpc.aio.server(handlers=(checks,), options=options)  # behind the second door

    @property
    def streams(self) -> int:
        """Open ext_proc streams."""
        return len(self._streams)

    @property
    def certificate_expires_s(self) -> float | None:
        """See ``Server``."""
        return self._identity and self._identity.material.expires_s

    async def start(self, host: str, port: int, health_port: int | None = None) -> int:
        """Listen; see ``Server``."""
        with making_sockets(self._socket_mode):
            bound = _listen(self._server, host, port, self._credentials())
        if health_port is not None and not host.startswith("unix:"):
            _listen(self._probes, host, health_port, None)
            await self._probes.start()
        await self._server.start()
        self._sweep()
        return bound

    def _credentials(self) -> grpc.ServerCredentials | None:
        """Say who we are in the library's way: it asks at each handshake."""
        identity = self._identity
        if identity is None:
            return None

        def tell() -> grpc.ServerCertificateConfiguration:
            return _configuration(identity.material)

        return grpc.dynamic_ssl_server_credentials(tell(), tell, identity.material.client_ca is not None)

    def _sweep(self) -> None:
        if self._identity is not None:
            self._identity.refresh()
            self._sweeping = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    async def drain(self, deadline_s: float) -> None:
        """End well; see ``Server``."""
        self._health.close()
        self._draining = True
        stopped = asyncio.create_task(self._stop(deadline_s + LAST_WORDS_S))
        for stream in [*self._streams]:
            if stream.reading and stream.session.idle:
                stream.send_off()
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await self._empty.wait()
        for stream in [*self._streams]:
            stream.send_off()
        await stopped

    async def stop(self) -> None:
        """Cut everything off."""
        self._health.close()
        await self._stop(None)

    async def _stop(self, grace_s: float | None) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        await asyncio.gather(self._server.stop(grace_s), self._probes.stop(grace_s))

    async def _process(self, _: object, context: Context) -> None:
        try:
            session = self._make_session()
        except FullError as full:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(full))
        introduce(session, {str(key): str(value) for key, value in context.invocation_metadata() or ()})
        stream = _Stream(session)
        self._streams.add(stream)
        self._empty.clear()
        try:
            await self._converse(stream, context)
            if self._draining:
                await asyncio.sleep(LINGER_S)
        except asyncio.CancelledError:
            if not stream.sent_off:
                raise
            await self._say_last_words(session, context)
        except ProtocolError as error:
            log.warning("protocol error of %s: %s", context.peer(), error)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error)[:DETAILS_CHARS])
        except Exception:  # the boundary: what broke one stream is logged and the others go on
            log.exception("a session of %s failed", context.peer())
            await context.abort(grpc.StatusCode.INTERNAL, "the picker failed; its log says why")
        finally:
            if self._parking is not None:
                self._parking.leave(session)
            session.close(self._clock())
            self._streams.discard(stream)
            if not self._streams:
                self._empty.set()

    async def _converse(self, stream: "_Stream", context: Context) -> None:
        session = stream.session
        while not session.ended:
            stream.reading = True
            addressed = session.parked or session.evictable
            message = await (self._wait(stream, context) if addressed else context.read())
            stream.reading = False
            if not isinstance(message, bytes):
                return
            await self._write(session.feed(decode(message), self._clock()), stream, context)
            if self._draining and session.idle:
                await self._say_last_words(session, context)

    async def _wait(self, stream: "_Stream", context: Context) -> object:
        """Say what the judge has to say when it comes, and return the next message, which may come before that."""
        session = stream.session
        reading = asyncio.ensure_future(context.read())
        try:
            while not reading.done():
                await asyncio.wait({reading, stream.listen()}, return_when=asyncio.FIRST_COMPLETED)
                while stream.words:
                    await self._write(session.resume(*stream.words.popleft()), stream, context)
                if session.ended:
                    return None
                if self._draining and session.idle:
                    await self._say_last_words(session, context)
                    return None
            return await reading
        finally:
            reading.cancel()

    async def _write(self, replies: list[Reply], stream: "_Stream", context: Context) -> None:
        if self._parking is not None:
            self._parking.follow(stream.session, stream.hear)  # before anybody else gets to run
        for reply in replies:
            await context.write(encode(reply))

    async def _say_last_words(self, session: Session, context: Context) -> None:
        for reply in session.drain(self._clock()):
            await context.write(encode(reply))

    async def _check(self, request: bytes, context: Context) -> bytes:
        try:
            return self._health.check(request)
        except UnknownServiceError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))

    async def _list(self, request: bytes, _: Context) -> bytes:
        return self._health.list(request)

    async def _watch(self, request: bytes, context: Context) -> None:
        changed = asyncio.Event()
        self._health.watch(changed.set)
        told = b""
        try:
            while True:
                changed.clear()
                status = self._health.status(request)
                if status != told:
                    await context.write(status)
                    told = status
                if self._health.closed:
                    return
                await changed.wait()
        finally:
            self._health.unwatch(changed.set)


def _listen(server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials | None) -> int:
    by_name = host.startswith("unix:")
    address = host if by_name else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError:
        bound = 0
    if not bound:
        raise explain_taken(host, port)
    return 0 if by_name else bound


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(material.key, material.cert)], material.client_ca)


class _Stream:
    """A running conversation and the means to interrupt it."""

    __slots__ = ("_heard", "_task", "reading", "sent_off", "session", "words")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.words: deque[tuple[int, Pick | Refusal, float]] = deque()  # of the judge
        self._heard: asyncio.Future[None] | None = None
        self.reading = False
        self.sent_off = False
        self._task = asyncio.current_task()

    def hear(self, ticket: int, verdict: Pick | Refusal, now_s: float) -> None:
        """Keep what the judge says, and wake who listens."""
        self.words.append((ticket, verdict, now_s))
        if self._heard is not None and not self._heard.done():
            self._heard.set_result(None)

    def listen(self) -> "asyncio.Future[None]":
        """Return what is done as soon as there are words."""
        self._heard = asyncio.get_running_loop().create_future()
        if self.words:
            self._heard.set_result(None)
        return self._heard

    def send_off(self) -> None:
        """Interrupt what it waits for; it says its last words and ends."""
        if self._task is not None and not self.sent_off:
            self.sent_off = True
            self._task.cancel()
