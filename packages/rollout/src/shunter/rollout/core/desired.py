"""Which adapters servers should have: the file format of the reference's LoRA sidecar, ``vLLMLoRAConfig``, unchanged.

::

    vLLMLoRAConfig:
      host: localhost                 # one server, unless the command line says which
      port: 8000
      defaultBaseModel: llama-3-8b
      ensureExist:
        models:
        - {id: food-review-v1, source: /adapters/food-review-v1, base-model: llama-3-8b}
      ensureNotExist:
        models:
        - {id: food-review-v0}

An id in both lists is left as it is on the server, as the reference does, and is told. Other than there a ``source`` is
needed only where something is to be loaded, and a field that nobody knows is an error.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from shunter.rollout.core.documents import read_document
from shunter.rollout.errors import ConfigError

__all__ = ["Adapter", "Desired", "read_desired"]

# Engines take any name; the metrics that list adapters separate them by commas.
Id = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[^,\s]+$")]
Port = Annotated[int, Meta(ge=1, le=65535)]


class Adapter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"base_model": "base-model"}):
    """A LoRA adapter: ``source`` is a path or an id of a hub, as the engine understands it."""

    id: Id
    source: str = ""
    base_model: str = ""


class Models(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of the two lists."""

    models: tuple[Adapter, ...]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Below the root of the file."""

    name: str = ""
    host: str = "localhost"
    port: Port = 8000
    default_base_model: str = ""
    ensure_exist: Models = Models(())
    ensure_not_exist: Models = Models(())


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"config": "vLLMLoRAConfig"}):
    """The whole file."""

    config: Config


class Desired(msgspec.Struct, frozen=True):
    """What servers should have, and not have; ``server`` is the one that the file names."""

    wanted: tuple[Adapter, ...] = ()
    unwanted: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    server: str = "http://localhost:8000"


def read_desired(name: str, text: bytes) -> Desired:
    """Return what the file called ``name`` asks for; raises ConfigError."""
    config = read_document(name, text, File).config
    wanted: dict[str, Adapter] = {}
    for number, adapter in enumerate(config.ensure_exist.models):
        place = f"{name}: $.vLLMLoRAConfig.ensureExist.models[{number}]"
        if not adapter.source:
            raise ConfigError(f"{place}.source: say where {adapter.id} is to be loaded from, a path or an id of a hub")
        full = msgspec.structs.replace(adapter, base_model=adapter.base_model or config.default_base_model)
        if wanted.setdefault(adapter.id, full) != full:
            raise ConfigError(f"{place}.id: {adapter.id} is there twice, from {wanted[adapter.id].source} too: remove one")
    unwanted = tuple(dict.fromkeys(adapter.id for adapter in config.ensure_not_exist.models))
    conflicts = tuple(each for each in unwanted if each in wanted)
    host = f"[{config.host}]" if ":" in config.host else config.host
    return Desired(
        wanted=tuple(adapter for adapter in wanted.values() if adapter.id not in conflicts),
        unwanted=tuple(each for each in unwanted if each not in conflicts),
        conflicts=conflicts,
        server=f"http://{host}:{config.port}",
    )
