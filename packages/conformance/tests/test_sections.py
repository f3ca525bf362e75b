"""The cases of each side, and its profiles, are well-formed values."""

import re

import pytest

from shunter.conformance.sections import gateways, pickers, servers
from shunter.conformance.sections.servers.profiles import PROFILES

SIDES = {
    "ms": (servers.CASES, PROFILES),
    "ep": (pickers.CASES, pickers.PROFILES),
    "gw": (gateways.CASES, gateways.PROFILES),
}


@pytest.mark.parametrize(
    ("side", "case"), [pytest.param(side, case, id=case.id) for side, (cases, _) in SIDES.items() for case in cases]
)
def test_a_case_is_complete(side, case):
    assert re.fullmatch(rf"{side}(\.[a-z0-9_]+(-[a-z0-9]+)*){{2}}", case.id)
    assert str(case.level) in case.requirement, "the requirement uses the word of its level"
    assert case.why
    assert case.source
    assert case.requirement.endswith(".")


@pytest.mark.parametrize("side", SIDES)
def test_what_a_case_needs_comes_before_it(side):
    before: set[str] = set()
    for case in SIDES[side][0]:
        assert before.issuperset(case.needs), case.id
        before.add(case.id)


@pytest.mark.parametrize("side", SIDES)
def test_profiles_excuse_only_what_exists(side):
    cases, profiles = SIDES[side]
    features = {feature for case in cases for feature in case.features}
    for profile in profiles:
        assert features.issuperset(profile.lacks)
        assert {known.case for known in profile.known_failures} <= {case.id for case in cases}
