"""Plugins of former releases that did two things, as the two plugins that they are today.

Scorers remembered prompts themselves; the profile handler for prefill and decode decided itself who is worth it.
"""

from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any, cast

import msgspec

from shunter.picker.config.document import PluginSpec

__all__ = [
    "PRECISE_PRODUCER", "PRODUCER", "SEPARATED", "Separation", "in_characters", "read_producer", "say_in_tokens", "separate",
    "separate_decider",
]  # fmt: skip

SCORER = "prefix-cache-scorer"
PRODUCER = "approx-prefix-cache-producer"
PRODUCER_NAME = "prefixMatchInfoProducerName"

# Up to llm-d 0.8 a scorer of its own kept the index of the engines' caches.
PRECISE_SCORER = "precise-prefix-cache-scorer"
PRECISE_PRODUCER = "precise-prefix-cache-producer"
INDEXER, HOISTED = "indexerConfig", ("tokenProcessorConfig", "speculativeIndexing", "speculativeTTL")

# Until then, who wanted to know what a scorer knew named the scorer.
LRU_SCORER = "no-hit-lru-scorer"
SCORER_NAME, SCORER_TYPE = "prefixPluginName", "prefixPluginType"

# Up to llm-d 0.3 the handler decided by the characters that are not cached; without a threshold, or with 0, always.
PD_HANDLER, THRESHOLD, DECIDER_NAME = "pd-profile-handler", "threshold", "deciderPluginName"

# Up to GIE 1.3 the scorer kept the memory of who was sent what, and the size of a block was in characters.
BLOCKS, TOKENS = "maxPrefixBlocksToMatch", "maxPrefixTokensToMatch"
MEMORY = ("autoTune", "blockSizeTokens", "lruCapacityPerServer", BLOCKS, TOKENS)
IN_CHARACTERS = ("blockSize", "hashBlockSize")
CHARACTERS_PER_TOKEN = 4

SEPARATED = {
    SCORER: (*MEMORY, *IN_CHARACTERS),
    PRODUCER: IN_CHARACTERS,
    LRU_SCORER: (SCORER_NAME, SCORER_TYPE),
    PD_HANDLER: (THRESHOLD,),
}
"""Former parameters, by type, that another plugin has today."""


class Separation(msgspec.Struct, frozen=True):
    """What one plugin is today."""

    plugin: PluginSpec
    other: PluginSpec | None  # its memory, or who decides; None: it is declared already
    note: str


def separate(spec: PluginSpec, precise: str) -> Separation | None:
    """Return what a scorer with a memory is today; None for any other plugin.

    ``precise`` is the name of the precise-prefix-cache-producer that the configuration declares, "" without one.
    """
    given = spec.parameters or {}
    name = f"{spec.name or spec.type}-memory"
    if spec.type == PRECISE_SCORER:
        note = f"{PRECISE_SCORER} is deprecated; use {SCORER}, and {PRECISE_PRODUCER} with these parameters"
        memory = None if precise and not given else PluginSpec(type=PRECISE_PRODUCER, name=name, parameters=_hoist(given))
        reads = {PRODUCER_NAME: name if memory else precise}
        return Separation(PluginSpec(type=SCORER, name=spec.name or spec.type, parameters=reads), memory, note)
    own = {key: given[key] for key in (*MEMORY, *IN_CHARACTERS) if key in given}
    if spec.type != SCORER or not own or given.get(PRODUCER_NAME):
        return None
    if own.get(BLOCKS):
        own.setdefault(TOKENS, 0)  # whose default would outweigh it
    rest = {key: value for key, value in given.items() if key not in own} | {PRODUCER_NAME: name}
    return Separation(
        msgspec.structs.replace(spec, parameters=rest),
        PluginSpec(type=PRODUCER, name=name, parameters=say_in_tokens(own)),
        f"{', '.join(key for key in own if key in given)}: deprecated here; parameters of {PRODUCER} now",
    )


def read_producer(spec: PluginSpec, others: Iterable[PluginSpec]) -> PluginSpec | None:
    """Return a plugin that named a prefix scorer as one that names the scorer's producer; None if it did not.

    ``others`` are all plugins, separated.
    """
    given = spec.parameters or {}
    if spec.type != LRU_SCORER or not {SCORER_NAME, SCORER_TYPE} & given.keys():
        return None
    rest = {key: value for key, value in given.items() if key not in (SCORER_NAME, SCORER_TYPE)}
    return msgspec.structs.replace(spec, parameters=_read_by_scorer(given, others) | rest)


def separate_decider(spec: PluginSpec, others: Iterable[PluginSpec]) -> Separation | None:
    """Return what a profile handler that decides itself is today; None for any other plugin.

    ``others`` are all plugins, separated.
    """
    given = spec.parameters or {}
    if spec.type != PD_HANDLER or THRESHOLD not in given or given.get(DECIDER_NAME):
        return None
    threshold, name = given[THRESHOLD], f"{spec.name or spec.type}-decider"
    if threshold == 0:
        decider, note = PluginSpec(type="always-disagg-pd-decider", name=name), "0 is always-disagg-pd-decider"
    else:
        tokens = ceil(threshold / CHARACTERS_PER_TOKEN) if isinstance(threshold, int) else threshold
        parameters = {"nonCachedTokens": tokens} | _read_by_scorer({SCORER_TYPE: SCORER} | given, others)
        decider = PluginSpec(type="prefix-based-pd-decider", name=name, parameters=parameters)
        note = f"{threshold} characters are prefix-based-pd-decider with nonCachedTokens {tokens}"
    rest = {key: value for key, value in given.items() if key != THRESHOLD} | {DECIDER_NAME: name}
    return Separation(msgspec.structs.replace(spec, parameters=rest), decider, f"{THRESHOLD}: deprecated; {note}")


def _read_by_scorer(given: Mapping[str, Any], others: Iterable[PluginSpec]) -> dict[str, Any]:
    """Return the parameter that names the producer of the prefix scorer that a plugin names."""
    scorer = given.get(SCORER_NAME) or given.get(SCORER_TYPE)
    found = next((each.parameters for each in others if scorer in (each.name, each.type)), None)
    return {PRODUCER_NAME: found[PRODUCER_NAME]} if found and PRODUCER_NAME in found else {}


def in_characters(parameters: Mapping[str, Any]) -> bool:
    """Return True if the size of a block is given in characters."""
    return any(name in parameters for name in IN_CHARACTERS)


def say_in_tokens(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Say the size of a block in tokens; one that is no number is left for whoever checks it."""
    rest = {key: value for key, value in parameters.items() if key not in IN_CHARACTERS}
    sizes = [parameters[name] for name in IN_CHARACTERS if name in parameters]
    if not sizes or "blockSizeTokens" in rest:
        return rest
    size = sizes[0]
    return rest | {"blockSizeTokens": ceil(size / CHARACTERS_PER_TOKEN) if isinstance(size, int) else size}


def _hoist(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Put what stood inside the indexer where it is today."""
    indexer = parameters.get(INDEXER)
    if not isinstance(indexer, dict):
        return dict(parameters)
    inner = dict(cast("dict[str, Any]", indexer))
    hoisted = {name: inner.pop(name) for name in HOISTED if name in inner}
    return {**hoisted, **parameters, INDEXER: inner}
