"""How a route goes by the model: clients name it in a header, Envoy reads it out of the body, or a body router does.

A body router reads forms too, and knows which adapter belongs to which base model.
"""

from collections.abc import Iterator

from shunter.envoyconf.core.envoy.body import model_match
from shunter.envoyconf.core.envoy.ext_proc import REQUEST_ONLY
from shunter.envoyconf.core.envoy.retry import question_retries
from shunter.envoyconf.core.intent import Intent, Limits, Route
from shunter.envoyconf.core.names import BASE_MODEL, BODY_ROUTER, BODY_ROUTER_FILTER, MODEL
from shunter.envoyconf.core.protojson import Resource, duration, extension

__all__ = ["body_router_filter", "model_matches"]


def model_matches(route: Route, intent: Intent) -> Iterator[tuple[str, Resource]]:
    """Yield each of a route's models, and what matches its requests."""
    header = intent.model_header or (MODEL if intent.body_router else None)
    for name in route.models:
        value = {"exact": name}
        yield name, _in_header(header, value) if header else model_match(value)
    for name in route.base_models:
        yield name, _in_header(BASE_MODEL, {"exact": name})


def body_router_filter(limits: Limits) -> Resource:
    """Return the filter that asks a body router, before those of the pickers.

    In the mode BUFFERED a question can be put to another worker until it is answered, whatever the body's size.

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


def _in_header(header: str, value: Resource) -> Resource:
    return {"headers": [{"name": header, "string_match": value}]}
