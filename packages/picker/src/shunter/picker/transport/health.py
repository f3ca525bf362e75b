"""Whether the picker may be asked: grpc.health.v1, for probes and for Envoy's health check.

Envoy has to know *before* a request comes that there is no picker: in mode FULL_DUPLEX_STREAMED it cannot fail open any more
once it has sent the first piece of a body. So a picker that is not ready, or that drains, says so here first.

Here is what both transports answer; how it is carried is theirs.
"""

from collections.abc import Callable

from shunter.picker.transport.protobuf import encode_utf8, field

__all__ = ["LIVENESS", "SERVICES", "Health", "UnknownServiceError"]

LIVENESS = "liveness"
# The names under which the reference picker is asked: the empty one by most probes, the ext_proc service by Envoy's health
# check, the others by its Helm charts (for one replica, and for several).
SERVICES = frozenset({"", "envoy.service.ext_proc.v3.ExternalProcessor", "inference-extension", "readiness", LIVENESS})

# HealthCheckResponse {status = 1}
_SERVING = b"\x08\x01"
_NOT_SERVING = b"\x08\x02"
_SERVICE_UNKNOWN = b"\x08\x03"


class UnknownServiceError(LookupError):
    """Nobody here has that name: status NOT_FOUND."""


class Health:
    """The state behind the health service; not ready until told. Liveness holds as long as somebody answers."""

    def __init__(self) -> None:
        self.closed = False
        self._ready = False
        self._watchers: set[Callable[[], None]] = set()

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
        """Be not ready for good; watches are to end."""
        self._ready, self.closed = False, True
        self._tell()

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call ``watcher`` after each change, until ``unwatch``."""
        self._watchers.add(watcher)

    def unwatch(self, watcher: Callable[[], None]) -> None:
        """Stop that."""
        self._watchers.discard(watcher)

    def check(self, request: bytes) -> bytes:
        """Answer ``Check``, or raise UnknownServiceError."""
        status = self.status(request)
        if status is _SERVICE_UNKNOWN:
            known = ", ".join(repr(name) for name in sorted(SERVICES))
            raise UnknownServiceError(f"no service {_read_service(request)!r} here, but {known}")
        return status

    def status(self, request: bytes) -> bytes:
        """Answer ``Watch`` at this moment."""
        return self._status(_read_service(request))

    def list(self, _: bytes = b"") -> bytes:
        """Answer ``List``, whose request is empty: a HealthListResponse, a map = 1 of {name = 1, HealthCheckResponse = 2}."""
        entries = [field(0x0A, encode_utf8(name)) + field(0x12, self._status(name)) for name in sorted(SERVICES)]
        return b"".join([field(0x0A, entry) for entry in entries])

    def _status(self, service: str) -> bytes:
        if service not in SERVICES:
            return _SERVICE_UNKNOWN
        return _SERVING if self._ready or service == LIVENESS else _NOT_SERVING

    def _tell(self) -> None:
        for watcher in [*self._watchers]:
            watcher()


def _read_service(request: bytes) -> str:
    """Read HealthCheckRequest {service = 1}. Whatever is not the plain encoding of a short name is no service of ours."""
    if not request:
        return ""
    plain = len(request) >= 2 and request[0] == 0x0A and request[1] == len(request) - 2
    return request[2:].decode("utf-8", "replace") if plain else repr(request[:64])
