"""Traces: spans of sampled requests by OTLP over gRPC, with what the picker chose and who served.

::

    server span  POST                          pick, ticket
    ├── client span  the question to the picker
    └── client span  per attempt               upstream_address: who served

A caller's decision (traceparent) holds; others are sampled. Who wants to go on with the trace finds it in traceparent: a
picker in the metadata of its call, a model server in a header.
"""

from shunter.envoyconf.core.envoy.cluster import grpc_cluster
from shunter.envoyconf.core.intent import Limits, Tracing
from shunter.envoyconf.core.names import DESTINATION, NAMESPACE, TICKET
from shunter.envoyconf.core.protojson import Resource, duration, extension, typed
from shunter.envoyconf.core.versions import Feature, Version

__all__ = ["trace_configuration", "tracing_clusters"]

CLUSTER = "tracing"

# A collector that hangs costs its spans, not memory: Envoy keeps those of an unanswered export until then.
EXPORT_TIMEOUT_S = 1

TAGS = {"pick": DESTINATION, "ticket": TICKET}

# In the place of a URL with its query, which may hold keys.
PATH = "%PATH(NQ)%"


def tracing_clusters(tracing: Tracing | None, limits: Limits) -> list[Resource]:
    """Return the collector's cluster."""
    return [grpc_cluster(CLUSTER, [tracing.collector], limits)] if tracing else []


def trace_configuration(tracing: Tracing | None, version: Version) -> Resource:
    """Return what a connection manager says of traces; nothing if there are none."""
    if tracing is None:
        return {}
    provider = extension(
        "envoy.tracers.opentelemetry",
        "config.trace.v3.OpenTelemetryConfig",
        grpc_service={"envoy_grpc": {"cluster_name": CLUSTER}, "timeout": duration(EXPORT_TIMEOUT_S)},
        service_name=tracing.service_name,
        sampler=_sampler(tracing.sample_percent),
    )
    return {
        "tracing": {
            "spawn_upstream_span": True,
            "custom_tags": [_url(version), *(_tag(tag, key) for tag, key in TAGS.items())],
            "provider": provider,
        },
        "request_id_extension": {"typed_config": _any_request_id()},
    }


def _any_request_id() -> Resource:
    """Return that a request is traced whatever a client calls it, and is still called so.

    As it is, Envoy traces none whose x-request-id is not a UUID, and writes into those that are why it traces them.
    """
    message = "extensions.request_id.uuid.v3.UuidRequestIdConfig"
    return typed(message, pack_trace_reason=False, use_request_id_for_trace_sampling=False)


def _sampler(percent: float) -> Resource:
    """Return who decides: the caller, else chance.

    Envoy's own random_sampling stays at its default of all: what it does not choose is not traced, whatever the caller says.
    One of a million is the least that is not nothing.
    """
    fraction = {"numerator": round(percent * 10_000) or int(percent > 0), "denominator": "MILLION"}
    samplers, messages = "envoy.tracers.opentelemetry.samplers", "extensions.tracers.opentelemetry.samplers.v3"
    chance = extension(
        f"{samplers}.trace_id_ratio_based", f"{messages}.TraceIdRatioBasedSamplerConfig", sampling_percentage=fraction
    )
    return extension(f"{samplers}.parent_based", f"{messages}.ParentBasedSamplerConfig", wrapped_sampler=chance)


def _url(version: Version) -> Resource:
    told: Resource = {"value": PATH} if Feature.PATH_TAG.in_version(version) else {"literal": {"value": "-"}}
    return {"tag": "http.url", **told}


def _tag(tag: str, key: str) -> Resource:
    place = {"key": NAMESPACE, "path": [{"key": key}]}
    return {"tag": tag, "metadata": {"kind": {"request": {}}, "metadata_key": place}}
