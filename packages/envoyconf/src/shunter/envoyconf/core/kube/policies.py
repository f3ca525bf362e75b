"""Envoy Gateway's own kinds: what clients may do, how pools and pickers are reached, who is asked of each request.

Written for Envoy Gateway 1.9 and tried on it. What its kinds cannot say is an IntentError, with the target that can where
there is one.
"""

from shunter.envoyconf.core.envoy.cluster import POOL_IDLE_SECONDS
from shunter.envoyconf.core.envoy.ext_proc import GRACE_SECONDS
from shunter.envoyconf.core.envoy.listener import REQUEST_HEADERS_SECONDS, log_fields
from shunter.envoyconf.core.intent import FailureMode, Intent, Limits, Pool, Profile, Route
from shunter.envoyconf.core.kube.admission import LIMITS_FIRST, rate_limits
from shunter.envoyconf.core.kube.backends import BACKEND, gateway_object, picker_references
from shunter.envoyconf.core.kube.gateway import GATEWAY_API, route_name
from shunter.envoyconf.core.kube.split import Part, divided, parts
from shunter.envoyconf.core.names import CLIENT, DESTINATION, NAMESPACE, PICKER_HEADERS
from shunter.envoyconf.core.protojson import Resource

__all__ = [
    "CIRCUIT_BREAKER",
    "client_traffic_policy",
    "envoy_proxy",
    "extension_policy",
    "go_duration",
    "quantity",
    "route_traffic_policy",
    "tracing_backend",
]

# By default 1024 of each; the reasons are those of core.envoy.cluster.
CIRCUIT_BREAKER: Resource = {
    "maxConnections": 65536,
    "maxPendingRequests": 65536,
    "maxParallelRequests": 65536,
    "maxParallelRetries": 1024,
}

# Where nobody picks, as in core.envoy.cluster: for connections that fail. Not for 5xx in a row, which say nothing of the next
# request; there is no switch for Envoy's comparison of success rates, which takes five endpoints and a hundred requests each.
OUTLIERS: Resource = {
    "splitExternalLocalOriginErrors": True,
    "consecutiveLocalOriginFailures": 2,
    "consecutive5XxErrors": (1 << 31) - 1,
    "baseEjectionTime": "5s",
    "interval": "1s",
    "maxEjectionPercent": 100,
}

# How each profile's picker is asked. Envoy Gateway sends neither response headers nor trailers unless `response` is there.
PROCESSING_MODES: dict[Profile, Resource] = {
    Profile.LEAN: {"request": {"body": "Buffered"}},
    Profile.FULL: {"request": {"body": "FullDuplexStreamed"}, "response": {"body": "FullDuplexStreamed"}},
}


def go_duration(seconds: float) -> str:
    """Return a duration as Gateway API writes them: whole seconds and milliseconds."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    rest = f"{milliseconds}ms" if milliseconds else ""
    return f"{whole}s{rest}" if whole or not rest else rest


def quantity(size_bytes: int) -> str:
    """Return a Kubernetes quantity, in the largest unit that divides it."""
    for shift, unit in ((30, "Gi"), (20, "Mi"), (10, "Ki")):
        if size_bytes % (1 << shift) == 0:
            return f"{size_bytes >> shift}{unit}"
    return str(size_bytes)


def _policy_name(pool: Pool, profile: Profile) -> str:
    """Return the name of what asks a pool's picker in a profile."""
    return f"{pool.name}-{profile.value}"


def envoy_proxy(intent: Intent) -> Resource:
    """Return what the Envoys of the Gateway are told at start: access log, tracing, the order of filters."""
    names, watching = intent.kubernetes, intent.observability
    if watching.access_log == "none":
        log: Resource = {"disable": True}
    else:
        path = "/dev/stdout" if watching.access_log == "stdout" else watching.access_log
        told = {"type": "JSON", "json": log_fields(intent)}
        log = {"settings": [{"format": told, "sinks": [{"type": "File", "file": {"path": path}}]}]}
    telemetry: Resource = {"accessLog": log}
    if tracing := watching.tracing:
        # The caller decides, else chance. What Envoy itself leaves out, by a fraction or since its x-request-id is no UUID, is
        # not traced whatever the caller has decided.
        share = {"numerator": round(tracing.sample_percent * 10_000), "denominator": 1_000_000}
        telemetry["requestID"] = {"tracing": "Disable"}
        telemetry["tracing"] = {
            "provider": {
                "type": "OpenTelemetry",
                "serviceName": tracing.service_name,
                "openTelemetry": {"sampler": {"type": "ParentBasedTraceIdRatio", "samplingPercentage": share}},
                "backendRefs": [BACKEND | {"name": tracing_backend(intent)}],
            },
        }
    order = {"filterOrder": [LIMITS_FIRST]} if intent.security.rate_limits else {}
    return gateway_object("EnvoyProxy", names.gateway, intent, {**order, "telemetry": telemetry})


def tracing_backend(intent: Intent) -> str:
    """Return the name of the Backend of the traces' collector.

    Not its Service: where that does not exist Envoy Gateway refuses the whole Gateway (``Accepted=False``).
    """
    return f"{intent.kubernetes.gateway}-traces"


def client_traffic_policy(intent: Intent) -> Resource:
    """Return what holds for clients of the Gateway.

    Envoy Gateway takes the pick out of a request header, and its Envoys keep 32 KiB of a body: without this policy a client
    could name its own model server, and longer prompts would neither reach a picker that needs them whole nor be tried again.
    """
    known = intent.security.knows_clients
    removed = [header for header in PICKER_HEADERS if header != intent.model_header] + ([CLIENT] if known else [])
    spec = {
        "targetRefs": [_gateway_reference(intent)],
        "connection": {"bufferLimit": quantity(intent.limits.body_bytes)},
        "headers": {
            "earlyRequestHeaders": {"remove": removed},
            # Servers of the CGI school take x_gateway_… for x-gateway-…
            "withUnderscoresAction": "RejectRequest",
            # A client's is kept: it joins a complaint to the access log and to the picker's decision. But not where routes
            # are divided by it: it would not be random.
            "requestID": "Generate" if any(divided(intent, each) for each in intent.effective_routes) else "PreserveOrGenerate",
        },
        "timeout": {
            "http": {
                "requestHeadersReceivedTimeout": go_duration(REQUEST_HEADERS_SECONDS),
                "streamIdleTimeout": go_duration(intent.limits.idle_timeout_seconds),
            },
        },
    }
    return gateway_object("ClientTrafficPolicy", intent.kubernetes.gateway, intent, spec)


def route_traffic_policy(intent: Intent, index: int, part: Part) -> Resource:
    """Return how a route's requests get to its pool: whom they are sent to, when again, and how long they may take."""
    route, limits = intent.effective_routes[index], intent.limits
    asks = intent.profile_of(route).asks
    spec = {
        "targetRefs": [_route_reference(intent, index, part)],
        "loadBalancer": _pick() if asks else _affinity(route),
        **({} if asks else {"healthCheck": {"passive": OUTLIERS}}),
        "circuitBreaker": CIRCUIT_BREAKER,
        "retry": _request_retries(limits.retries),
        "timeout": {
            "tcp": {"connectTimeout": go_duration(limits.connect_timeout_seconds)},
            "http": {
                # The whole of a response has none: it would cut long streams.
                "requestTimeout": "0s",
                "streamIdleTimeout": go_duration(limits.idle_timeout_seconds),
                "connectionIdleTimeout": go_duration(POOL_IDLE_SECONDS),
            },
        },
        "connection": {"bufferLimit": quantity(limits.body_bytes)},
        **rate_limits(intent),
    }
    return gateway_object("BackendTrafficPolicy", route_name(intent, index, part), intent, spec)


def extension_policy(intent: Intent, pool: Pool, profile: Profile) -> Resource:
    """Return who is asked of the requests of all routes that lead to a pool in a profile."""
    limits = intent.limits
    routes = [
        _route_reference(intent, index, part)
        for index, route in enumerate(intent.effective_routes)
        if intent.profile_of(route) is profile
        for part in parts(intent, index)
        if any(share.name == pool.name for share in part.shares)
    ]
    question: Resource = {
        "backendRefs": picker_references(pool),
        "backendSettings": {"circuitBreaker": CIRCUIT_BREAKER, "retry": _question_retries(), "timeout": _connecting(limits)},
        # A picker that lets requests wait cannot ask for more time here.
        "messageTimeout": go_duration(max(limits.pick_timeout_seconds, _patience_seconds(limits))),
        "failOpen": pool.picker.failure_mode is FailureMode.OPEN,
        "statusOnError": 503,
        "processingMode": PROCESSING_MODES[profile],
        "metadata": {"accessibleNamespaces": [NAMESPACE], "writableNamespaces": [NAMESPACE]},
    }
    spec = {"targetRefs": routes, "extProc": [question]}
    return gateway_object("EnvoyExtensionPolicy", _policy_name(pool, profile), intent, spec)


def _gateway_reference(intent: Intent) -> Resource:
    return {"group": GATEWAY_API, "kind": "Gateway", "name": intent.kubernetes.gateway}


def _route_reference(intent: Intent, index: int, part: Part) -> Resource:
    return {"group": GATEWAY_API, "kind": "HTTPRoute", "name": route_name(intent, index, part)}


def _patience_seconds(limits: Limits) -> float:
    return limits.queue_seconds + GRACE_SECONDS if limits.queue_seconds else 0


def _connecting(limits: Limits) -> Resource:
    return {"tcp": {"connectTimeout": go_duration(limits.connect_timeout_seconds)}}


def _pick() -> Resource:
    """Follow the picker's header; without one, or with addresses that are none of the pool, least-request chooses."""
    return {"type": "LeastRequest", "endpointOverride": {"extractFrom": [{"header": DESTINATION}]}}


def _affinity(route: Route) -> Resource:
    """Keep the requests of one session on a model server, by a header or else a cookie; Envoy Gateway reads no bodies."""
    if route.affinity.header:
        return {"type": "ConsistentHash", "consistentHash": {"type": "Headers", "headers": [{"name": route.affinity.header}]}}
    if route.affinity.cookie:
        return {"type": "ConsistentHash", "consistentHash": {"type": "Cookie", "cookie": {"name": route.affinity.cookie}}}
    return {"type": "LeastRequest"}


def _question_retries() -> Resource:
    """Say when a question is put to another worker; the reasons are those of core.envoy.retry."""
    triggers = ["connect-failure", "refused-stream", "reset-before-request", "reset", "unavailable"]
    backing_off = {"backOff": {"baseInterval": "5ms", "maxInterval": "20ms"}}
    return {"numRetries": 2, "perRetry": backing_off, "retryOn": {"triggers": triggers}}


def _request_retries(retries: int) -> Resource:
    """Say when a request is tried again on the next choice. Status codes count only beside the trigger named after them."""
    triggers = ["connect-failure", "refused-stream", "reset-before-request", "retriable-status-codes"]
    backing_off = {"backOff": {"baseInterval": "25ms", "maxInterval": "250ms"}}
    return {"numRetries": retries, "perRetry": backing_off, "retryOn": {"triggers": triggers, "httpStatusCodes": [503]}}
