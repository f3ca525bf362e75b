"""Several pools behind one picker: whose endpoints, whose rules, whose room, and one account of all."""

import json
import random

import pytest

from shunter.picker import config
from shunter.picker.core.journal import Journal, Peers
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, DropReason, Outcome, Parked, Pick
from shunter.snapshot import LogReader, LogWriter, Objective, Pool, Rewrite, RewriteRule, Target

NOW_S = 100.0
IDLE = {"waiting": 0.0, "running": 1.0, "kv_usage": 0.1}
DONE = Outcome(complete=True, status=200)
CHAT = {":path": "/v1/chat/completions", "x-request-id": "id"}
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode()
POOLS = (Pool(name="llama"), Pool(name="qwen"), Pool(name="llama", namespace="test"))
# Of three endpoints the first is llama's, the second both llama's and qwen's, the third qwen's.
MEMBERS = [{"pools": (0,)}, {"pools": (0, 1)}, {"pools": (1,)}]


def rewrite(pool, target):
    return Rewrite(name=f"to-{target}", pool=pool, rules=(RewriteRule(models=("m",), targets=(Target(model=target),)),))


@pytest.fixture
def make_judge(make_view):
    """A judge of three endpoints in these pools; ``judge.show(**resources)`` shows it another topology."""

    def make(pool=None, text=config.DEFAULT, **resources):
        def view(**resources):
            return make_view(IDLE, IDLE, IDLE, endpoints=MEMBERS, **{"pools": POOLS} | resources)

        shown = [view(**resources)]
        judge = FleetJudge(config.load(text).policy, lambda _now_ns: shown[0], random.Random(1), pool=pool)
        judge.show = lambda **resources: shown.__setitem__(0, view(**resources))
        return judge

    return make


def ask(pool=None, **headers):
    return Ask(CHAT | headers, BODY, pool=pool)


def chosen(judge, pool, times=12):
    return {judge.decide(ask(pool), NOW_S).endpoints[0] for _ in range(times)}


def test_a_request_goes_to_the_pool_that_the_gateway_names(make_judge):
    judge = make_judge()
    assert chosen(judge, "llama") == {"10.0.0.1:8000", "10.0.0.2:8000"}
    assert chosen(judge, "default/qwen") == {"10.0.0.2:8000", "10.0.0.3:8000"}
    assert chosen(judge, None) == {"10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"}


def test_a_pool_with_and_without_its_namespace_is_one(make_judge):
    judge = make_judge(text=FLOW)
    for name in ("qwen", "default/qwen", "qwen"):
        judge.decide(ask(name), NOW_S)
    assert [ward.name for ward in judge._wards] == [None, "default/qwen"]


def test_a_pool_that_is_not_known_is_refused_in_words(make_judge):
    refusal = make_judge().decide(ask("mistral"), NOW_S)
    assert (refusal.status, refusal.reason) == (503, DropReason.NO_ENDPOINTS)
    assert refusal.message == (
        "the gateway names the pool mistral, which this picker does not know; pools: default/llama, default/qwen, test/llama"
    )


def test_a_picker_of_one_pool_serves_no_other(make_judge):
    judge = make_judge(pool="default/llama")
    assert chosen(judge, "llama") == chosen(judge, None) == {"10.0.0.1:8000", "10.0.0.2:8000"}
    assert judge.decide(ask("qwen"), NOW_S).message.endswith("test/llama; it serves default/llama only")


def test_a_pool_that_is_deleted_is_forgotten_when_nobody_waits_for_it_any_longer(make_judge):
    judge = make_judge(text=FLOW)
    judge.decide(ask("llama"), NOW_S)
    waits = judge.decide(ask("test/llama"), NOW_S)
    assert isinstance(waits, Parked)
    judge.show(pools=POOLS[1:2])
    assert "does not know" in judge.decide(ask("llama"), NOW_S).message
    assert [ward.name for ward in judge._wards] == [None, "test/llama"]
    assert [ticket for ticket, _ in judge.dispatch(NOW_S + 3600)] == [waits.ticket]
    judge.show(pools=POOLS[:2])
    assert isinstance(judge.decide(ask("llama"), NOW_S + 3600), Pick | Parked)
    assert [ward.name for ward in judge._wards] == [None, "default/llama"]
    assert len(judge._lobbies) == 2


def test_a_pool_without_endpoints_has_no_candidates(make_judge):
    assert make_judge().decide(ask("test/llama"), NOW_S).reason is DropReason.NO_ENDPOINTS


def test_each_pool_has_its_own_rules(make_judge):
    resources = {
        "rewrites": (rewrite("llama", "llama-3"), rewrite("qwen", "qwen-3")),
        "objectives": (Objective(name="o", pool="llama", priority=3), Objective(name="o", pool="qwen", priority=-1)),
    }
    judge = make_judge(**resources)
    headers = {"x-llm-d-inference-objective": "o"}
    assert [judge.decide(ask(pool, **headers), NOW_S).target_model for pool in ("llama", "qwen")] == ["llama-3", "qwen-3"]
    assert [entry.priority for entry in judge.decisions.latest(2)] == [-1, 3]
    judge.show(rewrites=(rewrite("llama", "llama-4"),))
    assert [judge.decide(ask(pool), NOW_S).target_model for pool in ("llama", "qwen")] == ["llama-4", None]


def test_a_decision_tells_its_pool_and_the_rule_that_named_the_model(make_judge):
    judge = make_judge(rewrites=(rewrite("llama", "llama-3"),))
    judge.decide(ask("llama"), NOW_S)
    judge.decide(ask(), NOW_S)
    told = [{key: each.explain()[key] for key in ("pool", "rule", "target_model")} for each in judge.decisions.latest(2)]
    assert told == [
        {"pool": None, "rule": "InferenceModelRewrite default/to-llama-3", "target_model": "llama-3"},
        {"pool": "llama", "rule": "InferenceModelRewrite default/to-llama-3", "target_model": "llama-3"},
    ]


def test_what_an_endpoint_has_in_flight_counts_in_all_its_pools(make_judge):
    judge = make_judge()
    picks = [judge.decide(ask("qwen"), NOW_S) for _ in range(6)]
    shared = sum(pick.endpoints[0] == "10.0.0.2:8000" for pick in picks)
    assert 0 < shared < 6
    assert chosen(judge, "llama", times=shared) == {"10.0.0.1:8000"}
    for pick in picks:
        judge.release(pick.ticket, DONE, NOW_S)
    in_flight = {ward.name: ward.fleet.in_flight for ward in judge._wards}
    assert in_flight == {None: [shared, 0, 0], "default/qwen": [0, 0], "llama": [shared, 0]}


def test_a_fallback_of_another_pool_is_followed(make_judge):
    judge = make_judge()
    pick = judge.decide(ask("llama"), NOW_S)
    judge.decide(ask("qwen"), NOW_S)
    judge.served(pick.ticket, "10.0.0.3:8000")
    assert judge.ledger.get(pick.ticket).slot == 2
    judge.served(pick.ticket, "192.0.2.1:8000")
    assert judge.ledger.get(pick.ticket).slot == 2


def test_a_pool_that_comes_later_is_served_and_one_that_goes_is_empty(make_judge):
    judge = make_judge(pools=POOLS[:2])
    assert not isinstance(judge.decide(ask("test/llama"), NOW_S), Pick)
    judge.show()
    assert judge.decide(ask("test/llama"), NOW_S).message == "failed to find endpoint candidates for serving the request"
    judge.show(pools=POOLS[:1])
    assert chosen(judge, "default/llama") == {"10.0.0.1:8000", "10.0.0.2:8000"}
    assert judge.decide(ask("qwen"), NOW_S).status == 503


FLOW = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
featureGates: [flowControl]
plugins:
- {type: concurrency-detector, parameters: {maxConcurrency: 1}}
- {type: max-score-picker}
flowControl: {saturationDetector: {pluginRef: concurrency-detector}}
"""


def test_each_pool_has_its_own_room(make_view):
    view = make_view(IDLE, IDLE, endpoints=[{"pools": (0,)}, {"pools": (1,)}], pools=POOLS)
    judge = FleetJudge(config.load(FLOW).policy, lambda _now_ns: view, random.Random(1))
    first = judge.decide(ask("llama"), NOW_S)
    waiting = judge.decide(ask("llama"), NOW_S)
    assert (isinstance(first, Pick), isinstance(waiting, Parked)) == (True, True)
    other = judge.decide(ask("qwen"), NOW_S)
    assert other.endpoints == ("10.0.0.2:8000",)
    judge.release(other.ticket, DONE, NOW_S)
    assert judge.dispatch(NOW_S) == []
    judge.release(first.ticket, DONE, NOW_S)
    ((ticket, pick),) = judge.dispatch(NOW_S)
    assert (ticket, pick.endpoints) == (waiting.ticket, ("10.0.0.1:8000",))


def test_who_waits_in_any_pool_may_leave(make_view):
    view = make_view(IDLE, endpoints=[{"pools": (0,)}], pools=POOLS)
    judge = FleetJudge(config.load(FLOW).policy, lambda _now_ns: view, random.Random(1))
    first, waiting = (judge.decide(ask("llama"), NOW_S) for _ in range(2))
    judge.leave(waiting.ticket, NOW_S)
    judge.release(first.ticket, DONE, NOW_S)
    assert judge.dispatch(NOW_S) == []
    assert judge.counters.tally().refusals == {"rejected-context-cancelled": 1}


def test_workers_tell_each_other_of_all_pools(make_view):
    view = make_view(IDLE, IDLE, endpoints=[{"pools": (0,)}, {"pools": (1,)}], pools=POOLS)
    buffers = [bytearray(1 << 17) for _ in range(2)]
    judges = []
    for at in range(2):
        peers = Peers([LogReader(buffers[1 - at])], at + 1)
        journal = Journal(LogWriter(buffers[at]), at + 1)
        judge = FleetJudge(
            config.load(FLOW).policy, lambda _now_ns: view, random.Random(1), life=at + 1, journal=journal, peers=peers
        )
        judges.append(judge)
    pick = judges[0].decide(ask("qwen"), NOW_S)
    assert isinstance(judges[1].decide(ask("qwen"), NOW_S), Parked)
    assert isinstance(judges[1].decide(ask("llama"), NOW_S), Pick)
    judges[0].release(pick.ticket, DONE, NOW_S)
    assert [pick.endpoints for _, pick in judges[1].dispatch(NOW_S)] == [("10.0.0.2:8000",)]


def test_a_plugin_may_be_called_like_flow_control(make_view, monkeypatch):
    buffer = bytearray(1 << 18)
    Journal(LogWriter(buffer), 2).told("flowControl-affinity", b"words")
    view = make_view(IDLE, endpoints=MEMBERS[:1], pools=POOLS)
    judge = FleetJudge(config.load(FLOW).policy, lambda _now_ns: view, random.Random(1), peers=Peers([LogReader(buffer)], 1))
    heard = []
    monkeypatch.setattr(judge._scheduler, "hear", lambda *told: heard.append(told))
    judge.catch_up(NOW_S)
    assert heard == [("flowControl-affinity", b"words")]


def test_before_the_first_snapshot_no_pool_is_blamed():
    judge = FleetJudge(config.load().policy, lambda _now_ns: None, random.Random(1))
    assert judge.decide(ask("llama"), NOW_S).message == "failed to find endpoint candidates for serving the request"
    assert judge.decisions.latest(1)[0].explain()["pool"] == "llama"
