import json
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker import config
from shunter.picker.core.events import BodyMode
from shunter.picker.core.journal import Journal, Peers
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, Outcome, Pick
from shunter.picker.core.ledger import Ledger
from shunter.picker.core.prefix import Match, PrefixIndex, PrefixSettings
from shunter.picker.core.request import Request
from shunter.picker.errors import ConfigError
from shunter.picker.plugins.deciders import PrefillUncached, is_conditional
from shunter.picker.testing import JSON_POST, FakeEnvoy, StubJudge
from shunter.snapshot import Endpoint, Health, Load, LoadRow, LogReader, LogWriter, Pool, Topology, View

NOW_S = 100.0
PATH = {":path": "/v1/chat/completions", "x-request-id": "id"}
ROLES = ("prefill", "prefill", "decode", "decode", "encode")
LONG = "word " * 2000
IMAGE = {"type": "image_url", "image_url": {"url": "http://pictures/1.png"}}
DECIDERS = {"prefill": "always-disagg-pd-decider", "encode": "always-disagg-multimodal-decider"}

CONFIG = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: {handler}
  parameters: {parameters}
{declared}
- type: prefill-filter
- type: decode-filter
- type: encode-filter
- type: active-request-scorer
- type: prefix-cache-scorer
- {{type: max-score-picker, parameters: {{maxNumOfEndpoints: 2}}}}
schedulingProfiles:
- {{name: decode, plugins: [{{pluginRef: decode-filter}}, {{pluginRef: active-request-scorer}},
   {{pluginRef: max-score-picker}}]}}
- {{name: prefill, plugins: [{{pluginRef: prefill-filter}}, {{pluginRef: prefix-cache-scorer, weight: 3}},
   {{pluginRef: active-request-scorer}}, {{pluginRef: max-score-picker}}]}}
- {{name: encode, plugins: [{{pluginRef: encode-filter}}, {{pluginRef: max-score-picker}}]}}
"""


def configured(handler="disagg-profile-handler", deciders=None, parameters=None, **more):
    deciders = DECIDERS if deciders is None else deciders
    if parameters is None:
        parameters = {"deciders": deciders} | more
    declared = "\n".join(f"- {each if isinstance(each, str) else json.dumps(each)}" for each in declarations(parameters))
    return CONFIG.format(handler=handler, parameters=json.dumps(parameters), declared=declared)


def declarations(parameters):
    names = {*parameters.get("deciders", {}).values(), parameters.get("deciderPluginName", "")} - {""}
    return [{"type": each, "parameters": {"nonCachedTokens": 500} if "prefix" in each else {}} for each in sorted(names)]


def body(*content):
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": list(content)}]}).encode()


def text(words=LONG):
    return {"type": "text", "text": words}


def make_judge(roles=ROLES, made=None, **kwargs):
    now_ns = int(NOW_S * 1e9)
    endpoints = tuple(
        Endpoint(
            slot=at,
            incarnation=1,
            name=f"pod-{at}",
            address=f"10.0.0.{at + 1}",
            port=8000,
            labels={"llm-d.ai/role": role} if role else {},
        )
        for at, role in enumerate(roles)
    )
    rows = [LoadRow(slot=at, incarnation=1, health=Health.FRESH, sampled_ns=now_ns) for at in range(len(roles))]
    topology = Topology(epoch=1, generation=1, pools=(Pool(name="pool"),), endpoints=endpoints)
    view = View(topology, Load.of(rows, epoch=1, topology_generation=1, published_ns=now_ns))
    return FleetJudge(config.load(made or configured()).policy, lambda _: view, random.Random(1), **kwargs)


def ask(judge, *content, headers=None):
    return judge.decide(Ask(PATH | (headers or {}), body(*content or (text(),))), NOW_S)


def stages(pick):
    """The slots of whoever decodes, prefills and encodes."""
    headers = dict(pick.set_headers)
    named = (pick.endpoints[0], headers.get("x-prefiller-host-port"), headers.get("x-encoder-hosts-ports"))
    return tuple(each and int(each.split(",")[0].split(":")[0].rsplit(".", 1)[1]) - 1 for each in named)


def test_each_stage_has_an_endpoint_of_its_role():
    judge = make_judge()
    decoder, prefiller, encoder = stages(ask(judge))
    assert (ROLES[decoder], ROLES[prefiller]) == ("decode", "prefill")
    assert encoder is None, "there is nothing to encode"
    assert [ROLES[each] for each in stages(ask(judge, text(), IMAGE))] == ["decode", "prefill", "encode"]
    assert judge.complaints == {}


def test_further_prefillers_are_named_in_case_the_first_fails():
    headers = dict(ask(make_judge()).set_headers)
    assert sorted(headers["x-prefiller-host-port"].split(",")) == ["10.0.0.1:8000", "10.0.0.2:8000"]


def test_a_stage_without_a_decider_never_runs():
    pick = ask(make_judge(made=configured(deciders={})), text(), IMAGE)
    assert stages(pick)[1:] == (None, None)


@pytest.mark.parametrize(
    ("roles", "found"),
    [
        (("decode",), (0, None, None)),  # nobody to prefill: the decoder does it
        (("both",), (0, None, None)),  # the same endpoint is no help
        (("both", "prefill", "prefill"), (0, 1, None)),
        (("", "prefill"), (0, 1, None)),
    ],
)
def test_a_stage_for_which_nobody_is_left_is_left_to_the_decoder(roles, found):
    decoder, prefiller, encoder = stages(ask(make_judge(roles)))
    assert (decoder, prefiller is not None, encoder) == (found[0], found[1] is not None, found[2])


@pytest.mark.parametrize("order", ["decode-first", "prefill-first"])
def test_without_anybody_to_decode_the_request_is_refused(order):
    deciders = DECIDERS if order == "decode-first" else {}
    refusal = ask(make_judge(("prefill", "encode"), configured(deciders=deciders, stageOrder=order)))
    assert (refusal.status, refusal.reason.value) == (429, "rejected-saturated")


def test_prefill_first_prefills_every_prompt():
    made = configured(deciders={"encode": DECIDERS["encode"]}, stageOrder="prefill-first")
    assert [each is not None for each in stages(ask(make_judge(made=made), text("hi")))] == [True, True, False]
    assert [ROLES[each] for each in stages(ask(make_judge(made=made), text(), IMAGE))] == ["decode", "prefill", "encode"]


def test_only_what_is_long_and_not_cached_is_prefilled_elsewhere():
    judge = make_judge(("prefill", "decode"), configured(deciders={"prefill": "prefix-based-pd-decider"}))
    assert stages(ask(judge, text("short"))) == (1, None, None)
    assert stages(ask(judge)) == (1, 0, None)
    assert stages(ask(judge)) == (1, None, None), "the decoder has fetched the prompt, and holds it"
    assert stages(ask(judge, text(LONG + "other " * 500))) == (1, 0, None), "there is more that is new"


@pytest.mark.parametrize(
    ("least", "floor", "prompt", "share", "wanted"),
    [
        (0, 0, 10_000, 0.0, False),  # 0 switches it off
        (500, 0, 499, 0.0, False),
        (500, 0, 500, 0.0, True),
        (500, 1000, 999, 0.0, False),
        (500, 1000, 1000, 0.0, True),
        (500, 0, 1000, 0.5, True),
        (500, 0, 1000, 0.6, False),
    ],
)
def test_what_the_prefix_decider_wants(make_view, least, floor, prompt, share, wanted):
    endpoint = make_view({}).topology.endpoints[0]
    match = Match(tokens=prompt, share={0: share} if share else {})
    request = Request(headers={}, prompt_tokens=prompt, prefix=match)
    assert PrefillUncached(non_cached_tokens=least, prompt_tokens=floor).wants(request, endpoint) is wanted


def test_what_is_cached_in_a_slower_tier_need_not_be_computed_elsewhere(make_view):
    endpoint = make_view({}).topology.endpoints[0]
    match = Match(tokens=10_000, share={0: 0.8}, cached={0: 1.0})
    request = Request(headers={}, prompt_tokens=10_000, prefix=match)
    assert not PrefillUncached(non_cached_tokens=500).wants(request, endpoint)


@given(least=st.integers(1, 2000), prompt=st.integers(0, 4000), share=st.floats(0, 1), hashed=st.integers(0, 4000))
def test_more_in_the_cache_never_makes_it_want_more(least, prompt, share, hashed):
    def wants(share):
        request = Request(headers={}, prompt_tokens=prompt, prefix=Match(tokens=hashed, share={0: share}))
        return PrefillUncached(non_cached_tokens=least).wants(request, Here(slot=0))

    assert wants(share) <= wants(share / 2) <= wants(0.0) == (prompt >= least)


class Here(msgspec.Struct):
    slot: int


COORDINATED = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: header-profile-handler
- {type: prefix-based-pd-decider, parameters: {nonCachedTokens: 500}}
- type: active-request-scorer
schedulingProfiles:
- {name: decode, plugins: [{pluginRef: active-request-scorer}]}
- {name: prefill, plugins: [{pluginRef: active-request-scorer}]}
"""


@pytest.mark.parametrize("made", [COORDINATED, configured(deciders={"prefill": "prefix-based-pd-decider"})])
def test_who_would_decode_only_what_is_cached_is_told_of_a_miss(made):
    judge = make_judge(("decode",), made)
    conditional = {"prefer": "return=minimal, If-Available; wait=1"}
    refusal = ask(judge, headers=conditional)
    assert (refusal.status, refusal.code) == (412, "PreconditionFailed")
    assert len(judge.ledger) == 0
    assert isinstance(ask(judge, text("short"), headers=conditional), Pick)
    assert isinstance(ask(judge), Pick), "unconditionally"
    assert isinstance(ask(judge, headers=conditional), Pick), "now it is cached"
    assert judge.complaints == {}


@given(st.text())
def test_preferences_are_read_whatever_they_are(header):
    assert is_conditional(header + ",if-available")
    assert is_conditional(header) <= ("if-available" in header.lower())


def test_the_prompt_is_booked_where_it_is_computed_and_the_answer_where_it_is_given():
    judge = make_judge(("prefill", "decode", "encode"))
    pick = ask(judge, text(), IMAGE)
    ledger, fleet = judge.ledger, judge.fleet(NOW_S)
    keys = fleet.keys
    backlog = [round(each) for each in ledger.prefill_backlogs(keys, int(NOW_S * 1e9))]
    assert [each > 2000 for each in backlog] == [True, False, False]
    assert [ledger.decode_tokens(key) > 0 for key in keys] == [False, True, False]
    assert list(fleet.in_flight) == [1, 1, 1]
    assert [each.in_flight for each in tally_rows(judge)] == [1, 1, 1]
    judge.release(pick.ticket, Outcome(complete=True, status=200), NOW_S + 1)
    assert (list(fleet.in_flight), list(fleet.tokens_in_flight), len(ledger)) == ([0, 0, 0], [0, 0, 0], 0)
    assert not any(each.in_flight for each in tally_rows(judge))


def tally_rows(judge):
    return [row for _, row in sorted(judge.counters.tally().by_endpoint.items())]


def test_a_decision_counts_for_what_all_its_stages_keep():
    judge = make_judge()
    ask(judge, text(), IMAGE)
    (entry,) = judge.decisions.latest()
    assert entry.candidates == len(ROLES)
    assert set(entry.explain()["others"]) == {"prefill", "encode"}


def test_both_are_remembered_to_hold_the_prompt():
    judge = make_judge()
    decoder, prefiller, _ = stages(ask(judge))
    judge.fleet(NOW_S)
    (index,) = judge._prefixes.values()
    request = judge.decisions.latest(1)[0]
    assert request.prefix_blocks > 10
    assert {decoder, prefiller} == set(index._seen)


@pytest.mark.parametrize("answering", [0, 1])
def test_of_a_prompt_that_failed_neither_is_remembered_to_hold_it(answering):
    judge = make_judge()
    pick = ask(judge)
    judge.release(pick.ticket, Outcome(complete=True, status=500, served=pick.endpoints[answering]), NOW_S + 1)
    (index,) = judge._prefixes.values()
    assert len(index) == 0
    ask(judge)
    assert len(index) > 10


def test_another_worker_follows_every_stage(make_fleet):
    buffer = bytearray(1 << 17)
    journal = Journal(LogWriter(buffer), 1)
    journal.begun()
    judge = make_judge(life=1, journal=journal)
    pick = ask(judge)
    fleet, ledger, index = make_fleet(*[{}] * 5), Ledger(), PrefixIndex(PrefixSettings())
    peers, live = Peers([LogReader(buffer)]), dict.fromkeys(range(5), 1)
    peers.catch_up(ledger, fleet, index.insert, live)
    decoder, prefiller, _ = stages(pick)
    assert [at for at, count in enumerate(fleet.in_flight) if count] == sorted((decoder, prefiller))
    assert set(index._seen) == {decoder, prefiller}
    judge.release(pick.ticket, Outcome(complete=True), NOW_S + 1)
    peers.catch_up(ledger, fleet, index.insert, live)
    assert sum(fleet.in_flight) == len(ledger) == 0


def test_a_worker_that_dies_leaves_no_stage_booked(make_fleet):
    buffer = bytearray(1 << 17)
    log = LogWriter(buffer)
    journal = Journal(log, 1)
    journal.begun()
    ask(make_judge(life=1, journal=journal))
    fleet, ledger = make_fleet(*[{}] * 5), Ledger()
    peers = Peers([LogReader(buffer)])
    peers.catch_up(ledger, fleet, lambda *_: None, {})
    assert sum(fleet.in_flight) == 2
    Journal(log, 2).begun()
    peers.catch_up(ledger, fleet, lambda *_: None, {})
    assert sum(fleet.in_flight) == len(ledger) == 0


def test_a_fallback_that_serves_takes_the_answer_over_and_not_the_prompt():
    judge = make_judge()
    pick = ask(judge)
    fleet = judge.fleet(NOW_S)
    judge.served(pick.ticket, pick.endpoints[1])
    decoder, prefiller, _ = stages(pick)
    other = {2: 3, 3: 2}[decoder]
    assert [at for at, count in enumerate(fleet.in_flight) if count] == sorted((other, prefiller))


@pytest.mark.parametrize("mode", [BodyMode.BUFFERED, BodyMode.FULL_DUPLEX_STREAMED])
def test_what_a_client_says_of_hosts_never_reaches_an_engine(mode):
    names = ("prefiller-host-port", "encoder-hosts-ports", "kv-cache-source-host-port")
    forged = (
        *[(f"x-{each}{name}", "evil:1") for name in names for each in ("", "llm-d-")],
        ("x-data-parallel-host-port", "evil:3"),
    )
    for fields in ({}, {"set_headers": (("x-prefiller-host-port", "10.0.0.1:8000"),)}):
        envoy = FakeEnvoy.before(StubJudge(endpoints=("10.0.0.9:8000",), **fields), mode)
        envoy.request(headers=(*JSON_POST, *forged), body=b'{"model": "m"}')
        sent = {name: value for name, value in envoy.upstream_headers.items() if name in dict(forged)}
        assert sent == dict(fields.get("set_headers", ()))


@pytest.mark.parametrize(
    ("handler", "parameters"),
    [
        ("disagg-profile-handler", {"deciderPluginName": "always-disagg-pd-decider"}),
        ("pd-profile-handler", {"deciderPluginName": "always-disagg-pd-decider", "primaryPort": 0}),
    ],
)
def test_former_words_mean_the_same(handler, parameters):
    pick = ask(make_judge(made=configured(handler, parameters=parameters)))
    assert [each is not None for each in stages(pick)] == [True, True, False]


def test_a_threshold_of_the_handler_counts_characters_and_zero_is_always():
    for threshold, prefilled in ((0, True), (100, True), (10**6, False)):
        judge = make_judge(made=configured("pd-profile-handler", parameters={"threshold": threshold, "hashBlockSize": 5}))
        assert (stages(ask(judge))[1] is not None) is prefilled, threshold
    plan = config.load(configured("pd-profile-handler", parameters={"threshold": 401}))
    assert [each.plugin for each in plan.policy.plugins() if isinstance(each.plugin, PrefillUncached)] == [
        PrefillUncached(non_cached_tokens=101, prefix_match_info_producer_name="approx-prefix-cache-producer")
    ]


def test_a_data_parallel_rank_is_named():
    made = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: data-parallel-profile-handler, parameters: {primaryPort: 8000}}, {type: active-request-scorer}]
schedulingProfiles: [{name: default, plugins: [{pluginRef: active-request-scorer}]}]
"""
    pick = ask(make_judge(("", ""), made))
    assert pick.set_headers == (("x-data-parallel-host-port", pick.endpoints[0]),)
    pick = ask(make_judge(made=configured("pd-profile-handler", parameters={"primaryPort": 8000})))
    assert dict(pick.set_headers)["x-data-parallel-host-port"] == pick.endpoints[0]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"deciders": {"prefill": "nobody"}}, "no plugin is named 'nobody'"),
        (
            {"deciders": {"prefill": "decode-filter"}},
            "'decode-filter' is a filter, and what belongs here is a disaggregation decider",
        ),
        ({"deciders": DECIDERS, "profiles": {"prefill": "prefil"}}, "names the profile 'prefil', which does not exist"),
        ({"deciders": DECIDERS, "stageOrder": "prefill-first"}, "remove deciders.prefill"),
        ({"deciders": DECIDERS, "deciderPluginName": DECIDERS["prefill"]}, "former name of deciders.prefill; keep one"),
        ({"deciders": DECIDERS, "stageOrder": "encode-first"}, "stageOrder"),
    ],
)
def test_mistakes_are_explained(parameters, words):
    made = configured(parameters=parameters).replace('- {"type": "nobody", "parameters": {}}', "")
    made = made.replace('- {"type": "decode-filter", "parameters": {}}', "")
    with pytest.raises(ConfigError) as error:
        config.load(made)
    assert words in str(error.value)


@given(roles=st.lists(st.sampled_from([*ROLES, "both", "", "?"]), min_size=1, max_size=6), data=st.data())
def test_whatever_the_fleet_is_the_roles_are_kept(roles, data):
    """Nobody serves a stage that is not his, and what is booked is released."""
    order = data.draw(st.sampled_from(["decode-first", "prefill-first"]))
    deciders = {"encode": DECIDERS["encode"]} | ({"prefill": DECIDERS["prefill"]} if order == "decode-first" else {})
    judge = make_judge(roles, configured(deciders=deciders, stageOrder=order))
    pick = ask(judge, text(), *([IMAGE] if data.draw(st.booleans()) else []))
    able = [role in ("decode", "both", "") for role in roles]
    assert isinstance(pick, Pick) is any(able)
    if isinstance(pick, Pick):
        decoder, prefiller, encoder = stages(pick)
        assert able[decoder]
        assert prefiller is None or (roles[prefiller] in ("prefill", "both") and prefiller != decoder)
        assert encoder is None or roles[encoder] == "encode"
        judge.release(pick.ticket, Outcome(complete=True), NOW_S)
    assert sum(judge.fleet(NOW_S).in_flight) == len(judge.ledger) == 0
    assert judge.complaints == {}
