"""Triton with the TensorRT-LLM backend: KServe's paths, the generate extension, and a port of its own for the metrics."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from shunter.lab.core.asks import parse_json
from shunter.lab.core.reporting import Refresh
from shunter.lab.dialects.dialect import Dialect, Family, Json, Shape, View, whole_number
from shunter.lab.errors import ApiError
from shunter.lab.faults import FAULTS

__all__ = ["DIALECT"]

RELEASE = "2.51.0"
METRICS_PORT = 8002
# A thread of the backend hands the engine's figures to Triton ten times a second.
REFRESH_S = 0.1


def _families(view: View) -> Iterator[Family]:
    labels = {"model": view.models.names[0], "version": "1"}
    running, waiting = view.gauges.running, view.gauges.waiting
    blocks = view.params.num_blocks
    used = round(view.gauges.kv_usage * blocks)

    def counter(name: str, about: str) -> Family:
        return Family(f"nv_inference_{name}", "counter", about, ((labels, view.finished),))

    def custom(name: str, about: str, label: str, values: Mapping[str, float]) -> Family:
        samples = tuple(({**labels, label: key}, value) for key, value in values.items())
        return Family(f"nv_trt_llm_{name}", "gauge", about, samples)

    yield counter("request_success", "Number of successful inference requests, all batch sizes")
    yield counter("count", "Number of inferences performed (does not include cached requests)")
    yield counter("exec_count", "Number of model executions performed (does not include cached requests)")
    # It stays 0 whatever waits: to Triton a decoupled model has taken every request at once.
    pending = "Instantaneous number of pending requests awaiting execution per-model."
    yield Family("nv_inference_pending_request_count", "gauge", pending, ((labels, 0.0),))
    requests = {"waiting": waiting, "context": 0, "scheduled": running, "max": view.params.max_num_seqs}
    requests["active"] = running + waiting
    yield custom("request_metrics", "TRT LLM request metrics", "request_type", requests)
    memory = {"pinned": 0.0, "gpu": 0.0, "cpu": 0.0}
    yield custom("runtime_memory_metrics", "TRT LLM runtime memory metrics", "memory_type", memory)
    yield custom(
        "kv_cache_block_metrics",
        "TRT LLM KV cache block metrics",
        "kv_cache_block_type",
        {
            "fraction": view.gauges.kv_usage,
            "reused": view.tally.prefix_cache_hits // view.params.block_size,
            "tokens_per": view.params.block_size,
            "used": used,
            "free": blocks - used,
            "max": blocks,
        },
    )
    yield custom(
        "inflight_batcher_metrics",
        "TRT LLM inflight_batcher-specific metrics",
        "inflight_batcher_specific_metric",
        {"paused_requests": 0, "micro_batch_id": 0, "generation_requests": running, "total_context_tokens": 0},
    )
    steps = view.tally.iteration_tokens_total.count
    general = {"iteration_counter": steps, "timestamp": view.unix_s}
    yield custom("general_metrics", "General TRT LLM metrics", "general_type", general)


def _error(error: ApiError) -> tuple[int, bytes]:
    return error.status, msgspec.json.encode({"error": error.message})


class _Inputs(msgspec.Struct):
    text_input: str
    max_tokens: int = 16
    end_id: int | None = None


def _read(body: bytes) -> Json:
    inputs = parse_json(body, _Inputs)
    forever = inputs.end_id == -1
    return {"prompt": inputs.text_input, "max_tokens": inputs.max_tokens, "ignore_eos": forever, "temperature": 0}


def _said(body: Json) -> Json:
    text = "".join(choice["text"] for choice in body["choices"])
    return {"model_name": body["model"], "model_version": "1", "text_output": text}


def _about(_: View) -> dict[str, Any]:
    extensions = ["classification", "model_repository", "statistics", "generate"]
    return {"name": "triton", "version": RELEASE, "extensions": extensions}


DIALECT = Dialect(
    name="triton-tensorrt-llm",
    release=RELEASE,
    basis="as Triton 2.51.0 was recorded, with a stand-in for the TensorRT-LLM backend that registers its metrics",
    paths={
        "GET /v2/health/live": "alive",
        "GET /v2/health/ready": "health",
        "GET /v2/models/{model:.+}/ready": "model ready",
        "POST /v2/repository/index": "repository",
        "POST /v2/models/{model:.+}/generate": "generate",
        "POST /v2/models/{model:.+}/generate_stream": "generate stream",
        "GET /metrics": "metrics",
    },
    facts={"/v2": _about},
    families=_families,
    number=whole_number,
    metrics_port=METRICS_PORT,
    refresh=Refresh(seconds=REFRESH_S),
    error=_error,
    no_path=(404, b""),
    no_method=(405, b""),
    shapes={"generate": Shape(whole=_said, event=_said, done=b"")},
    read=_read,
    quirks=(FAULTS["deaf-to-whole"], FAULTS["deaf-to-waiting"], FAULTS["healthy-without-engine"]),
)
