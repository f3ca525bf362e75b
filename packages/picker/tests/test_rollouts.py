import random
from collections import Counter
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.events import BodyMode
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Refusal
from shunter.picker.core.kinds import Named, Profile
from shunter.picker.core.policy import Crew, Policy
from shunter.picker.core.request import Request
from shunter.picker.plugins.pickers import MaxScore
from shunter.picker.plugins.rollouts import RolloutScreener, read_selector
from shunter.picker.testing import FakeEnvoy

REVISION, ROLE = "disaggregatedset.x-k8s.io/revision", "disaggregatedset.x-k8s.io/role"
SELECTORS = [
    {"name": "revision", "headerName": "X-Revision", "labelKey": REVISION, "mode": "strict"},
    {"name": "slice", "headerName": "X-Slice", "labelKey": "slice", "mode": "prefer"},
]


def screener(mode="max-role", roles=("prefill", "decode"), selectors=(), scope="app=a"):
    gating = {"mode": mode} | ({"requireRoles": {"values": list(roles)}} if roles else {})
    parameters = {"scope": {"labelSelector": scope}, "revisionGating": gating, "headerSelectors": list(selectors)}
    return msgspec.convert(parameters, RolloutScreener)


def at_work(plugin, seed=1):
    policy = Policy(profiles=(Profile("default", MaxScore()),), others=(Named("it", plugin),))
    return Crew(policy, random.Random(seed), lambda *_: None).find("it")


def ready(make, **revisions):
    """A(prefill, decode) of each revision, in order."""
    labels = [
        {"app": "a", REVISION: revision, ROLE: role, "slice": role[0]}
        for revision, counts in revisions.items()
        for role, count in zip(("prefill", "decode"), counts, strict=True)
        for _ in range(count)
    ]
    return make(*({} for _ in labels), endpoints=[{"labels": each} for each in labels])


def chosen(plugin, fleet, headers=None, draws=1):
    """Whose endpoints stay, how often."""
    work, found = at_work(plugin), Counter()
    for _ in range(draws):
        kept = work.screen(Request(headers=headers or {}), fleet)
        if isinstance(kept, Refusal):
            return kept.status
        revisions = {fleet.endpoints[at].labels.get(REVISION) for at in kept}
        assert len(revisions) == 1 or plugin.revision_gating.mode == "disabled"
        found["".join(sorted(each or "-" for each in revisions))] += 1
    return found


@pytest.mark.parametrize(
    ("mode", "revisions", "share"),
    [
        ("max-role", {"A": (2, 9), "B": (1, 1)}, 0.9),
        ("sum", {"A": (2, 9), "B": (1, 1)}, 11 / 13),
        ("max-role", {"A": (9, 2), "B": (1, 2)}, 0.9),
        ("max-role", {"A": (1, 3), "B": (3, 1)}, 0.25),  # equal: the first required role
        ("sum", {"A": (2, 9), "B": (0, 5)}, 1.0),
    ],
)
def test_revisions_get_what_they_are_ready_for(make_fleet, mode, revisions, share):
    found = chosen(screener(mode), ready(make_fleet, **revisions), draws=2000)
    assert found["A"] / 2000 == pytest.approx(share, abs=0.04)


def test_without_a_complete_revision_nobody_serves(make_fleet):
    assert chosen(screener(), ready(make_fleet, A=(2, 0), B=(0, 5))) == 503
    assert chosen(screener(scope="app=b"), ready(make_fleet, A=(2, 2))) == 503


def test_a_strict_header_insists(make_fleet):
    fleet = ready(make_fleet, A=(2, 9), B=(1, 1), C=(0, 1))
    plugin = screener(selectors=SELECTORS)
    assert chosen(plugin, fleet, {"x-revision": "B"}, draws=50) == {"B": 50}
    assert chosen(plugin, fleet, {"x-revision": "C"}) == 503
    assert chosen(plugin, fleet, {"x-revision": "D"}) == 503
    assert set(chosen(plugin, fleet, {"x-slice": "none"}, draws=50)) == {"A", "B"}


def test_todays_form_is_one_header_and_a_list_of_roles(make_fleet):
    parameters = {
        "scope": {"labelSelector": "app=a"},
        "revisionGating": {"mode": "max-role", "requiredRoles": ["prefill", "decode"]},
    }
    plugin = msgspec.convert(parameters, RolloutScreener)
    fleet = ready(make_fleet, A=(2, 9), B=(1, 1), C=(0, 1))
    assert plugin.needs == ("headers",)
    assert chosen(plugin, fleet, {"x-llm-d-disagg-revision": "B"}, draws=50) == {"B": 50}
    assert chosen(plugin, fleet, {"x-llm-d-disagg-revision": "C"}) == 503
    assert set(chosen(plugin, fleet, draws=200)) == {"A", "B"}


def test_disabled_gating_leaves_the_headers(make_fleet):
    fleet = ready(make_fleet, A=(2, 0), B=(1, 1))
    plugin = screener("disabled", roles=(), selectors=SELECTORS)
    assert chosen(plugin, fleet) == {"AB": 1}
    assert chosen(plugin, fleet, {"x-revision": "A"}) == {"A": 1}
    assert chosen(plugin, fleet, {"x-revision": "C"}) == 503


def test_the_client_is_told_what_served_and_others_are_never_asked(make_view):
    view = ready(make_view, A=(1, 1), B=(1, 0))
    policy = Policy(profiles=(Profile("default", MaxScore()),), others=(Named("it", screener(selectors=SELECTORS)),))
    envoy = FakeEnvoy.before(FleetJudge(policy, lambda _: view, random.Random(0)), BodyMode.BUFFERED, BodyMode.NONE)
    envoy.request(body=b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}')
    envoy.respond(served="10.0.0.2:8000")
    assert set(envoy.endpoints) == {"10.0.0.1:8000", "10.0.0.2:8000"}
    assert (envoy.client_headers["x-revision"], envoy.client_headers["x-slice"]) == ("A", "d")


def test_a_refusal_reaches_the_client(make_view):
    policy = Policy(profiles=(Profile("default", MaxScore()),), others=(Named("it", screener()),))
    view = ready(make_view, A=(1, 0))
    envoy = FakeEnvoy.before(FleetJudge(policy, lambda _: view, random.Random(0)), BodyMode.BUFFERED)
    envoy.request(body=b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}')
    assert envoy.immediate.status == 503


def test_gating_needs_roles():
    with pytest.raises(msgspec.ValidationError, match="mode sum needs requiredRoles"):
        screener("sum", roles=())
    with pytest.raises(msgspec.ValidationError, match="is not a label selector"):
        screener(scope="a in b")


LABELS = {"app": "a", "tier": "x", "example.com/k": "v.1"}


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("app=a", True),
        ("app==a,tier != y", True),
        ("app=b", False),
        ("tier in (x, y)", True),
        ("tier notin (x,y),app=a", False),
        ("example.com/k=v.1,!gone", True),
        ("!app", False),
        ("tier", True),
        ("gone", False),
        ("gone!=x", True),
        ("", True),
        (" app = a , tier", True),
    ],
)
def test_selectors_are_read_as_kubernetes_writes_them(text, met):
    assert all(requirement.met_by(LABELS) for requirement in read_selector(text)) is met


@pytest.mark.parametrize("text", ["=a", "a in x", "a,,b", "a in (x", "a b", "!", ","])
def test_what_is_no_selector_is_refused(text):
    with pytest.raises(ValueError, match="is not a label selector"):
        read_selector(text)


@given(st.text(alphabet="ab=!,() in", max_size=20))
def test_any_text_is_a_selector_or_refused(text):
    with suppress(ValueError):  # nothing else is raised
        assert all(requirement.key for requirement in read_selector(text))
