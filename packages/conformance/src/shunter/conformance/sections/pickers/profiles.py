"""The kinds of endpoint pickers that the exam knows; the last is for all others."""

from shunter.conformance.core.profile import named
from shunter.conformance.sections.pickers.profile import TOKEN_METRICS, PickerProfile

__all__ = ["GENERIC", "PROFILES", "find_profile"]

SHUNTER = PickerProfile(
    name="shunter",
    requests=("shunter_picker_picks_total",),
    running=("shunter_picker_in_flight_requests",),
    lacks={TOKEN_METRICS: "tokens come with the gateway's records of requests (--collector-port), which only its Envoys write"},
)

GENERIC = PickerProfile(name="generic")

PROFILES: tuple[PickerProfile, ...] = (SHUNTER, GENERIC)


def find_profile(name: str) -> PickerProfile:
    """Look a profile up by name."""
    return named(PROFILES, name)
