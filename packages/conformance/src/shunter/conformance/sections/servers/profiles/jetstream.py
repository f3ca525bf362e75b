"""JetStream, the server for TPUs."""

from shunter.conformance.core.signals import Role, Signal
from shunter.conformance.sections.servers.profile import IGNORE_EOS, OPENAI, Api, Mark, ServerProfile

__all__ = ["PROFILE"]


def _generate(prompt: str, tokens: int, lasts: bool, stream: bool) -> dict[str, object]:
    """The JSON of its DecodeRequest; nothing in it makes an answer last, and every answer is a stream."""
    del lasts, stream
    return {"text_content": {"text": prompt}, "max_tokens": tokens}


PROFILE = ServerProfile(
    name="jetstream",
    family_prefix="jetstream_",
    mark=Mark("/", "JetStream HTTP Server"),
    api=Api(completions="/v1/generate", models="", generate=_generate),
    signals={
        Role.QUEUE: Signal("jetstream_prefill_backlog_size"),
        Role.KV: Signal("jetstream_slots_used_percentage"),
    },
    health_path="/v1/health",
    metrics_port=9988,
    engine_label="idx",
    lacks={
        OPENAI: "the HTTP server of JetStream has /v1/generate only",
        Role.RUNNING.feature: "JetStream has no gauge of running requests: what it generates shows as a share of slots",
        "model-label": "JetStream labels its metrics with the model only if its name is a metric name, with _ for -",
        "counters": "JetStream counts tokens in histograms",
        IGNORE_EOS: "a DecodeRequest of JetStream cannot forbid the end of a sequence",
    },
)
