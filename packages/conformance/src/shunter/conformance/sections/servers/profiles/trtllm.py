"""trtllm-serve, TensorRT-LLM's own OpenAI server."""

from shunter.conformance.core.profile import KnownFailure
from shunter.conformance.core.signals import Role, Signal
from shunter.conformance.sections.servers.profile import (
    GENERATED_TOKENS,
    PROMPT_TOKENS,
    SUCCESSES,
    CacheSize,
    Mark,
    ServerProfile,
    Told,
)

__all__ = ["PROFILE"]

READ = "read in openai_server.py of TensorRT-LLM of 2026; no GPU was at hand to run it"

# The page exists with return_perf_metrics only; release 1.1 had none of these gauges.
PROFILE = ServerProfile(
    name="trtllm-serve",
    family_prefix="trtllm_",
    owned_by="tensorrt_llm",
    mark=Mark("/prometheus/metrics", "trtllm_"),
    signals={
        Role.QUEUE: Signal("trtllm_num_requests_waiting"),
        Role.RUNNING: Signal("trtllm_num_requests_running"),
        Role.KV: Signal("trtllm_kv_cache_utilization"),
    },
    counters={
        PROMPT_TOKENS: Signal("trtllm_prompt_tokens_total"),
        GENERATED_TOKENS: Signal("trtllm_generation_tokens_total"),
        SUCCESSES: Signal("trtllm_request_success_total"),
    },
    cache=CacheSize(
        block_tokens=Told(Signal("trtllm_kv_cache_tokens_per_block")), blocks=Told(Signal("trtllm_kv_cache_max_blocks"))
    ),
    metrics_path="/prometheus/metrics",
    engine_label="engine_type",
    model_label="model_name",
    known_failures=(
        KnownFailure("ms.errors.unknown-model", "it serves one model and does not look at the name that was asked for", READ),
        KnownFailure("ms.reachability.process", "its page is that of several processes together, and tells of none", READ),
        KnownFailure("ms.requests.request-id", "it gives every request an id of its own", READ),
        KnownFailure("ms.errors.body", "an error is {object: error, message, type, code}, without error around it", READ),
        KnownFailure(
            "ms.metrics.model-label",
            "the labels model_name and engine_type both say undefined: the collector is made before the model is known",
            READ,
        ),
    ),
)
