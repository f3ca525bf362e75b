"""By-label, context-length and topology plugins: where an endpoint is and what it is for."""

import random

import pytest

from shunter.picker import config
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask
from shunter.picker.core.kinds import Decision, Named, Profile, Setting, Verdict
from shunter.picker.core.policy import Crew, Policy
from shunter.picker.core.request import Request
from shunter.picker.core.schedule import PEER
from shunter.picker.plugins.admission import SHED, Probabilistic
from shunter.picker.plugins.filters import ByLabel, ByLabelSelector
from shunter.picker.plugins.handlers import HeaderProfile
from shunter.picker.plugins.lengths import ContextLength
from shunter.picker.plugins.pickers import MaxScore
from shunter.picker.plugins.topology import HeaderLabelAffinity, Places, TopologyFilter, TopologyScorer
from shunter.snapshot import Health

HOST, ZONE, REGION = "kubernetes.io/hostname", "topology.kubernetes.io/zone", "topology.kubernetes.io/region"
RANGE = "llm-d.ai/context-length-range"


def labelled(make_fleet, *labels):
    return make_fleet(*({} for _ in labels), endpoints=[{"labels": each} for each in labels])


def at_work(plugin):
    return plugin.start(Setting("it", random.Random(1), {}.__getitem__, lambda _: None))


def ranges(make_fleet, *texts):
    return labelled(make_fleet, *({RANGE: text} if text is not None else {} for text in texts))


def test_a_label_has_a_valid_value_or_none_at_all(make_fleet):
    fleet = labelled(make_fleet, {"gpu": "a"}, {"gpu": "b"}, {})
    request = Request(headers={})
    assert ByLabel(label="gpu", valid_values=("a", "c")).keep(request, fleet) == [0]
    assert ByLabel(label="gpu", valid_values=("b",), allows_no_label=True).keep(request, fleet) == [1, 2]
    assert ByLabelSelector(match_labels={"gpu": "b"}).keep(request, fleet) == [1]


@pytest.mark.parametrize(
    ("text", "tokens", "score", "kept"),
    [
        ("0-10000", 0, 0.3 + 0.7 * (0.7 / 2 + 0.3), True),
        ("0-10000", 10_000, 0.3 + 0.7 * 0.35, True),
        ("2000-2000", 2000, 1.0, True),
        ("0-2000", 3000, 0.15, False),
        ("4000-8000", 3000, 0.15, False),
        (None, 3000, 0.5, True),
        ("2000-0", 1000, 0, False),
        ("2000", 1000, 0, False),
        ("0-1e9", 1000, 0, False),
    ],
)
def test_a_range_scores_by_how_it_fits(make_fleet, text, tokens, score, kept):
    fleet, request = ranges(make_fleet, text), Request(headers={}, prompt_tokens=tokens)
    assert ContextLength().score(request, fleet) == pytest.approx([score])
    assert list(ContextLength(enable_filtering=True).keep(request, fleet)) == ([0] if kept else [])
    assert list(ContextLength().keep(request, fleet)) == [0]


def test_nearer_to_the_peer_is_better(make_fleet):
    here = {HOST: "h", ZONE: "z", REGION: "r"}
    fleet = labelled(make_fleet, here, here | {HOST: "i"}, {REGION: "r"}, {HOST: "", ZONE: "y"}, {})
    peer = labelled(make_fleet, here).endpoints[0]
    near = Request(headers={}, facts={PEER: peer})
    assert at_work(TopologyScorer()).score(near, fleet) == [1, 0.05, 0.02, 0, 0]
    assert at_work(TopologyFilter()).keep(near, fleet) == [0]
    assert at_work(TopologyFilter(min_affinity="zone")).keep(near, fleet) == [0, 1]
    assert at_work(TopologyFilter(min_affinity="region")).keep(near, fleet) == [0, 1, 2]


def test_without_a_peer_or_anybody_near_all_stay(make_fleet):
    fleet = labelled(make_fleet, {HOST: "h"}, {})
    nowhere = labelled(make_fleet, {HOST: ""}).endpoints[0]
    for facts in ({}, {PEER: nowhere}):
        assert list(at_work(TopologyFilter()).keep(Request(headers={}, facts=facts), fleet)) == [0, 1]
        assert at_work(TopologyScorer()).score(Request(headers={}, facts=facts), fleet) == [0, 0]


def test_where_an_endpoint_is_stands_in_the_labels_that_are_named(make_fleet):
    fleet = labelled(make_fleet, {"site": "b", HOST: "h"}, {"site": "a"})
    near = Request(headers={}, facts={PEER: labelled(make_fleet, {"site": "a", HOST: "h"}).endpoints[0]})
    setting = Setting("near", random.Random(1), {"ours": Places(hostname="", zone="site")}.__getitem__, lambda _: None)
    scorer = TopologyScorer(topology_producer_name="ours").start(setting)
    assert scorer.score(near, fleet) == [1, 0.05]
    assert TopologyFilter(min_affinity="zone", topology_producer_name="ours").start(setting).keep(near, fleet) == [0, 1]


@pytest.mark.parametrize("name", ["topology-extractor", "places"])
def test_a_configuration_says_which_labels_these_are(make_fleet, name):
    plan = config.load(f"""\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {{type: topology-extractor, name: {name}, parameters: {{rack: example.com/rack}}}}
- {{type: topology-affinity-filter, parameters: {{minAffinity: rack, topologyProducerName: {name}}}}}
dataLayer: {{sources: [{{pluginRef: endpoint-notification-source, extractors: [{{pluginRef: {name}}}]}}]}}
""")
    found = Crew(plan.policy, random.Random(1), lambda _name, _data: None).find("topology-affinity-filter")
    here = labelled(make_fleet, {"example.com/rack": "r"}, {"topology.kubernetes.io/rack": "r"})
    assert found.keep(Request(headers={}, facts={PEER: here.endpoints[0]}), here) == [0]


def test_a_label_that_the_header_names_is_preferred(make_fleet):
    fleet, scorer = labelled(make_fleet, {"s": "1"}, {"s": "2"}, {}), HeaderLabelAffinity(header_name="X-S", label_key="s")
    assert scorer.score(Request(headers={"x-s": "2"}), fleet) == [0, 1, 0]
    assert scorer.score(Request(headers={}), fleet) == scorer.score(Request(headers={"x-s": "9"}), fleet) == [0, 0, 0]
    verdict = Verdict(Decision(fleet.endpoints, [1, 2]))
    assert scorer.picked(Request(headers={}), verdict) == ((), ())
    stamping = HeaderLabelAffinity(header_name="X-S", label_key="s", stamp_response_header=True)
    assert stamping.picked(Request(headers={}), verdict)[1] == (("x-s", {"10.0.0.2:8000": "2"}),)
    assert list(stamping.needs) == ["headers"]
    assert not scorer.needs


def admitted(make_fleet, *rows, priority=-1, **parameters):
    class Dice:
        def random(self):
            return draw

    fleet, request = make_fleet(*rows), Request(headers={}, priority=priority)
    curve = Probabilistic(**parameters).start(type("Setting", (), {"dice": Dice()}))
    # The least draw that is admitted, to a thousandth.
    for step in range(1001):
        draw = step / 1000
        if curve.admit(request, fleet) is None:
            return draw
    return None


def test_sheddable_requests_are_shed_along_the_curve(make_fleet):
    half = {"waiting": 1.0, "kv_usage": 0.04}  # 0.2 of 5, 0.05 of 0.8
    assert admitted(make_fleet, half, priority=0) == 0
    assert admitted(make_fleet, half) == pytest.approx(0.2**5 * 300, abs=0.001)
    assert admitted(make_fleet, half, {"waiting": 0.0, "kv_usage": 0.0}) == pytest.approx(0.1**5 * 300, abs=0.001)
    assert admitted(make_fleet, half, power=1.0, k=2.0) == pytest.approx(0.4, abs=0.001)
    assert admitted(make_fleet, half | {"health": Health.FAILED}) is None
    assert SHED.status == 429


@pytest.mark.parametrize(
    ("headers", "names", "endpoint"),
    [
        ({"epp-profile": "prefill"}, ("decode", "prefill"), "10.0.0.2:8000"),
        ({}, ("decode", "prefill"), "10.0.0.1:8000"),
        ({"epp-profile": " "}, ("prefill", "decode"), "10.0.0.1:8000"),
        ({"epp-profile": "encode"}, ("decode", "prefill"), 429),
        ({"epp-profile": "encode"}, ("prefill",), "10.0.0.2:8000"),
    ],
)
def test_a_header_names_the_profile(make_view, headers, names, endpoint):
    profiles = tuple(Profile(name, MaxScore(), (Named(name, ByLabel(label="is", valid_values=(name,))),)) for name in names)
    view = make_view({}, {}, endpoints=[{"labels": {"is": "decode"}}, {"labels": {"is": "prefill"}}])
    judge = FleetJudge(Policy(profiles=profiles, handler=Named("handler", HeaderProfile())), lambda _: view, random.Random(0))
    pick = judge.decide(Ask(headers, b"", has_body=False), 100.0)
    assert endpoint == (pick.status if hasattr(pick, "status") else pick.endpoints[0])
    assert not judge.complaints
