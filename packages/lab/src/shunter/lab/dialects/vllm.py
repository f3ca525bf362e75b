"""vLLM: the dialect that all others are told apart from."""

from shunter.lab.dialects.dialect import Dialect

__all__ = ["DIALECT"]

# The release whose behaviour is reproduced.
RELEASE = "0.32.0"

DIALECT = Dialect(
    name="vllm",
    release=RELEASE,
    basis="as vLLM 0.32.0 was recorded",
    paths={
        "GET /health": "health",
        "GET /ping": "health",
        "POST /ping": "health",
        "GET /load": "load",
        "GET /metrics": "metrics",
        "HEAD /metrics": "metrics",
        "GET /v1/models": "models",
        "POST /tokenize": "tokenize",
        "POST /v1/completions": "complete",
        "POST /v1/chat/completions": "chat",
    },
    adapter_paths={"POST /v1/load_lora_adapter": "load adapter", "POST /v1/unload_lora_adapter": "unload adapter"},
    facts={"/version": lambda _: {"version": RELEASE}},
)
