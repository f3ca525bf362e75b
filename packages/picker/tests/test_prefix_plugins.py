import random

import pytest

from shunter.picker.core.kinds import Decision, Named, Profile, Verdict
from shunter.picker.core.ledger import Booking, Ledger
from shunter.picker.core.policy import Crew, Policy
from shunter.picker.core.prefix import Match
from shunter.picker.core.request import Request
from shunter.picker.plugins.pickers import MaxScore
from shunter.picker.plugins.prefixes import NoHitLru, PrefixAffinity
from shunter.picker.plugins.scorers import LMetric

NOW_NS = 100_000_000_000


def at_work(plugin, tell=lambda *_: None):
    policy = Policy(profiles=(Profile("default", MaxScore()),), others=(Named("it", plugin),))
    return Crew(policy, random.Random(1), tell).find("it")


def matching(**share):
    return Request(
        headers={}, at_ns=NOW_NS, prefix=Match(tokens=1000, share={int(slot[1:]): part for slot, part in share.items()})
    )


def backlog(**tokens):
    ledger = Ledger()
    for ticket, (slot, count) in enumerate(tokens.items()):
        ledger.book(ticket, Booking(int(slot[1:]), 1, NOW_NS, prefill_tokens=count))
    return ledger


@pytest.mark.parametrize(
    ("share", "kept"),
    [
        ({}, [0, 1, 2]),
        ({"s1": 0.79}, [0, 1, 2]),
        ({"s1": 0.8}, [1]),
        ({"s2": 1.0, "s0": 0.9, "s1": 0.5}, [0, 2]),
        ({"s7": 1.0}, [0, 1, 2]),
    ],
)
def test_a_prompt_stays_where_most_of_it_is_cached(make_fleet, share, kept):
    assert list(at_work(PrefixAffinity()).keep(matching(**share), make_fleet({}, {}, {}))) == kept


@pytest.mark.parametrize(
    ("tokens", "penalty_ms", "kept"),
    [
        ({"s1": 1001}, 1000, [0, 1, 2]),  # 1.001 s behind others that are idle
        ({"s1": 1000}, 1000, [1]),
        ({"s1": 2500, "s0": 1500, "s2": 1500}, 1000, [1]),
        ({"s1": 2501, "s0": 1500, "s2": 1600}, 1000, [0, 1, 2]),
        ({"s1": 10**9}, 0, [1]),
    ],
)
def test_the_valve_opens_where_the_sticky_would_be_much_later(make_fleet, tokens, penalty_ms, kept):
    valve = at_work(PrefixAffinity(peak_prefill_throughput=1000.0, max_ttft_penalty_ms=penalty_ms))
    fleet = make_fleet({}, {}, {}, ledger=backlog(**tokens))
    assert list(valve.keep(matching(s1=1.0), fleet)) == kept


def test_the_valve_may_be_set_in_tokens(make_fleet):
    for tokens, kept in ((700, [1]), (701, [0, 1])):
        fleet = make_fleet({}, {}, ledger=backlog(s1=tokens))
        for penalty_ms in (0, 1000):
            valve = PrefixAffinity(
                peak_prefill_throughput=1000.0, max_ttft_penalty_ms=penalty_ms, max_tokens_in_flight_penalty=700
            )
            assert list(at_work(valve).keep(matching(s1=1.0), fleet)) == kept


def test_a_throughput_of_nothing_is_refused_where_it_is_divided_by():
    with pytest.raises(ValueError, match="peakPrefillThroughput must be above 0, or maxTTFTPenaltyMs 0"):
        PrefixAffinity(peak_prefill_throughput=0.0)
    PrefixAffinity(peak_prefill_throughput=0.0, ttft_source="latencyPredictor")


def test_a_throughput_of_nothing_does_not_matter_to_a_valve_that_never_opens(make_fleet):
    valve = at_work(PrefixAffinity(peak_prefill_throughput=0.0, max_ttft_penalty_ms=0))
    assert list(valve.keep(matching(s1=1.0), make_fleet({}, {}, ledger=backlog(s1=10**9)))) == [1]


def test_the_best_of_the_sticky_counts(make_fleet):
    valve = at_work(PrefixAffinity(peak_prefill_throughput=1000.0, max_ttft_penalty_ms=1000))
    fleet = make_fleet({}, {}, {}, ledger=backlog(s1=10**6))
    assert list(valve.keep(matching(s1=1.0, s2=1.0), fleet)) == [1, 2]


def test_exploration_keeps_everybody_as_often_as_it_says(make_fleet):
    valve, fleet = at_work(PrefixAffinity(exploration_probability=0.25)), make_fleet({}, {})
    explored = sum(len(valve.keep(matching(s1=1.0), fleet)) == 2 for _ in range(4000))
    assert 900 < explored < 1100


def give(turns, fleet, at, request):
    decision = Decision(fleet.endpoints, [at])
    turns.picked(request, Verdict(decision))


def test_cold_prompts_go_round(make_fleet):
    fleet, turns, cold = make_fleet({}, {}, {}), at_work(NoHitLru()), matching()
    assert turns.score(cold, fleet) == [1, 0.5, 0]
    give(turns, fleet, 0, cold)
    assert turns.score(cold, fleet) == [0, 1, 0.5]
    give(turns, fleet, 2, cold)
    give(turns, fleet, 1, cold)
    assert turns.score(cold, fleet) == [1, 0, 0.5]


def test_a_known_prompt_says_nothing_and_takes_no_turn(make_fleet):
    fleet, turns, warm = make_fleet({}, {}), at_work(NoHitLru()), matching(s1=0.1)
    assert turns.score(warm, fleet) == [0.5, 0.5]
    give(turns, fleet, 0, warm)
    assert turns.score(matching(), fleet) == [1, 0]


def test_who_prefills_a_cold_prompt_has_had_a_turn_too(make_fleet):
    fleet, turns = make_fleet({}, {}, {}), at_work(NoHitLru())
    turns.picked(matching(), Verdict(Decision(fleet.endpoints, [0]), {"prefill": Decision(fleet.endpoints, [1])}))
    assert turns.score(matching(), fleet) == [0.5, 0, 1]


def test_only_so_many_turns_are_remembered(make_fleet):
    fleet, turns = make_fleet({}, {}, {}), at_work(NoHitLru(lru_size=1))
    give(turns, fleet, 0, matching())
    give(turns, fleet, 1, matching())
    assert turns.score(matching(), fleet) == [1, 0, 0.5]


def test_workers_share_their_turns(make_fleet):
    fleet, other = make_fleet({}, {}), at_work(NoHitLru())
    mine = at_work(NoHitLru(), lambda name, data: other.hear(data))
    give(mine, fleet, 0, matching())
    assert other.score(matching(), fleet) == [0, 1]


def test_lmetric_multiplies_new_tokens_and_batch(make_fleet):
    ledger = Ledger()
    for ticket in range(3):
        ledger.book(ticket, Booking(1, 1, 1))
    request = Request(headers={}, prompt_tokens=100, prefix=Match(tokens=100, share={1: 0.5}))
    # 100 · 1, 50 · 4, 100 · 1
    assert LMetric().score(request, make_fleet({}, {}, {}, ledger=ledger)) == [1, 0, 1]
    # 100 · 1, 50 · 4, 150 · 1 where only 100 tokens were hashed
    request = Request(headers={}, prompt_tokens=150, prefix=Match(tokens=100, share={1: 1.0, 0: 0.5}))
    assert LMetric().score(request, make_fleet({}, {}, {}, ledger=ledger)) == [1, 0, 0.5]
