"""vLLM."""

from shunter.conformance.core.signals import Role, Signal
from shunter.conformance.sections.servers.profile import GENERATED_TOKENS, PROMPT_TOKENS, SUCCESSES, AdapterCalls, ServerProfile

__all__ = ["PROFILE"]

# The names of vLLM 0.12 and later; before, the KV gauge was vllm:gpu_cache_usage_perc.
PROFILE = ServerProfile(
    name="vllm",
    family_prefix="vllm:",
    owned_by="vllm",
    signals={
        Role.QUEUE: Signal("vllm:num_requests_waiting"),
        Role.RUNNING: Signal("vllm:num_requests_running"),
        Role.KV: Signal("vllm:kv_cache_usage_perc"),
    },
    counters={
        PROMPT_TOKENS: Signal("vllm:prompt_tokens_total"),
        GENERATED_TOKENS: Signal("vllm:generation_tokens_total"),
        SUCCESSES: Signal("vllm:request_success_total"),
    },
    engine_label="engine",
    model_label="model_name",
    adapters=AdapterCalls(info=Signal("vllm:lora_requests_info")),
    rank_header="X-data-parallel-rank",
)
