"""Text Generation Inference."""

from shunter.conformance.core.profile import KnownFailure
from shunter.conformance.core.signals import Role, Signal
from shunter.conformance.sections.servers.profile import IGNORE_EOS, Mark, ServerProfile

__all__ = ["PROFILE"]

READ = "read in the sources of TGI of January 2026; it could not be run here"

NO_ID = "the id of every answer and chunk is empty"

PROFILE = ServerProfile(
    name="tgi",
    family_prefix="tgi_",
    mark=Mark("/info", '"max_concurrent_requests"'),
    signals={
        Role.QUEUE: Signal("tgi_queue_size"),
        Role.RUNNING: Signal("tgi_batch_current_size"),
    },
    lacks={
        Role.KV.feature: "TGI has no KV-cache gauge (text-generation-inference issue 3275); the token budget of its batch, "
        "tgi_batch_current_max_tokens of tgi_batch_max_total_tokens, is the nearest thing, and a ratio of two gauges",
        "model-label": "the metrics of TGI carry no labels; one server has one model",
        "counters": "TGI counts tokens in histograms",
        IGNORE_EOS: "TGI has no ignore_eos in the requests of its OpenAI API",
    },
    known_failures=(
        KnownFailure(
            "ms.metrics.load-present",
            "a gauge is on the page once it has been set, which the first request does",
            READ,
        ),
        KnownFailure(
            "ms.errors.unknown-model",
            "the model of a request is the id of an adapter, and one that is not loaded is answered by the base model",
            READ,
        ),
        KnownFailure("ms.reachability.process", "its page tells of requests and batches, not of its process", READ),
        KnownFailure("ms.openai.completion-fields", NO_ID, READ),
        KnownFailure("ms.openai.chat-fields", NO_ID, READ),
        KnownFailure("ms.openai.stream-framing", NO_ID, READ),
        KnownFailure("ms.errors.body", "what its schema refuses is told in plain text", READ),
    ),
)
