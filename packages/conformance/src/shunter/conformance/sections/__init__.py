"""The syllabus: model servers (`ms.`), endpoint pickers (`ep.`) and gateways (`gw.`)."""

from shunter.conformance.core.case import AnyCase
from shunter.conformance.core.profile import Profile
from shunter.conformance.sections import gateways, pickers, servers
from shunter.conformance.sections.servers import profiles

__all__ = ["CASES", "PROFILES"]

CASES: tuple[AnyCase, ...] = (*servers.CASES, *pickers.CASES, *gateways.CASES)

PROFILES: dict[str, tuple[Profile, ...]] = {"ms": profiles.PROFILES, "ep": pickers.PROFILES, "gw": gateways.PROFILES}
"""The kinds of each side, by the first part of the ids of its cases."""
