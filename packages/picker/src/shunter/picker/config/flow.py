"""The section ``flowControl``: every default written out, and the settings that it comes down to."""

from collections.abc import Sequence
from typing import cast

import msgspec

from shunter.picker.config.declarations import Declarations
from shunter.picker.config.document import BandSpec, DetectorSpec, FlowControlSpec
from shunter.picker.config.quantities import read_quantity
from shunter.picker.config.reading import read_scalar
from shunter.picker.core.flow import (
    BAND_BYTES,
    BAND_REQUESTS,
    REQUEST_TTL_S,
    BandSettings,
    FairnessPolicy,
    FlowSettings,
    OrderingPolicy,
    UsageLimitPolicy,
)
from shunter.picker.errors import ConfigError
from shunter.picker.plugins import Kind
from shunter.picker.plugins.durations import duration_ns

__all__ = ["complete_detector", "complete_flow", "flow_settings"]

DEFAULT_DETECTOR = "utilization-detector"
DEFAULT_FAIRNESS = "global-strict-fairness-policy"
DEFAULT_ORDERING = "fcfs-ordering-policy"
DEFAULT_LIMITS = "static-usage-limit-policy"
DEFAULT_TTL = f"{REQUEST_TTL_S:g}s"

PLACE = "$.flowControl"


def complete_detector(given: FlowControlSpec, plugins: Declarations) -> FlowControlSpec:
    """Return the section with nothing but the saturation detector, which counts whether requests may wait or not."""
    ref = given.saturation_detector.plugin_ref if given.saturation_detector else ""
    name = _use(plugins, ref or DEFAULT_DETECTOR, f"{PLACE}.saturationDetector.pluginRef", Kind.DETECTOR)
    return FlowControlSpec(saturation_detector=DetectorSpec(plugin_ref=name))


def complete_flow(given: FlowControlSpec, plugins: Declarations) -> FlowControlSpec:
    """Return the section with every default; raise ConfigError."""
    ttl = given.default_request_ttl or DEFAULT_TTL
    empty_ttl = given.no_endpoint_request_ttl or ttl
    for name, value in (("defaultRequestTTL", ttl), ("noEndpointRequestTTL", empty_ttl)):
        read_scalar(duration_ns, value, f"{PLACE}.{name}")
    limits = given.usage_limit_policy_plugin_ref or DEFAULT_LIMITS
    bands = given.band_selection_policy_plugin_ref
    if bands:
        _use(plugins, bands, f"{PLACE}.bandSelectionPolicyPluginRef", Kind.BAND_SELECTION)
    negative = given.default_negative_priority_band
    _check_priorities([band.priority for band in given.priority_bands])
    return msgspec.structs.replace(
        complete_detector(given, plugins),
        max_bytes=_quantity(given.max_bytes, f"{PLACE}.maxBytes"),
        max_requests=_quantity(given.max_requests, f"{PLACE}.maxRequests"),
        default_request_ttl=ttl,
        no_endpoint_request_ttl=empty_ttl,
        default_priority_band=_band(given.default_priority_band or BandSpec(), f"{PLACE}.defaultPriorityBand", plugins),
        default_negative_priority_band=negative and _band(negative, f"{PLACE}.defaultNegativePriorityBand", plugins),
        priority_bands=tuple(
            _band(band, f"{PLACE}.priorityBands[{at}]", plugins) for at, band in enumerate(given.priority_bands)
        ),
        usage_limit_policy_plugin_ref=_use(plugins, limits, f"{PLACE}.usageLimitPolicyPluginRef", Kind.USAGE_LIMIT),
        band_selection_policy_plugin_ref=bands,
        enable_eviction=given.enable_eviction,
    )


def flow_settings(spec: FlowControlSpec, plugins: Declarations) -> FlowSettings:
    """Return what a complete section comes down to."""
    negative = spec.default_negative_priority_band
    return FlowSettings(
        default=_settings(spec.default_priority_band or BandSpec(), plugins),
        limits=cast("UsageLimitPolicy", plugins[spec.usage_limit_policy_plugin_ref].plugin),
        negative=negative and _settings(negative, plugins),
        bands={each.priority: _settings(each, plugins) for each in spec.priority_bands},
        max_bytes=int(spec.max_bytes or 0),
        max_requests=int(spec.max_requests or 0),
        request_ttl_s=duration_ns(spec.default_request_ttl or "") / 1e9,
        no_endpoint_ttl_s=duration_ns(spec.no_endpoint_request_ttl or "") / 1e9,
        eviction=spec.enable_eviction,
    )


def _check_priorities(priorities: Sequence[int]) -> None:
    for at, priority in enumerate(priorities):
        if priority in priorities[:at]:
            raise ConfigError(f"{PLACE}.priorityBands[{at}].priority: {priority} is the priority of another band already")


def _band(band: BandSpec, place: str, plugins: Declarations) -> BandSpec:
    """Write a band's defaults out; as in the reference, a bound of 0 is one that is not given."""
    if band.default_request_ttl is not None:
        read_scalar(duration_ns, band.default_request_ttl, f"{place}.defaultRequestTTL")
    fairness, ordering = band.fairness_policy_ref or DEFAULT_FAIRNESS, band.ordering_policy_ref or DEFAULT_ORDERING
    return BandSpec(
        priority=band.priority,
        max_bytes=_quantity(band.max_bytes, f"{place}.maxBytes") or BAND_BYTES,
        max_requests=_quantity(band.max_requests, f"{place}.maxRequests") or BAND_REQUESTS,
        default_request_ttl=band.default_request_ttl,
        fairness_policy_ref=_use(plugins, fairness, f"{place}.fairnessPolicyRef", Kind.FAIRNESS),
        ordering_policy_ref=_use(plugins, ordering, f"{place}.orderingPolicyRef", Kind.ORDERING),
    )


def _settings(spec: BandSpec, plugins: Declarations) -> BandSettings:
    return BandSettings(
        fairness=cast("FairnessPolicy", plugins[spec.fairness_policy_ref].plugin),
        ordering=cast("OrderingPolicy", plugins[spec.ordering_policy_ref].plugin),
        max_bytes=int(spec.max_bytes or 0),
        max_requests=int(spec.max_requests or 0),
        request_ttl_s=None if spec.default_request_ttl is None else duration_ns(spec.default_request_ttl) / 1e9,
    )


def _use(plugins: Declarations, ref: str, place: str, kind: Kind) -> str:
    return plugins.use(ref, place, kind, implicit=True).name


def _quantity(value: float | str | None, place: str) -> int:
    return 0 if value is None else read_scalar(read_quantity, value, place)
