"""An example of the linter on a real Envoy, among model servers and pickers that do as they are told.

An example names fixed ports. They stand for what is here: 8001 and 8002 for the pool's model servers, 8003 and 8004 for another
pool's, 9002 and 9012 for pickers, 9004 for the body router. Times that an example gives may be shortened.
"""

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import msgspec
import trustme
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as pb_grpc
from hack.matrix.relay import Relay

from shunter.envoyconf.core.names import MODEL
from shunter.envoyconf.shell.envoy import find
from shunter.envoyconf.testing import RunningEnvoy, running_envoy
from shunter.picker.core.judgement import Refusal
from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.testing import StubJudge
from shunter.picker.transport.health import Health
from shunter.picker.transport.native import NativeServer
from shunter.picker.transport.tls import Tls

__all__ = ["EVENT", "PATIENCE_S", "Engine", "Scene", "set_scene"]

BODY_BYTES = 32 << 20
EVENT = b"data: {}\n\n"

FULL = Refusal(429, "ResourceExhausted", "saturated")

# How long something has to be silent to be taken for hung. Only what does hang takes that long.
PATIENCE_S = 3

# Where examples have a picker that is at a socket.
SOCKET = "/run/shunter/picker.sock"


class Engine:
    """A model server: it says its number, and remembers the headers and lengths of what it was sent."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.status = 200
        self.hangs_up = False
        self.requests: list[tuple[Mapping[str, str], int]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Serve one request: /events in two parts, the second when it may go on."""
        body = await request.read()
        self.requests.append((request.headers, len(body)))
        if self.hangs_up and request.transport:
            request.transport.abort()
        if not request.path.startswith("/events"):
            await self.go.wait()
            return web.Response(status=self.status, text=str(self.number))
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):  # cut
            await response.write(EVENT)
            await self.go.wait()
            await response.write(EVENT)
        return response

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncGenerator[int]:
        """Listen, and yield the port."""
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self.answer)
        async with TestServer(app, host="127.0.0.1") as server:
            assert server.port is not None  # it listens
            self.authority = f"127.0.0.1:{server.port}"
            yield server.port


class Fake(pb_grpc.ExternalProcessorServicer):
    """A body router that finds the model llama in every body; or a picker that ends each stream, with OK and without a word."""

    def __init__(self, *, is_silent: bool) -> None:
        self.is_silent = is_silent

    async def Process(self, messages: Any, _: Any) -> Any:  # noqa: N802 # gRPC's name
        """Answer one request."""
        option = HeaderValueOption(header=HeaderValue(key=MODEL, raw_value=b"llama"))
        common = pb.CommonResponse(header_mutation=pb.HeaderMutation(set_headers=[option]), clear_route_cache=True)
        async for message in messages:
            if self.is_silent:
                return
            if message.HasField("request_headers"):
                yield pb.ProcessingResponse(request_headers=pb.HeadersResponse())
            if message.HasField("request_body"):
                yield pb.ProcessingResponse(request_body=pb.BodyResponse(response=common))

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncGenerator[int]:
        """Listen, and yield the port."""
        server = grpc.aio.server()
        pb_grpc.add_ExternalProcessorServicer_to_server(self, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield port
        finally:
            await server.stop(None)


class Scene(msgspec.Struct, frozen=True):
    """What a probe finds."""

    envoy: RunningEnvoy
    client: aiohttp.ClientSession
    engines: tuple[Engine, ...]
    judge: StubJudge
    picker: Relay

    @property
    def headers(self) -> list[Mapping[str, str]]:
        """Of all requests that a model server got, from the first server on."""
        return [headers for engine in self.engines for headers, _ in engine.requests]

    async def ask(
        self, path: str = "/", *, method: str = "POST", size: int = 1000, headers: Mapping[str, str] | None = None
    ) -> str:
        """Return status and text of an answer, such as ``200 2``, or ``hung`` if none comes."""
        body = b"x" * size if method == "POST" else None
        try:
            async with asyncio.timeout(PATIENCE_S):
                async with self.client.request(method, self.envoy.url + path, data=body, headers=headers) as answer:
                    text = await answer.text()
                    return f"{answer.status} {text}" if answer.status == 200 and text.isdecimal() else str(answer.status)
        except TimeoutError:
            return "hung"

    async def several(self, path: str = "/", *, headers: Mapping[str, str] | None = None, count: int = 6) -> str:
        """Return which answers there are to several requests."""
        return ", ".join(sorted({await self.ask(path, headers=headers) for _ in range(count)}))


@contextlib.asynccontextmanager
async def set_scene(
    text: str, version: str, picks: Sequence[int], *, picker: str, shortened: Mapping[str, str], certified: bool | None
) -> AsyncGenerator[Scene]:
    """Start all. ``picks`` are the engines that each picker names, 0 for one that refuses connections.

    The pickers may be ``alive``, ``dead``, ``halved`` (the second is dead), ``late`` (dead until restored), ``full`` (the
    first refuses everything), or ``silent``: they close streams without a word.
    They speak TLS if ``certified`` is not None, with a certificate of the CA that the example trusts, or of another one.
    """
    async with contextlib.AsyncExitStack() as stack:
        engines = tuple(Engine(number) for number in range(1, 5))
        ports = {8000 + engine.number: await stack.enter_async_context(engine.serving()) for engine in engines}
        refusing = stack.enter_context(socket.socket())
        refusing.bind(("127.0.0.1", 0))  # never listens, and nobody else can take the port
        nobody = refusing.getsockname()[1]
        named = [f"127.0.0.1:{nobody}" if number == 0 else engines[number - 1].authority for number in picks]
        if 0 in picks:
            ports[8001] = nobody
        judge = StubJudge(named, FULL if picker == "full" else None)
        tls, ca_file = _issue(Path(stack.enter_context(tempfile.TemporaryDirectory())), certified=certified)
        port, other = [await _start_picker(stack, each, tls) for each in (judge, StubJudge([engines[3].authority]))]
        relay = await stack.enter_async_context(Relay(port).serving())
        if picker == "late":
            await relay.cut()
        silent = await stack.enter_async_context(Fake(is_silent=True).serving())
        ports[9002] = {"dead": nobody, "silent": silent}.get(picker, relay.port)
        ports[9012] = nobody if picker == "halved" else other
        ports[9004] = await stack.enter_async_context(Fake(is_silent=False).serving())
        if SOCKET in text:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "picker.sock"
            await _start_picker(stack, judge, tls, f"unix:{path}")
            text = text.replace(SOCKET, str(path))
        client = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        text = text.replace("/etc/envoy/ca.pem", ca_file)
        for old, new in {**{str(old): str(new) for old, new in ports.items()}, "port_value: 10000": "port_value: 0"}.items():
            text = text.replace(old, new)
        for old, new in shortened.items():
            text = text.replace(old, new)
        resource = yaml.safe_load(text.replace("0.0.0.0", "127.0.0.1").replace("port_value: 9901", "port_value: 0"))
        envoy = await stack.enter_async_context(running_envoy(resource, find(version)))
        yield Scene(envoy, client, engines, judge, relay)


def _issue(directory: Path, *, certified: bool | None) -> tuple[Tls | None, str]:
    """Return how pickers speak TLS, and the file of the CA that an example trusts."""
    trusted, other = trustme.CA(), trustme.CA()
    trusted.cert_pem.write_to_path(directory / "ca.pem")
    issued = (trusted if certified else other).issue_cert("picker")
    issued.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    issued.private_key_pem.write_to_path(directory / "key.pem")
    tls = Tls(directory / "cert.pem", directory / "key.pem")
    return None if certified is None else tls, str(directory / "ca.pem")


async def _start_picker(stack: contextlib.AsyncExitStack, judge: StubJudge, tls: Tls | None, host: str = "127.0.0.1") -> int:
    limits, health = Limits(body_bytes=BODY_BYTES), Health()
    budget = Budget(limits.buffered_bytes)
    server = NativeServer(lambda: Session(judge, limits, budget), health, limits, tls=tls)
    health.set_ready(True)
    port = await server.start(host, 0)
    stack.push_async_callback(server.stop)
    return port
