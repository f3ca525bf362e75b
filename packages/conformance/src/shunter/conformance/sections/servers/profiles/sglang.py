"""SGLang."""

from shunter.conformance.core.profile import KnownFailure
from shunter.conformance.core.signals import Role, Signal
from shunter.conformance.sections.servers.profile import (
    E2E,
    GENERATED_TOKENS,
    PREFIX_HITS,
    PROMPT_TOKENS,
    TTFT,
    AdapterCalls,
    CacheSize,
    Mark,
    ServerProfile,
    Told,
)

__all__ = ["PROFILE"]

SEEN = "seen on SGLang 0.5.23"

LATE = (
    "sglang:token_usage is made anew with each prompt and every 40 steps; when the last request has gone it stays for some "
    "30 s, until an idle scheduler writes its log"
)

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
        PREFIX_HITS: Signal("sglang:cached_tokens_total"),
    },
    histograms={TTFT: "sglang:time_to_first_token_seconds", E2E: "sglang:e2e_request_latency_seconds"},
    # Of 0.5.11 and later; 0.5.9 and 0.5.10 had labels of sglang:cache_config_info instead, which pickers still look for.
    cache=CacheSize(
        block_tokens=Told(Signal("sglang:page_size")),
        blocks=Told(Signal("sglang:num_pages")),
        tokens=Told(Signal("sglang:max_total_num_tokens")),
    ),
    kv_step=0.01,
    engine_label="dp_rank",
    model_label="model_name",
    adapters=AdapterCalls(load="/load_lora_adapter", unload="/unload_lora_adapter", selector="{base}:{adapter}"),
    known_failures=(
        KnownFailure(
            "ms.errors.unknown-model",
            "it does not look at the name: any model is answered by the base model, an adapter's bare name too",
            SEEN,
        ),
        KnownFailure(
            "ms.reachability.health-quick",
            "its health check generates a token and looks for it once a second: 1.0 s, which is as long as a kubelet waits",
            SEEN,
        ),
        KnownFailure("ms.reachability.process", "its page is that of several processes together, and tells of none", SEEN),
        KnownFailure("ms.sampling.seed", "a seed is heeded with --enable-deterministic-inference only", SEEN),
        KnownFailure("ms.sampling.logprobs", "text_offset is -1 for every token", SEEN),
        KnownFailure("ms.requests.request-id", "it gives every request an id of its own", SEEN),
        KnownFailure("ms.errors.body", "an error is {object: error, message, type, code}, without error around it", SEEN),
        KnownFailure("ms.errors.internals", "what its schema refuses is told with file and line", SEEN),
        KnownFailure("ms.metrics.kv-idle", LATE, SEEN),
        KnownFailure(
            "ms.load.drains",
            "gauges are made anew when a prompt has been computed, but for its own request, which is in none of them until the "
            "next 40 steps are over (--decode-log-interval)",
            SEEN,
        ),
        KnownFailure(
            "ms.cancel.queued",
            "before its first token, whether the client of a request is still there is asked every 4 s "
            "(SGLANG_REQUEST_STATE_WAIT_TIMEOUT)",
            SEEN,
        ),
        KnownFailure("ms.cancel.kv", LATE, SEEN),
        KnownFailure(
            "ms.freshness.lag",
            "its gauges are made anew with each prompt and every 40 steps (--decode-log-interval), not when a request ends",
            SEEN,
        ),
    ),
)
