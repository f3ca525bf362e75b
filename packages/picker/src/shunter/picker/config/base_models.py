"""The configuration of body-based routing: which adapters belong to which base model, as ConfigMaps.

::

    apiVersion: v1
    kind: ConfigMap
    metadata:
      name: llama
      labels: {inference.networking.k8s.io/bbr-managed: "true"}
    data:
      baseModel: meta-llama/Llama-3.1-8B-Instruct
      adapters: |
        - food-review
        - code-review

Several stand in one file, separated by ``---``; several may share a base model. One without the label is passed over, as the
reference does; so is what is not a ConfigMap.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
import yaml

from shunter.picker.errors import ConfigError

__all__ = ["LABEL", "read_base_models"]

LABEL = "inference.networking.k8s.io/bbr-managed"


class Metadata(msgspec.Struct, frozen=True):
    """Of any object."""

    name: str = ""
    labels: dict[str, str] = {}


class Manifest(msgspec.Struct, frozen=True):
    """Of any kind; a ConfigMap's values are text, and a list of adapters is YAML inside it."""

    kind: str = ""
    metadata: Metadata = Metadata()
    data: dict[str, Any] = {}


class BaseModel(msgspec.Struct, frozen=True):
    """What such a ConfigMap says."""

    place: str
    base: str
    adapters: list[str]


def read_base_models(text: str) -> dict[str, str]:
    """Return the base model of each adapter, and of each base model itself; raise ConfigError."""
    bases: dict[str, str] = {}
    for found in _read(text):
        for name in (found.base, *found.adapters):
            known = bases.setdefault(name, found.base)
            if known != found.base:
                raise ConfigError(
                    f"{found.place}: {name!r} belongs to {known!r} already, here it is of {found.base!r}; keep one"
                )
    return bases


def _read(text: str) -> Iterator[BaseModel]:
    for at, document in enumerate(_documents(text)):
        try:
            manifest = msgspec.convert(document or {}, Manifest)
        except msgspec.ValidationError as error:
            raise ConfigError(f"document {at + 1} is no manifest: {error}") from error
        if manifest.kind == "ConfigMap" and manifest.metadata.labels.get(LABEL) == "true":
            yield _base_model(manifest)


def _base_model(manifest: Manifest) -> BaseModel:
    place = f"ConfigMap {manifest.metadata.name}"
    base = manifest.data.get("baseModel")
    if not isinstance(base, str) or not base.strip():
        raise ConfigError(f"{place}: data.baseModel is {base!r}; it must be the name of a model")
    listed = manifest.data.get("adapters") or ""
    try:
        adapters = msgspec.convert(yaml.safe_load(listed) or [], list[str])
    except Exception as error:  # what PyYAML raises, see below; of what is not text at all, AttributeError
        raise ConfigError(f"{place}: data.adapters is {listed!r}; it must be text that is a YAML list of names") from error
    return BaseModel(place, base.strip(), [each.strip() for each in adapters if each.strip()])


def _documents(text: str) -> Iterator[object]:
    try:
        yield from yaml.safe_load_all(text)
    except Exception as error:  # PyYAML also lets through what int() and datetime raise at odd values
        raise ConfigError(f"not YAML documents: {error}") from error
