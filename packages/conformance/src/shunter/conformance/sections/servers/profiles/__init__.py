"""The kinds of model servers that the exam knows, one module for each; the last is for all others."""

import re

from shunter.conformance.core.profile import named
from shunter.conformance.sections.servers.profile import ServerProfile
from shunter.conformance.sections.servers.profiles import generic, jetstream, lab, llamacpp, sglang, tgi, triton, trtllm, vllm

__all__ = ["GENERIC", "PROFILES", "detect", "find_profile", "undetected"]

GENERIC = generic.PROFILE

PROFILES: tuple[ServerProfile, ...] = (
    vllm.PROFILE,
    sglang.PROFILE,
    triton.PROFILE,
    trtllm.PROFILE,
    tgi.PROFILE,
    jetstream.PROFILE,
    llamacpp.PROFILE,
    lab.PROFILE,
    GENERIC,
)


def find_profile(name: str) -> ServerProfile:
    """Look a profile up by name."""
    return named(PROFILES, name)


def detect(metrics_text: str, owners: tuple[str, ...]) -> tuple[ServerProfile, str] | None:
    """Recognise a server by its metrics page, else by the `owned_by` of its model cards; says why, or None.

    Of two kinds with the same metrics, it is the one that its model cards name.
    """
    for profile in sorted(PROFILES, key=lambda each: each.owned_by not in owners):
        if profile.family_prefix and re.search(rf"^(# TYPE )?{re.escape(profile.family_prefix)}", metrics_text, re.MULTILINE):
            return profile, f"its metrics page has {profile.family_prefix} families{_former(profile, metrics_text)}"
    for profile in PROFILES:
        if profile.owned_by and profile.owned_by in owners:
            return profile, f"its model list says owned_by {profile.owned_by}"
    return None


def _former(profile: ServerProfile, metrics_text: str) -> str:
    """What to say of a page with names that gauges no longer have."""

    def there(family: str) -> bool:
        return re.search(rf"^{re.escape(family)}[ {{]", metrics_text, re.MULTILINE) is not None

    old = [
        f"its {role} gauge is {former.family}, the name of {former.releases}"
        for role, former in profile.former.items()
        if there(former.family) and not there(profile.signals[role].family)
    ]
    return "".join(f"; {text}" for text in old)


def undetected(metrics_text: str) -> str:
    """Why a server is taken for one of no kind."""
    if not metrics_text:
        return "it gave no metrics page, and its model list is not that of a server with a profile"
    return "neither its metric families nor its model list are those of a server with a profile"
