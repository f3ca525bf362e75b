"""A real Envoy, model servers that remember what reached them, and a picker that does as it is told."""

import asyncio
import contextlib
import functools
import inspect
import io
import json
import socket

import aiohttp
import grpc
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as pb_grpc
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from shunter.envoyconf import EnvoyMissingError, bootstrap, load_intent
from shunter.envoyconf.core.names import DESTINATION, NAMESPACE, TICKET
from shunter.envoyconf.errors import ToolMissingError
from shunter.envoyconf.shell import envoy
from shunter.envoyconf.testing import running_envoy
from shunter.envoyconf.testing_kube import running_kube


@pytest.fixture(scope="session")
def envoy_binary():
    try:
        return envoy.ensure()
    except EnvoyMissingError as error:
        pytest.skip(f"no Envoy: {str(error).splitlines()[0]}")


@pytest.fixture(scope="session")
def kube():
    """A Kubernetes API with all CRDs that are here, in six seconds."""
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(running_kube())
        except ToolMissingError as error:
            pytest.skip(str(error))
        yield running


class Upstream:
    """A model server that answers its own authority and keeps what it was asked."""

    def __init__(self):
        self.status = 200
        self.requests = []
        self.pieces = None  # or what a response consists of, each waiting for one more `go`
        self.type = "text/plain"
        self.go = asyncio.Semaphore(0)
        self.held = False  # whether even the response's headers wait

    async def answer(self, request):
        self.requests.append((request.path, dict(request.headers), await request.read()))
        while self.held:
            await self.go.acquire()
        if self.pieces is None:
            return web.Response(status=self.status, text=self.authority)
        response = web.StreamResponse(status=self.status, headers={"content-type": self.type})
        await response.prepare(request)
        for piece in self.pieces:
            await self.go.acquire()
            await response.write(piece)
        return response

    @contextlib.asynccontextmanager
    async def serving(self):
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self.answer)
        async with TestServer(app, host="127.0.0.1") as server:
            self.authority = f"127.0.0.1:{server.port}"
            yield self


class FakePicker(pb_grpc.ExternalProcessorServicer):
    """Names the endpoints it was given, in the form that the announced body mode needs."""

    def __init__(self):
        self.pick = ""
        self.asked = []  # what each stream was sent, as dicts
        self.called = []  # and the metadata of its call

    def named(self):
        option = HeaderValueOption(header=HeaderValue(key=DESTINATION, raw_value=self.pick.encode()))
        common = pb.CommonResponse(header_mutation=pb.HeaderMutation(set_headers=[option]))
        return common, {NAMESPACE: {DESTINATION: self.pick, TICKET: "7-1"}}

    async def Process(self, messages, context):
        seen = []
        self.asked.append(seen)
        self.called.append(dict(context.invocation_metadata()))
        body, duplex = b"", False
        async for message in messages:
            seen.append(MessageToDict(message))
            kind = message.WhichOneof("request")
            if message.HasField("protocol_config"):
                duplex = message.protocol_config.request_body_mode == 4
            if kind == "request_headers":
                if message.request_headers.end_of_stream:
                    yield self.answer("request_headers", *self.named())
                elif not duplex:
                    yield pb.ProcessingResponse(request_headers=pb.HeadersResponse())
            elif kind == "request_body":
                body += message.request_body.body
                if not duplex:
                    yield self.answer("request_body", *self.named())
                elif message.request_body.end_of_stream:
                    yield self.answer("request_headers", *self.named())
                    yield self.streamed("request_body", body, True)
            elif kind == "response_headers":
                yield self.answer(kind, pb.CommonResponse())
            elif kind == "response_body":
                yield self.streamed(kind, message.response_body.body, message.response_body.end_of_stream)

    @staticmethod
    def answer(kind, common, metadata=None):
        form = pb.BodyResponse if kind.endswith("body") else pb.HeadersResponse
        response = pb.ProcessingResponse(**{kind: form(response=common)})
        if metadata:
            response.dynamic_metadata.update(metadata)
        return response

    @staticmethod
    def streamed(kind, body, end):
        mutation = pb.BodyMutation(streamed_response=pb.StreamedBodyResponse(body=body, end_of_stream=end))
        return pb.ProcessingResponse(**{kind: pb.BodyResponse(response=pb.CommonResponse(body_mutation=mutation))})

    @contextlib.asynccontextmanager
    async def serving(self):
        server = grpc.aio.server()
        pb_grpc.add_ExternalProcessorServicer_to_server(self, server)
        checks = health.aio.HealthServicer()
        await checks.set("envoy.service.ext_proc.v3.ExternalProcessor", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        self.die = functools.partial(server.stop, None)  # at once, whatever is under way
        try:
            yield self
        finally:
            await self.die()


class Collector:
    """Takes down what Envoy tells."""

    HEAD = b"\x92\xa7shunter"  # an array of two, of which the first is the tag

    def __init__(self):
        self.data = bytearray()
        self.news = asyncio.Event()
        self.writers = []

    @contextlib.asynccontextmanager
    async def serving(self, port=0):
        async with await asyncio.start_server(self.listen, "127.0.0.1", port) as server:
            self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            try:
                yield self
            finally:
                for writer in self.writers:  # from Python 3.12 on a server waits for them
                    writer.close()

    async def listen(self, reader, writer):
        self.writers.append(writer)
        while data := await reader.read(1 << 16):
            self.data += data
            self.news.set()
        writer.close()

    @property
    def records(self):
        messages = bytes(self.data).split(self.HEAD)[1:]
        return [record for each in messages for _, record in msgspec.msgpack.decode(self.HEAD + each)[1]]

    async def hear(self, count):
        """Return that many records once they are there, in the order of their requests' ends."""
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(msgspec.DecodeError):  # a part of a message
                    if len(records := self.records) >= count:
                        return records
                self.news.clear()
                await self.news.wait()


class Scene:
    """Two model servers, two pickers, an address that refuses connections, and a client."""

    def __init__(self, binary):
        self.binary = binary
        self.upstreams = Upstream(), Upstream()
        self.pickers = FakePicker(), FakePicker()
        self.collector = Collector()

    @contextlib.asynccontextmanager
    async def set(self):
        async with contextlib.AsyncExitStack() as stack:
            for each in (*self.upstreams, *self.pickers):
                await stack.enter_async_context(each.serving())
            self.held = stack.enter_context(socket.socket())
            self.held.bind(("127.0.0.1", 0))  # never listens, and nobody else can take the port
            self.nobody = f"127.0.0.1:{self.held.getsockname()[1]}"
            self.client = await stack.enter_async_context(aiohttp.ClientSession())
            yield self

    def bootstrap(self, **fields):
        """Build the bootstrap of ``intent``."""
        return bootstrap(self.intent(**fields))

    def intent(self, *, endpoints=None, picker=None, failure_mode=None, collector=None, profile="lean", **fields):
        """Read an intent of one pool, by default with both model servers and the first picker, on a free port.

        A profile gets what it demands: strict a failure mode; it, headers and usage a collector, which is nobody by default.
        """
        asked = {
            "addresses": [picker or self.pickers[0].address],
            "failureMode": failure_mode or ("FailClose" if profile == "strict" else "FailOpen"),
            "collector": collector or (self.nobody if profile in {"usage", "strict", "headers"} else None),
        }
        endpoints = endpoints or [each.authority for each in self.upstreams]
        pool = {"name": "llama", "endpoints": endpoints, "picker": asked}
        fields["profile"] = profile
        return load_intent(json.dumps({"pools": [pool], "listeners": [{"port": 0}]} | fields))

    def envoy(self, resource):
        return running_envoy(resource, self.binary)

    async def ask(self, envoy, path="/v1/chat/completions", *, method="POST", size=100, headers=None):
        """Send one request and return status, text and headers of the answer."""
        body = io.BytesIO(b"x" * size) if method == "POST" else None
        async with self.client.request(method, envoy.url + path, data=body, headers=headers) as answer:
            return answer.status, await answer.text(), answer.headers


@pytest.fixture
async def scene(envoy_binary):
    async with Scene(envoy_binary).set() as scene:
        yield scene


@pytest.fixture
def until():
    """Wait for a condition, a plain function or one to be awaited."""

    async def wait(condition):
        async with asyncio.timeout(20):
            while not (await met if inspect.isawaitable(met := condition()) else met):  # noqa: ASYNC110 # files have no events
                await asyncio.sleep(0.02)

    return wait
