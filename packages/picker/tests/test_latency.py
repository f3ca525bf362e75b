import random

import pytest

from shunter.picker.core.judgement import Outcome
from shunter.picker.core.kinds import Decision, Named, Profile, Verdict
from shunter.picker.core.ledger import Booking, Ledger
from shunter.picker.core.policy import Crew, Policy
from shunter.picker.core.prefix import Match
from shunter.picker.core.request import Request
from shunter.picker.plugins.latency import (
    PRODUCER,
    HeadroomTier,
    LatencyScorer,
    PredictedLatency,
    Prediction,
    SloAdmitter,
)
from shunter.picker.plugins.pickers import MaxScore
from shunter.picker.plugins.prefixes import PrefixAffinity

NOW_NS = 100_000_000_000
SLO = {"x-llm-d-slo-ttft-ms": "1000", "x-llm-d-slo-tpot-ms": "50"}


def at_work(plugin, name=PRODUCER):
    policy = Policy(profiles=(Profile("default", MaxScore()),), others=(Named(name, plugin),))
    return Crew(policy, random.Random(1), lambda *_: None).find(name)


def predicting(*pairs, in_flight=1, **fields):
    """A request for which (headroom of the first token, of the others) is predicted by slot; None: nothing."""
    found = {slot: Prediction(100.0 * slot, 0.0, *pair, in_flight) for slot, pair in enumerate(pairs) if pair is not None}
    return Request(**{"headers": {}, "facts": {PRODUCER: found}} | fields)


def serve(predictor, fleet, at, ticket=1, headers=SLO, **outcome):
    """Let a request be sent to an endpoint, and end if an outcome is given."""
    request = Request(headers=headers, at_ns=NOW_NS, prompt_tokens=1000, ticket=ticket, facts={})
    request.facts[PRODUCER] = predictor.produce(request, fleet)
    predictor.picked(request, Verdict(Decision(fleet.endpoints, [at])))
    if outcome:
        predictor.observe(ticket, Outcome(complete=True, **outcome), 0.0)
    return request.facts[PRODUCER]


def test_what_waits_there_and_is_not_cached_takes_time(make_fleet):
    ledger = Ledger()
    ledger.book(9, Booking(1, 1, NOW_NS, prefill_tokens=8000, decode_tokens=9))
    fleet = make_fleet({}, {}, {}, ledger=ledger)
    request = Request(headers=SLO, at_ns=NOW_NS, prompt_tokens=8000, prefix=Match(tokens=8000, share={2: 0.5}))
    idle, busy, warm = at_work(PredictedLatency(streaming_mode=True)).produce(request, fleet).values()
    # Before anything is known: 8,000 tokens of prompt a second, 50 of an answer.
    assert (idle.ttft_ms, busy.ttft_ms, warm.ttft_ms) == pytest.approx((1000, 2000, 500))
    assert (busy.ttft_headroom_ms, busy.tpot_headroom_ms) == pytest.approx((-1000, 30))
    assert (busy.valid, warm.valid, busy.in_flight) == (False, True, 1)


def test_headroom_without_slo_ranks_and_without_streams_is_neutral(make_fleet):
    fleet = make_fleet({}, endpoints=[{"labels": {"role": "prefill"}}])
    request = Request(headers={}, at_ns=NOW_NS)
    for parameters in ({}, {"streaming_mode": True, "endpoint_role_label": "role"}):
        found = at_work(PredictedLatency(**parameters)).produce(request, fleet)[0]
        assert (found.ttft_headroom_ms, found.tpot_headroom_ms) == (-found.ttft_ms, 0)
    found = at_work(PredictedLatency(streaming_mode=True)).produce(request, fleet)[0]
    assert found.tpot_headroom_ms == -found.tpot_ms
    buffered = at_work(PredictedLatency(slo_buffer_factor=2)).produce(Request(headers=SLO, at_ns=NOW_NS), fleet)[0]
    assert buffered.ttft_headroom_ms == 2000 - buffered.ttft_ms


def test_the_strictest_request_counts_as_long_as_it_runs(make_fleet):
    fleet, predictor = make_fleet({}, {}), at_work(PredictedLatency(streaming_mode=True))
    strict = SLO | {"x-llm-d-slo-tpot-ms": "10"}
    serve(predictor, fleet, 1, headers=strict)
    found = serve(predictor, fleet, 0, ticket=2)
    assert found[0].tpot_headroom_ms - found[1].tpot_headroom_ms == pytest.approx(40)
    predictor.observe(1, Outcome(complete=True, lasts=True), 0.0)
    assert serve(predictor, fleet, 0, ticket=3)[1].tpot_headroom_ms == found[1].tpot_headroom_ms
    predictor.observe(1, Outcome(complete=False), 0.0)
    assert serve(predictor, fleet, 0, ticket=4)[1].tpot_headroom_ms == found[0].tpot_headroom_ms


def test_a_slow_endpoint_becomes_known(make_fleet):
    fleet, predictor = make_fleet({}, {}), at_work(PredictedLatency(streaming_mode=True))
    for ticket in range(1, 300):
        slow = ticket % 2
        took = {"first_token_s": 0.1 + 0.4 * slow, "completion_tokens": 101}
        found = serve(predictor, fleet, slow, ticket, **took, duration_s=took["first_token_s"] + 1.0 + 3.0 * slow)
    assert found[1].ttft_ms / found[0].ttft_ms == pytest.approx(5, rel=0.5)
    assert found[1].tpot_ms / found[0].tpot_ms == pytest.approx(4, rel=0.5)


def test_who_is_new_is_taken_for_an_average_one(make_fleet):
    fleet, predictor = make_fleet({}, {}), at_work(PredictedLatency())
    for ticket in range(1, 100):
        found = serve(predictor, fleet, 0, ticket, first_token_s=0.5, completion_tokens=11, duration_s=1.5)
    assert found[1].tpot_ms == pytest.approx(100, rel=0.1)
    assert found[1].ttft_ms == pytest.approx(500, rel=0.5)


@pytest.mark.parametrize(
    ("pairs", "parameters", "scores"),
    [
        # Those that keep both: the least headroom is best, 0.8 by the first token.
        ([(100, 10), (300, 10), (200, 10), (-1, 10)], {}, {0: 1.0, 1: 0.01, 2: 0.51}),
        ([(100, 10), (300, 10)], {"headroom_selection_strategy": "most"}, {0: 0.01, 1: 1.0}),
        ([(100, 30), (300, 10)], {}, {0: 0.81, 1: 0.2}),
        ([(100, 30), (100, 10)], {}, {0: 0.01, 1: 1.0}),
        ([(100, 10), (100, 10)], {}, {0: 0.51, 1: 0.51}),
        # Missed: the time per token alone, then the first token alone, then both; the least missing is best.
        ([(5, -1), (5, -3), (-1, 5), (-1, -1)], {"headroom_selection_strategy": "most"}, {0: 1.0, 1: 0.01}),
        ([(-1, 5), (-3, 5), (-1, -1)], {}, {0: 1.0, 1: 0.01}),
        ([(-1, -1), (-3, -1)], {}, {0: 1.0, 1: 0.01}),
        # Who is not predicted has no headroom, and keeps it.
        ([None, (-1, 0)], {}, {0: 0.51}),
    ],
)
def test_the_best_group_is_ranked_by_headroom(make_fleet, pairs, parameters, scores):
    fleet = make_fleet(*({} for _ in pairs))
    assert LatencyScorer(**parameters).score(predicting(*pairs), fleet) == pytest.approx(scores)


def test_who_is_idle_goes_before_who_misses_less(make_fleet):
    request = predicting((-5, -5), (-1, -1))
    request.facts[PRODUCER][0] = Prediction(0, 0, -5, -5, 0)
    assert LatencyScorer().score(request, make_fleet({}, {})) == {0: 0.51}


def test_without_predictions_load_and_prefix_decide(make_fleet):
    fleet = make_fleet({"waiting": 4.0, "kv_usage": 0.5}, {"waiting": 1.0, "kv_usage": 0.1}, {"waiting": 0.0, "kv_usage": 0.9})
    request = Request(headers={}, prefix=Match(share={0: 1.0}))
    assert LatencyScorer().score(request, fleet) == {0: 0.5, 1: 0.55, 2: 0.37}
    half = make_fleet({"kv_usage": 0.875}, {"kv_usage": 0.625})
    assert LatencyScorer(composite_queue_weight=0, composite_prefix_weight=0).score(Request(headers={}), half) == {
        0: 0.13,
        1: 0.38,
    }
    alone = {"composite_kv_weight": 0, "composite_prefix_weight": 0}
    assert LatencyScorer(**alone).score(request, fleet) == {0: 0.0, 1: 0.75, 2: 1.0}
    nothing = alone | {"composite_queue_weight": 0}
    assert LatencyScorer(**nothing).score(request, fleet) == pytest.approx({0: 0.5, 1: 0.9, 2: 0.1})


@pytest.mark.parametrize(
    ("pairs", "epsilon", "kept"),
    [
        ([(1, 1), (-1, 1), (0, 0), None], 0, [0, 2]),
        ([(1, 1), (-1, 1), (0, 0), None], 1, [1, 3]),
        ([(-1, 1), (1, -1)], 0, [0, 1]),
        ([(1, 1), (1, 1)], 1, [0, 1]),
        ([None, None], 0, [0, 1]),
    ],
)
def test_those_who_keep_both_are_kept(make_fleet, pairs, epsilon, kept):
    tiers = at_work(HeadroomTier(epsilon_explore_neg=epsilon))
    assert list(tiers.keep(predicting(*pairs), make_fleet(*({} for _ in pairs)))) == kept


BUSY = {"running": 3.0, "kv_usage": 0.5}


@pytest.mark.parametrize(
    ("pairs", "rows", "fields", "refused"),
    [
        ([(-1, 1), (1, -1)], [BUSY, BUSY], {}, True),
        ([(-1, 1), (0, 0)], [BUSY, BUSY], {}, False),
        ([(-1, 1), (1, -1)], [BUSY, BUSY | {"running": 0.0}], {}, False),
        ([(-1, 1), (1, -1)], [BUSY, BUSY | {"kv_usage": 0.01}], {}, False),
        ([(-1, 1), (1, -1)], [BUSY, BUSY], {"priority": 0}, False),
        ([(-1, 1), (1, -1)], [BUSY, BUSY], {"headers": {}}, False),
        ([None, None], [BUSY, BUSY], {}, False),
    ],
)
def test_a_sheddable_request_with_an_slo_needs_somebody_who_keeps_it(make_fleet, pairs, rows, fields, refused):
    request = predicting(*pairs, **{"headers": SLO, "priority": -1} | fields)
    refusal = SloAdmitter().admit(request, make_fleet(*rows))
    assert (refusal.status if refusal else None) == (429 if refused else None)


@pytest.mark.parametrize(
    ("pairs", "penalty_ms", "kept"),
    [
        ([(0, 0), (0, 0), (0, 0)], 200, [2]),  # 200 ms there, 0 elsewhere
        ([(0, 0), (0, 0), (0, 0)], 199, [0, 1, 2]),
        ([None, (0, 0), (0, 0)], 150, [2]),
        ([None, None, (0, 0)], 100, [0, 1, 2]),
        ([(0, 0), (0, 0), None], 100, [0, 1, 2]),
        ([(0, 0), (0, 0), None], 0, [2]),
    ],
)
def test_the_valve_may_go_by_predictions(make_fleet, pairs, penalty_ms, kept):
    valve = at_work(PrefixAffinity(ttft_source="latencyPredictor", max_ttft_penalty_ms=penalty_ms), "valve")
    request = predicting(*pairs, prefix=Match(tokens=10, share={2: 1.0}))
    assert list(valve.keep(request, make_fleet({}, {}, {}))) == kept
