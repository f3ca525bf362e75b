"""What an Envoy is told that an intent has no word for, by the names of fields, so that none is lost in silence."""

from collections.abc import Iterable, Iterator

from google.protobuf import json_format

from shunter.envoyconf.core.envoy.cluster import CIRCUIT_BREAKERS
from shunter.envoyconf.core.envoy.local_reply import local_reply
from shunter.envoyconf.core.intent import Security
from shunter.envoyconf.core.lint.envoy.node import Node, snake
from shunter.envoyconf.core.lint.envoy.view import Envoy, HttpFilter, Manager, Route
from shunter.envoyconf.core.names import OWN_NAMESPACE, PICKER_HEADERS, SERVED
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.schema import envoy_schema, problems

__all__ = ["leftovers"]

# Of each message: the fields that are read, those that say how Envoy is told and not what, and those that every Envoy which is
# generated has in one form or another. All others are named.
BOOTSTRAP = {"static_resources", "dynamic_resources", "admin", "node"}
LISTENER = {"name", "address", "filter_chains", "default_filter_chain", "per_connection_buffer_limit_bytes"}
CHAIN = {"filters", "transport_socket", "name"}
MANAGER = {
    "access_log",
    "access_log_options",
    "always_set_request_id_in_response",
    "codec_type",
    "common_http_protocol_options",
    "early_header_mutation_extensions",
    "generate_request_id",
    "http_filters",
    "local_reply_config",
    "merge_slashes",
    "normalize_path",
    "preserve_external_request_id",
    "rds",
    "request_headers_timeout",
    "route_config",
    "stat_prefix",
    "stream_idle_timeout",
    "use_remote_address",
}
PROTOCOL = {"headers_with_underscores_action"}
ROUTING = {"name", "virtual_hosts", "ignore_port_in_host_matching", "typed_per_filter_config", "validate_clusters"}
HOST = {"name", "domains", "routes", "retry_policy", "request_body_buffer_limit", "typed_per_filter_config"}
ROUTE = {
    "name",
    "match",
    "route",
    "metadata",
    "request_body_buffer_limit",
    "response_headers_to_add",
    "typed_per_filter_config",
}
ACTION = {"cluster", "weighted_clusters", "timeout", "idle_timeout", "retry_policy"}
RETRIES = {
    "retry_on",
    "num_retries",
    "retriable_status_codes",
    "retry_back_off",
    "retry_host_predicate",
    "host_selection_retry_max_attempts",
}
CLUSTER = {
    "name",
    "type",
    "cluster_type",
    "connect_timeout",
    "load_assignment",
    "eds_cluster_config",
    "lb_policy",
    "load_balancing_policy",
    "original_dst_lb_config",
    "dns_lookup_family",
    "http2_protocol_options",
    "typed_extension_protocol_options",
    "circuit_breakers",
    "outlier_detection",
}
QUESTION = {
    "grpc_service",
    "failure_mode_allow",
    "message_timeout",
    "max_message_timeout",
    "processing_mode",
    "metadata_options",
    "status_on_error",
}

LOCAL_REPLY = "envoy.extensions.filters.network.http_connection_manager.v3.LocalReplyConfig"

# Filters that are read, or that an intent's own fields bring back.
FILTERS = ("ext_proc.v3", "router.v3", "json_to_metadata.v3", "sse_to_metadata.v3")

# Where an intent says it in its own way.
INSTEAD = {
    "tracing": "observability.tracing",
    "hash_policy": "affinity of a route",
    "jwt_authn": "security",
    "api_key_auth": "security",
    "local_ratelimit": "security",
}

Lost = tuple[Node, str]


def leftovers(envoy: Envoy, managers: Iterable[Manager], routes: Iterable[Route]) -> Iterator[Lost]:
    """Yield where what is lost first stands, and what is to be said of it, once for each field of a kind of message."""
    first: dict[str, Node] = {}
    count: dict[str, int] = {}
    seen: set[int] = set()  # routes share hosts, and clusters
    for node, what in _lost(envoy, [*managers], [*routes]):
        if id(node.value) not in seen or not isinstance(node.value, dict | list):
            seen.add(id(node.value))
            first.setdefault(what, node)
            count[what] = count.get(what, 0) + 1
    for what, node in first.items():
        again = f", here and {count[what] - 1} more times" if count[what] > 1 else ""
        instead = next((f": say it in {field}" for word, field in INSTEAD.items() if word in what), "")
        yield node, f"{what} is left out{again}{instead}"


def _lost(envoy: Envoy, managers: list[Manager], routes: list[Route]) -> Iterator[Lost]:
    yield from _others(envoy.resources.bootstrap, BOOTSTRAP, "the bootstrap")
    for manager in managers:
        yield from _others(manager.listener, LISTENER, "a listener")
        for chain in manager.listener.at("filter_chains").items():
            yield from _others(chain, CHAIN, "a filter chain")
        yield from _of_manager(manager)
        yield from _others(manager.routing, ROUTING, "a route configuration")
    for route in routes:
        yield from _of_route(route)
        for branch in route.branches:
            for cluster in branch.clusters:
                yield from _others(cluster.node, CLUSTER, "a cluster of model servers")
                if (limits := cluster.node.at("circuit_breakers")) and limits.value != CIRCUIT_BREAKERS:
                    yield limits, "circuit_breakers of a cluster of model servers"
            for question in branch.questions:
                yield from _others(question.filter.config, QUESTION, "an ext_proc filter")


def _of_manager(manager: Manager) -> Iterator[Lost]:
    node = manager.node
    yield from _others(node, MANAGER, "a connection manager")
    yield from _others(node.at("common_http_protocol_options"), PROTOCOL, "common_http_protocol_options")
    replies = [_as_dumped(local_reply(by_model=by_model, security=Security())) for by_model in (True, False)]
    if (reply := node.at("local_reply_config")) and _as_dumped(reply.value) not in replies:
        yield reply, "local_reply_config of a connection manager"
    for each in node.at("early_header_mutation_extensions").items():
        yield from _mutations(each.at("typed_config").message.at("mutations"))
    for each in manager.filters:
        if each.type.endswith("header_mutation.v3.HeaderMutation"):
            yield from _mutations(each.config.at("mutations", "request_mutations"))
            yield from _mutations(each.config.at("mutations", "response_mutations"))
        elif not any(known in each.type for known in FILTERS) and not _is_own(each):
            yield each.node, f"the filter {each.name}"


def _as_dumped(reply: Resource) -> Resource:
    """Return it as a running Envoy tells of it, which leaves out what is Envoy's default; what Envoy cannot read, as it is."""
    schema = envoy_schema()
    if problems(schema, reply, LOCAL_REPLY):
        return reply
    try:
        return schema.decode(schema.encode(reply, LOCAL_REPLY).SerializeToString(), LOCAL_REPLY)
    except json_format.Error:  # as in comparisons: a habit of Envoy's parser that Python's has not
        return reply


def _of_route(route: Route) -> Iterator[Lost]:
    yield from _others(route.host, HOST, "a virtual host")
    yield from _others(route.node, ROUTE, "a route")
    yield from _others(route.action, ACTION, "a route")
    yield from _others(route.retry_policy, RETRIES, "a retry policy")
    for each in route.node.at("response_headers_to_add").items():
        if each.at("header", "key").text != SERVED:
            yield each, f"the response header {each.at('header', 'key').text} of a route"


def _mutations(mutations: Node) -> Iterator[Lost]:
    for each in mutations.items():
        removed = each.at("remove").text.lower()
        if removed not in PICKER_HEADERS:
            yield each, f"the removal of the header {removed}" if removed else "a change of headers"


def _is_own(each: HttpFilter) -> bool:
    """Say whether a filter tells pickers of ours something, as the profile says."""
    return each.config.at("metadata").item(0).at("metadata_namespace").text == OWN_NAMESPACE


def _others(node: Node, said: set[str], where: str) -> Iterator[Lost]:
    for field, entry in node.entries():
        if field != "@type" and snake(field) not in said and entry:
            yield entry, f"{snake(field)} of {where}"
