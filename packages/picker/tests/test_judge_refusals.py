"""Who is refused, in which words, and that whatever is asked is answered."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker import config
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, DropReason, Outcome, Pick, Refusal
from shunter.snapshot import (
    Health,
    InferenceModel,
    Objective,
    View,
)

NOW_S = 100.0
CHAT = {":path": "/v1/chat/completions", "x-request-id": "id"}
IDLE = {"waiting": 0.0, "running": 1.0, "kv_usage": 0.1}
FULL = {"waiting": 50.0, "running": 9.0, "kv_usage": 0.95}
DONE = Outcome(complete=True, status=200)


def body(text="hello", model="m", **fields):
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}]} | fields).encode()


def tally(judge):
    return judge.counters.tally()


NOBODY = Refusal(
    503, "ServiceUnavailable", "failed to find endpoint candidates for serving the request", DropReason.NO_ENDPOINTS
)
SATURATED = Refusal(429, "ResourceExhausted", "system saturated, sheddable request dropped", DropReason.SATURATED)
FILTERED = Refusal(429, "ResourceExhausted", "no endpoints available for the given request", DropReason.SATURATED)


@pytest.mark.parametrize("ask", [Ask(CHAT, body()), Ask({":path": "/v1/models"}, b"", has_body=False)], ids=["chat", "get"])
def test_an_empty_pool_is_503(make_judge, make_view, ask):
    assert make_judge(IDLE, view=make_view(IDLE, endpoints=[{"ready": False}])).decide(ask, NOW_S) == NOBODY
    assert make_judge(view=make_view()).decide(ask, NOW_S) == NOBODY


def test_before_the_first_snapshot_nobody_is_there():
    judge = FleetJudge(config.load().policy, lambda _: None, random.Random(1))
    assert judge.decide(Ask(CHAT, body()), NOW_S) == NOBODY


@pytest.mark.parametrize("subset", [(), ("10.0.0.1:9",)])
def test_a_hint_that_fits_nobody_is_503(make_judge, subset):
    assert make_judge(IDLE).decide(Ask(CHAT, body(), subset=subset), NOW_S) == NOBODY


SHEDDABLE = CHAT | {"x-llm-d-inference-objective": "batch"}
OBJECTIVES = (Objective(name="batch", pool="pool", priority=-1), Objective(name="chat", pool="pool", priority=1))


@pytest.mark.parametrize(
    ("rows", "headers", "refused"),
    [
        ([FULL, FULL], SHEDDABLE, True),
        ([FULL, IDLE], SHEDDABLE, False),
        ([FULL, FULL], CHAT, False),
        ([FULL, FULL], CHAT | {"x-llm-d-inference-objective": "chat"}, False),
        ([FULL | {"health": Health.FAILED}] * 2, SHEDDABLE, False),
        ([None, None], SHEDDABLE, False),
    ],
)
def test_only_the_sheddable_is_shed_and_only_from_a_full_pool(make_judge, make_view, rows, headers, refused):
    judge = make_judge(view=make_view(*rows, objectives=OBJECTIVES))
    verdict = judge.decide(Ask(headers, body()), NOW_S)
    assert (verdict == SATURATED) is refused
    assert tally(judge).refusals == ({"rejected-saturated": 1} if refused else {})


def test_requests_that_the_engine_has_not_reported_are_no_queue(make_judge, make_view):
    judge = make_judge(view=make_view(IDLE, objectives=OBJECTIVES))
    for at in range(20):
        assert isinstance(judge.decide(Ask(SHEDDABLE, body(str(at))), NOW_S), Pick)


def test_an_empty_pool_is_503_to_the_sheddable_too(make_judge, make_view):
    judge = make_judge(view=make_view(FULL, endpoints=[{"ready": False}], objectives=OBJECTIVES))
    assert judge.decide(Ask(SHEDDABLE, body()), NOW_S) == NOBODY


def test_filters_that_leave_nobody_are_429(make_judge):
    text = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins: [{type: prefill-filter}]"
    judge = make_judge(IDLE, text=text)
    assert judge.decide(Ask(CHAT, body()), NOW_S) == FILTERED
    assert judge.counters.tally().unscheduled == 1


def test_a_bad_request_is_counted_and_logged(make_judge):
    judge = make_judge(IDLE)
    refusal = judge.decide(Ask(CHAT, b"{"), NOW_S)
    assert (refusal.status, tally(judge).refusals, len(judge.ledger)) == (400, {"BadRequest": 1}, 0)
    assert judge.decisions.find("id").explain()["refusal"]["status"] == 400


def test_a_refusal_of_the_sessions_own_is_counted_and_logged(make_judge):
    judge = make_judge(IDLE)
    judge.note(Ask(CHAT, b""), Refusal(413, "PayloadTooLarge", "too large"), NOW_S)
    assert tally(judge).refusals == {"PayloadTooLarge": 1}
    assert judge.decisions.find("id").explain()["refusal"]["status"] == 413


def test_an_inference_model_sheds_by_criticality(make_judge, make_view):
    models = (InferenceModel(name="a", pool="pool", model="m", criticality="Sheddable"),)
    assert make_judge(view=make_view(FULL, models=models)).decide(Ask(CHAT, body()), NOW_S) == SATURATED


def test_a_rewrite_of_what_is_nested_too_deeply_is_refused_and_books_nothing(make_judge, make_view, monkeypatch):
    def too_deep(body, model, content_type):
        raise RecursionError

    monkeypatch.setattr("shunter.picker.core.judge.rewrite_model", too_deep)
    judge = make_judge(IDLE)
    refusal = judge.decide(Ask(CHAT | {"x-llm-d-model-name-rewrite": "x"}, body()), NOW_S)
    assert (refusal.status, len(judge.ledger), tally(judge).picks) == (400, 0, 0)


asks = st.builds(
    Ask,
    headers=st.dictionaries(
        st.sampled_from([":path", "x-llm-d-inference-objective", "x-llm-d-model-name-rewrite", "x-request-id"]),
        st.sampled_from(["/v1/chat/completions", "/v1/completions", "batch", "ü", ""]) | st.text(),
    ),
    body=st.binary() | st.builds(body, st.text(), st.text()),
    subset=st.none() | st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2:8000", "["]) | st.text()).map(tuple),
    has_body=st.booleans(),
)


@given(st.lists(asks, max_size=8))
def test_whatever_is_asked_is_answered(asks):
    from shunter.snapshot import Endpoint, Load, LoadRow, Topology

    endpoints = tuple(Endpoint(slot=at, incarnation=1, name="p", address=f"10.0.0.{at + 1}", port=8000) for at in range(3))
    rows = [LoadRow(slot=at, incarnation=1, health=Health.FRESH, sampled_ns=1, waiting=at * 9.0) for at in range(3)]
    topology = Topology(epoch=1, generation=1, endpoints=endpoints, objectives=OBJECTIVES)
    view = View(topology, Load.of(rows, epoch=1, topology_generation=1))
    judge = FleetJudge(config.load().policy, lambda _: view, random.Random(1))
    open_tickets = []
    for ask in asks:
        verdict = judge.decide(ask, 1e-9)
        if isinstance(verdict, Pick):
            open_tickets.append(verdict.ticket)
            assert set(verdict.endpoints) <= {endpoint.authority for endpoint in endpoints}
        else:
            assert verdict.status in (400, 429, 503)
        judge.decisions.latest(1)[0].explain()
    assert tally(judge).plugin_errors == 0
    for ticket in open_tickets:
        judge.release(ticket, DONE, 1.0)
    assert (len(judge.ledger), judge.fleet(1e-9).in_flight) == (0, [0, 0, 0])


def test_a_model_that_nothing_names_is_not_found_if_so_configured(make_judge, make_view):
    models = (InferenceModel(name="im", pool="pool", model="known"),)
    text = config.DEFAULT.replace("plugins:\n", "plugins:\n- type: known-model-admitter\n", 1)
    judge = make_judge(view=make_view(IDLE, endpoints=[{"pools": (0,)}], models=models), text=text)
    assert isinstance(judge.decide(Ask(CHAT, body(model="known")), NOW_S), Pick)
    assert isinstance(judge.decide(Ask(CHAT | {"x-llm-d-model-name-rewrite": "x"}, body()), NOW_S), Pick)
    assert isinstance(judge.decide(Ask(CHAT, b"", has_body=False), NOW_S), Pick)
    refusal = judge.decide(Ask(CHAT, body(model="unknown")), NOW_S)
    assert (refusal.status, refusal.message) == (404, "the model 'unknown' does not exist in this pool")
