"""The plugins that come with the picker; importing this package enters them into the catalogue."""

from shunter.picker.plugins import (
    datalayer,
    declared,
    detectors,
    filters,
    flow_policies,
    identities,
    legacy,
    pickers,
    precise,
    prefixes,
    scorers,
    sessions,
    upstream,
)
from shunter.picker.plugins.catalogue import CATALOGUE, Kind, Plugin, Reference, Registration, Stability, register

__all__ = [
    "CATALOGUE",
    "Kind",
    "Plugin",
    "Reference",
    "Registration",
    "Stability",
    "datalayer",
    "declared",
    "detectors",
    "filters",
    "flow_policies",
    "identities",
    "legacy",
    "pickers",
    "precise",
    "prefixes",
    "register",
    "scorers",
    "sessions",
    "upstream",
]
