"""A gateway in Python for tests of the exam: slow, and right in all that a gateway owes.

It speaks HTTP/1.1, and ext_proc in the mode FULL_DUPLEX_STREAMED. Every decision is a method of its own, so that a gateway that
is wrong in one of them is a subclass with one method (`faults`).
"""

import asyncio
import io
import random
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any, NoReturn
from uuid import uuid4

import aiohttp
import msgspec
from aiohttp import web

from shunter.conformance.sections.gateways.profile import HTTP2, GatewayProfile
from shunter.conformance.sections.gateways.setup import BOTH, MODEL_OF, MODELS, Place
from shunter.conformance.sections.gateways.trial import DESTINATION, HOSTS, Immediate, Pick, Pool
from shunter.conformance.shell.extproc import load

__all__ = ["PROFILE", "Failure", "FakeGateway", "Incoming", "NotPickedError", "Talk"]

PROFILE = GatewayProfile(name="fake", lacks={HTTP2: "it speaks HTTP/1.1 only"})
"""What the good one is taken for."""

CHUNK_BYTES = 64 << 10
BODY_BYTES = 64 << 20

# A picker that comes back is to be asked at once.
CHANNEL_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 50),
    ("grpc.max_receive_message_length", BODY_BYTES),
    ("grpc.use_local_subchannel_pool", 1),
]

HOP_BY_HOP = frozenset({"connection", "content-length", "host", "keep-alive", "te", "transfer-encoding", "upgrade"})


class Failure(Enum):
    """How a picker failed."""

    AWAY = "away"
    ERROR = "error"
    HANGS = "hangs"
    SILENT = "silent"


class NotPickedError(Exception):
    """A picker that did not answer."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.value)
        self.failure = failure


class Incoming(msgspec.Struct):
    """A request as it came."""

    host: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Talk:
    """One ext_proc stream, for one request."""

    def __init__(self, channel: Any) -> None:
        self._pb = load("envoy.service.ext_proc.v3.external_processor_pb2")
        self._core = load("envoy.config.core.v3.base_pb2")
        self._modes = load("envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2").ProcessingMode
        self._grpc = load("grpc")
        stub = load("envoy.service.ext_proc.v3.external_processor_pb2_grpc").ExternalProcessorStub(channel)
        self._call = stub.Process()
        self.over = False

    def cancel(self) -> None:
        """End the stream."""
        self._call.cancel()

    async def ask(self, headers: Mapping[str, str], body: bytes) -> Pick | Immediate:
        """Send a request and wait for the answer; raises NotPickedError."""
        pb, duplex = self._pb, self._modes.FULL_DUPLEX_STREAMED
        first = pb.ProcessingRequest(request_headers=pb.HttpHeaders(headers=self._map(headers), end_of_stream=not body))
        first.protocol_config.request_body_mode = first.protocol_config.response_body_mode = duplex
        messages = [first]
        for at in range(0, len(body), CHUNK_BYTES):
            piece = pb.HttpBody(body=body[at : at + CHUNK_BYTES], end_of_stream=at + CHUNK_BYTES >= len(body))
            messages.append(pb.ProcessingRequest(request_body=piece))
        try:
            for message in messages:
                await self._call.write(message)
            return await self._picked(has_body=bool(body))
        except self._grpc.aio.AioRpcError as error:
            unavailable = error.code() is self._grpc.StatusCode.UNAVAILABLE
            raise NotPickedError(Failure.AWAY if unavailable else Failure.ERROR) from None
        except asyncio.InvalidStateError:  # the stream was over before all was written
            await self._end()

    async def _end(self) -> NoReturn:
        codes = {self._grpc.StatusCode.OK: Failure.SILENT, self._grpc.StatusCode.UNAVAILABLE: Failure.AWAY}
        raise NotPickedError(codes.get(await self._call.code(), Failure.ERROR))

    async def _picked(self, *, has_body: bool) -> Pick | Immediate:
        pick, body, ended = Pick(()), bytearray(), not has_body
        answered = False
        while not (answered and ended):
            response = await self._read()
            kind = response.WhichOneof("response")
            if kind == "immediate_response":
                told = response.immediate_response
                return Immediate(told.status.code, _set_headers(told.headers), told.body)
            if kind == "request_headers":
                mutation = response.request_headers.response.header_mutation
                changed = _set_headers(mutation)
                endpoints = tuple(each.strip() for each in changed.pop(DESTINATION, "").split(",") if each)
                pick, answered = Pick(endpoints, changed, tuple(mutation.remove_headers)), True
            else:
                streamed = response.request_body.response.body_mutation.streamed_response
                body += streamed.body
                ended = streamed.end_of_stream
        return msgspec.structs.replace(pick, body=bytes(body))

    async def tell_headers(self, status: int, headers: Mapping[str, str], served: str) -> dict[str, str]:
        """Tell of a response, and return what the picker sets on it."""
        pb = self._pb
        message = pb.ProcessingRequest(response_headers=pb.HttpHeaders(headers=self._map({":status": str(status), **headers})))
        told = message.metadata_context.filter_metadata["envoy.lb"]
        told["x-gateway-destination-endpoint-served"] = served
        response = await self._turn(message)
        return _set_headers(response.response_headers.response.header_mutation) if response else {}

    async def tell_body(self, piece: bytes, *, end: bool) -> bytes:
        """Tell of a piece of a response, and return what the picker makes of it; the piece itself once it is dead."""
        pb = self._pb
        response = await self._turn(pb.ProcessingRequest(response_body=pb.HttpBody(body=piece, end_of_stream=end)))
        return response.response_body.response.body_mutation.streamed_response.body if response else piece

    async def _turn(self, message: Any) -> Any:
        """Send and receive; None once the picker is dead."""
        if not self.over:
            try:
                await self._call.write(message)
                return await self._read()
            except (self._grpc.aio.AioRpcError, asyncio.InvalidStateError, NotPickedError):
                self.over = True
        return None

    async def _read(self) -> Any:
        response = await self._call.read()
        if response is self._grpc.aio.EOF:
            await self._end()
        return response

    def _map(self, headers: Mapping[str, str]) -> Any:
        values = [self._core.HeaderValue(key=name, raw_value=value.encode()) for name, value in headers.items()]
        return self._core.HeaderMap(headers=values)


def _set_headers(mutation: Any) -> dict[str, str]:
    return {each.header.key: each.header.raw_value.decode() for each in mutation.set_headers}


class FakeGateway:
    """The good one. `talk` is how it speaks to pickers."""

    pick_timeout_s = 2.0
    talk = Talk

    def __init__(self, places: Mapping[Pool, Place]) -> None:
        self.places = places
        self._channels: dict[Pool, Any] = {}
        self._client: aiohttp.ClientSession

    # What a gateway decides.

    def route(self, incoming: Incoming) -> Pool | None:
        """Choose the pool of a request; None: there is no such route."""
        hosts: dict[str, Pool] = {host: pool for pool, host in HOSTS.items()}
        if incoming.host == BOTH:
            return random.choice([*Pool])  # noqa: S311 – a weight, no secret
        if incoming.host == MODELS:
            model = msgspec.json.decode(incoming.body)["model"]
            return next((pool for pool, name in MODEL_OF.items() if name == model), None)
        return hosts.get(incoming.host)

    def picker_of(self, pool: Pool, incoming: Incoming) -> Pool:
        """Choose whose picker is asked."""
        del incoming
        return pool

    async def pick(self, pool: Pool, incoming: Incoming) -> tuple[Pick | Immediate, Talk | None]:
        """Ask, or do as the pool's failure mode says; raises NotPickedError where that is to fail."""
        talk = self.open_talk(self.picker_of(pool, incoming))
        try:
            async with asyncio.timeout(self.pick_timeout_s):
                return await self.ask(talk, incoming), talk
        except (TimeoutError, NotPickedError) as error:
            talk.cancel()
            failure = error.failure if isinstance(error, NotPickedError) else Failure.HANGS
            return self.failed(pool, failure, incoming), None
        except asyncio.CancelledError:
            talk.cancel()
            raise

    async def ask(self, talk: Talk, incoming: Incoming) -> Pick | Immediate:
        """Ask about a request."""
        return await talk.ask(self.asked_headers(incoming), incoming.body)

    def asked_headers(self, incoming: Incoming) -> dict[str, str]:
        """Return what a picker is told."""
        pseudo = {":method": incoming.method, ":path": incoming.path, ":authority": incoming.host}
        return pseudo | {name: value for name, value in incoming.headers.items() if name != DESTINATION}

    def failed(self, pool: Pool, failure: Failure, incoming: Incoming) -> Pick:
        """Do as the pool's failure mode says; raises NotPickedError."""
        del incoming
        if pool is Pool.CLOSE:
            raise NotPickedError(failure)
        return Pick(())

    def candidates(self, pool: Pool, picked: Sequence[str], incoming: Incoming) -> list[str]:
        """Return who is tried, in order: the picker's list, as far as it is of the pool, or else anybody of the pool."""
        del incoming
        servers = self.places[pool].servers
        return [each for each in picked if each in servers] or [random.choice(servers)]  # noqa: S311 – no secret

    def sent_headers(self, incoming: Incoming, pick: Pick) -> dict[str, str]:
        """Return the headers of the request to a server."""
        kept = {name: value for name, value in incoming.headers.items() if name not in {DESTINATION, *pick.remove_headers}}
        return kept | pick.set_headers

    def sent_body(self, incoming: Incoming, pick: Pick) -> bytes:
        """Return the body of the request to a server."""
        return incoming.body if pick.body is None else pick.body

    def tries_again(self, status: int, body: bytes) -> bool:
        """Say whether the next candidate is tried; status 0: the connection was refused."""
        del body
        return status in {0, 503}

    def told_served(self, served: str, tried: Sequence[str]) -> str:
        """Return whom the picker is told to have served."""
        del tried
        return served

    def answered_body(self, body: bytes) -> bytes:
        """Return what the client gets of a server's error."""
        return body

    # How it goes.

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one request."""
        headers = {name.lower(): value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        headers.setdefault("x-request-id", str(uuid4()))
        incoming = Incoming(request.host, request.method, request.path_qs, headers, await request.read())
        pool = self.route(incoming)
        if pool is None:
            return web.Response(status=404)
        try:
            pick, talk = await self.pick(pool, incoming)
        except NotPickedError as error:
            return web.Response(status=503, text=str(error))
        try:
            if isinstance(pick, Immediate):
                return self.answer_immediately(pick)
            return await self.forward(request, pool, incoming, pick, talk)
        finally:
            if talk:
                talk.cancel()

    def answer_immediately(self, answer: Immediate) -> web.Response:
        """Pass a picker's own answer on."""
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    async def forward(
        self, request: web.Request, pool: Pool, incoming: Incoming, pick: Pick, talk: Talk | None
    ) -> web.StreamResponse:
        """Try the candidates, and pass the answer on."""
        candidates = self.candidates(pool, pick.endpoints, incoming)
        headers, body = self.sent_headers(incoming, pick), self.sent_body(incoming, pick)
        for at, server in enumerate(candidates, 1):
            url = f"http://{server}{incoming.path}"
            try:
                async with self._client.request(
                    incoming.method, url, data=io.BytesIO(body) if body else None, headers={"host": incoming.host, **headers}
                ) as answer:
                    if at < len(candidates) and self.tries_again(answer.status, body):
                        continue
                    return await self.respond(request, answer, self.told_served(server, candidates), talk, pool)
            except aiohttp.ClientConnectorError:
                if at == len(candidates) or not self.tries_again(0, body):
                    return web.Response(status=503, text="refused")
        raise AssertionError("there is a candidate")

    async def respond(
        self, request: web.Request, answer: aiohttp.ClientResponse, served: str, talk: Talk | None, pool: Pool
    ) -> web.StreamResponse:
        """Pass an answer on, piece by piece, each by way of the picker."""
        headers = {name.lower(): value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
        if talk:
            headers |= await talk.tell_headers(answer.status, headers, served)
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        try:
            async for piece in answer.content.iter_any():
                await self.pass_on(response, answer.status, piece, talk, pool)
        except aiohttp.ClientError:
            await self.break_off(request, response)
            return response
        await self.finish(response)
        return response

    async def pass_on(self, response: web.StreamResponse, status: int, piece: bytes, talk: Talk | None, pool: Pool) -> None:
        """Pass on a piece of an answer."""
        del pool
        piece = self.answered_body(piece) if status >= 400 else piece
        await response.write(await talk.tell_body(piece, end=False) if talk else piece)

    async def finish(self, response: web.StreamResponse) -> None:
        """End an answer."""
        await response.write_eof()

    async def break_off(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let an answer break off, as the server's did."""
        del response
        if request.transport:
            request.transport.abort()

    def open_talk(self, pool: Pool) -> Talk:
        """Begin a stream to a pool's picker."""
        if pool not in self._channels:
            grpc = load("grpc")
            self._channels[pool] = grpc.aio.insecure_channel(self.places[pool].picker, options=CHANNEL_OPTIONS)
        return self.talk(self._channels[pool])

    @asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None) -> AsyncGenerator[str]:
        """Listen, with TLS if that is given, and yield the URL."""
        app = web.Application(client_max_size=BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as self._client:
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
                host, port = runner.addresses[0][:2]
                yield f"{'https' if tls else 'http'}://{host}:{port}"
            finally:
                await runner.cleanup()
                for channel in self._channels.values():
                    await channel.close()
