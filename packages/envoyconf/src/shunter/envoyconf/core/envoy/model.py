"""How Envoy learns a request's model, for routes that go by it: it reads the body itself, or asks a body router.

Either way the route is chosen again when the model is known. Envoy reads JSON, up to the limit for bodies. A body router
reads forms too, and knows which adapter belongs to which base model.
"""

from collections.abc import Iterator

from shunter.envoyconf.core.envoy.ext_proc import REQUEST_ONLY
from shunter.envoyconf.core.envoy.retry import question_retries
from shunter.envoyconf.core.envoy.usage import JSON_TYPES
from shunter.envoyconf.core.intent import Intent, Limits, Route
from shunter.envoyconf.core.names import BASE_MODEL, BODY_ROUTER, BODY_ROUTER_FILTER, MODEL, MODEL_NAMESPACE
from shunter.envoyconf.core.protojson import Resource, duration, extension

__all__ = ["model_filters", "model_matches"]

# What curl says of JSON unless it is told otherwise; no engine reads such forms.
CURLS_TYPE = "application/x-www-form-urlencoded"


def model_filters(intent: Intent) -> list[Resource]:
    """Return the filter that finds out the model, if a route asks for one; it belongs before those of the pickers."""
    if not intent.by_model:
        return []
    return [_ask(intent.limits) if intent.body_router else _read()]


def model_matches(route: Route, intent: Intent) -> Iterator[tuple[str, Resource]]:
    """Yield each of a route's models, and what matches its requests."""
    for name in route.models:
        value = {"exact": name}
        if intent.body_router:
            yield name, {"headers": [{"name": MODEL, "string_match": value}]}
        else:
            place: Resource = {"filter": MODEL_NAMESPACE, "path": [{"key": "model"}], "value": {"string_match": value}}
            yield name, {"dynamic_metadata": [place]}
    for name in route.base_models:
        yield name, {"headers": [{"name": BASE_MODEL, "string_match": {"exact": name}}]}


def _read() -> Resource:
    """Without on_missing and on_error: what names no model has none, and meets no route that asks for one."""
    rule = {"selectors": [{"key": "model"}], "on_present": {"metadata_namespace": MODEL_NAMESPACE, "key": "model"}}
    return extension(
        "envoy.filters.http.json_to_metadata/model",
        "extensions.filters.http.json_to_metadata.v3.JsonToMetadata",
        request_rules={"rules": [rule], "allow_content_types_regex": {"regex": f"{JSON_TYPES}|{CURLS_TYPE}"}},
    )


def _ask(limits: Limits) -> Resource:
    """In the mode BUFFERED a question can be put to another worker until it is answered, whatever the body's size.

    What Envoy buffers for it, the picker's filter is sent too. Without an answer no route could be chosen, so there is no
    failing open.
    """
    return extension(
        BODY_ROUTER_FILTER,
        "extensions.filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": BODY_ROUTER}, "retry_policy": question_retries()},
        status_on_error={"code": "ServiceUnavailable"},
        message_timeout=duration(limits.pick_timeout_seconds),
        processing_mode={**REQUEST_ONLY, "response_trailer_mode": "SKIP"},
    )
