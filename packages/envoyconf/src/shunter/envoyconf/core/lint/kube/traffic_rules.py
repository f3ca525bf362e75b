"""Rules about the time, the size and the headers of requests to pools, on the gateways that have defaults of their own."""

from collections.abc import Iterator

from msgspec import UNSET

from shunter.envoyconf.core.cursor import Cursor
from shunter.envoyconf.core.kube.manifests import Manifest, Manifests
from shunter.envoyconf.core.kube.pickers import names_a_picker
from shunter.envoyconf.core.kube.platforms import Platform, attached, parents, platform, policies_by_target, rules, targets
from shunter.envoyconf.core.kube.quantities import read_bytes, read_seconds
from shunter.envoyconf.core.lint.kube.envoy_gateway_rules import asked
from shunter.envoyconf.core.lint.kube.findings import found, looking_at
from shunter.envoyconf.core.lint.rule import Finding, Fix, Rule
from shunter.envoyconf.core.names import DESTINATION

__all__ = ["RULES"]

# What Envoy Gateway and AI Gateway give a connection to buffer unless told otherwise.
DEFAULT_BUFFER_BYTES = 32 << 10

# A prompt of this size is usual; smaller limits cut some.
SMALLEST_BUFFER_BYTES = 1 << 20

GKE_DEFAULT_TIMEOUT_S = 30

RAISE_LIMIT = "set connection.bufferLimit of a ClientTrafficPolicy for the Gateway to the largest prompt, such as 50Mi"

# A long answer takes minutes; whoever allows more than ten means that nothing is to be cut.
SHORT_ANSWER_S = 600


def _of_client(manifests: Manifests, gateway: Manifest) -> list[Manifest]:
    """Return the ClientTrafficPolicies of a Gateway."""
    attached = policies_by_target(manifests).get(gateway.place, ())
    return [policy for policy, _ in attached if policy.kind == "ClientTrafficPolicy"]


def _steerable(manifests: Manifests) -> Iterator[tuple[Manifest, Cursor, str]]:
    """Yield Gateways that send requests where the destination header says: where that is said, and how far it reaches."""
    for routed in rules(manifests):
        where = platform(manifests, routed.route)
        for gateway in parents(manifests, routed.route):
            if where is Platform.AI_GATEWAY and routed.pools:
                yield gateway, routed.rule, "to any address"
            for policy in attached(manifests, "BackendTrafficPolicy", routed):
                for each in policy.spec.at("loadBalancer", "endpointOverride", "extractFrom"):
                    if each["header"].text.lower() == DESTINATION:
                        yield gateway, each["header"], "to any endpoint of the pool, past the picker"


def _spoofable(manifests: Manifests) -> Iterator[Finding]:
    for gateway, at, reach in _steerable(manifests):
        policies = _of_client(manifests, gateway)
        removed = {
            each.text.lower() for policy in policies for each in policy.spec.at("headers", "earlyRequestHeaders", "remove")
        }
        if DESTINATION not in removed:
            yield found(
                at,
                f"no ClientTrafficPolicy of {gateway} removes {DESTINATION} from clients' requests: whoever sends it steers "
                f"them {reach}, when the picker sets none",
                f"add a ClientTrafficPolicy for the Gateway with headers.earlyRequestHeaders.remove: [{DESTINATION}]",
            )


def _buffer(manifests: Manifests, gateway: Manifest) -> int:
    """Return how many bytes of a request a Gateway keeps, to have them read or to send them once more."""
    limits = (read_bytes(policy.spec.at("connection", "bufferLimit")) for policy in _of_client(manifests, gateway))
    return max((limit for limit in limits if limit is not None), default=DEFAULT_BUFFER_BYTES)


def _small_buffers(manifests: Manifests) -> Iterator[Finding]:
    buffered = {each.policy.place for each in asked(manifests) if each.bodies[0] == "Buffered"}
    for routed in rules(manifests):
        pool_of_ai_gateway = platform(manifests, routed.route) is Platform.AI_GATEWAY and routed.pools
        reads_body = any(each.place in buffered for each in attached(manifests, "EnvoyExtensionPolicy", routed))
        if not pool_of_ai_gateway and not reads_body:
            continue
        for gateway in parents(manifests, routed.route):
            if (kept := _buffer(manifests, gateway)) < SMALLEST_BUFFER_BYTES:
                yield found(
                    routed.rule,
                    f"{gateway} keeps {kept} bytes of a request, which is held until the picker has seen all of it: longer "
                    "prompts are answered 413",
                    RAISE_LIMIT,
                )


def _lost_retries(manifests: Manifests) -> Iterator[Finding]:
    for routed in rules(manifests):
        for policy in attached(manifests, "BackendTrafficPolicy", routed):
            retry = policy.spec["retry"]
            if not retry or retry["numRetries"].number == 0:
                continue
            for gateway in parents(manifests, routed.route):
                if (kept := _buffer(manifests, gateway)) < SMALLEST_BUFFER_BYTES:
                    yield found(
                        retry,
                        f"retries, but {gateway} keeps {kept} bytes of a request: no longer prompt is tried again, and nothing "
                        "says so",
                        RAISE_LIMIT,
                    )


def _cut_streams(manifests: Manifests) -> Iterator[Finding]:
    pickers = {
        asking.policy.place for asking in asked(manifests) if any(names_a_picker(manifests, each) for each in asking.backends)
    }
    for routed in rules(manifests):
        where = platform(manifests, routed.route)
        if where is Platform.GKE:  # has another rule
            continue
        policies = attached(manifests, "EnvoyExtensionPolicy", routed)
        if not routed.pools and not any(each.place in pickers for each in policies):
            continue
        stated = routed.rule.at("timeouts", "request")
        others = [
            policy.spec.at("timeout", "http", "requestTimeout")
            for policy in attached(manifests, "BackendTrafficPolicy", routed)
        ]
        given = [each for each in (stated, *others) if each]
        default = "60 s" if routed.route.kind == "AIGatewayRoute" else "15 s"
        if not given and where in (Platform.ENVOY_GATEWAY, Platform.AI_GATEWAY):
            yield found(
                routed.rule,
                f"no timeout is given, so {where.value} ends every answer after {default}, also one that is being streamed",
                "add timeouts: {request: 0s}; the stream's idle timeout ends those that hang",
                Fix((*routed.rule.path, "timeouts", "request"), "0s"),
            )
        if given and (seconds := read_seconds(given[0])) and seconds <= SHORT_ANSWER_S:
            yield found(
                given[0],
                f"answers end after {given[0].value}, also those that are being streamed",
                "set it to 0s; the stream's idle timeout ends those that hang",
                Fix(given[0].path, "0s"),
            )


def _gke_timeouts(manifests: Manifests) -> Iterator[Finding]:
    for routed in rules(manifests):
        at = routed.rule["timeouts"]
        if at and platform(manifests, routed.route) is Platform.GKE:
            yield found(
                at,
                "GKE's gateways know no timeouts of HTTPRoutes: the route is refused, or they do nothing",
                "leave them out; timeoutSec of a GCPBackendPolicy for the pool does it",
                Fix(at.path, UNSET),
            )


def _gke_pools(manifests: Manifests) -> Iterator[tuple[Cursor, Manifest]]:
    for routed in rules(manifests):
        if platform(manifests, routed.route) is Platform.GKE:
            for reference in routed.pools:
                if pool := manifests.find(reference):
                    yield reference.at, pool


def _gke_health(manifests: Manifests) -> Iterator[Finding]:
    for policy in manifests.of("HealthCheckPolicy"):
        for name, check in policy.spec.at("default", "config").fields():
            if check["port"] and check["portSpecification"].text != "USE_FIXED_PORT":
                yield found(
                    check["port"],
                    f"{name} has a port without portSpecification: USE_FIXED_PORT: the API server refuses the policy, the pool "
                    "is checked at / and is never healthy",
                    "add portSpecification: USE_FIXED_PORT",
                    Fix((*check.path, "portSpecification"), "USE_FIXED_PORT"),
                )
    held = {target.place for policy in manifests.of("HealthCheckPolicy") for target in targets(policy)}
    for at, pool in _gke_pools(manifests):
        if pool.place not in held:
            yield found(
                at,
                f"{pool} has no HealthCheckPolicy: GKE asks its Pods for /, which model servers answer 404, and finds none "
                "healthy",
                "add a HealthCheckPolicy for the pool with httpHealthCheck: {requestPath: /health, port: …, portSpecification: "
                "USE_FIXED_PORT}",
            )


def _gke_limit(manifests: Manifests) -> Iterator[Finding]:
    timeouts = {
        target.place: policy.spec.at("default", "timeoutSec")
        for policy in manifests.of("GCPBackendPolicy")
        for target in targets(policy)
    }
    for at, pool in _gke_pools(manifests):
        if not timeouts.get(pool.place):
            yield found(
                at,
                f"{pool} has no GCPBackendPolicy with timeoutSec: GKE ends answers after {GKE_DEFAULT_TIMEOUT_S} s, also those "
                "that are being streamed",
                "add a GCPBackendPolicy for the pool with default.timeoutSec: 3600",
            )


RULES: tuple[Rule, ...] = (
    Rule(
        code="E59",
        title="GKE: a pool whose health nobody can tell",
        why="The CRD's rule wants portSpecification beside port, which older examples lack; without a policy GKE asks for /.",
        check=looking_at(_gke_health),
        source="HealthCheckPolicy networking.gke.io/v1, CEL",
    ),
    Rule(
        code="W60",
        title="GKE: timeouts of an HTTPRoute",
        why="GKE's gateway controllers do not support them.",
        check=looking_at(_gke_timeouts),
        source="GKE Gateway, supported fields",
    ),
    Rule(
        code="E70",
        title="Envoy Gateway, AI Gateway: clients choose the endpoint",
        why="Seen on both: where the picker sets no destination (it failed open, answered without one, closed its stream) the "
        "client's own header counts. Envoy Gateway heeds it for members of the pool, AI Gateway for any address.",
        check=looking_at(_spoofable),
        source="ClientTrafficPolicy, spec.headers.earlyRequestHeaders",
    ),
    Rule(
        code="E71",
        title="Envoy Gateway, AI Gateway: prompts above 32 KiB are refused",
        why="Seen on AI Gateway 1.0.0: 413 for longer prompts until a ClientTrafficPolicy raises the limit; Envoy does the "
        "same wherever a body is buffered for a picker.",
        check=looking_at(_small_buffers),
        source="ClientTrafficPolicy, spec.connection.bufferLimit; AI Gateway #827",
    ),
    Rule(
        code="W72",
        title="Envoy Gateway: retries that end at 32 KiB",
        why="Envoy keeps a body for another attempt only as long as it fits the buffer, and gives up retrying without a word.",
        check=looking_at(_lost_retries),
        source="ClientTrafficPolicy, spec.connection.bufferLimit",
    ),
    Rule(
        code="E82",
        title="Streamed answers are cut",
        why="A route's timeout counts the whole answer. Envoy Gateway's default is 15 s, AI Gateway's 60 s; a stream that is "
        "cut looks like a complete answer with status 200.",
        check=looking_at(_cut_streams),
        source="HTTPRoute, spec.rules.timeouts; nvcf #1060",
    ),
    Rule(
        code="W86",
        title="GKE: answers end after 30 seconds",
        why="The default of Google's backend services; it counts the whole answer.",
        check=looking_at(_gke_limit),
        source="GCPBackendPolicy, spec.default.timeoutSec",
    ),
)
