"""What former releases wrote otherwise: a configuration of theirs in today's words, and a note for each thing that changed.

Everything here was valid in some release of GIE or llm-d, and a file that has it keeps its meaning.
"""

from collections.abc import Iterator, Mapping
from math import ceil
from typing import Any

import msgspec

from shunter.picker.config.document import (
    FORMER_GROUP,
    GROUP,
    DetectorSpec,
    EndpointPickerConfig,
    FlowControlSpec,
    PluginSpec,
    RequestHandlerSpec,
)
from shunter.picker.errors import ConfigError

__all__ = ["Modern", "modernise"]

# Types of which only the name is another one now.
RENAMED = {"kv-cache-scorer": "kv-cache-utilization-scorer", "tokenizer": "token-producer"}

DETECTOR = "utilization-detector"
SCORER = "prefix-cache-scorer"
PRODUCER = "approx-prefix-cache-producer"
PRODUCER_NAME = "prefixMatchInfoProducerName"

# Up to GIE 1.3 the scorer itself remembered prompts, and the size of a block was in characters.
BLOCKS, TOKENS = "maxPrefixBlocksToMatch", "maxPrefixTokensToMatch"
MEMORY = ("autoTune", "blockSizeTokens", "lruCapacityPerServer", BLOCKS, TOKENS)
IN_CHARACTERS = ("blockSize", "hashBlockSize")
CHARACTERS_PER_TOKEN = 4


class Modern(msgspec.Struct):
    """A file in today's words."""

    config: EndpointPickerConfig
    notes: list[str]  # what was said otherwise; each begins with its place
    places: dict[str, str]  # of the parameters of plugins that were not declared as such, by name


def modernise(config: EndpointPickerConfig) -> Modern:
    """Return the configuration as one writes it today; raise ConfigError if it contradicts itself."""
    modern = Modern(config, [], {})
    if config.api_version == FORMER_GROUP:
        modern.notes.append(f"$.apiVersion: {FORMER_GROUP} is deprecated; write {GROUP}")
    specs = [_rename(spec, f"$.plugins[{at}]", modern.notes) for at, spec in enumerate(config.plugins)]
    memories = [memory for at, spec in enumerate(specs) for memory in _memory(spec, f"$.plugins[{at}].parameters", modern)]
    _change(modern, api_version=GROUP, plugins=tuple(_without_memory(spec, modern.places) for spec in specs) + tuple(memories))
    _move_sections(modern)
    flow = modern.config.flow_control
    if flow and flow.saturation_detector:
        _name_detector(modern, flow, flow.saturation_detector)
    return modern


def _change(modern: Modern, **changes: Any) -> None:
    modern.config = msgspec.structs.replace(modern.config, **changes)


def _move_sections(modern: Modern) -> None:
    """Put what has another place now there, unless that is taken; the reference does the same."""
    config = modern.config
    if config.parser:
        handler = config.request_handler
        taken = handler is not None and handler.parsers
        _note_moved(modern, "parser", "requestHandler.parsers", taken=bool(taken))
        _change(modern, parser=None, request_handler=handler if taken else RequestHandlerSpec(parsers=(config.parser,)))
    if config.data:
        _note_moved(modern, "data", "dataLayer", taken=config.data_layer is not None)
        _change(modern, data=None, data_layer=config.data_layer or config.data)
    if config.saturation_detector:
        flow = config.flow_control or FlowControlSpec()
        _note_moved(modern, "saturationDetector", "flowControl.saturationDetector", taken=flow.saturation_detector is not None)
        detector = flow.saturation_detector or config.saturation_detector
        _change(modern, saturation_detector=None, flow_control=msgspec.structs.replace(flow, saturation_detector=detector))


def _note_moved(modern: Modern, old: str, new: str, *, taken: bool) -> None:
    remedy = f"{new} is given too, and counts; remove it" if taken else f"it is called {new}"
    modern.notes.append(f"$.{old}: deprecated; {remedy}")


def _name_detector(modern: Modern, flow: FlowControlSpec, detector: DetectorSpec) -> None:
    """Turn thresholds that stand in place of a reference into a plugin."""
    parameters = msgspec.to_builtins(detector)
    ref = parameters.pop("pluginRef", "")
    if not parameters:
        return
    place = "$.flowControl.saturationDetector"
    if ref:
        raise ConfigError(f"{place}: pluginRef and thresholds exclude each other; give the plugin the thresholds")
    modern.notes.append(f"{place}: thresholds are deprecated here; they are parameters of {DETECTOR}")
    taken = {spec.name or spec.type for spec in modern.config.plugins}
    name = DETECTOR if DETECTOR not in taken else "thresholds"
    plugin = PluginSpec(type=DETECTOR, name=name, parameters=parameters)
    modern.places[name] = place
    flow = msgspec.structs.replace(flow, saturation_detector=DetectorSpec(plugin_ref=name))
    _change(modern, plugins=(*modern.config.plugins, plugin), flow_control=flow)


def _rename(spec: PluginSpec, place: str, notes: list[str]) -> PluginSpec:
    if spec.type in RENAMED:
        notes.append(f"{place}.type: {spec.type!r} is deprecated; it is called {RENAMED[spec.type]}")
        return msgspec.structs.replace(spec, type=RENAMED[spec.type], name=spec.name or spec.type)
    parameters = spec.parameters or {}
    if spec.type == PRODUCER and any(name in parameters for name in IN_CHARACTERS):
        notes.append(f"{place}.parameters.blockSize: deprecated; write blockSizeTokens")
        return msgspec.structs.replace(spec, parameters=_in_tokens(parameters))
    return spec


def _memory(spec: PluginSpec, place: str, modern: Modern) -> Iterator[PluginSpec]:
    """Yield the producer that a scorer with parameters of its own memory comes down to, if this is one."""
    parameters = spec.parameters or {}
    former = {name: parameters[name] for name in (*MEMORY, *IN_CHARACTERS) if name in parameters}
    if spec.type == SCORER and former and not parameters.get(PRODUCER_NAME):
        modern.notes.append(f"{place}: {', '.join(former)}: deprecated here; parameters of {PRODUCER} now")
        name = _memory_name(spec)
        modern.places[name] = place
        if former.get(BLOCKS):
            former.setdefault(TOKENS, 0)  # whose default would outweigh it
        yield PluginSpec(type=PRODUCER, name=name, parameters=_in_tokens(former))


def _memory_name(spec: PluginSpec) -> str:
    return f"{spec.name or spec.type}-memory"


def _without_memory(spec: PluginSpec, places: Mapping[str, str]) -> PluginSpec:
    name = _memory_name(spec)
    if spec.type != SCORER or name not in places:
        return spec
    rest = {key: value for key, value in (spec.parameters or {}).items() if key not in MEMORY + IN_CHARACTERS}
    return msgspec.structs.replace(spec, parameters=rest | {PRODUCER_NAME: name})


def _in_tokens(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Say the size of a block in tokens; one that is no number is left for whoever checks it."""
    rest = {key: value for key, value in parameters.items() if key not in IN_CHARACTERS}
    sizes = [parameters[name] for name in IN_CHARACTERS if name in parameters]
    if not sizes or "blockSizeTokens" in rest:
        return rest
    size = sizes[0]
    return rest | {"blockSizeTokens": ceil(size / CHARACTERS_PER_TOKEN) if isinstance(size, int) else size}
