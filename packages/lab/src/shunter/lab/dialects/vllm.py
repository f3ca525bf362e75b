"""vLLM: its API as it should be, which is the lab's own dialect, and as it is."""

import msgspec

from shunter.lab.dialects.dialect import Dialect
from shunter.lab.faults import FAULTS

__all__ = ["DIALECT", "LAB"]

# The release whose behaviour is reproduced.
RELEASE = "0.32.0"

LAB = Dialect(
    name="lab",
    release=RELEASE,
    basis="vLLM's API and metrics without vLLM's defects: it passes the whole exam",
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

# What is known to be wrong with it.
QUIRKS = ("metrics-newer-type", "aborts-uncounted", "lora-lists-equal", "ready-while-draining", "drain-500")

DIALECT = msgspec.structs.replace(
    LAB,
    name="vllm",
    basis="as vLLM 0.32.0 was recorded",
    quirks=tuple(FAULTS[name] for name in QUIRKS),
    owned_by="vllm",
)
