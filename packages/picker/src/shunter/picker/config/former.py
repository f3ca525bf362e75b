"""What former releases wrote otherwise: a configuration of theirs in today's words, and a note for each thing that changed.

Everything here was valid in some release of GIE or llm-d, and a file that has it keeps its meaning.
"""

from typing import Any

import msgspec

from shunter.picker.config.casing import respell_names
from shunter.picker.config.document import (
    FORMER_GROUP,
    GROUP,
    DetectorSpec,
    EndpointPickerConfig,
    FlowControlSpec,
    PluginSpec,
    RequestHandlerSpec,
)
from shunter.picker.config.parameters import respell
from shunter.picker.config.separation import (
    PRECISE_PRODUCER,
    PRODUCER,
    in_characters,
    read_producer,
    say_in_tokens,
    separate,
    separate_decider,
)
from shunter.picker.errors import ConfigError

__all__ = ["Modern", "modernise"]

# Types of which only the name is another one now.
RENAMED = {
    "kv-cache-scorer": "kv-cache-utilization-scorer",
    "kvcache-aware-scorer": "precise-prefix-cache-scorer",
    "max-score": "max-score-picker",
    "single-profile": "single-profile-handler",
    "tokenizer": "token-producer",
}

DETECTOR = "utilization-detector"


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
    _modernise_plugins(modern)
    _move_sections(modern)
    flow = modern.config.flow_control
    if flow and flow.saturation_detector:
        _name_detector(modern, flow, flow.saturation_detector)
    return modern


def _change(modern: Modern, **changes: Any) -> None:
    modern.config = msgspec.structs.replace(modern.config, **changes)


def _modernise_plugins(modern: Modern) -> None:
    """Leave every plugin where it stands, so that places stay right, and put those that come of it behind them."""
    specs = list(modern.config.plugins)
    precise = next((spec.name or spec.type for spec in specs if spec.type == PRECISE_PRODUCER), "")
    others: list[PluginSpec] = []
    for at, given in enumerate(modern.config.plugins):
        spec, place = given, f"$.plugins[{at}]"
        if spec.type in RENAMED:
            modern.notes.append(f"{place}.type: {spec.type!r} is deprecated; it is called {RENAMED[spec.type]}")
            spec = specs[at] = msgspec.structs.replace(spec, type=RENAMED[spec.type], name=spec.name or spec.type)
        spec, misspelt = respell_names(spec)
        spec, notes = respell(spec)
        specs[at] = spec
        modern.notes += [f"{place}.parameters.{note}" for note in (*misspelt, *notes)]
        if separation := separate(spec, precise):
            modern.notes.append(f"{place}.parameters: {separation.note}")
            specs[at] = separation.plugin
            if separation.other:
                modern.places[separation.other.name] = f"{place}.parameters"
                others.append(separation.other)
        elif spec.type == PRODUCER and in_characters(spec.parameters or {}):
            modern.notes.append(f"{place}.parameters.blockSize: deprecated; write blockSizeTokens")
            specs[at] = msgspec.structs.replace(spec, parameters=say_in_tokens(spec.parameters or {}))
    for at, spec in enumerate(specs):
        if reader := read_producer(spec, specs):
            modern.notes.append(f"$.plugins[{at}].parameters: deprecated; it names the producer (prefixMatchInfoProducerName)")
            specs[at] = reader
        elif decision := separate_decider(spec, specs):
            modern.notes.append(f"$.plugins[{at}].parameters.{decision.note}")
            specs[at] = decision.plugin
            if decision.other:
                modern.places[decision.other.name] = f"$.plugins[{at}].parameters"
                others.append(decision.other)
    _change(modern, api_version=GROUP, plugins=(*specs, *others))


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
