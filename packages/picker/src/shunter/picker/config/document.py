"""The configuration file: its sections, the default one, and what is said when one does not fit.

A message names the place as a path from the root (``$.plugins[1].type``), the value that stands there and what to do.
"""

import difflib
import re
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Literal, cast

import msgspec
import yaml

from shunter.picker.errors import ConfigError
from shunter.picker.plugins import CATALOGUE, upstream

__all__ = [
    "DEFAULT",
    "GROUP",
    "DetectorSpec",
    "EndpointPickerConfig",
    "PluginRef",
    "PluginSpec",
    "ProfilePlugin",
    "ProfileSpec",
    "RequestHandlerSpec",
    "did_you_mean",
    "explained",
    "parse",
    "schema",
]

GROUP = "llm-d.ai/v1alpha1"
OLD_GROUP = "inference.networking.x-k8s.io/v1alpha1"

DEFAULT = f"""\
apiVersion: {GROUP}
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
- type: max-score-picker
schedulingProfiles:
- name: default
  plugins:
  - {{pluginRef: queue-scorer, weight: 2}}
  - {{pluginRef: kv-cache-utilization-scorer, weight: 2}}
  - {{pluginRef: prefix-cache-scorer, weight: 3}}
  - {{pluginRef: max-score-picker}}
"""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """Base of all sections."""


class PluginSpec(Section, frozen=True):
    """A plugin: its type, the name that refers to it (the type unless given) and its parameters."""

    type: str
    name: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class PluginRef(Section, frozen=True):
    """A reference to a plugin by name."""

    plugin_ref: str


class ProfilePlugin(PluginRef, frozen=True):
    """A plugin in a profile; ``weight`` is a scorer's."""

    weight: float | None = None


class ProfileSpec(Section, frozen=True):
    """A scheduling profile."""

    name: str
    plugins: tuple[ProfilePlugin, ...] = ()


class RequestHandlerSpec(Section, frozen=True):
    """How bodies are read. A list of parsers has no implicit fallback."""

    parsers: tuple[PluginRef, ...] = ()


class SourceSpec(PluginRef, frozen=True):
    """A data source and what is extracted from it."""

    extractors: tuple[PluginRef, ...] = ()


class DataLayerSpec(Section, frozen=True):
    """Where load comes from. The scraper does all of it; naming its default source and extractor is allowed."""

    inject_defaults: bool = True
    sources: tuple[SourceSpec, ...] = ()


class DetectorSpec(Section, frozen=True):
    """Which detector decides about saturation; up to GIE 1.3 its thresholds stood here themselves."""

    plugin_ref: str = ""
    queue_depth_threshold: float | None = None
    kv_cache_util_threshold: float | None = None
    metrics_staleness_threshold: str | None = None


class FlowControlSpec(Section, frozen=True):
    """Of flow control, only the saturation detector."""

    saturation_detector: DetectorSpec | None = None


class EndpointPickerConfig(Section, frozen=True):
    """The whole file."""

    api_version: Literal["llm-d.ai/v1alpha1", "inference.networking.x-k8s.io/v1alpha1"]
    kind: Literal["EndpointPickerConfig"]
    feature_gates: tuple[str, ...] = ()
    plugins: tuple[PluginSpec, ...] = ()
    scheduling_profiles: tuple[ProfileSpec, ...] = ()
    request_handler: RequestHandlerSpec | None = None
    parser: PluginRef | None = None
    data_layer: DataLayerSpec | None = None
    flow_control: FlowControlSpec | None = None
    saturation_detector: DetectorSpec | None = None


FEW = 12  # names that a message can list without hiding its point
LONGEST_VALUE = 80  # characters of a value that a message shows

# What the few fields with fixed values may be, for the message when they are not.
CHOICES = {"$.apiVersion": (GROUP, OLD_GROUP), "$.kind": ("EndpointPickerConfig",)}


def parse(text: str | bytes) -> EndpointPickerConfig:
    """Return the file's content, each section well-formed; raise ConfigError."""
    try:
        data: Any = UniqueKeys(text).get_single_data()
    except Exception as error:  # PyYAML also lets through what int(), datetime and look-ups raise at odd values
        raise ConfigError(f"not a YAML document: {error}") from error
    if not isinstance(data, dict):
        kind = "empty" if data is None else f"a {type(data).__name__}"
        raise ConfigError(f"$: the document is {kind}; an EndpointPickerConfig is an object with apiVersion and kind")
    try:
        return msgspec.convert(data, EndpointPickerConfig)
    except msgspec.ValidationError as error:
        raise explained(error, data, "$", SECTIONS) from error


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that stands twice is a mistake (PyYAML takes the last one), and so is half a surrogate pair."""

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        """Refuse text that is not Unicode: nothing could write it out again."""
        text: Any = super().construct_scalar(node)
        cast("str", text).encode()
        return text

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Compare the keys as they are written."""
        keys = [key for key, _ in cast("list[tuple[yaml.Node, yaml.Node]]", node.value)]
        texts = [cast("object", key.value) for key in keys]
        for at, key in enumerate(keys):
            if texts[at] in texts[:at]:
                raise yaml.constructor.ConstructorError(None, None, f"the key {texts[at]!r} stands twice", key.start_mark)
        return super().construct_mapping(node, deep=deep)


def explained(
    error: msgspec.ValidationError,
    data: Any,
    root: str,
    sections: Mapping[str, type[msgspec.Struct]],
) -> ConfigError:
    """Turn msgspec's message about ``data``, which stands at ``root``, into ours.

    ``sections`` says what belongs at a path below the root, written without indices (``.plugins[]``).
    """
    what, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`")
    unknown = re.match("Object contains unknown field `(.*)`", what)
    if not unknown:
        choices = CHOICES.get(root + path, ())
        remedy = f"; use {' or '.join(choices)}" if choices else ""
        return ConfigError(f"{root}{path}: {what[0].lower()}{what[1:]}, found {_value(data, path)}{remedy}")
    name = unknown[1]
    place = f"{root}{path}.{name}"
    if name in upstream.FIELDS:
        return ConfigError(f"{place}: llm-d knows this field, but Shunter cannot honour it yet; remove it")
    if name in upstream.MOVED_PARAMETERS:
        return ConfigError(f"{place}: unknown field; it is a parameter of {upstream.MOVED_PARAMETERS[name]}")
    section = sections.get(re.sub(r"\[\d+\]", "[]", path))
    fields = [field.encode_name for field in msgspec.structs.fields(section)] if section else []
    return ConfigError(f"{place}: unknown field{did_you_mean(name, fields)}")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a hint to begin with "; ": near matches if there are any, else all names if they are few."""
    names = sorted(set(names))
    near = difflib.get_close_matches(name, names, n=3)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return f"; there are {', '.join(names)}" if 0 < len(names) <= FEW else ""


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a configuration, the parameters of every plugin in the catalogue included."""
    registrations = list(CATALOGUE.values())
    types = [EndpointPickerConfig, *(each.plugin for each in registrations)]
    (root, *parameters), definitions = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    definitions["PluginSpec"]["allOf"] = [
        {
            "if": {"properties": {"type": {"const": registration.type_name}}},
            "then": {"properties": {"parameters": reference}},
        }
        for registration, reference in zip(registrations, parameters, strict=True)
    ]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "$defs": definitions}


SECTIONS: dict[str, type[Section]] = {
    "": EndpointPickerConfig,
    ".plugins[]": PluginSpec,
    ".schedulingProfiles[]": ProfileSpec,
    ".schedulingProfiles[].plugins[]": ProfilePlugin,
    ".requestHandler": RequestHandlerSpec,
    ".requestHandler.parsers[]": PluginRef,
    ".parser": PluginRef,
    ".dataLayer": DataLayerSpec,
    ".dataLayer.sources[]": SourceSpec,
    ".dataLayer.sources[].extractors[]": PluginRef,
    ".flowControl": FlowControlSpec,
    ".flowControl.saturationDetector": DetectorSpec,
    ".saturationDetector": DetectorSpec,
}


def _value(data: Any, path: str) -> str:
    """What stands at a path such as ``.plugins[0].type``, shortened."""
    for key, index in re.findall(r"\.([^.\[]+)|\[(\d+)\]", path):
        try:
            data = data[key or int(index)]
        except (KeyError, IndexError, TypeError):
            return "something else"
    text = repr(cast("object", data))
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
