"""The kinds of model servers that the exam knows, one module for each; the last is for all others."""

import re

from shunter.conformance.core.profile import named
from shunter.conformance.sections.servers.profile import ServerProfile
from shunter.conformance.sections.servers.profiles import generic, llamacpp, vllm

__all__ = ["GENERIC", "PROFILES", "detect", "find_profile"]

GENERIC = generic.PROFILE

PROFILES: tuple[ServerProfile, ...] = (vllm.PROFILE, llamacpp.PROFILE, GENERIC)


def find_profile(name: str) -> ServerProfile:
    """Look a profile up by name."""
    return named(PROFILES, name)


def detect(metrics_text: str, owners: tuple[str, ...]) -> tuple[ServerProfile, str]:
    """Recognise a server by its metrics page, else by the `owned_by` of its model cards; says why."""
    for profile in PROFILES:
        if profile.family_prefix and re.search(rf"^(# TYPE )?{re.escape(profile.family_prefix)}", metrics_text, re.MULTILINE):
            return profile, f"its metrics page has {profile.family_prefix} families"
    for profile in PROFILES:
        if profile.owned_by and profile.owned_by in owners:
            return profile, f"its model list says owned_by {profile.owned_by}"
    if not metrics_text:
        return GENERIC, "it gave no metrics page, and its model list is not that of a server with a profile"
    return GENERIC, "neither its metric families nor its model list are those of a server with a profile"
