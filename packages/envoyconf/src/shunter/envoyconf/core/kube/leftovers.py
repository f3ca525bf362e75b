"""What manifests of the kinds that are read say besides: each field by its path, so that none is lost in silence."""

from collections.abc import Iterator

from shunter.envoyconf.core.cursor import Cursor
from shunter.envoyconf.core.kube.manifests import Manifests

__all__ = ["READ", "leftovers"]

TARGETS = ("targetRef", "targetRefs", "targetSelectors")
REFERENCE = ("group", "kind", "name", "namespace")
PARENTS = tuple(f"parentRefs.{field}" for field in REFERENCE)
BACKENDS = tuple(f"rules.backendRefs.{field}" for field in (*REFERENCE, "port", "weight"))

# Of each kind what is read of its spec, and what everything generated says in one form or another.
READ: dict[str, tuple[str, ...]] = {
    "Gateway": (
        "gatewayClassName",
        "infrastructure.parametersRef",  # EnvoyProxy, which is named itself
        *(f"listeners.{field}" for field in ("name", "port", "protocol", "hostname", "allowedRoutes")),
        "listeners.tls.mode",
        "listeners.tls.certificateRefs",
    ),
    "GatewayClass": ("controllerName", "description"),
    "HTTPRoute": (
        *PARENTS,
        *BACKENDS,
        "hostnames",
        *(f"rules.{field}" for field in ("name", "matches", "filters", "timeouts")),
    ),
    "AIGatewayRoute": (
        *PARENTS,
        *BACKENDS,
        "schema",
        "hostnames",
        *(f"rules.{field}" for field in ("name", "matches", "filters", "timeouts", "streamIdleTimeout")),
    ),
    "InferencePool": ("selector", "targetPorts", "targetPortNumber", "appProtocol", "endpointPickerRef", "extensionRef"),
    "ReferenceGrant": ("from", "to"),
    "EnvoyExtensionPolicy": (
        *TARGETS,
        *(
            f"extProc.{field}"
            for field in (
                "backendRefs",
                "backendSettings",
                "failOpen",
                "messageTimeout",
                "metadata",
                "processingMode",
                "statusOnError",
            )
        ),
    ),
    "BackendTrafficPolicy": (
        *TARGETS,
        "circuitBreaker",
        "connection.bufferLimit",
        "loadBalancer.endpointOverride",
        "loadBalancer.type",
        "retry",
        "timeout.http.connectionIdleTimeout",
        "timeout.http.requestTimeout",
        "timeout.http.streamIdleTimeout",
        "timeout.tcp.connectTimeout",
    ),
    "ClientTrafficPolicy": (
        *TARGETS,
        "connection.bufferLimit",
        "headers.earlyRequestHeaders.remove",
        "headers.requestID",
        "headers.withUnderscoresAction",
        "timeout.http.requestHeadersReceivedTimeout",
        "timeout.http.streamIdleTimeout",
    ),
    "Backend": ("appProtocols", "endpoints", "tls", "type"),
    "Service": ("",),
    "DestinationRule": ("host", "trafficPolicy.tls"),
}

# What it comes to, or where an intent says it in its own way.
INSTEAD = {
    "parentRefs.sectionName": "an intent's routes are those of all its listeners",
    "rateLimit": "say it in security.rateLimits",
}


def leftovers(manifests: Manifests) -> Iterator[tuple[Cursor, str]]:
    """Yield where a field that nobody reads first stands, and what is to be said of it, once for each field of a kind."""
    first: dict[str, Cursor] = {}
    count: dict[str, int] = {}
    for each in manifests.all:
        for at, path in _unread(each.spec, "", READ.get(each.kind, ("",))):
            what = f"{path} of {each.kind}"
            first.setdefault(what, at)
            count[what] = count.get(what, 0) + 1
    for what, at in first.items():
        again = f", here and {count[what] - 1} more times" if count[what] > 1 else ""
        instead = INSTEAD.get(what.partition(" ")[0])
        yield at, f"{what} is left out{again}{f': {instead}' if instead else ''}"


def _unread(at: Cursor, path: str, read: tuple[str, ...]) -> Iterator[tuple[Cursor, str]]:
    """Yield the outermost fields below a place of which nothing is read; items of lists have the path of their list."""
    if path in read:
        return
    if path and not any(each.startswith(f"{path}.") for each in read):
        if at:
            yield at, path
        return
    for item in at:
        yield from _unread(item, path, read)
    for field, value in at.fields():
        yield from _unread(value, f"{path}.{field}".lstrip("."), read)
