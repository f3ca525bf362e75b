"""The server of llama.cpp: one model under any name, no labels, and usage where nobody asked for it."""

from collections.abc import Iterator
from typing import Any

import msgspec

from shunter.lab.dialects.dialect import Dialect, Family, Json, Shape, View, whole_number
from shunter.lab.errors import ApiError
from shunter.lab.faults import FAULTS, Fault

__all__ = ["DIALECT"]

RELEASE = "October 2026"


def _families(view: View) -> Iterator[Family]:
    tally = view.tally

    def family(name: str, kind: str, about: str, value: float) -> Family:
        return Family(f"llamacpp:{name}", kind, about, (({}, value),))

    computed = tally.prompt_tokens - tally.prompt_tokens_cached
    steps = tally.iteration_tokens_total.count
    yield family("prompt_tokens_total", "counter", "Number of prompt tokens processed, excluding cached tokens", computed)
    reused = "Number of prompt tokens reused from the cache"
    yield family("prompt_tokens_cached_total", "counter", reused, tally.prompt_tokens_cached)
    yield family("tokens_predicted_total", "counter", "Number of generation tokens processed", tally.generation_tokens)
    decoded = "Total number of llama_decode() calls, excluding speculative decoding and multimodal decoding"
    yield family("n_decode_total", "counter", decoded, steps)
    yield family("requests_processing", "gauge", "Number of requests processing", view.gauges.running)
    yield family("requests_deferred", "gauge", "Number of requests deferred", view.gauges.waiting)


KINDS = {400: "invalid_request_error", 404: "not_found_error", 503: "unavailable_error"}


def _error(error: ApiError) -> tuple[int, bytes]:
    fields = {"code": error.status, "message": error.message, "type": KINDS.get(error.status, "server_error")}
    return error.status, msgspec.json.encode({"error": fields})


def _count(ask: Json) -> Json:
    """Have the usage in every event of a completion, of which `_completion_event` leaves the last."""
    if not ask.get("stream") or "messages" in ask:
        return ask
    return {**ask, "stream_options": {"continuous_usage_stats": True}}


def _completion_event(body: Json) -> Json:
    if body["choices"] and body["choices"][0]["finish_reason"] is None:
        body.pop("usage", None)
    return body


def _chat_logprobs(body: Json) -> Json:
    """Have the log-probabilities of a completion in the shape of a chat's."""
    for choice in body["choices"]:
        if told := choice["logprobs"]:
            choice["logprobs"] = {"content": [{"token": token} for token in told["tokens"]]}
    return body


def _properties(view: View) -> dict[str, Any]:
    return {"total_slots": view.params.max_num_seqs, "model_path": view.models.names[0]}


NO_PATH = 404, b'{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}'

DIALECT = Dialect(
    name="llamacpp",
    release=RELEASE,
    basis="as llama.cpp of October 2026 (xllamacpp 2026.10.11549) was recorded",
    paths={
        "GET /health": "health",
        "GET /metrics": "metrics",
        "GET /v1/models": "models",
        "POST /v1/completions": "complete",
        "POST /v1/chat/completions": "chat",
    },
    facts={"/props": _properties},
    families=_families,
    number=whole_number,
    error=_error,
    no_path=NO_PATH,
    no_method=NO_PATH,
    shapes={"complete": Shape(whole=_chat_logprobs, event=_completion_event)},
    well=b'{"status":"ok"}',
    owned_by="llamacpp",
    lenient=True,
    own_ids=True,
    quirks=(
        Fault(name="llamacpp-usage-in-last-event", breaks="a streamed completion has its usage in the last event", ask=_count),
        FAULTS["negative-max-tokens-200"],
        FAULTS["deaf-to-whole"],
        FAULTS["deaf-to-waiting"],
        FAULTS["drain-cuts"],
    ),
    families_of_vllm={
        "llamacpp:requests_deferred": "vllm:num_requests_waiting",
        "llamacpp:requests_processing": "vllm:num_requests_running",
        "llamacpp:prompt_tokens_total": "vllm:prompt_tokens_total",
        "llamacpp:tokens_predicted_total": "vllm:generation_tokens_total",
    },
)
