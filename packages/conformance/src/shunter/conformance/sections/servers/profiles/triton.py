"""Triton Inference Server with the TensorRT-LLM backend."""

from shunter.conformance.core.profile import KnownFailure
from shunter.conformance.core.signals import Role, Signal
from shunter.conformance.sections.servers.profile import OPENAI, Api, CacheSize, Mark, ServerProfile, Told

__all__ = ["PROFILE"]

SEEN = "seen on Triton 2.51.0"

REQUESTS, BLOCKS = "nv_trt_llm_request_metrics", "nv_trt_llm_kv_cache_block_metrics"


def _generate(prompt: str, tokens: int, lasts: bool, stream: bool) -> dict[str, object]:
    """The inputs of the backend's models by name. An end id of −1 is no token: what was asked for is generated whole."""
    return {"text_input": prompt, "max_tokens": tokens, "stream": stream, **({"end_id": -1} if lasts else {})}


PROFILE = ServerProfile(
    name="triton-tensorrt-llm",
    family_prefix="nv_trt_llm_",
    mark=Mark("/v2", '"name":"triton"'),
    api=Api(
        completions="/v2/models/{model}/generate",
        streams="/v2/models/{model}/generate_stream",
        models="/v2/repository/index",
        generate=_generate,
    ),
    signals={
        Role.QUEUE: Signal(REQUESTS, {"request_type": "waiting"}),
        Role.RUNNING: Signal(REQUESTS, {"request_type": "scheduled"}),
        Role.KV: Signal(BLOCKS, {"kv_cache_block_type": "fraction"}),
    },
    cache=CacheSize(
        block_tokens=Told(Signal(BLOCKS, {"kv_cache_block_type": "tokens_per"})),
        blocks=Told(Signal(BLOCKS, {"kv_cache_block_type": "max"})),
    ),
    health_path="/v2/health/ready",
    metrics_port=8002,
    model_label="model",
    lacks={
        OPENAI: "Triton speaks KServe's protocol with the generate extension; its OpenAI frontend is a server of its own",
        "counters": "the TensorRT-LLM backend has no counters of tokens",
    },
    known_failures=(
        KnownFailure(
            "ms.cancel.whole",
            "that a client has hung up is noticed when something is sent to it: what is not streamed goes on",
            SEEN,
        ),
        KnownFailure(
            "ms.cancel.queued",
            "that a client has hung up is noticed when something is sent to it: what waits goes on waiting",
            SEEN,
        ),
        KnownFailure("ms.drain.refuses", "while it drains, it takes connections and resets them", SEEN),
        KnownFailure(
            "ms.drain.engine-dead", "/v2/health/ready answers 200 when the process that holds the model has been killed", SEEN
        ),
        KnownFailure("ms.reachability.process", "its page tells of models and hardware, not of its process", SEEN),
    ),
)
