"""Why a value is there, said in the YAML itself: a table by message and field.

A key is the end of a path: field names without indices, with the name of the message where an Any begins and the kind where a
Kubernetes object does. ``field=value`` is for that value only, and goes before ``field``. Longer keys go before shorter ones.
"""

from collections.abc import Iterator
from typing import Any, cast

from shunter.envoyconf.core.protojson import Resource

__all__ = ["WHY", "comments"]

WHY = {
    # Listeners
    "listeners.internal_listener": "For Envoy itself: what the clusters below send here goes out with other headers.",
    "per_connection_buffer_limit_bytes": "This Envoy knows no larger limit for bodies of a route.",
    "HttpConnectionManager.use_remote_address": "The client is who connects, not whom X-Forwarded-For names.",
    "HttpConnectionManager.preserve_external_request_id": (
        "A client's x-request-id joins a complaint to the access log, the picker's decision and the engine's own log."
    ),
    "headers_with_underscores_action": "Servers of the CGI school take x_gateway_… for x-gateway-…, which is removed below.",
    "HttpConnectionManager.request_headers_timeout": "Who needs longer for the headers is stuck or malicious.",
    "HttpConnectionManager.stream_idle_timeout": "Silence ends a request. Length does not: streams last as long as they speak.",
    "HttpConnectionManager.early_header_mutation_extensions": (
        "By these a client could steer a request to an address of its choosing, or past the picker."
    ),
    "HttpConnectionManager.local_reply_config": "What Envoy answers itself, as OpenAI's clients expect it.",
    "log_format.json_format": "Numbers stay numbers, what is unknown is null. Without the query: it may hold keys.",
    "FluentdAccessLogConfig.buffer_size_bytes": "Kept while the collector is away: half a minute at 500 requests/s.",
    "access_log_options.access_log_flush_interval": (
        "Requests that last are told of too: so a collector knows whom those of a dead picker still occupy."
    ),
    # Traces
    "OpenTelemetryConfig.sampler": "The caller decides, else chance. By random_sampling no caller could.",
    "tracing.spawn_upstream_span": "A span for each attempt, so that retries are seen.",
    "custom_tags.value": "By default a span has the whole URL, and the query may hold keys.",
    # Routes
    "route.timeout=0s": "Envoy's default of 15 s for a whole response would cut streams.",
    "virtual_hosts.retry_policy": "Only what no engine has begun is tried again: a generation costs seconds of a GPU.",
    "route.hash_policy": "Requests with one key stay on one model server.",
    "retry_policy.retry_host_predicate": "Elsewhere than where it failed before.",
    "request_body_buffer_limit": "Kept for the picker and for retries. By default bodies above 1 MiB are not tried again.",
    "FilterConfig.config": "Turns a filter on that is off otherwise.",
    "ExtProcPerRoute.disabled": "Not asked, unless a route says so. Its filter is on: no route is known before the body.",
    "ExtProcPerRoute.overrides": "Asks this picker.",
    # Filters
    "http_filters.disabled": "Off, until a route turns it on.",
    "ApiKeyAuth.forwarding": "Model servers are told who it is, and not by which key.",
    "claim_to_headers": "Model servers are told who it is; the token stays here.",
    "LocalRateLimit.max_dynamic_descriptors": "By default only the 20 clients seen last would be counted.",
    "LocalRateLimit.filter_enabled": "This and the next are 0 % by default: the filter would look on.",
    "grpc_service.retry_policy": "A picker worker that dies costs no request: the question is put to another one.",
    "ExternalProcessor.failure_mode_allow=True": "Without an answer from the picker, load balancing chooses (FailOpen).",
    "ExternalProcessor.failure_mode_allow=False": "Without an answer from the picker, nothing is sent on (FailClose).",
    "ExternalProcessor.status_on_error": "By default 500, which clients take for a fault of the model's.",
    "processing_mode.request_body_mode=BUFFERED": (
        "Envoy has the whole body until the picker has answered: so it can go on without it, or ask another worker."
    ),
    "processing_mode.request_body_mode=FULL_DUPLEX_STREAMED": (
        "The body goes to the picker as it comes. message_timeout is not enforced then; the idle timeout ends a wait."
    ),
    "processing_mode.response_body_mode=NONE": "The picker is sent nothing of answers: no stream is cut when it dies.",
    "processing_mode.response_body_mode=FULL_DUPLEX_STREAMED": "Answers pass through the picker: it cuts those when it dies.",
    "processing_mode.response_trailer_mode=SEND": "Keeps the picker's stream open until the request ends; its close says so.",
    "metadata_options.receiving_namespaces": "Without it Envoy drops the pick in silence, and all answers are 200.",
    "JsonToMetadata.response_rules": "Without on_missing and on_error: they would say 0 where nothing was told.",
    "mutations.request_mutations": "The provider is told what its API needs, and nothing of the client or the gateway.",
    "CredentialInjector.credential": "The gateway's own key, from a file that only Envoy reads.",
    # Clusters
    "clusters.connect_timeout": "A pod that vanished without a word holds a request this long.",
    "clusters.circuit_breakers": (
        "Each live request holds a stream: the default of 1024 would be a cap. Load is limited by the picker."
    ),
    "thresholds.max_retries": "By the default of 3 at a time one dead endpoint would fail requests.",
    "clusters.dns_lookup_family": "The default prefers IPv6, where servers on localhost and in most clusters are not.",
    "common_http_protocol_options.idle_timeout": (
        "Engines close idle connections (uvicorn after 5 s), hosted APIs too. Envoy closes first, and loses no request to it."
    ),
    "OverrideHost.override_host_sources": "The picker's list, from metadata that no client can write. A retry takes the next.",
    "OverrideHost.fallback_policy": "Without a pick, and behind the end of the list: this is what failing open means.",
    "OverrideHost.selected_host_key": "Who served, for the picker.",
    "consistent_hashing_lb_config.hash_balance_factor": "Percent of the mean: above it a session goes on to the next endpoint.",
    "clusters.outlier_detection": "Nobody picks here: Envoy itself notices which endpoints are gone. 5xx do not count.",
    "ClusterConfig.clusters": "One for each attempt: the last one is the provider's.",
    "common_lb_config.healthy_panic_threshold": "Else, when most pickers are dead, Envoy would ask the dead ones.",
    "health_checks.no_traffic_interval": "By default 60 s: a picker that starts after Envoy would stay unused that long.",
    "admin.allow_paths": "Whoever reaches the rest can stop Envoy.",
    # Envoy Gateway
    "earlyRequestHeaders.remove": "By these a client could choose its model server, or steer past the picker.",
    "withUnderscoresAction": "Servers of the CGI school take x_gateway_… for x-gateway-…, which is removed.",
    "headers.requestID=PreserveOrGenerate": "A client's joins a complaint to the access log and the picker's decision.",
    "headers.requestID=Generate": "Requests are divided by it: a client's own might not be random.",
    "headers.type=RegularExpression": "The IDs begin with random digits: as many of them as the weight says.",
    "ClientTrafficPolicy.spec.connection": "By default 32 KiB: a longer prompt would reach no picker that sees it whole.",
    "BackendTrafficPolicy.spec.connection": "By default 32 KiB: a longer prompt would not be tried again elsewhere.",
    "BackendTrafficPolicy.spec.retry": "Only what no engine has begun is tried again: a generation costs seconds of a GPU.",
    "retryOn.httpStatusCodes": "Not 429: it is for the client. They count only beside the trigger named after them.",
    "loadBalancer.endpointOverride": "The picker's list; a retry takes the next. Without a pick, least-request chooses.",
    "healthCheck.passive": "Nobody picks here: Envoy itself notices which endpoints are gone. 5xx do not count.",
    "loadBalancer.consistentHash": "Requests with one key stay on one model server; those without go anywhere.",
    "circuitBreaker": "Each live request holds a stream: the default of 1024 would be a cap. Load is limited by the picker.",
    "timeouts.request=0s": "The default of 15 s for a whole response would cut streams.",
    "http.requestTimeout=0s": "The default of 15 s for a whole response would cut streams.",
    "http.streamIdleTimeout": "Silence ends a request. Length does not: streams last as long as they speak.",
    "http.connectionIdleTimeout": "uvicorn closes idle connections after 5 s. Envoy closes first, and loses no request to it.",
    "backendSettings.retry": "A picker worker that dies costs no request: the question is put to another one.",
    "extProc.failOpen=True": "Without an answer from the picker, load balancing chooses.",
    "extProc.failOpen=False": "Without an answer from the picker, nothing is sent on.",
    "extProc.statusOnError": "By default 500, which clients take for a fault of the model's.",
    "request.body=Buffered": "Envoy has the whole body until the picker has answered: so it can go on without it.",
    "response.body=FullDuplexStreamed": "Answers pass through the picker: it cuts those when it dies.",
    "metadata.writableNamespaces": "For the access log: the pick itself goes by header.",
    "tls.insecureSkipVerify=True": "Nobody can listen in, but anybody could be the picker: caFile in the intent helps.",
    "tls.alpnProtocols": "Without it health checks of a picker fail for ever, though picks would come.",
    "spec.filterOrder": "By itself it would count requests after their pickers have been asked.",
    "EnvoyProxy.spec.bootstrap": "By CDS it would come too late: a listener whose records have nowhere to go is refused.",
    "operation.jsonPath": "By the filter's name, wherever it stands.",
    # Gateways that know InferencePools
    "endpointPickerRef.failureMode": "Written out: by default requests fail, and Istio refuses a pool without it.",
    "httpHealthCheck.requestPath": "By default /, which engines answer 404: nobody would be healthy.",
    "httpHealthCheck.portSpecification": "By the CRD's rule a port needs it.",
    "default.timeoutSec": "By default 30 s. It counts from a request's begin, and cuts streams, too.",
    # The picker's installation
    "Service.spec.clusterIP": "Headless: its name stands for the Pods that are ready. The scraper looks it up.",
    "automountServiceAccountToken": "Nothing here talks to the Kubernetes API.",
    "initContainers.restartPolicy": "A sidecar: there before the picker, and until that has answered its last request.",
    "containers.lifecycle": "Gateways hear that the Pod goes before it stops listening.",
    "resources.limits": "None of CPU: it would stop a picker in mid-pick.",
    "volumes.emptyDir": "Memory that the two processes share.",
}

LONGEST = max(key.count(".") for key in WHY) + 1


def comments(resource: Resource, said: set[str]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield path and comment of what has not been ``said`` yet, to which it is added."""
    kind = resource.get("kind")
    yield from _walk(resource, (), (kind,) if isinstance(kind, str) else (), said)


def _walk(
    value: Any, path: tuple[str | int, ...], names: tuple[str, ...], said: set[str]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, list):
        for index, item in enumerate(cast("list[Any]", value)):
            yield from _walk(item, (*path, index), names, said)
    if not isinstance(value, dict):
        return
    fields = cast("Resource", value)
    if isinstance(message := fields.get("@type"), str):
        names = (*names, message.rpartition(".")[2])
    for field, inner in fields.items():
        below = (*names, str(field))
        key = next((key for key in _keys(below, inner) if key in WHY), None)
        if key and key not in said:
            said.add(key)
            yield (*path, field), WHY[key]
        yield from _walk(inner, (*path, field), below, said)


def _keys(names: tuple[str, ...], value: Any) -> Iterator[str]:
    for length in range(min(LONGEST, len(names)), 0, -1):
        key = ".".join(names[-length:])
        if isinstance(value, str | bool):
            yield f"{key}={value}"
        yield key
