"""Listeners: what clients connect to, cleaned of picker headers, asked of the picker, routed and logged."""

from collections.abc import Mapping

from shunter.envoyconf.core.envoy.chain import http_filters
from shunter.envoyconf.core.envoy.local_reply import local_reply
from shunter.envoyconf.core.envoy.record import PERIODIC_SECONDS, known_fields, record_log
from shunter.envoyconf.core.envoy.route import route_configuration
from shunter.envoyconf.core.envoy.tls import listener_transport_socket
from shunter.envoyconf.core.envoy.tracing import trace_configuration
from shunter.envoyconf.core.intent import Intent, Listener
from shunter.envoyconf.core.names import CLIENT, DESTINATION, NAMESPACE, OVERFLOW, PICKER_HEADERS, TICKET
from shunter.envoyconf.core.protojson import Resource, duration, extension, listening_address, typed
from shunter.envoyconf.core.versions import DEFAULT_VERSION, Feature, Version

__all__ = ["access_log", "http_connection_manager", "http_listener", "log_fields"]

# A client that needs longer for its headers is stuck or malicious.
REQUEST_HEADERS_SECONDS = 10

# One line of JSON per request; numbers stay numbers, what is unknown is null. The query is left out: it may hold keys.
ACCESS_LOG_FIELDS = {
    "time": "%START_TIME%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ)%",
    "route": "%ROUTE_NAME%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    # The picker's errors have no flag of their own; they are named here (ext_proc_error…).
    "details": "%RESPONSE_CODE_DETAILS%",
    "pick": f"%DYNAMIC_METADATA({NAMESPACE}:{DESTINATION})%",
    "served": "%UPSTREAM_HOST%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "ticket": f"%DYNAMIC_METADATA({NAMESPACE}:{TICKET})%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration_ms": "%DURATION%",
    # To the first byte of the body. %RESPONSE_DURATION% ends with the headers, which engines send before the first token.
    "first_byte_ms": "%COMMON_DURATION(DS_RX_BEG:US_RX_BODY_BEG:ms)%",
}


def http_listener(listener: Listener, intent: Intent, version: Version = DEFAULT_VERSION) -> Resource:
    """Return one listener with the routes of its host names."""
    manager = http_connection_manager(listener, intent, version)
    chain: Resource = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    if listener.tls:
        chain["transport_socket"] = listener_transport_socket(listener)
    address = listening_address(listener.address, listener.port)
    resource: Resource = {"name": listener.name, "address": address, "filter_chains": [chain]}
    if not Feature.ROUTE_BODY_LIMIT.in_version(version):  # a route's limit only lowers this one there
        resource["per_connection_buffer_limit_bytes"] = intent.limits.body_bytes
    return resource


def http_connection_manager(listener: Listener, intent: Intent, version: Version = DEFAULT_VERSION) -> Resource:
    """Return the HTTP connection manager.

    A client's x-request-id is kept, and every response carries one: it is what joins a complaint to the access log, to the
    picker's decision and to the engine's own log. Only correlation depends on it.

    Picker headers are removed before anything looks at a request, but the one in which clients are to name the model. Their
    spellings with underscores are refused, since servers of the CGI school take the two for the same. So is x-client-id, where
    it says who was let in.
    """
    known = intent.security.knows_clients
    log = access_log(intent.observability.access_log, known_fields(log_fields(intent), version))
    removed = [header for header in PICKER_HEADERS if header != intent.model_header] + ([CLIENT] if known else [])
    removed += [OVERFLOW] if any(pool.overflow for pool in intent.pools) else []
    records = [record_log(pool, intent, version) for pool in intent.pools if pool.picker.collector and intent.profiles_of(pool)]
    periodic: Resource = {"access_log_options": {"access_log_flush_interval": duration(PERIODIC_SECONDS)}} if records else {}
    return typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=listener.name,
        use_remote_address=True,
        preserve_external_request_id=True,
        always_set_request_id_in_response=True,
        normalize_path=True,
        merge_slashes=True,
        common_http_protocol_options={"headers_with_underscores_action": "REJECT_REQUEST"},
        request_headers_timeout=duration(REQUEST_HEADERS_SECONDS),
        stream_idle_timeout=duration(intent.limits.idle_timeout_seconds),
        early_header_mutation_extensions=[
            extension(
                "envoy.http.early_header_mutation.header_mutation",
                "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                mutations=[{"remove": header} for header in removed],
            ),
        ],
        local_reply_config=local_reply(by_model=intent.by_model, security=intent.security),
        access_log=[*log, *records],
        **periodic,
        **trace_configuration(intent.observability.tracing, version),
        route_config=route_configuration(intent, listener.hosts),
        http_filters=http_filters(intent, version),
    )


def log_fields(intent: Intent) -> dict[str, str]:
    """Return what a line of the access log says; also who asked, where that is certain, and the trace, where there are any."""
    known, traced = intent.security.knows_clients, intent.observability.tracing is not None
    client = {"client": f"%REQ({CLIENT.upper()})%"} if known else {}
    return ACCESS_LOG_FIELDS | client | ({"trace_id": "%TRACE_ID%"} if traced else {})


def access_log(target: str, told: Mapping[str, str]) -> list[Resource]:
    """Return the access loggers for people: none, standard output, or a file. A request is told of once, at its end."""
    if target == "none":
        return []
    fields: Resource = {"log_format": {"json_format": dict(told)}}
    if target == "stdout":
        logger = extension("envoy.access_loggers.stdout", "extensions.access_loggers.stream.v3.StdoutAccessLog", **fields)
    else:
        message = "extensions.access_loggers.file.v3.FileAccessLog"
        logger = extension("envoy.access_loggers.file", message, path=target, **fields)
    return [{**logger, "filter": {"log_type_filter": {"types": ["DownstreamEnd"]}}}]
