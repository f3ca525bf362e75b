"""How each engine says which adapters it has, loads one, and lets go of one.

========================  ====================================  =============================  ===============================
engine                    list                                  load                           unload
========================  ====================================  =============================  ===============================
vllm, lab                 GET /v1/models (cards with a parent)  POST /v1/load_lora_adapter     POST /v1/unload_lora_adapter
sglang                    the same                              POST /load_lora_adapter        POST /unload_lora_adapter
triton-tensorrt-llm       POST /v2/repository/index             POST /v2/repository/models/…   POST /v2/repository/models/…
========================  ====================================  =============================  ===============================

vLLM takes these calls with ``--enable-lora`` and ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=true``, SGLang with ``--enable-lora``
(there ``model`` has to say ``base:adapter``; the bare name is answered by the base model). Triton cannot load an adapter at
run time: what it loads, with ``--model-control-mode=explicit``, are models of its repository, so ``source`` says nothing there.
Checked against vLLM 0.32.0, SGLang 0.5.23 and Triton 2.51.0.
"""

from collections.abc import Mapping
from urllib.parse import quote

import msgspec

from shunter.rollout.core.desired import Adapter
from shunter.rollout.core.documents import near
from shunter.rollout.errors import ConfigError, ServerError

__all__ = ["DIALECTS", "Call", "Dialect", "find_dialect"]


class Call(msgspec.Struct, frozen=True):
    """A request to a model server."""

    method: str
    path: str
    body: Mapping[str, str] | None = None


class Card(msgspec.Struct, frozen=True):
    """A model in OpenAI's list; an adapter is one with a parent, and its root is where it came from."""

    id: str
    root: str | None = None
    parent: str | None = None


class Cards(msgspec.Struct, frozen=True):
    """OpenAI's list."""

    data: tuple[Card, ...]


class Entry(msgspec.Struct, frozen=True):
    """A model in Triton's repository."""

    name: str
    state: str = ""


class Dialect(msgspec.Struct, frozen=True):
    """The words of one engine. ``sources``: it lists adapters, loaded from somewhere; else models, its own among them."""

    listing: Call
    load_path: str
    unload_path: str
    sources: bool = True

    def load(self, adapter: Adapter) -> Call:
        """Return the call that loads an adapter."""
        body = {"lora_name": adapter.id, "lora_path": adapter.source}
        if adapter.base_model:
            body["base_model_name"] = adapter.base_model
        return Call("POST", self.load_path.format(quote(adapter.id, safe="")), body if self.sources else {})

    def unload(self, adapter: str) -> Call:
        """Return the call that lets go of an adapter."""
        return Call("POST", self.unload_path.format(quote(adapter, safe="")), {"lora_name": adapter} if self.sources else {})

    def read(self, page: bytes) -> Mapping[str, str | None]:
        """Return each adapter that the page lists and where it came from, if that is told; raises ServerError."""
        try:
            if self.sources:
                cards = msgspec.json.decode(page, type=Cards).data
                return {card.id: card.root for card in cards if card.parent is not None}
            return {each.name: None for each in msgspec.json.decode(page, type=tuple[Entry, ...]) if each.state == "READY"}
        except (ValueError, RecursionError) as error:  # msgspec's errors, and bytes that are not UTF-8
            raise ServerError(f"{self.listing.path}: not a list of models: {error}") from None


CARDS = Call("GET", "/v1/models")
VLLM = Dialect(CARDS, "/v1/load_lora_adapter", "/v1/unload_lora_adapter")
REPOSITORY = "/v2/repository/models/{}/"

DIALECTS = {
    "vllm": VLLM,
    "lab": VLLM,
    "sglang": Dialect(CARDS, "/load_lora_adapter", "/unload_lora_adapter"),
    "triton-tensorrt-llm": Dialect(
        Call("POST", "/v2/repository/index", {}), f"{REPOSITORY}load", f"{REPOSITORY}unload", sources=False
    ),
}


def find_dialect(engine: str) -> Dialect:
    """Return an engine's words; raises ConfigError for one that cannot load anything while it runs."""
    if engine not in DIALECTS:
        raise ConfigError(f"{engine!r} loads no adapters while it runs, as far as is known; {near(engine, DIALECTS)}")
    return DIALECTS[engine]
