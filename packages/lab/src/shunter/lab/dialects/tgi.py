"""Text Generation Inference: gauges that appear once they are used, 422 for what is wrong, and no ids."""

from collections.abc import Iterator
from typing import Any

import msgspec

from shunter.lab.dialects.dialect import Dialect, Family, Json, Shape, View, whole_number
from shunter.lab.errors import ApiError
from shunter.lab.faults import Fault

__all__ = ["DIALECT"]

RELEASE = "3.3"


def _families(view: View) -> Iterator[Family]:
    tally = view.tally
    if not (tally.prompt_tokens or view.live):
        return  # the exporter shows a metric once it has been set

    def family(name: str, kind: str, value: float) -> Family:
        return Family(f"tgi_{name}", kind, f"tgi_{name}", (({}, value),))

    tokens = view.params.num_blocks * view.params.block_size
    yield family("request_count", "counter", view.finished + view.live)
    yield family("request_success", "counter", view.finished)
    yield family("queue_size", "gauge", view.gauges.waiting)
    yield family("batch_current_size", "gauge", view.gauges.running)
    yield family("batch_current_max_tokens", "gauge", round(view.gauges.kv_usage * tokens))
    yield family("batch_max_total_tokens", "gauge", tokens)


def _error(error: ApiError) -> tuple[int, bytes]:
    """What the schema refuses is said in plain text: 400 for what is no JSON, 422 for the rest."""
    if error.kind == "Bad Request":
        broken = "json_invalid" in error.message
        return (400, b"Failed to parse the request body as JSON") if broken else (422, error.message.encode())
    status, kind = {400: (422, "validation"), 503: (429, "overloaded")}.get(error.status, (error.status, "generation"))
    return status, msgspec.json.encode({"error": error.message, "error_type": kind})


def _whole(body: Json) -> Json:
    body["id"] = ""
    return body


def _completion_event(body: Json) -> Json | None:
    """No id; an empty finish_reason while there is none; and the usage in the last event, asked for or not."""
    if not body["choices"]:
        return None
    body["id"] = ""
    if body["choices"][0]["finish_reason"] is None:
        body["choices"][0]["finish_reason"] = ""
        body.pop("usage", None)
    return body


def _count(ask: Json) -> Json:
    """Have the usage in every event, of which `_completion_event` leaves the last."""
    if not ask.get("stream") or "messages" in ask:
        return ask
    return {**ask, "stream_options": {"continuous_usage_stats": True}}


def _info(view: View) -> dict[str, Any]:
    return {
        "model_id": view.models.names[0],
        "version": RELEASE,
        "max_concurrent_requests": 128,
        "max_total_tokens": view.params.context_tokens,
        "router": "text-generation-router",
    }


DIALECT = Dialect(
    name="tgi",
    release=RELEASE,
    basis="from its source: nothing of it was recorded",
    paths={
        "GET /health": "health",
        "GET /ping": "health",
        "GET /metrics": "metrics",
        "GET /v1/models": "models",
        "POST /v1/completions": "complete",
        "POST /v1/chat/completions": "chat",
    },
    facts={"/info": _info},
    families=_families,
    number=whole_number,
    error=_error,
    no_path=(404, b""),
    no_method=(405, b""),
    shapes={
        "complete": Shape(whole=_whole, event=_completion_event),
        "chat": Shape(whole=_whole, event=_whole),
    },
    owned_by="tgi",
    card=("id", "object", "created", "owned_by"),
    lenient=True,
    own_ids=True,
    quirks=(Fault(name="tgi-usage-in-last-event", breaks="a streamed completion has its usage in the last event", ask=_count),),
    families_of_vllm={
        "tgi_queue_size": "vllm:num_requests_waiting",
        "tgi_batch_current_size": "vllm:num_requests_running",
    },
)
