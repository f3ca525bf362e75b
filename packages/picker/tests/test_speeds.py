import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.judgement import Outcome
from shunter.picker.core.speeds import FARTHEST, Quantile, Speeds, crowding

HERE, THERE = (0, 1), (1, 1)


def serve(speeds, key, tokens_per_s, answer_s, times, dice=None, in_flight=1):
    """Let an endpoint of that speed serve some requests."""
    for ticket in range(times):
        tokens = 4000 if dice is None else dice.randrange(500, 9000)
        speeds.began(ticket, key, tokens, crowding(in_flight, 0))
        first_s = tokens / tokens_per_s * (1 if dice is None else dice.lognormvariate(0, 0.3))
        outcome = Outcome(complete=True, first_token_s=first_s, duration_s=first_s + answer_s * crowding(in_flight, 0))
        assert speeds.observe(ticket, outcome) == key


@given(st.floats(0.05, 0.95), st.floats(0.01, 1e6), st.integers())
def test_a_quantile_finds_its_place(p, scale, seed):
    dice = random.Random(seed)
    quantile = Quantile(1000.0, p, 0.5)
    assert not quantile.settled
    for _ in range(3000):
        quantile.add(scale * dice.lognormvariate(0, 0.5))
    assert quantile.settled
    below = sum(scale * dice.lognormvariate(0, 0.5) < quantile.value for _ in range(2000)) / 2000
    assert below == pytest.approx(p, abs=0.2)


@pytest.mark.parametrize("rate", [500, 8_000, 100_000])
def test_rates_and_times_are_learnt(rate):
    speeds = Speeds()
    serve(speeds, HERE, rate, 12.0, 400, random.Random(1))
    assert speeds.prefill_per_s(HERE) == pytest.approx(rate, rel=0.35)
    assert speeds.answer_s(HERE) == pytest.approx(12.0, rel=0.1)


def test_what_a_batch_costs_is_not_held_against_the_endpoint():
    speeds = Speeds()
    serve(speeds, HERE, 8_000, 5.0, 300, in_flight=100)
    assert speeds.answer_s(HERE) == pytest.approx(5.0, rel=0.1)


def test_whom_nothing_is_known_of_is_average():
    speeds = Speeds()
    serve(speeds, HERE, 20_000, 9.0, 300)
    assert (speeds.prefill_per_s(THERE), speeds.answer_s(THERE)) == (
        speeds.fleet.prefill_per_s.value,
        speeds.fleet.answer_s.value,
    )


def test_an_endpoint_that_becomes_slow_is_known_to_be_within_some_dozen_requests():
    speeds = Speeds()
    for _ in range(30):
        serve(speeds, HERE, 16_000, 4.0, 10)
        serve(speeds, THERE, 16_000, 4.0, 10)
    serve(speeds, HERE, 4_000, 16.0, 60)
    assert speeds.prefill_per_s(HERE) < 0.7 * speeds.prefill_per_s(THERE)
    assert speeds.answer_s(HERE) > 1.5 * speeds.answer_s(THERE)


def test_small_differences_are_none():
    speeds = Speeds()
    for _ in range(40):
        serve(speeds, HERE, 9_500, 4.2, 10)
        serve(speeds, THERE, 10_500, 3.8, 10)
    assert speeds.prefill_per_s(HERE) == speeds.prefill_per_s(THERE)
    assert speeds.answer_s(HERE) == speeds.answer_s(THERE)


def test_one_request_that_waited_for_ever_changes_little():
    speeds = Speeds()
    serve(speeds, HERE, 16_000, 4.0, 300)
    before = speeds.prefill_per_s(HERE), speeds.answer_s(HERE)
    serve(speeds, HERE, 1, 5000.0, 1)
    assert (speeds.prefill_per_s(HERE), speeds.answer_s(HERE)) == pytest.approx(before, rel=0.05)


def test_nobody_is_taken_to_be_farther_from_the_fleet_than_is_likely():
    speeds = Speeds()
    for _ in range(40):
        serve(speeds, THERE, 50_000, 1.0, 20)
        serve(speeds, HERE, 100, 500.0, 4)
    assert speeds.prefill_per_s(HERE) >= speeds.fleet.prefill_per_s.value / FARTHEST


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(complete=True),
        Outcome(complete=True, first_token_s=1.0),
        Outcome(complete=True, first_token_s=0.0, duration_s=1.0),
        Outcome(complete=True, first_token_s=float("nan"), duration_s=1.0),
        Outcome(complete=False, first_token_s=1.0, duration_s=2.0),
    ],
)
def test_what_tells_nothing_teaches_nothing(outcome):
    speeds = Speeds()
    before = speeds.prefill_per_s(HERE), speeds.answer_s(HERE)
    speeds.began(1, HERE, 4000, crowding(1, 0))
    assert speeds.observe(1, outcome) is None
    assert (speeds.prefill_per_s(HERE), speeds.answer_s(HERE)) == before


def test_a_request_teaches_once_and_a_stranger_never():
    speeds = Speeds()
    told = Outcome(complete=True, first_token_s=1.0, duration_s=2.0)
    speeds.began(1, HERE, 4000, crowding(1, 0))
    assert (speeds.observe(1, told), speeds.observe(1, told), speeds.observe(2, told)) == (HERE, None, None)


def test_who_is_gone_is_forgotten():
    speeds = Speeds()
    serve(speeds, HERE, 500, 4.0, 50)
    serve(speeds, (HERE[0], HERE[1] + 1), 50_000, 4.0, 50)
    assert speeds.prefill_per_s(HERE) == speeds.fleet.prefill_per_s.value


def test_who_was_seen_first_is_not_held_to_what_was_believed_then():
    speeds = Speeds()
    serve(speeds, HERE, 16_000, 40.0, 2)
    serve(speeds, THERE, 16_000, 40.0, 300)
    assert speeds.prefill_per_s(HERE) == speeds.prefill_per_s(THERE) > 12_000
    assert speeds.answer_s(HERE) == speeds.answer_s(THERE) > 30.0


def test_what_befalls_all_is_believed_of_who_was_not_seen_since():
    speeds = Speeds()
    others = [(slot, 1) for slot in range(2, 6)]
    for _ in range(20):
        for key in (HERE, *others):
            serve(speeds, key, 16_000, 4.0, 2)
    for _ in range(60):
        for key in others:
            serve(speeds, key, 16_000, 12.0, 1)
    assert speeds.answer_s(HERE) == pytest.approx(12.0, rel=0.1)


def test_who_is_alone_is_learnt_as_well():
    speeds = Speeds()
    serve(speeds, HERE, 100_000, 300.0, 300)
    assert speeds.fleet.prefill_per_s.settled
    assert speeds.prefill_per_s(HERE) == pytest.approx(100_000, rel=0.1)
    assert speeds.answer_s(HERE) == pytest.approx(300.0, rel=0.1)
