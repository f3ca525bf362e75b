"""Weights go where room is, and stay where they are while nothing much happens."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.envoyconf.core.xds.weights import HOLD_S, LADDER, STEP, Reading, Weights

TICK_S = 0.1
LONG = 300  # ticks

readings = st.builds(
    Reading,
    waiting=st.none() | st.floats(0, 1000) | st.just(float("inf")),
    running=st.none() | st.floats(0, 1000) | st.just(float("inf")),
    kv_usage=st.none() | st.floats(0, 1),
    speed=st.none() | st.floats(0.001, 1e6),
)
fleets = st.dictionaries(st.integers(0, 9), readings, min_size=1)


def watch(weights, look, ticks=LONG, start_s=0.0):
    """Return what the weights were at each tick."""
    return [weights.update(look(number), start_s + number * TICK_S) for number in range(ticks)]


@given(fleets)
def test_a_fleet_that_does_not_change_comes_to_rest(fleet):
    seen = watch(Weights(), lambda _: fleet)
    assert seen[-1] == seen[-60]
    assert all(weight in LADDER for weight in seen[-1].values())


@given(fleets, st.lists(st.floats(0.95, 1.05), min_size=10, max_size=40))
@settings(max_examples=50)
def test_noise_of_a_twentieth_moves_nobody_who_has_come_to_rest(fleet, noise):
    def noisy(number):
        if number < LONG:
            return fleet
        factors = (noise[(number + index) % len(noise)] for index in range(len(fleet)))
        return {
            key: Reading(waiting=each.waiting and each.waiting * factor, running=each.running, speed=each.speed)
            for (key, each), factor in zip(fleet.items(), factors, strict=True)
        }

    fleet = {key: Reading(waiting=each.waiting, running=each.running, speed=each.speed) for key, each in fleet.items()}
    seen = watch(Weights(), noisy, 2 * LONG)
    # Once: where rest was at the very edge.
    for key in fleet:
        line = [weights[key] for weights in seen[LONG:]]
        assert sum(before != after for before, after in itertools.pairwise(line)) <= 1


@given(st.lists(fleets, min_size=1, max_size=5))
@settings(max_examples=50)
def test_whatever_happens_an_endpoint_moves_one_step_a_second_at_most(fleets):
    seen = watch(Weights(), lambda number: fleets[number % len(fleets)], 100)
    moved = {}
    for number, (before, after) in enumerate(itertools.pairwise(seen)):
        for key in before.keys() & after.keys():
            if before[key] != after[key]:
                assert abs(LADDER.index(before[key]) - LADDER.index(after[key])) == 1
                assert (number - moved.get(key, -1000)) * TICK_S >= HOLD_S - 1e-6
                moved[key] = number


@given(readings, st.integers(1, 9))
def test_equals_weigh_the_same(reading, count):
    (weights,) = {tuple(each.values()) for each in watch(Weights(), lambda _: dict.fromkeys(range(count), reading))}
    assert len(set(weights)) == 1


def test_who_has_a_queue_gets_less_and_gets_it_back():
    weights = Weights()
    usual = {"a": Reading(waiting=0, running=4), "b": Reading(waiting=0, running=4), "c": Reading(waiting=0, running=4)}
    busy = usual | {"a": Reading(waiting=20, running=4)}
    loaded = watch(weights, lambda _: busy)[-1]
    assert loaded["a"] < loaded["b"] == loaded["c"]
    recovered = watch(weights, lambda _: usual, start_s=LONG * TICK_S)[-1]
    # All but the reluctance of one step.
    assert abs(LADDER.index(recovered["a"]) - LADDER.index(recovered["b"])) <= 1


def test_who_is_nearly_full_gets_less_and_who_is_fast_more():
    look = {"full": Reading(kv_usage=0.95), "half": Reading(kv_usage=0.5), "empty": Reading(kv_usage=0.1)}
    seen = watch(Weights(), lambda _: look)[-1]
    assert seen["full"] < seen["half"] == seen["empty"]
    speeds = {
        "slow": Reading(waiting=0, speed=50),
        "usual": Reading(waiting=0, speed=100),
        "fast": Reading(waiting=0, speed=200),
    }
    seen = watch(Weights(), lambda _: speeds)[-1]
    assert seen["slow"] < seen["usual"] < seen["fast"]
    assert seen["fast"] / seen["usual"] <= 2 * STEP


def test_of_whom_nothing_is_known_is_taken_for_usual():
    look = {"a": Reading(waiting=5, running=5), "b": Reading(waiting=5, running=5), "new": Reading()}
    assert len(set(watch(Weights(), lambda _: look)[-1].values())) == 1
