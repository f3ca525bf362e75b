"""trtllm-serve: JSON where others have their metrics page, and labels that say nothing."""

from collections.abc import Iterator
from typing import Any

import msgspec

from shunter.lab.dialects.dialect import Dialect, Family, View
from shunter.lab.errors import ApiError

__all__ = ["DIALECT"]

RELEASE = "1.3"


HISTOGRAMS = {
    "time_to_first_token_seconds": "Histogram of time to first token in seconds.",
    "e2e_request_latency_seconds": "Histogram of end to end request latency in seconds.",
    "request_queue_time_seconds": "Histogram of time spent in WAITING phase for request.",
}


def _families(view: View) -> Iterator[Family]:
    # The server creates its collector before it knows the model, with these words for both.
    labels = {"model_name": "undefined", "engine_type": "undefined"}
    blocks, tally = view.params.num_blocks, view.tally
    used = round(view.gauges.kv_usage * blocks)

    def family(name: str, kind: str, about: str, value: float) -> Family:
        return Family(f"trtllm_{name}", kind, about, ((labels, value),))

    yield family("num_requests_running", "gauge", "Number of active requests", view.gauges.running)
    yield family("num_requests_waiting", "gauge", "Number of queued requests", view.gauges.waiting)
    yield family("kv_cache_utilization", "gauge", "KV cache utilization", view.gauges.kv_usage)
    yield family("kv_cache_max_blocks", "gauge", "Maximum number of KV cache blocks", blocks)
    yield family("kv_cache_free_blocks", "gauge", "Number of free KV cache blocks", blocks - used)
    yield family("kv_cache_used_blocks", "gauge", "Number of used KV cache blocks", used)
    yield family("kv_cache_tokens_per_block", "gauge", "Number of tokens per KV cache block", view.params.block_size)
    yield family("max_num_active_requests", "gauge", "Maximum number of active requests", view.params.max_num_seqs)
    prompts = tally.request_prompt_tokens.sum  # what is counted is counted when a request has ended
    yield family("prompt_tokens_total", "counter", "Cumulative number of prompt (input) tokens processed.", prompts)
    yield family(
        "generation_tokens_total",
        "counter",
        "Cumulative number of generation (output) tokens produced.",
        tally.request_generation_tokens.sum,
    )
    # Its bounds are vLLM's.
    for name, about in HISTOGRAMS.items():
        yield Family(f"trtllm_{name}", "histogram", about, histograms=((labels, getattr(tally, name)),))
    finished = tuple(({**labels, "finished_reason": reason}, count) for reason, count in tally.request_success.items())
    yield Family("trtllm_request_success_total", "counter", "Count of successfully processed requests.", finished)


def _statistics(view: View) -> list[dict[str, Any]]:
    """Of the last iteration."""
    blocks = view.params.num_blocks
    used = round(view.gauges.kv_usage * blocks)
    cache = {"maxNumBlocks": blocks, "freeNumBlocks": blocks - used, "usedNumBlocks": used}
    return [
        {
            "iter": view.tally.iteration_tokens_total.count,
            "numActiveRequests": view.gauges.running,
            "numQueuedRequests": view.gauges.waiting,
            "kvCacheStats": {**cache, "tokensPerBlock": view.params.block_size},
        }
    ]


def _error(error: ApiError) -> tuple[int, bytes]:
    fields = {"object": "error", "message": error.message, "type": error.kind, "param": error.param, "code": error.status}
    return error.status, msgspec.json.encode(fields)


DIALECT = Dialect(
    name="trtllm-serve",
    release=RELEASE,
    basis="from its source: nothing of it was recorded",
    paths={
        "GET /health": "health",
        "GET /health_generate": "health",
        "GET /prometheus/metrics": "metrics",
        "GET /v1/models": "models",
        "POST /v1/completions": "complete",
        "POST /v1/chat/completions": "chat",
    },
    facts={"/version": lambda _: {"version": RELEASE}, "/metrics": _statistics},
    families=_families,
    error=_error,
    owned_by="tensorrt_llm",
    card=("id", "object", "created", "owned_by"),
    lenient=True,
    own_ids=True,
    families_of_vllm={
        "trtllm_num_requests_waiting": "vllm:num_requests_waiting",
        "trtllm_num_requests_running": "vllm:num_requests_running",
        "trtllm_kv_cache_utilization": "vllm:kv_cache_usage_perc",
        "trtllm_prompt_tokens_total": "vllm:prompt_tokens_total",
        "trtllm_generation_tokens_total": "vllm:generation_tokens_total",
    },
)
