"""Rates and shares follow from totals that were seen now and then."""

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.buckets import TTFT_S
from shunter.picker.core.learned import Learned
from shunter.picker.core.overview import look
from shunter.picker.core.pulse import EVERY_S, KEPT, Moment, Pulse, moment, quantile
from shunter.picker.core.tables import Account, Tally


def test_rates_are_of_the_last_minute():
    pulse = Pulse()
    for second in range(0, 200, 10):
        pulse.add(Moment(at_s=second, picks=second * (1 if second <= 100 else 3)))
    recent = pulse.since(Moment(at_s=190, picks=190 * 3))
    assert (recent.over_s, recent.picks_per_s) == (60, 3.0)


def test_what_is_younger_than_a_minute_is_told_by_what_there_is():
    pulse = Pulse()
    pulse.add(Moment(at_s=10, picks=5))
    recent = pulse.since(Moment(at_s=20, picks=25))
    assert (recent.over_s, recent.picks_per_s) == (10, 2.0)


def test_nothing_has_no_rate():
    recent = Pulse().since(Moment(at_s=1, picks=9))
    assert (recent.picks_per_s, recent.hit_share, recent.ttft_p50_s) == (None, None, None)


def test_a_total_that_fell_began_anew():
    pulse = Pulse()
    pulse.add(Moment(at_s=0, picks=1000, refusals={"full": 7}))
    recent = pulse.since(Moment(at_s=10, picks=20, refusals={"full": 2}))
    assert (recent.picks, recent.refusals) == (20, {"full": 2})


def test_refusals_that_did_not_grow_are_not_told():
    pulse = Pulse()
    pulse.add(Moment(at_s=0, refusals={"full": 7, "gone": 1}))
    assert pulse.since(Moment(at_s=10, refusals={"full": 7, "gone": 3})).refusals == {"gone": 2}


def test_moments_are_apart_and_the_oldest_are_forgotten():
    pulse = Pulse()
    for tenth in range(10 * int(EVERY_S) * (KEPT + 20)):
        pulse.add(Moment(at_s=tenth / 10))
    assert len(pulse.moments) == KEPT
    assert {each.over_s for each in pulse.steps()} == {EVERY_S}


def test_what_the_collector_was_told_is_counted():
    pulse = Pulse()
    for at_s, times in ((0.0, 1), (30.0, 3)):
        learned = Learned(
            records=100 * times, blind=7 * times, strangers=60 * times, statuses={"5xx": times, "2xx": 99 * times}
        )
        pulse.add(moment(look(None, None, Tally(), 0), Tally(), learned, at_s, restarts={}))
    recent = pulse.since(pulse.moments[-1])
    assert (recent.records, recent.bypassed, recent.strangers, recent.failed) == (200, 14, 120, 2)


def test_a_collector_that_comes_later_is_no_error():
    pulse = Pulse()
    pulse.add(Moment(at_s=0))
    counts = [0] * (len(TTFT_S) + 1)
    counts[3] = 10
    assert pulse.since(Moment(at_s=10, ttfts=tuple(counts))).ttft_p50_s == pytest.approx(0.075)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_is_in_the_bucket_of_the_value_it_stands_for(values, share):
    counts = [0] * (len(TTFT_S) + 1)
    for value in values:
        counts[bisect_left(TTFT_S, value)] += 1
    rank = next(at for at in range(1, len(values) + 1) if at >= share * len(values))
    exact = sorted(values)[rank - 1]
    found = quantile(share, counts)
    bucket = next(at for at, bound in enumerate(TTFT_S) if exact <= bound)
    assert (TTFT_S[bucket - 1] if bucket else 0.0) <= found <= TTFT_S[bucket]


@pytest.mark.parametrize(("role", "hides"), [(None, True), ("decode", True), ("prefill-decode", True), ("prefill", False)])
def test_who_only_prefills_hides_nothing_when_others_decode(make_view, role, hides):
    endpoint = {"labels": {"llm-d.ai/role": role}} if role else {}
    tally = Tally(by_endpoint={(0, 1): Account(in_flight=7)})
    overview = look(make_view({"running": 0.0, "waiting": 0.0}, endpoints=[endpoint]), None, tally, 100_000_000_000)
    assert bool(moment(overview, tally, None, 0.0, restarts={}).hidden) == hides


def test_who_hides_requests_is_told_of_when_it_has_done_so_for_a_while():
    pulse = Pulse()
    for second, hidden in ((0, {"a": 5}), (5, {"a": 9, "b": 4}), (10, {"a": 6}), (15, {"a": 8, "b": 5})):
        now = Moment(at_s=second, hidden=hidden)
        told = pulse.since(now).hidden
        assert told == ({"a": hidden["a"]} if second >= 10 else {})
        pulse.add(now)
    assert pulse.since(Moment(at_s=20)).hidden == {}


def test_tenants_are_told_by_what_they_asked_lately():
    pulse = Pulse()
    pulse.add(Moment(at_s=0, tenants={"old": 100, "loud": 1}))
    assert pulse.since(Moment(at_s=10, tenants={"old": 100, "loud": 8, "new": 2})).tenants == {"loud": 7, "new": 2}


def test_hits_that_are_usual_are_those_of_before_the_last_minute():
    pulse = Pulse()
    for second in range(0, 300, 10):
        pulse.add(Moment(at_s=second, blocks=second, hits=min(second, 240)))
    recent = pulse.since(Moment(at_s=300, blocks=300, hits=240))
    assert (recent.usual_hit_share, recent.hit_share) == (1.0, 0.0)
    assert Pulse().since(Moment(at_s=1)).usual_hit_share is None
