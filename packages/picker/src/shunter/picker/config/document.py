"""The configuration file: its sections."""

from typing import Any, Literal, cast

import msgspec

from shunter.picker.config.reading import drop_nulls, explained, read_yaml
from shunter.picker.errors import ConfigError

__all__ = [
    "FORMER_GROUP", "GROUP", "BandSpec", "DataLayerSpec", "DetectorSpec", "EndpointPickerConfig", "FlowControlSpec",
    "PluginRef", "PluginSpec", "ProfilePlugin", "ProfileSpec", "RequestHandlerSpec", "parse",
]  # fmt: skip

GROUP = "llm-d.ai/v1alpha1"
NEXT_GROUP = "llm-d.ai/v1"
FORMER_GROUP = "inference.networking.x-k8s.io/v1alpha1"

Quantity = int | float | str
"""A number, or a text such as 4Gi, 10k or 1G as Kubernetes writes quantities."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """Base of all sections."""


class PluginSpec(Section, frozen=True):
    """A plugin: its type, the name that refers to it (the type unless given) and its parameters."""

    type: str
    name: str = ""
    parameters: dict[str, Any] | None = None


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
    """Where load comes from. The scraper does all of it; naming what it does is allowed, naming what it does not is refused."""

    inject_defaults: bool = True
    sources: tuple[SourceSpec, ...] = ()


class DetectorSpec(Section, frozen=True):
    """Which detector decides about saturation; up to GIE 1.3 its thresholds stood here themselves."""

    plugin_ref: str = ""
    queue_depth_threshold: float | None = None
    kv_cache_util_threshold: float | None = None
    metrics_staleness_threshold: str | None = None


class BandSpec(Section, frozen=True):
    """The bounds and policies of one priority, or of those that are not listed."""

    priority: int = 0
    max_bytes: Quantity | None = None
    max_requests: Quantity | None = None
    default_request_ttl: str | None = msgspec.field(default=None, name="defaultRequestTTL")
    fairness_policy_ref: str = ""
    ordering_policy_ref: str = ""


class FlowControlSpec(Section, frozen=True):
    """Who waits, how many, how long and in which order; all but the detector counts with the gate ``flowControl`` only."""

    max_bytes: Quantity | None = None
    max_requests: Quantity | None = None
    default_request_ttl: str | None = msgspec.field(default=None, name="defaultRequestTTL")
    no_endpoint_request_ttl: str | None = msgspec.field(default=None, name="noEndpointRequestTTL")
    default_priority_band: BandSpec | None = None
    default_negative_priority_band: BandSpec | None = None
    priority_bands: tuple[BandSpec, ...] = ()
    usage_limit_policy_plugin_ref: str = ""
    band_selection_policy_plugin_ref: str = ""
    saturation_detector: DetectorSpec | None = None
    enable_eviction: bool = False


class EndpointPickerConfig(Section, frozen=True):
    """The whole file."""

    api_version: Literal["llm-d.ai/v1alpha1", "llm-d.ai/v1", "inference.networking.x-k8s.io/v1alpha1"]
    kind: Literal["EndpointPickerConfig"]
    feature_gates: tuple[str, ...] = ()
    plugins: tuple[PluginSpec, ...] = ()
    scheduling_profiles: tuple[ProfileSpec, ...] = ()
    request_handler: RequestHandlerSpec | None = None
    parser: PluginRef | None = None
    data_layer: DataLayerSpec | None = None
    data: DataLayerSpec | None = None
    flow_control: FlowControlSpec | None = None
    saturation_detector: DetectorSpec | None = None


CHOICES = {"$.apiVersion": (GROUP, NEXT_GROUP, FORMER_GROUP), "$.kind": ("EndpointPickerConfig",)}


def parse(text: str | bytes) -> EndpointPickerConfig:
    """Return the file's content, each section well-formed; raise ConfigError."""
    data = read_yaml(text)
    if not isinstance(data, dict):
        kind = "empty" if data is None else f"a {type(data).__name__}"
        raise ConfigError(f"$: the document is {kind}; an EndpointPickerConfig is an object with apiVersion and kind")
    drop_nulls(cast("object", data))
    try:
        return msgspec.convert(data, EndpointPickerConfig)
    except msgspec.ValidationError as error:
        raise explained(error, data, "$", EndpointPickerConfig, CHOICES) from error
