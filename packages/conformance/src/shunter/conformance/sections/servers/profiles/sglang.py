"""SGLang."""

from shunter.conformance.core.profile import KnownFailure
from shunter.conformance.core.signals import Role, Signal
from shunter.conformance.sections.servers.profile import GENERATED_TOKENS, PROMPT_TOKENS, AdapterCalls, Mark, ServerProfile

__all__ = ["PROFILE"]

SEEN = "seen on SGLang 0.5.23"

# The names have been the same since 0.3.6. The page exists with --enable-metrics only.
PROFILE = ServerProfile(
    name="sglang",
    family_prefix="sglang:",
    owned_by="sglang",
    mark=Mark("/get_server_info", '"max_total_num_tokens"'),
    signals={
        Role.QUEUE: Signal("sglang:num_queue_reqs"),
        Role.RUNNING: Signal("sglang:num_running_reqs"),
        Role.KV: Signal("sglang:token_usage"),
    },
    counters={
        PROMPT_TOKENS: Signal("sglang:prompt_tokens_total"),
        GENERATED_TOKENS: Signal("sglang:generation_tokens_total"),
    },
    engine_label="dp_rank",
    model_label="model_name",
    adapters=AdapterCalls(load="/load_lora_adapter", unload="/unload_lora_adapter", selector="{base}:{adapter}"),
    known_failures=(
        KnownFailure(
            "ms.errors.unknown-model",
            "it does not look at the name: any model is answered by the base model, an adapter's bare name too",
            SEEN,
        ),
    ),
)
