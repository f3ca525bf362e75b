"""The plugins that come with the picker; importing this package enters them into the catalogue."""

from shunter.picker.plugins import declared, detectors, filters, flow_policies, legacy, pickers, prefixes, scorers, upstream
from shunter.picker.plugins.catalogue import CATALOGUE, Kind, Plugin, Registration, Stability, register

__all__ = [
    "CATALOGUE",
    "Kind",
    "Plugin",
    "Registration",
    "Stability",
    "declared",
    "detectors",
    "filters",
    "flow_policies",
    "legacy",
    "pickers",
    "prefixes",
    "register",
    "scorers",
    "upstream",
]
