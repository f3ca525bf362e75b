"""A small OpenTelemetry collector: OTLP over gRPC, as Envoy speaks it, and over HTTP, as everybody else does, into a file.

For a stack on one machine. What it takes it may pass on, as it came, to a collector with a user interface.
"""

# grpc-stubs leaves the behavior of method handlers unannotated.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import base64
import contextlib
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import msgspec
from aiohttp import web
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

from shunter.stack.traces import FILE, OLDER

__all__ = ["FILE_BYTES", "TraceCollector", "as_json"]

# With the one before, some 20,000 requests with their spans of everybody.
FILE_BYTES = 32 << 20

# A batch of 512 spans with a hundred endpoints' names in each is a fifth of that.
BATCH_BYTES = 4 << 20

HOST = "127.0.0.1"
SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
IDS = ("traceId", "spanId", "parentSpanId")
TAKEN = ExportTraceServiceResponse().SerializeToString()
PROTOBUF = {"content-type": "application/x-protobuf"}

# Spans are passed on while whoever sent them waits.
PATIENCE = aiohttp.ClientTimeout(total=5)


class TraceCollector:
    """Listens on loopback, from ``start`` to ``stop``."""

    def __init__(self, directory: Path, forward: str | None = None) -> None:
        """Keep what comes in ``directory``; ``forward`` is the URL of another collector's OTLP receiver."""
        self._directory = directory
        self._forward = forward

    async def start(self, grpc_port: int, http_port: int) -> tuple[int, int]:
        """Listen; return both ports, which matters if one is 0. Raises OSError, with nothing left open."""
        self._session = aiohttp.ClientSession(timeout=PATIENCE)
        handler = grpc.unary_unary_rpc_method_handler(self._export)
        self._grpc = grpc.aio.server(options=[("grpc.max_receive_message_length", BATCH_BYTES)])
        self._grpc.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Export": handler})])
        app = web.Application(client_max_size=BATCH_BYTES)
        app.router.add_post("/v1/traces", self._post)
        self._http = web.AppRunner(app, access_log=None)
        await self._http.setup()
        try:
            grpc_port = self._grpc.add_insecure_port(f"{HOST}:{grpc_port}")
            await web.TCPSite(self._http, HOST, http_port).start()
        except (OSError, RuntimeError) as error:  # the one's word for it, and the other's
            await self.stop()
            raise OSError(str(error)) from error
        await self._grpc.start()
        return grpc_port, self._http.addresses[0][1]

    async def stop(self) -> None:
        """Take no more."""
        await self._grpc.stop(0)
        await self._http.cleanup()
        await self._session.close()

    async def _export(self, message: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        try:
            await self._take(message)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no ExportTraceServiceRequest")
        return TAKEN

    async def _post(self, request: web.Request) -> web.Response:
        try:
            await self._take(await request.read())
        except DecodeError:
            return web.Response(status=400, text="no ExportTraceServiceRequest in protobuf\n")
        return web.Response(body=TAKEN, headers=PROTOBUF)

    async def _take(self, message: bytes) -> None:
        line = msgspec.json.encode(as_json(ExportTraceServiceRequest.FromString(message))) + b"\n"
        file = self._directory / FILE
        if file.exists() and file.stat().st_size + len(line) > FILE_BYTES:
            file.replace(self._directory / OLDER)
        with file.open("ab") as lines:
            lines.write(line)
        if self._forward is not None:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):  # ours is the file
                async with self._session.post(self._forward, data=message, headers=PROTOBUF):
                    pass


def as_json(request: ExportTraceServiceRequest) -> dict[str, Any]:
    """Return a batch as OTLP has it in JSON: as protobuf does, but enumerations are numbers and ids are hexadecimal."""
    found = MessageToDict(request, use_integers_for_enums=True)
    for resource in found.get("resourceSpans", ()):
        for scope in resource.get("scopeSpans", ()):
            for span in scope.get("spans", ()):
                for holder in (span, *span.get("links", ())):
                    holder |= {name: base64.b64decode(holder[name]).hex() for name in IDS if name in holder}
    return found
