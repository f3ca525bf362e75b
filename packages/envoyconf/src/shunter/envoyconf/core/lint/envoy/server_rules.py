"""Rules for the clusters of pickers: who is asked, over what, and how many can be asked at a time."""

from collections.abc import Iterator

from shunter.envoyconf.core.authority import is_ip
from shunter.envoyconf.core.lint.envoy.cluster import HTTP_OPTIONS, TYPES, Cluster
from shunter.envoyconf.core.lint.envoy.findings import found, of_envoys, of_pool_routes, of_questions
from shunter.envoyconf.core.lint.envoy.models import picker
from shunter.envoyconf.core.lint.envoy.node import Node
from shunter.envoyconf.core.lint.envoy.view import Envoy, Question, Route
from shunter.envoyconf.core.lint.rule import Finding, Rule
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.spelling import suggest

__all__ = ["RULES"]

EXT_PROC_SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"

# Envoy's default for max_requests. A request holds its question for as long as it lasts, or until the pick.
DEFAULT_MAX_REQUESTS = 1024
ENOUGH_REQUESTS = 65536
PRIORITIES = ("DEFAULT", "HIGH")

LOOKED_UP = ("STRICT_DNS", "LOGICAL_DNS")

# Envoy's default for no_traffic_interval, and what nobody would notice.
DEFAULT_NO_TRAFFIC_S = 60
SOON_S = 10

HTTP2: Resource = {"@type": f"type.googleapis.com/{HTTP_OPTIONS}", "explicit_http_config": {"http2_protocol_options": {}}}


def unknown_server(envoy: Envoy) -> Iterator[Finding]:
    for question in envoy.questions:
        if envoy.resources.is_whole and question.server_name.text and not question.server:
            yield found(
                question.server_name,
                f"there is no cluster {question.server_name.text!r}. Envoy does not look; it answers every request 500, or "
                "goes on without a pick if failure_mode_allow is set",
                suggest(question.server_name.text, sorted(envoy.clusters)) if envoy.clusters else "add the cluster",
            )


def server_without_http2(question: Question) -> Iterator[Finding]:
    server = question.server
    if not server or server.node.at("http2_protocol_options"):
        return
    options = server.http_options
    explicit = options.at("explicit_http_config")
    if options.at("auto_config") or options.at("use_downstream_protocol_config", "http2_protocol_options"):
        return
    if not (explicit.at("http2_protocol_options") or explicit.at("http3_protocol_options")):
        yield found(
            server.node,
            f"the cluster {server.name!r} speaks HTTP/1.1, and gRPC is spoken in HTTP/2: every question ends in a protocol "
            "error",
            "set explicit_http_config: {http2_protocol_options: {}} in typed_extension_protocol_options",
            (server.node.at("typed_extension_protocol_options").entry(HTTP_OPTIONS), HTTP2),
        )


def half_tls(envoy: Envoy) -> Iterator[Finding]:
    plain = {address: cluster for cluster in _servers(envoy) if not _is_secure(cluster) for address in _places(cluster)}
    for cluster in _servers(envoy):
        for address in _places(cluster) if _is_secure(cluster) else ():
            if other := plain.get(address):
                yield found(
                    other.node,
                    f"the cluster {other.name!r} speaks to {address} in the clear, and {cluster.name!r} in "
                    "TLS: one of them gets no answer",
                    "give both the same transport_socket; pickers of the reference implementation speak TLS by default",
                )
        for check in cluster.checks if not _is_secure(cluster) else ():
            if options := check.at("tls_options"):
                yield found(
                    options,
                    f"the health check of the cluster {cluster.name!r} has TLS options and the cluster has no "
                    "transport_socket: both the check and the questions are sent in the clear",
                    "add a transport_socket with an UpstreamTlsContext, or leave out tls_options",
                )


def _servers(envoy: Envoy) -> list[Cluster]:
    return [*{question.server.name: question.server for question in envoy.questions if question.server}.values()]


def _places(cluster: Cluster) -> list[str]:
    return cluster.addresses + cluster.sockets


def _is_secure(cluster: Cluster) -> bool:
    return bool(cluster.node.at("transport_socket") or cluster.node.at("transport_socket_matches"))


def check_without_alpn(envoy: Envoy) -> Iterator[Finding]:
    for cluster in envoy.clusters.values():
        if not cluster.tls or "h2" in cluster.tls.at("common_tls_context", "alpn_protocols").texts:
            continue
        for check in cluster.checks:
            protocols = check.at("tls_options", "alpn_protocols")
            if check.at("grpc_health_check") and "h2" not in protocols.texts:
                yield found(
                    check.at("grpc_health_check"),
                    f"the health check of the cluster {cluster.name!r} does not say h2 in TLS (ALPN), unlike requests: it "
                    "fails for good, and the cluster is taken for dead though it answers",
                    "set tls_options: {alpn_protocols: [h2]} in the check, or alpn_protocols: [h2] in common_tls_context",
                    (protocols, ["h2"]),
                )


def unseen_recovery(question: Question) -> Iterator[Finding]:
    server = question.server
    if not server or server.panic_percent:
        return
    for check in server.checks:
        interval = check.at("no_traffic_interval")
        seconds = interval.seconds if interval else DEFAULT_NO_TRAFFIC_S
        if seconds and seconds > SOON_S:
            yield found(
                interval or check,
                f"without traffic the cluster {server.name!r} is checked every {seconds:g} "
                f"s{'' if interval else ', by default'}, and it has none while it is taken for dead: a picker that starts "
                "after Envoy stays unused that long",
                "set no_traffic_interval as interval",
                (interval, check.at("interval").text or "2s"),
            )


def unverified_server(question: Question) -> Iterator[Finding]:
    server = question.server
    if not server or not server.tls or server.tls.at("auto_sni_san_validation").is_true:
        return
    common = server.tls.at("common_tls_context")
    elsewhere = ("validation_context_sds_secret_config", "custom_handshaker")
    combined = common.at("combined_validation_context")
    if any(common.at(field) for field in elsewhere) or combined.at("validation_context_sds_secret_config"):
        return
    context = common.at("validation_context") or combined.at("default_validation_context")
    if context.at("trust_chain_verification").text == "ACCEPT_UNTRUSTED" or not _verifies(context):
        yield found(
            context or server.tls,
            f"the cluster {server.name!r} takes any certificate: nobody can listen in, but anybody who is in the way can be "
            "the picker, read prompts and choose where they go",
            "set validation_context.trusted_ca, and match_typed_subject_alt_names or auto_sni_san_validation",
        )


def _verifies(context: Node) -> bool:
    means = ("trusted_ca", "ca_certificate_provider_instance", "system_root_certs", "custom_validator_config")
    pins = ("verify_certificate_spki", "verify_certificate_hash")
    return any(context.at(field) for field in (*means, *pins))


def few_requests(question: Question) -> Iterator[Finding]:
    server = question.server
    if not server:
        return
    breakers = server.node.at("circuit_breakers")
    thresholds = breakers.at("thresholds")
    default = next((each for each in thresholds.items() if each.at("priority").choice(PRIORITIES) == "DEFAULT"), None)
    limit = default.at("max_requests").number if default else None
    if limit is None or limit <= DEFAULT_MAX_REQUESTS:
        several = {"max_connections": ENOUGH_REQUESTS, "max_pending_requests": ENOUGH_REQUESTS, "max_requests": ENOUGH_REQUESTS}
        yield found(
            default.at("max_requests") if default and limit else server.node,
            f"at most {limit or DEFAULT_MAX_REQUESTS:.15g} questions are open at a time to the cluster {server.name!r}"
            f"{'' if limit else ', by default'}. Where they last as long as their requests, that caps the gateway: one more "
            "is answered 500",
            f"raise max_requests in circuit_breakers.thresholds, for example to {ENOUGH_REQUESTS}",
            (default.at("max_requests"), ENOUGH_REQUESTS) if default else (thresholds, [*_others(thresholds), several]),
        )


def _others(thresholds: Node) -> list[object]:
    return [each.value for each in thresholds.items()]


def several_without_a_check(route: Route) -> Iterator[Finding]:
    for question in filter(None, map(picker, route.branches)):
        server = question.server
        if not server or len(server.endpoints) < 2 or question.field("grpc_service").at("retry_policy"):
            continue
        services = [check.at("grpc_health_check", "service_name").text for check in server.checks]
        if EXT_PROC_SERVICE not in services:
            yield found(
                server.node,
                f"the cluster {server.name!r} has {len(server.endpoints)} endpoints, and nothing tells which of them picks: "
                "of replicas that elect a leader the others answer their health check NOT_SERVING, and every question to them "
                "fails",
                f"add a grpc_health_check with service_name {EXT_PROC_SERVICE}; or, if each of them picks, a retry_policy in "
                "grpc_service that asks another (previous_hosts)",
            )


def looked_up_socket(envoy: Envoy) -> Iterator[Finding]:
    for cluster in envoy.clusters.values():
        kind = cluster.node.at("type")
        if kind.choice(TYPES) not in LOOKED_UP or not cluster.sockets:
            continue
        names = [host for host, _ in cluster.authorities if not is_ip(host)]
        yield found(
            kind,
            f"the endpoints of the cluster {cluster.name!r} are looked up in DNS, and {cluster.sockets[0]} cannot be: Envoy "
            "passes over it without a word, and nobody is asked there",
            f"write IP addresses instead of {names[0]!r}, and type: STATIC" if names else "set type: STATIC",
            *([] if names else [(kind, "STATIC")]),
        )


RULES = (
    Rule(
        "E07",
        "A picker's cluster that is not there",
        "Envoy does not check the cluster that ext_proc names, not in --mode validate either. Seen on 1.40.0: every request "
        "500 (Cluster_not_available), or 200 without a pick when failing open.",
        of_envoys(unknown_server),
    ),
    Rule(
        "E08",
        "A picker's cluster without HTTP/2",
        "gRPC needs HTTP/2, and clusters speak HTTP/1.1 by default. Seen on 1.40.0: every question ends in protocol_error.",
        of_questions(server_without_http2),
        "Envoy API, HttpProtocolOptions",
    ),
    Rule(
        "E09",
        "TLS on one side only",
        "A picker speaks TLS or it does not; those of the reference implementation do unless told otherwise "
        "(--secure-serving). What a configuration contradicts itself in is found here; what only the picker knows is not.",
        of_envoys(half_tls),
        "kserve/kserve#5716, kgateway-dev/kgateway#11429",
    ),
    Rule(
        "E10",
        "A gRPC health check over TLS that can never succeed",
        "Requests say h2 in ALPN by themselves, health checks only what they are told. Seen on 1.40.0: the cluster stays "
        "unhealthy for ever though requests would pass; with healthy_panic_threshold 0 every request is answered 503.",
        of_envoys(check_without_alpn),
        "Envoy API, HealthCheck.TlsOptions",
    ),
    Rule(
        "W11",
        "A picker that anybody could be",
        "An empty common_tls_context, an empty validation_context and ACCEPT_UNTRUSTED all skip verification. Seen on 1.40.0.",
        of_questions(unverified_server),
        "kubernetes-sigs/gateway-api-inference-extension#582",
    ),
    Rule(
        "W15",
        "A cap of 1024 on all requests",
        "Where the picker sees responses, or is told of their end, each request holds its question open. Seen on 1.40.0: above "
        "max_requests of the picker's cluster, requests end in 500 (ext_proc_error…overflow).",
        of_questions(few_requests),
        "envoyproxy/ai-gateway#1884, envoyproxy/gateway#9997, llm-d/llm-d#1582",
    ),
    Rule(
        "W19",
        "Several pickers, and nothing tells which of them picks",
        "Replicas of the reference picker elect a leader; the others say so by health checks of the ext_proc service alone.",
        of_pool_routes(several_without_a_check),
        "llm-d/llm-d#2051",
    ),
    Rule(
        "W94",
        "A picker that comes late stays unused for a minute",
        "Envoy checks a cluster without traffic every 60 s. Seen on 1.40.0 and with Envoy Gateway 1.9.1: a picker that was "
        "down when Envoy started is found again after a minute, or two seconds with no_traffic_interval: 2s.",
        of_questions(unseen_recovery),
        "Envoy API, HealthCheck.no_traffic_interval",
    ),
    Rule(
        "E104",
        "A socket that is looked up in DNS",
        "Clusters of the types STRICT_DNS and LOGICAL_DNS have endpoints with a host and a port. Seen on 1.36.2 to 1.40.0: one "
        "that is a pipe is accepted, and not there; a picker at it is never asked.",
        of_envoys(looked_up_socket),
    ),
)
