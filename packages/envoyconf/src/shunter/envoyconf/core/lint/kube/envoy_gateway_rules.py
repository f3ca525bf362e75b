"""Rules about Envoy Gateway's extension policies, by which it asks a picker."""

import re
from collections.abc import Iterator

import msgspec

from shunter.envoyconf.core.cursor import Cursor
from shunter.envoyconf.core.kube.manifests import Manifest, Manifests, Reference, refer
from shunter.envoyconf.core.kube.pickers import names_a_picker
from shunter.envoyconf.core.kube.platforms import attached, rules, targets
from shunter.envoyconf.core.lint.kube.findings import found, looking_at, meant
from shunter.envoyconf.core.lint.rule import Finding, Fix, Rule
from shunter.envoyconf.core.names import DESTINATION, NAMESPACE
from shunter.envoyconf.core.spelling import is_slip

__all__ = ["RULES", "Asking", "asked"]

DUPLEX = "FullDuplexStreamed"

# As the tried configurations have it; each live request may hold one stream to the picker.
MANY_STREAMS = 40000


class Asking(msgspec.Struct, frozen=True):
    """One ext_proc server of an EnvoyExtensionPolicy."""

    policy: Manifest
    at: Cursor
    backends: tuple[Reference, ...]

    @property
    def bodies(self) -> tuple[str, str]:
        """How the bodies of requests and of responses are sent; empty if they are not."""
        mode = self.at["processingMode"]
        return mode.at("request", "body").text, mode.at("response", "body").text


def asked(manifests: Manifests) -> list[Asking]:
    """Return the ext_proc servers of all policies."""
    return manifests.remember("asked", lambda: list(_asked(manifests)))


def _asked(manifests: Manifests) -> Iterator[Asking]:
    for policy in manifests.of("EnvoyExtensionPolicy"):
        for at in policy.spec["extProc"]:
            yield Asking(policy, at, tuple(refer(each, policy.namespace) for each in at["backendRefs"]))


def _pickers(manifests: Manifests) -> Iterator[Asking]:
    for asking in asked(manifests):
        writes = [each.text for each in asking.at.at("metadata", "writableNamespaces")]
        if NAMESPACE in writes or any(names_a_picker(manifests, each) for each in asking.backends):
            yield asking


def _impossible(manifests: Manifests) -> Iterator[Finding]:
    for asking in asked(manifests):
        at = asking.at["failOpen"]
        if at.value is True and DUPLEX in asking.bodies:
            yield found(
                at,
                f"failOpen with {DUPLEX}: the API server refuses the policy, since Envoy cannot take back a body that it gave "
                "away",
                "set failOpen to false, or send the request body Buffered",
                Fix(at.path, False),
            )


def _namespaces(manifests: Manifests) -> Iterator[Finding]:
    for asking in _pickers(manifests):
        writes = asking.at.at("metadata", "writableNamespaces")
        if writes and NAMESPACE not in [each.text for each in writes]:
            yield found(
                writes,
                f"{NAMESPACE} is not among the namespaces that the picker may write: its pick by metadata is dropped without "
                "a word",
                f"add {NAMESPACE}",
                Fix((*writes.path, len(list(writes))), NAMESPACE),
            )
    for asking in asked(manifests):
        for each in asking.at.at("metadata", "writableNamespaces"):
            if each.text.startswith("envoy.filters.http"):
                yield found(
                    each,
                    f"{each.text}: the API server refuses namespaces of Envoy's own filters",
                    f"write {NAMESPACE} and nothing of Envoy's",
                )


def _health_over_tls(manifests: Manifests) -> Iterator[Finding]:
    for asking in asked(manifests):
        if asking.at.at("backendSettings", "healthCheck", "active", "type").text != "GRPC":
            continue
        for reference in asking.backends:
            backend = manifests.find(reference)
            tls = backend.spec["tls"] if backend and backend.kind == "Backend" else None
            if tls and "h2" not in [each.text for each in tls["alpnProtocols"]]:
                yield found(
                    tls,
                    "TLS without alpnProtocols [h2], and a gRPC health check: the check speaks HTTP/1.1, never succeeds, and "
                    "with panicThreshold 0 every request is answered 503 though the data path would work",
                    "add alpnProtocols: [h2]",
                    Fix((*tls.path, "alpnProtocols"), ["h2"]),
                )


def _inert_statuses(manifests: Manifests) -> Iterator[Finding]:
    for policy in manifests.of("BackendTrafficPolicy", "EnvoyExtensionPolicy"):
        holders = (
            [policy.spec] if policy.kind == "BackendTrafficPolicy" else [e["backendSettings"] for e in policy.spec["extProc"]]
        )
        for holder in holders:
            retry_on = holder.at("retry", "retryOn")
            codes, triggers = retry_on["httpStatusCodes"], retry_on["triggers"]
            if codes and "retriable-status-codes" not in [each.text for each in triggers]:
                size = len(list(triggers))
                fix = Fix((*triggers.path, size) if size else triggers.path, _one("retriable-status-codes", bool(size)))
                yield found(
                    codes,
                    f"httpStatusCodes {codes.value} without the trigger retriable-status-codes: they are never retried (1 "
                    "attempt, with the trigger 3)",
                    "add retriable-status-codes to triggers",
                    fix,
                )


def _one(value: str, appended: bool) -> object:
    return value if appended else [value]


def _missing_services(manifests: Manifests) -> Iterator[Finding]:
    for proxy in manifests.of("EnvoyProxy"):
        telemetry = proxy.spec["telemetry"]
        tracing = telemetry.at("tracing", "provider")
        metrics = [sink["openTelemetry"] for sink in telemetry.at("metrics", "sinks")]
        logs = [
            sink[kind]
            for each in telemetry.at("accessLog", "settings")
            for sink in each["sinks"]
            for kind in ("als", "openTelemetry")
        ]
        for holder in (tracing, *metrics, *logs):
            for at in holder["backendRefs"]:
                reference = refer(at, proxy.namespace)
                if manifests.lacks(reference):
                    yield found(
                        at["name"],
                        f"there is no {reference}: the whole Gateway is refused (Accepted=False, InvalidParameters) and "
                        f"nothing is served{meant(reference.name, manifests.neighbours(reference))}",
                        "name a Service that is there, or leave this out until it is",
                    )


def _rivals(manifests: Manifests) -> Iterator[Finding]:
    holders: dict[tuple[object, ...], Manifest] = {}
    for policy in manifests.of("EnvoyExtensionPolicy"):
        for target in targets(policy):
            first = holders.setdefault((*target.place, target.at["sectionName"].text), policy)
            if first is not policy:
                yield found(
                    target.at,
                    f"{target.kind} {target.name} has {first} already: of two policies the younger is put aside (Conflicted), "
                    "and what it says does not happen",
                    "put both ext_proc servers into one policy, in the order in which they are to be asked",
                )


def _missing_backends(manifests: Manifests) -> Iterator[Finding]:
    for asking in asked(manifests):
        for reference in asking.backends:
            if manifests.lacks(reference):
                harm = (
                    "with failOpen the picker is dropped without a word"
                    if asking.at["failOpen"].value is True
                    else "every request is answered 500"
                )
                yield found(
                    reference.at["name"],
                    f"there is no {reference}: {harm}, while the route's status stays Accepted"
                    f"{meant(reference.name, manifests.neighbours(reference))}",
                    f"name a {reference.kind} that is there",
                )


def _nothing_sent(manifests: Manifests) -> Iterator[Finding]:
    for asking in _pickers(manifests):
        mode = asking.at["processingMode"]
        if not mode["request"]:
            yield found(
                mode or asking.at,
                "without processingMode.request the picker is sent nothing of a request, so it cannot choose",
                "add processingMode: {request: {body: Buffered}} (or FullDuplexStreamed, with failOpen false)",
                Fix((*asking.at.path, "processingMode", "request"), {"body": "Buffered"}),
            )


def _unheeded(manifests: Manifests) -> Iterator[Finding]:
    pickers = list(_pickers(manifests))
    for routed in rules(manifests):
        mine = {policy.place for policy in attached(manifests, "EnvoyExtensionPolicy", routed)}
        asking = next((each for each in pickers if each.policy.place in mine), None)
        if asking is None or routed.pools or routed.route.kind == "AIGatewayRoute":
            continue
        traffic = attached(manifests, "BackendTrafficPolicy", routed)
        overrides = [override for policy in traffic if (override := policy.spec.at("loadBalancer", "endpointOverride"))]
        for header in (source["header"] for override in overrides for source in override["extractFrom"]):
            if is_slip(header.text, DESTINATION):
                yield found(
                    header,
                    f"the pick is looked for in the header {header.text!r}, which no picker sets unless it is told to: Envoy "
                    "goes on to balance the load itself",
                    f"did you mean {DESTINATION}?",
                    Fix(header.path, DESTINATION),
                )
        if not overrides and not _patched(manifests):
            yield found(
                routed.rule,
                f"{asking.policy} asks a picker about these requests, and no BackendTrafficPolicy of {routed.route} has an "
                "endpointOverride: Envoy goes on to balance the load itself and the pick is lost",
                "add a BackendTrafficPolicy with loadBalancer.endpointOverride.extractFrom: "
                "[{header: x-gateway-destination-endpoint}]",
            )


def _held_back(manifests: Manifests) -> Iterator[Finding]:
    for asking in _pickers(manifests):
        _, response = asking.bodies
        if response in ("Buffered", "BufferedPartial"):
            yield found(
                asking.at.at("processingMode", "response", "body"),
                f"{response} keeps an answer in Envoy until all of it is there, or the buffer is full: a client that streams "
                "gets its first token with the last one",
                "leave body out, if nobody has to read responses; else say FullDuplexStreamed or Streamed",
            )


def _patched(manifests: Manifests) -> bool:
    return any(True for _ in manifests.of("EnvoyPatchPolicy"))


def _short_wait(manifests: Manifests) -> Iterator[Finding]:
    for asking in _pickers(manifests):
        request, _ = asking.bodies
        if request != DUPLEX and not asking.at["messageTimeout"]:
            yield found(
                asking.at,
                "without messageTimeout Envoy waits 200 ms for a pick: a picker that lets requests queue, or is short of CPU, "
                "is passed over or answered 504",
                "add messageTimeout: 1s, or as long as a request may wait for its pick",
                Fix((*asking.at.path, "messageTimeout"), "1s"),
            )


def _few_streams(manifests: Manifests) -> Iterator[Finding]:
    for asking in _pickers(manifests):
        breaker = asking.at.at("backendSettings", "circuitBreaker")
        if not breaker["maxParallelRequests"]:
            yield found(
                breaker or asking.at,
                "Envoy opens 1024 streams to the picker and no more: where each request holds one until it ends, the 1025th is "
                "answered 500, or goes without a pick",
                f"add backendSettings.circuitBreaker: {{maxConnections: {MANY_STREAMS}, maxPendingRequests: {MANY_STREAMS}, "
                f"maxParallelRequests: {MANY_STREAMS}}}",
                *(
                    Fix((*asking.at.path, "backendSettings", "circuitBreaker", name), MANY_STREAMS)
                    for name in ("maxConnections", "maxPendingRequests", "maxParallelRequests")
                    if not breaker[name]
                ),
            )


def _shared_picker(manifests: Manifests) -> Iterator[Finding]:
    pickers = {each.policy.place for each in _pickers(manifests)}
    for routed in rules(manifests):
        others = {each.place for each in routed.backends if each.at["weight"].number != 0}
        mine = [each for each in attached(manifests, "EnvoyExtensionPolicy", routed) if each.place in pickers]
        if len(others) > 1 and mine:
            yield found(
                routed.rule["backendRefs"],
                f"{len(others)} backends, of which Envoy chooses one by weight, and one picker ({mine[0]}) that does not learn "
                "which: half of its picks are of the other and are not heeded",
                "give each pool a rule of its own, with a policy for each by sectionName",
            )


# What Envoy Gateway calls listeners and route configurations with XDSNameSchemeV2, by protocol and port.
SECOND_SCHEME = re.compile(r"(tcp|udp|http|https|tls)-\d{1,5}")
PATCHED_BY_LISTENER = ("envoy.config.listener.v3.Listener", "envoy.config.route.v3.RouteConfiguration")


def _unknown_names(manifests: Manifests) -> Iterator[Finding]:
    for policy in manifests.of("EnvoyPatchPolicy"):
        gateways = [each for target in targets(policy) if (each := manifests.find(target)) and each.kind == "Gateway"]
        known = [
            f"{each.namespace}/{each.name}/{listener['name'].text}" for each in gateways for listener in each.spec["listeners"]
        ]
        for patch in policy.spec["jsonPatches"]:
            name = patch["name"]
            by_listener = patch["type"].text.rpartition("/")[2] in PATCHED_BY_LISTENER
            if by_listener and known and name.text not in known and not SECOND_SCHEME.fullmatch(name.text):
                yield found(
                    name,
                    f"Envoy Gateway calls nothing {name.text!r}: the patch, and with it the whole policy, is not programmed "
                    f"(ResourceNotFound){meant(name.text, known)}",
                    "write namespace/gateway/listener, or with XDSNameSchemeV2 such as tcp-80 (listener) and http-80 (routes)",
                )


def _patch_off(manifests: Manifests) -> Iterator[Finding]:
    yield from _unknown_names(manifests)
    for config in manifests.of("EnvoyGateway"):
        if config.root.at("extensionApis", "enableEnvoyPatchPolicy").value is True:
            return
        for policy in manifests.of("EnvoyPatchPolicy"):
            yield found(
                policy.root["kind"],
                "the EnvoyGateway that is given does not enable EnvoyPatchPolicies: this one does nothing",
                "set extensionApis.enableEnvoyPatchPolicy to true in the EnvoyGateway",
            )


RULES: tuple[Rule, ...] = (
    Rule(
        code="E53",
        title="Envoy Gateway: failOpen with a full-duplex body",
        why="Envoy gives the body away while the picker reads it; a picker that dies takes it along. The CRD refuses the pair.",
        check=looking_at(_impossible),
        source="EnvoyExtensionPolicy, CEL of spec.extProc",
    ),
    Rule(
        code="E55",
        title="Envoy Gateway: a patch policy that comes to nothing",
        why="EnvoyPatchPolicies are off by default, and go by Envoy Gateway's names of xDS resources, of which there are two "
        "schemes. The status of the policy says what is wrong, nothing else does.",
        check=looking_at(_patch_off),
        source="Envoy Gateway, EnvoyPatchPolicy",
    ),
    Rule(
        code="E56",
        title="Envoy Gateway: a picker that may not write its metadata",
        why="Envoy drops dynamic metadata of namespaces that are not listed, without a word; Envoy Gateway refuses those of "
        "Envoy's own filters.",
        check=looking_at(_namespaces),
        source="EnvoyExtensionPolicy, spec.extProc.metadata",
    ),
    Rule(
        code="E65",
        title="Envoy Gateway: a gRPC health check that TLS lets nobody pass",
        why="Seen on Envoy Gateway 1.9.1: data goes over HTTP/2 in any case, the health check only if ALPN says so. All "
        "policies are Accepted, every request is 503.",
        check=looking_at(_health_over_tls),
        source="Envoy, health_check.tls_options",
    ),
    Rule(
        code="W66",
        title="Envoy Gateway: statuses that are not retried",
        why="Seen on Envoy Gateway 1.9.1: Envoy looks at the list only where retry_on names retriable-status-codes.",
        check=looking_at(_inert_statuses),
        source="BackendTrafficPolicy, spec.retry.retryOn",
    ),
    Rule(
        code="E67",
        title="Envoy Gateway: telemetry to a Service that is not there",
        why="Seen on Envoy Gateway 1.9.1: a missing tracing Service makes the Gateway Accepted=False with InvalidParameters.",
        check=looking_at(_missing_services),
        source="EnvoyProxy, spec.telemetry",
    ),
    Rule(
        code="E68",
        title="Envoy Gateway: two extension policies on one target",
        why="Seen on Envoy Gateway 1.9.1: the second is Conflicted.",
        check=looking_at(_rivals),
        source="Gateway API, policy attachment (GEP-713)",
    ),
    Rule(
        code="E77",
        title="Envoy Gateway: an ext_proc server that is not there",
        why="Seen on Envoy Gateway 1.9.1: the policy is Invalid, the routes answer 500, and their own status does not tell; "
        "with failOpen they go on without a picker.",
        check=looking_at(_missing_backends),
        source="EnvoyExtensionPolicy, spec.extProc.backendRefs",
    ),
    Rule(
        code="E78",
        title="Envoy Gateway: a picker that is sent nothing",
        why="By default neither headers nor bodies are sent to an ext_proc server.",
        check=looking_at(_nothing_sent),
        source="EnvoyExtensionPolicy, spec.extProc.processingMode",
    ),
    Rule(
        code="E79",
        title="Envoy Gateway: picks that nobody heeds",
        why="Envoy Gateway's routes balance the load by themselves unless endpointOverride names the header with the pick.",
        check=looking_at(_unheeded),
        source="BackendTrafficPolicy, spec.loadBalancer.endpointOverride",
    ),
    Rule(
        code="W80",
        title="Envoy Gateway: 200 ms for a pick",
        why="The default is made for header filters. In full-duplex mode Envoy enforces none.",
        check=looking_at(_short_wait),
        source="EnvoyExtensionPolicy, spec.extProc.messageTimeout; AI Gateway #1251, #1428",
    ),
    Rule(
        code="W81",
        title="Envoy Gateway: 1024 streams to a picker",
        why="Envoy's circuit breakers count live ext_proc streams; over the limit Envoy reports an error of the picker.",
        check=looking_at(_few_streams),
        source="Envoy Gateway #9997, AI Gateway #1884, llm-d #1582",
    ),
    Rule(
        code="W99",
        title="Envoy Gateway: streams that come all at once",
        why="Buffered collects the body before anything of it goes on (seen on Envoy 1.40.0).",
        check=looking_at(_held_back),
        source="EnvoyExtensionPolicy, spec.extProc.processingMode.response.body",
    ),
    Rule(
        code="E83",
        title="Envoy Gateway: one picker for several backends of a rule",
        why="A policy belongs to a route or a rule, and is asked before Envoy draws a backend by weight.",
        check=looking_at(_shared_picker),
        source="EnvoyExtensionPolicy, spec.targetRefs",
    ),
)
