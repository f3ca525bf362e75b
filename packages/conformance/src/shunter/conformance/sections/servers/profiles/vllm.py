"""vLLM."""

from shunter.conformance.core.profile import KnownFailure
from shunter.conformance.core.signals import Role, Signal
from shunter.conformance.sections.servers.profile import (
    ABORTS,
    E2E,
    EXTERNAL_TOKENS,
    GENERATED_TOKENS,
    PREEMPTIONS,
    PREFIX_HITS,
    PROMPT_TOKENS,
    SUCCESSES,
    TTFT,
    AdapterCalls,
    CacheSize,
    Former,
    ServerProfile,
    Told,
)

__all__ = ["PROFILE"]

SEEN = "seen on vLLM 0.32.0"

CACHE_INFO = Signal("vllm:cache_config_info")

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
        EXTERNAL_TOKENS: Signal("vllm:prompt_tokens_by_source_total", {"source": "external_kv_transfer"}),
        PREFIX_HITS: Signal("vllm:prefix_cache_hits_total"),
        PREEMPTIONS: Signal("vllm:num_preemptions_total"),
    },
    histograms={TTFT: "vllm:time_to_first_token_seconds", E2E: "vllm:e2e_request_latency_seconds"},
    cache=CacheSize(
        block_tokens=Told(CACHE_INFO, "block_size"),
        blocks=Told(CACHE_INFO, "num_gpu_blocks"),
        tokens=Told(CACHE_INFO, "kv_cache_size_tokens"),
    ),
    engine_label="engine",
    model_label="model_name",
    adapters=AdapterCalls(info=Signal("vllm:lora_requests_info")),
    rank_header="X-data-parallel-rank",
    salts=True,
    transfers=True,
    known_failures=(
        KnownFailure(
            "ms.scrape.content-type", "a page says version=1.0.0, whichever version of the text format was asked for", SEEN
        ),
        KnownFailure(
            "ms.cancel.counted",
            "requests whose clients have hung up are not counted: request_success_total with finished_reason abort stays",
            SEEN,
        ),
        KnownFailure(
            "ms.lora.waiting",
            "since 0.12 each list of lora_requests_info has every adapter that runs or waits, and some that wait are in none",
            f"{SEEN}; vllm-project/vllm issue 45325",
        ),
        KnownFailure("ms.drain.unready", "/health answers 200 until the process has ended, with --shutdown-timeout too", SEEN),
        KnownFailure("ms.drain.refuses", "a server that drains answers 500, cannot schedule new futures after shutdown", SEEN),
    ),
)
