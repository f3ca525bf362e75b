"""Percentiles, goodput, fairness and confidence are what their definitions say, also where requests never ended."""

from math import inf, isnan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.lab.core.arrivals import Arrival, Finished, Segment
from shunter.lab.core.statistics import Estimate, Slo, estimate, jain, percentile, summarize, window

SLO = Slo(ttft_s=1.0, tpot_s=0.1)


def arrival(index, at_s, session="s", **fields):
    return Arrival(
        at_s=at_s,
        prompt=(Segment(1, 32), Segment(100 + index, 10)),
        output=Segment(1000 + index, 11),
        session=session,
        **fields,
    )


def finished(index, at_s, ttft_s=0.5, decode_s=0.5, **fields):
    rest = {"endpoint": 0, "prompt_tokens": 42, "cached_tokens": 0, "output_tokens": 11} | fields
    return Finished(index=index, arrived_s=at_s, first_s=at_s + ttft_s, ended_s=at_s + ttft_s + decode_s, **rest)


ARRIVALS = [arrival(index, float(index)) for index in range(9)]


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.001, 1.0))
def test_a_percentile_is_not_exceeded_by_its_share(values, share):
    value = percentile(sorted(values), share)
    assert value in values
    assert sum(each <= value for each in values) >= share * len(values)


def test_of_nothing_there_is_no_percentile():
    assert isnan(percentile([], 0.5))


def test_the_beginning_is_not_measured():
    assert window(ARRIVALS) == (2.0, 8.0)
    late = [finished(index, float(index), ttft_s=9.0 if index < 2 else 0.5) for index in range(9)]
    summary = summarize(ARRIVALS, late, SLO)
    assert summary.requests == 7
    assert summary.ttft_s.p99 == 0.5


def test_good_is_what_meets_both_objectives():
    ended = [finished(index, float(index)) for index in range(9)]
    ended[4] = finished(4, 4.0, ttft_s=1.5)
    ended[5] = finished(5, 5.0, decode_s=1.5)
    ended[6] = finished(6, 6.0, ttft_s=1.5, decode_s=1.5)
    summary = summarize(ARRIVALS, ended, SLO)
    assert summary.attainment == pytest.approx(4 / 7)
    assert summary.goodput_rps == pytest.approx(4 / 6)
    assert summary.tpot_s.p50 == pytest.approx(0.05)


@pytest.mark.parametrize(("fields", "refused", "lost"), [({"refused": 429, "endpoint": -1}, 1, 0), ({"failed": True}, 0, 1)])
def test_who_is_turned_away_waits_for_ever(fields, refused, lost):
    ended = [finished(index, float(index)) for index in range(9)]
    ended[4] = finished(4, 4.0, **fields)
    summary = summarize(ARRIVALS, ended, SLO)
    assert (summary.refused, summary.lost) == (refused, lost)
    assert summary.ttft_s.p99 == summary.e2e_s.p99 == inf
    assert summary.attainment == pytest.approx(6 / 7)


def test_hits_are_a_part_of_what_could_be_hit():
    # All prompts begin with the same 32 tokens: 7 measured ones could have had 224 of them from a cache.
    ended = [finished(index, float(index), cached_tokens=16 if index > 4 else 0) for index in range(9)]
    assert summarize(ARRIVALS, ended, SLO).hit_share == pytest.approx(4 * 16 / (7 * 32))


def test_a_session_that_is_served_at_half_the_speed_is_unfair():
    arrivals = [arrival(index, float(index), session="ab"[index % 2]) for index in range(9)]
    ended = [finished(index, float(index), ttft_s=1.5 if index % 2 else 0.5) for index in range(9)]
    assert summarize(arrivals, ended, SLO).fairness == pytest.approx((11 + 5.5) ** 2 / (2 * (11**2 + 5.5**2)))


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=50))
def test_fairness_lies_between_one_of_n_and_one(values):
    assert 1 / len(values) - 1e-9 <= jain(values) <= 1 + 1e-9
    assert jain([1.0] * len(values)) == pytest.approx(1.0)
    assert jain([0.0] * 9 + [5.0]) == pytest.approx(0.1)


def test_a_sum_is_rounded_once_on_every_python():
    """Added one after the other ten tenths are less than 1, as Python 3.11 adds them."""
    assert estimate([0.1] * 10) == Estimate(0.1, 0.0)


def test_confidence_is_students():
    result = estimate([1.0, 2.0, 3.0, 4.0, 5.0])
    assert result.mean == 3.0
    assert result.half == pytest.approx(2.776 * 1.5811 / 5**0.5, rel=1e-3)
    assert estimate([7.0]).half == inf
    assert estimate([1.0, inf]).mean == inf
    assert estimate([2.0] * 12).half == 0.0
