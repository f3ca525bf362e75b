"""vLLM."""

from shunter.conformance.core.signals import Role, Signal
from shunter.conformance.sections.servers.profile import (
    ABORTS,
    GENERATED_TOKENS,
    PROMPT_TOKENS,
    SUCCESSES,
    AdapterCalls,
    Former,
    ServerProfile,
)

__all__ = ["PROFILE"]

PROFILE = ServerProfile(
    name="vllm",
    family_prefix="vllm:",
    owned_by="vllm",
    signals={
        Role.QUEUE: Signal("vllm:num_requests_waiting"),
        Role.RUNNING: Signal("vllm:num_requests_running"),
        Role.KV: Signal("vllm:kv_cache_usage_perc"),
    },
    former={Role.KV: Former("vllm:gpu_cache_usage_perc", "vLLM before 0.9.2, removed in 0.12")},
    counters={
        PROMPT_TOKENS: Signal("vllm:prompt_tokens_total"),
        GENERATED_TOKENS: Signal("vllm:generation_tokens_total"),
        SUCCESSES: Signal("vllm:request_success_total"),
        ABORTS: Signal("vllm:request_success_total", {"finished_reason": "abort"}),
    },
    engine_label="engine",
    model_label="model_name",
    adapters=AdapterCalls(info=Signal("vllm:lora_requests_info")),
    rank_header="X-data-parallel-rank",
)
