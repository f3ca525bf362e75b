import random
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker import config
from shunter.picker.core.events import BodyMode
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask
from shunter.picker.core.kinds import Decision, Named, Profile, Verdict
from shunter.picker.core.policy import Crew, Policy
from shunter.picker.core.request import DEFAULT_FLOW, Request
from shunter.picker.errors import ConfigError
from shunter.picker.plugins.filters import ServedVerifier
from shunter.picker.plugins.identities import AgentIdentity, SessionId
from shunter.picker.plugins.pickers import MaxScore
from shunter.picker.plugins.sessions import (
    IdConfig,
    SessionAffinityFilter,
    SessionAffinityScorer,
    Source,
    TokenConfig,
    read_token,
    write_token,
)
from shunter.picker.testing import FakeEnvoy
from shunter.snapshot import Endpoint

NOW_S = 100.0
SECOND_NS = 10**9


def at_work(plugin, tell=lambda *_: None):
    policy = Policy(profiles=(Profile("default", MaxScore()),), others=(Named("it", plugin),))
    return Crew(policy, random.Random(1), tell).find("it")


def by_id(tell=lambda *_: None, **config):
    return at_work(SessionAffinityFilter(strategy="session_id", session_id_config=IdConfig(**config)), tell)


def asking(session=None, at_s=NOW_S, **facts):
    headers = {"x-session-id": session} if session else {}
    return Request(headers=headers, at_ns=int(at_s * SECOND_NS), facts=facts)


def give(plugin, fleet, at, request):
    return plugin.picked(request, Verdict(Decision(fleet.endpoints, [at])))


def token(text):
    return b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (token("default/pod-1"), [1]),
        (token("elsewhere/pod-1"), [0, 1, 2]),
        (token("default/pod-9"), [0, 1, 2]),
        (token("pod-1"), [0, 1, 2]),
        ("not base64!", [0, 1, 2]),
        (token("x" * 600), [0, 1, 2]),
        ("", [0, 1, 2]),
    ],
)
def test_a_token_names_the_endpoint(make_fleet, value, kept):
    request = Request(headers={"x-session-token": value})
    assert list(at_work(SessionAffinityFilter()).keep(request, make_fleet({}, {}, {}))) == kept


def test_the_scorer_prefers_where_the_filter_insists(make_fleet):
    request = Request(headers={"x-mine": token("default/pod-1")})
    scorer = at_work(SessionAffinityScorer(encoded_endpoint_header_config=TokenConfig(header="X-Mine")))
    assert scorer.score(request, make_fleet({}, {}, {})) == {1: 1.0}
    assert scorer.score(asking(), make_fleet({}, {}, {})) == {}


@given(st.text())
def test_any_token_is_read_or_none(text):
    place = read_token(text)
    assert place is None or isinstance(place, tuple)


@given(st.text(min_size=1, max_size=60).filter(lambda name: "/" not in name), st.text(max_size=60))
def test_a_token_says_what_was_written(namespace, name):
    endpoint = Endpoint(slot=0, incarnation=1, namespace=namespace, name=name, address="10.0.0.1", port=1)
    if len(write_token(endpoint)) <= 512:
        assert read_token(write_token(endpoint)) == (namespace, name)


def test_the_response_gets_the_token_of_who_is_named(make_fleet):
    fleet = make_fleet({}, {}, {})
    verdict = Verdict(Decision(fleet.endpoints, [2, 0]), {"prefill": Decision(fleet.endpoints, [1])}, profile="decode")
    tokens = {"10.0.0.3:8000": token("default/pod-2"), "10.0.0.1:8000": token("default/pod-0")}
    assert at_work(SessionAffinityFilter()).picked(asking(), verdict)[1] == (("x-session-token", tokens),)
    for name, value in (("decode", tokens), ("prefill", token("default/pod-1"))):
        assert at_work(SessionAffinityFilter(profile_name=name)).picked(asking(), verdict)[1] == (("x-session-token", value),)
    assert at_work(SessionAffinityFilter(profile_name="encode")).picked(asking(), verdict) == ((), ())


@pytest.mark.parametrize("served", [None, "10.0.0.1:8000", "10.0.0.2:8000", "10.9.9.9:1"])
def test_the_client_gets_the_token_of_who_served(make_view, served):
    profile = Profile("default", MaxScore(), (Named("session", SessionAffinityFilter()),))
    view = make_view({}, {})
    judge = FleetJudge(Policy(profiles=(profile,)), lambda _: view, random.Random(0))
    envoy = FakeEnvoy.before(judge, BodyMode.BUFFERED, BodyMode.NONE)
    envoy.request(body=b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}')
    envoy.respond(served=served)
    tokens = {"10.0.0.1:8000": token("default/pod-0"), "10.0.0.2:8000": token("default/pod-1")}
    assert set(envoy.endpoints) == tokens.keys()
    assert envoy.client_headers.get("x-session-token") == tokens.get(served or envoy.endpoints[0])


@pytest.mark.parametrize(
    ("served", "told"), [("10.0.0.2:8000", "10.0.0.2:8000"), (None, "fail: missing envoy lb metadata"), ("10.9.9.9:1", None)]
)
def test_a_conformance_test_is_told_who_served(make_view, served, told):
    view = make_view({}, {})
    policy = Policy(profiles=(Profile("default", MaxScore()),), others=(Named("it", ServedVerifier()),))
    envoy = FakeEnvoy.before(FleetJudge(policy, lambda _: view, random.Random(0)), BodyMode.BUFFERED, BodyMode.NONE)
    envoy.request(body=b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}')
    envoy.respond(served=served)
    assert envoy.client_headers.get("x-conformance-test-served-endpoint") == told


def test_a_session_stays_where_it_began(make_fleet):
    fleet, plugin = make_fleet({}, {}, {}), by_id()
    assert len(plugin.keep(asking("s"), fleet)) == 3
    give(plugin, fleet, 2, asking("s"))
    assert list(plugin.keep(asking("s"), fleet)) == [2]
    assert len(plugin.keep(asking("other"), fleet)) == 3
    give(plugin, fleet, 0, asking("s"))  # a candidate preferred to the bound one, which was there
    assert list(plugin.keep(asking("s"), fleet)) == [2]
    give(plugin, fleet.narrow([0, 1]), 0, asking("s"))  # it was not
    assert list(plugin.keep(asking("s"), fleet)) == [0]


def test_a_new_owner_of_a_slot_has_nothing_to_do_with_it(make_fleet):
    plugin = by_id()
    give(plugin, make_fleet({}, {}), 1, asking("s"))
    assert len(plugin.keep(asking("s"), make_fleet({}, {}, endpoints=[{}, {"incarnation": 2}]))) == 2


def test_an_unused_session_is_forgotten(make_fleet):
    fleet, plugin = make_fleet({}, {}), by_id(eviction_ttl_seconds=10)
    give(plugin, fleet, 1, asking("s", 100))
    give(plugin, fleet, 1, asking("s", 109))
    assert list(plugin.keep(asking("s", 119), fleet)) == [1]
    assert len(plugin.keep(asking("s", 119.1), fleet)) == 2


def test_an_unused_session_is_not_revived_by_what_was_told_late(make_fleet):
    told, fleet, plugin = [], make_fleet({}, {}), by_id(eviction_ttl_seconds=10)
    give(by_id(lambda _, data: told.append(data)), fleet, 0, asking("old", 95))
    give(plugin, fleet, 0, asking("new", 100))
    plugin.hear(told[0])
    give(plugin, fleet, 1, asking("old", 106))
    assert list(plugin.keep(asking("old", 107), fleet)) == [1]


def test_an_id_comes_from_the_first_source_that_has_one(make_fleet):
    fleet = make_fleet({}, {})
    plugin = by_id(sources=(Source(header="X-One"), Source(attribute="agent-identity"), Source(attribute="a", producer="p")))
    give(plugin, fleet, 1, Request(headers={"x-one": "1"}, at_ns=1))
    for facts in ({"agent-identity": "1"}, {"p": "1"}, {"agent-identity": None, "p": "1"}):
        assert list(plugin.keep(asking(at_s=0, **facts), fleet)) == [1]
    assert len(plugin.keep(asking(at_s=0, **{"agent-identity": "2", "p": "1"}), fleet)) == 2
    with pytest.raises(ValueError, match="either a header or an attribute"):
        Source()


def test_workers_share_their_sessions_without_telling_of_each_request(make_fleet):
    told, fleet, other = [], make_fleet({}, {}), by_id(eviction_ttl_seconds=80)
    mine = by_id(lambda _, data: told.append(data), eviction_ttl_seconds=80)
    for at_s in (100, 105, 109, 111):
        give(mine, fleet, 1, asking("s", at_s))
    assert len(told) == 2
    for data in reversed(told):  # also in the wrong order
        other.hear(data)
    assert list(other.keep(asking("s", 190), fleet)) == [1]
    give(mine, fleet.narrow([0]), 0, asking("s", 112))
    other.hear(told[-1])
    assert list(other.keep(asking("s", 112), fleet)) == [0]


@pytest.mark.parametrize(
    ("plugin", "headers", "session"),
    [
        (SessionId(), {"x-session-id": "a"}, "a"),
        (SessionId(), {"x-session-id": ""}, None),
        (SessionId(header_name="X-Mine"), {"x-session-id": "a", "x-mine": "b"}, "b"),
        (SessionId(cookie_name="sid"), {"cookie": "a=1; sid=c=d; sid=2"}, "c=d"),
        (SessionId(cookie_name="sid"), {"cookie": "xsid=1; SID=2"}, None),
        (SessionId(cookie_name="sid"), {"x-session-id": "a"}, None),
        (AgentIdentity(), {"session_id": "c", "x-claude-code-session-id": "a"}, "a"),
        (AgentIdentity(additional_session_headers=("X-Agent",)), {"session-id": "c", "x-agent": "b"}, "b"),
        (AgentIdentity(), {}, None),
    ],
)
def test_a_session_is_read_from_where_it_stands(plugin, headers, session):
    assert plugin.produce(Request(headers=headers), None) == session


AFFINE = (
    "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins: [{producers}{{type: session-affinity-filter,"
    " parameters: {{strategy: session_id, sessionIdConfig: {{sources: [{{attribute: {attribute}}}]}}}}}}]"
)
SESSIONS, AGENTS = "{type: session-id-producer, name: sid}, ", "{type: agent-identity, name: who}, "


@pytest.mark.parametrize(
    ("producers", "attribute"),
    [
        (SESSIONS, "sid"),
        (SESSIONS, "session-id-producer"),
        (SESSIONS, "SessionID"),
        ("", "SessionID"),
        ("", "session-id-producer"),
        (SESSIONS + AGENTS, "agent-identity"),
        (SESSIONS + "{type: session-id-producer}, ", "SessionID"),
    ],
)
def test_an_attribute_is_found_by_its_producers_name_or_type_or_as_the_reference_calls_it(make_judge, producers, attribute):
    judge = make_judge({}, {}, {}, {}, text=AFFINE.format(producers=producers, attribute=attribute))
    headers = {":path": "/v1/completions", "x-session-id": "a", "session-id": "a"}
    picks = [judge.decide(Ask(headers, b'{"model": "m", "prompt": "hi"}'), 100.0) for _ in range(8)]
    assert len({pick.endpoints[0] for pick in picks}) == 1


@pytest.mark.parametrize(
    ("producers", "attribute", "words"),
    [
        (SESSIONS, "sif", "sources[0].attribute: no data producer is named 'sif'; did you mean 'sid'?"),
        (
            SESSIONS + SESSIONS.replace("sid", "own"),
            "SessionID",
            "'sid' and 'own' are all of the type session-id-producer; name",
        ),
    ],
)
def test_an_attribute_that_nobody_finds_out_is_a_mistake(producers, attribute, words):
    with pytest.raises(ConfigError) as error:
        config.load(AFFINE.format(producers=producers, attribute=attribute))
    assert f"$.plugins[{producers.count('type')}].parameters.sessionIdConfig." in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize("plugin", ["session-affinity-filter", "session-affinity-scorer"])
def test_the_profile_whose_choice_is_meant_exists(plugin):
    text = AFFINE.partition("plugins")[0] + f"plugins: [{{type: {plugin}, parameters: {{profileName: decoed}}}}]"
    with pytest.raises(ConfigError, match="names the profile 'decoed', which does not exist"):
        config.load(text)


def test_a_session_stands_in_one_place():
    with pytest.raises(ValueError, match="exclude each other"):
        SessionId(header_name="a", cookie_name="b")


def test_an_agent_is_a_flow_of_its_own_unless_the_client_names_one(make_view):
    policy = Policy(profiles=(Profile("default", MaxScore()),), others=(Named("agent", AgentIdentity()),))
    view = make_view({})
    judge = FleetJudge(policy, lambda _: view, random.Random(0))
    seen = []
    judge._scheduler.run = lambda request, _: seen.append(request.fairness_id)
    for headers in ({"session-id": "a"}, {"session-id": "a", "x-llm-d-inference-fairness-id": "b"}, {}):
        judge.decide(Ask(headers, b"", has_body=False), NOW_S)
    assert seen == ["a", "b", DEFAULT_FLOW]
