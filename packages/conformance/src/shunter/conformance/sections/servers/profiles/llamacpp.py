"""The server of llama.cpp."""

from shunter.conformance.core.profile import KnownFailure
from shunter.conformance.core.signals import Role, Signal
from shunter.conformance.sections.servers.profile import CONTINUOUS_USAGE, GENERATED_TOKENS, ServerProfile

__all__ = ["PROFILE"]

SEEN = "seen on llama.cpp of October 2026, as in xllamacpp 2026.10.11549"

PROFILE = ServerProfile(
    name="llama.cpp",
    family_prefix="llamacpp:",
    owned_by="llamacpp",
    signals={
        Role.QUEUE: Signal("llamacpp:requests_deferred"),
        Role.RUNNING: Signal("llamacpp:requests_processing"),
    },
    counters={GENERATED_TOKENS: Signal("llamacpp:tokens_predicted_total")},
    lacks={
        Role.KV.feature: "llama.cpp has no KV-cache gauge: llamacpp:kv_cache_usage_ratio was removed in May 2025 "
        "(ggml-org/llama.cpp pull request 13660)",
        CONTINUOUS_USAGE: "llama.cpp does not know continuous_usage_stats, and tells the usage at the end of a stream",
        "model-label": "the metrics of llama.cpp carry no labels; one server has one model",
    },
    known_failures=(
        KnownFailure(
            "ms.reachability.process",
            "its metrics page has only families of its own",
            SEEN,
        ),
        KnownFailure(
            "ms.openai.stream-usage",
            "a streamed completion always has its usage in the last chunk with choices, asked for or not; chat is right",
            SEEN,
        ),
        KnownFailure(
            "ms.sampling.logprobs",
            "the log-probabilities of a completion have the shape that those of a chat have; chat is right",
            SEEN,
        ),
        KnownFailure(
            "ms.requests.request-id",
            "it makes its own ids, and gives an X-Request-Id back nowhere",
            SEEN,
        ),
        KnownFailure(
            "ms.errors.unknown-model",
            "a server has one model and answers any name with it",
            SEEN,
        ),
        KnownFailure(
            "ms.errors.negative-max-tokens",
            "max_tokens of -1 is its n_predict of -1: generate until the context is full",
            SEEN,
        ),
        KnownFailure(
            "ms.cancel.whole",
            "a request that is not streamed goes on when its client has hung up",
            SEEN,
        ),
        KnownFailure(
            "ms.drain.in-flight",
            "the wheel has no end but a hard one: to destroy its server stops the batch, and cuts those who run 30 s later",
            SEEN,
        ),
        KnownFailure(
            "ms.cancel.queued",
            "that a client has gone is noticed when something is to be sent to it, so what waits goes on waiting",
            SEEN,
        ),
    ),
)
