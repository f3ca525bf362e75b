"""SGLang: stale gauges, its own adapter paths, errors without a wrapper, and an ear for any model name."""

from collections.abc import Iterator
from typing import Any

import msgspec

from shunter.lab.core.reporting import Refresh
from shunter.lab.core.tally import Histogram
from shunter.lab.dialects.dialect import Dialect, Family, Json, Shape, View
from shunter.lab.errors import ApiError
from shunter.lab.faults import FAULTS

__all__ = ["DIALECT"]

RELEASE = "0.5.23"

# --decode-log-interval: gauges are made anew with each prompt, and after so many steps of decoding.
DECODE_LOG_INTERVAL = 40
# When the last request has gone nothing refreshes the cache gauge until the log line of an idle scheduler.
IDLE_LOG_S = 30.0
# Its health check is a generation, and looks for the result once a second.
HEALTH_S = 1.0


SECONDS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0, 200.0, 400.0)
BOUNDS = {
    "time_to_first_token_seconds": SECONDS,
    "e2e_request_latency_seconds": (*SECONDS, 600.0, 1200.0, 1800.0, 2400.0),
    "inter_token_latency_seconds": (
        *(0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.06, 0.08),
        *(0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0),
    ),
}
ABOUT = {
    "time_to_first_token_seconds": "Histogram of time to first token in seconds.",
    "e2e_request_latency_seconds": "Histogram of End-to-end request latency in seconds",
    "inter_token_latency_seconds": "Histogram of inter-token latency in seconds.",
}


def _families(view: View) -> Iterator[Family]:
    model = {"model_name": view.models.names[0], "engine_type": "unified"}
    rank = {**model, "moe_ep_rank": "0", "pp_rank": "0", "tp_rank": "0"}
    tokens = view.params.num_blocks * view.params.block_size
    used = round(view.gauges.kv_usage * tokens)

    def gauge(name: str, about: str, value: float) -> Family:
        return Family(f"sglang:{name}", "gauge", about, ((rank, value),))

    def counter(name: str, about: str, value: float) -> Family:
        # The engine does not know who streams: all that it counts stands under one of the two.
        samples = (({**model, "is_streaming": "false"}, value), ({**model, "is_streaming": "true"}, 0.0))
        return Family(f"sglang:{name}", "counter", about, samples)

    yield gauge("num_running_reqs", "The number of running requests.", view.gauges.running)
    yield gauge("num_queue_reqs", "The number of requests in the waiting queue.", view.gauges.waiting)
    yield gauge("token_usage", "The token usage.", round(view.gauges.kv_usage, 2))
    yield gauge("full_token_usage", "The token usage for full attention layers.", view.gauges.kv_usage)
    yield gauge("num_used_tokens", "The number of used tokens.", used)
    yield gauge("kv_used_tokens", "Number of actively used token slots in the KV cache pool.", used)
    yield gauge("max_total_num_tokens", "Maximum total number of tokens in the KV cache pool.", tokens)
    yield gauge("page_size", "KV cache page size in tokens.", view.params.block_size)
    yield gauge("num_pages", "Number of KV cache pages.", view.params.num_blocks)
    yield gauge("context_len", "Maximum context length.", view.params.context_tokens)
    for name in BOUNDS:
        histogram: Histogram = getattr(view.tally, name)
        samples = (
            ({**model, "is_streaming": "false"}, histogram),
            ({**model, "is_streaming": "true"}, Histogram(histogram.bounds)),
        )
        if name == "inter_token_latency_seconds":
            samples = ((model, histogram),)
        yield Family(f"sglang:{name}", "histogram", ABOUT[name], histograms=samples)
    queries, hits = view.tally.prefix_cache_queries, view.tally.prefix_cache_hits
    yield gauge("cache_hit_rate", "The prefix cache hit rate.", hits / queries if queries else 0.0)
    # Counted when a request has ended.
    prompts, generated = view.tally.request_prompt_tokens.sum, view.tally.request_generation_tokens.sum
    yield counter("prompt_tokens_total", "Number of prefill tokens processed.", prompts)
    yield counter("generation_tokens_total", "Number of generation tokens processed.", generated)
    yield counter("num_requests_total", "Number of requests processed.", view.finished)
    yield Family(
        "sglang:cached_tokens_total",
        "counter",
        "Number of cached prompt tokens by source (device/host/storage).",
        (({**model, "cache_source": "device"}, view.tally.prompt_tokens_cached),),
    )


def _error(error: ApiError) -> tuple[int, bytes]:
    """No wrapper; and what the schema refuses is told with the file and line that refused it."""
    message = error.message
    if error.kind == "Bad Request":
        message += '\n\n  File "/sgl-workspace/sglang/python/sglang/srt/entrypoints/http_server.py", line 1860, in openai_v1'
    fields = {"object": "error", "message": message, "type": error.kind, "param": error.param, "code": error.status}
    return error.status, msgspec.json.encode(fields)


def _choice(choice: Json) -> None:
    for name in ("stop_reason", "token_ids", "prompt_logprobs", "prompt_token_ids"):
        choice.pop(name, None)
    choice["matched_stop"] = None
    if told := choice.get("logprobs"):
        told.update({"text_offset": [-1] * len(told["text_offset"])} if "text_offset" in told else {})


def _whole(body: Json) -> Json:
    for choice in body["choices"]:
        _choice(choice)
    body["usage"]["reasoning_tokens"] = 0
    body["metadata"] = {"weight_version": "default"}
    return body


def _event(body: Json) -> Json:
    for choice in body["choices"]:
        _choice(choice)
    if body["object"] == "text_completion":
        body.setdefault("usage", None)
    return body


def _info(view: View) -> dict[str, Any]:
    tokens = view.params.num_blocks * view.params.block_size
    return {
        "version": RELEASE,
        "model_path": view.models.names[0],
        "served_model_name": view.models.names[0],
        "max_total_num_tokens": tokens,
        "max_running_requests": view.params.max_num_seqs,
    }


SHAPE = Shape(whole=_whole, event=_event)

DIALECT = Dialect(
    name="sglang",
    release=RELEASE,
    basis="as SGLang 0.5.23 was recorded",
    paths={
        "GET /health": "health",
        "GET /health_generate": "health",
        "GET /ping": "alive",
        "GET /metrics": "metrics",
        "GET /v1/models": "models",
        "POST /v1/completions": "complete",
        "POST /v1/chat/completions": "chat",
    },
    adapter_paths={"POST /load_lora_adapter": "load adapter", "POST /unload_lora_adapter": "unload adapter"},
    facts={"/get_server_info": _info, "/model_info": lambda view: {"model_path": view.models.names[0], "is_generation": True}},
    families=_families,
    bounds=BOUNDS,
    refresh=Refresh(steps=DECODE_LOG_INTERVAL, idle_s=IDLE_LOG_S),
    error=_error,
    shapes={"complete": SHAPE, "chat": SHAPE},
    owned_by="sglang",
    card=("id", "object", "created", "owned_by", "root", "parent", "max_model_len"),
    selector="{base}:{adapter}",
    lenient=True,
    health_s=HEALTH_S,
    own_ids=True,
    quirks=(FAULTS["seed-ignored"], FAULTS["deaf-to-waiting"]),
    families_of_vllm={
        "sglang:num_queue_reqs": "vllm:num_requests_waiting",
        "sglang:num_running_reqs": "vllm:num_requests_running",
        "sglang:token_usage": "vllm:kv_cache_usage_perc",
        "sglang:prompt_tokens_total": "vllm:prompt_tokens_total",
        "sglang:generation_tokens_total": "vllm:generation_tokens_total",
    },
)
