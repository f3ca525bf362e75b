"""Whether the picker may be asked: grpc.health.v1, for probes and for Envoy's health check.

Envoy has to know *before* a request comes that there is no picker: in mode FULL_DUPLEX_STREAMED it cannot fail open any more
once it has sent the first piece of a body. So a picker that is not ready, or that drains, says so here first.
"""

# grpc-stubs leaves the behavior of method handlers unannotated.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import asyncio
from typing import TypeAlias

import grpc
import grpc.aio

__all__ = ["LIVENESS", "SERVICES", "Health"]

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

LIVENESS = "liveness"
# The names under which the reference picker is asked: the empty one by most probes, the ext_proc service by Envoy's health
# check, the others by its Helm charts (for one replica, and for several).
SERVICES = frozenset({"", "envoy.service.ext_proc.v3.ExternalProcessor", "inference-extension", "readiness", LIVENESS})

# HealthCheckResponse {status = 1}
_SERVING = b"\x08\x01"
_NOT_SERVING = b"\x08\x02"
_SERVICE_UNKNOWN = b"\x08\x03"


class Health:
    """The state behind the health service; not ready until told. Liveness holds as long as somebody answers."""

    def __init__(self) -> None:
        self._ready = False
        self._closed = False
        self._changed = asyncio.Event()

    @property
    def ready(self) -> bool:
        """What every service but liveness answers."""
        return self._ready

    def set_ready(self, ready: bool) -> None:
        """Change the state; who watches learns it at once."""
        if ready != self._ready:
            self._ready = ready
            self._tell()

    def close(self) -> None:
        """Be not ready for good, and end the watches."""
        self._ready, self._closed = False, True
        self._tell()

    def handler(self) -> "grpc.GenericRpcHandler[bytes, bytes]":
        """Return the service, to be added to a server."""
        return grpc.method_handlers_generic_handler(
            "grpc.health.v1.Health",
            {
                "Check": grpc.unary_unary_rpc_method_handler(self._check),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
            },
        )

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _status(self, service: str) -> bytes:
        if service not in SERVICES:
            return _SERVICE_UNKNOWN
        return _SERVING if self._ready or service == LIVENESS else _NOT_SERVING

    async def _check(self, request: bytes, context: Context) -> bytes:
        service = _read_service(request)
        status = self._status(service)
        if status is _SERVICE_UNKNOWN:
            known = ", ".join(repr(name) for name in sorted(SERVICES))
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {service!r} here, but {known}")
        return status

    async def _watch(self, request: bytes, context: Context) -> None:
        service = _read_service(request)
        told = b""
        while True:
            changed = self._changed
            status = self._status(service)
            if status != told:
                await context.write(status)
                told = status
            if self._closed:
                return
            await changed.wait()


def _read_service(request: bytes) -> str:
    """Read HealthCheckRequest {service = 1}. Whatever is not the plain encoding of a short name is no service of ours."""
    if not request:
        return ""
    plain = len(request) >= 2 and request[0] == 0x0A and request[1] == len(request) - 2
    return request[2:].decode("utf-8", "replace") if plain else repr(request[:64])
