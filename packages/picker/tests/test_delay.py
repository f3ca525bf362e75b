import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shunter.picker.core.judgement import Outcome
from shunter.picker.core.kinds import Named, Profile, Setting, Weighted
from shunter.picker.core.ledger import Booking, Ledger
from shunter.picker.core.policy import Policy
from shunter.picker.core.prefix import Match
from shunter.picker.core.request import Request
from shunter.picker.core.schedule import Scheduler
from shunter.picker.plugins.delay import ASKED_IN_TURN, DELAY_SCORER, MOST_ASKED, MOST_BEGINNINGS, Beginnings, ExpectedDelay
from shunter.picker.plugins.outliers import OutlierEjection
from shunter.picker.plugins.pickers import MaxScore
from shunter.picker.plugins.price import PRICE_LABEL, Price

NOW_NS = 100_000_000_000
SETTING = Setting(DELAY_SCORER, random.Random(1), {}.__getitem__, lambda data: None)


def scheduler(*scorers, filters=(), tell=lambda name, data: None):
    weighted = tuple(Weighted(name, plugin) for name, plugin in scorers or [(DELAY_SCORER, ExpectedDelay())])
    profile = Profile("default", MaxScore(), tuple(Named(name, plugin) for name, plugin in filters), weighted)
    return Scheduler(Policy(profiles=(profile,)), random.Random(1), tell)


def ask(tokens=4000, ticket=1, now_ns=NOW_NS, **fields):
    fields.setdefault("headers", {})
    return Request(prompt_tokens=tokens, ticket=ticket, at_ns=now_ns, facts={}, **fields)


def first(run, request, fleet):
    decision = run.run(request, fleet).decision
    assert not run.complaints.words
    return decision.candidates[decision.chosen[0]].slot


def booked(*bookings):
    """A ledger with requests in flight: slot, prompt tokens, uncached ones."""
    ledger = Ledger()
    for ticket, (slot, tokens, uncached) in enumerate(bookings, 1000):
        ledger.book(ticket, Booking(slot, 1, NOW_NS, tokens, (), uncached, 100))
    return ledger


def test_a_request_goes_where_its_beginning_is_cached(make_fleet):
    request = ask(prefix=Match(tokens=4000, share={1: 0.8}))
    assert first(scheduler(), request, make_fleet({}, {}, {})) == 1


def test_a_queue_that_costs_more_than_computing_it_again_breaks_the_affinity(make_fleet):
    request = ask(prefix=Match(tokens=4000, share={1: 0.8}))
    short, long = booked((1, 2000, 2000)), booked((1, 20_000, 20_000))
    assert first(scheduler(), request, make_fleet({}, {}, ledger=short)) == 1
    assert first(scheduler(), request, make_fleet({}, {}, ledger=long)) == 0


def test_a_beginning_that_several_in_flight_share_is_worth_a_further_copy(make_fleet):
    fleet = make_fleet({"running": 6.0}, {}, ledger=booked((0, 1, 1)))
    prefix = Match(hashes=(7, 8), tokens=4000, blocks={0: 2}, share={0: 1.0})
    another = Match(hashes=(7, 9), tokens=4000, blocks={0: 2}, share={0: 1.0})
    run = scheduler()
    scorer = run.crew.find(DELAY_SCORER)
    before = scorer.score(ask(prefix=prefix), fleet)
    for ticket in range(3):
        first(run, ask(ticket=ticket, prefix=prefix), fleet)
    shared = scorer.score(ask(prefix=prefix), fleet)
    assert shared[1] / shared[0] > before[1] / before[0]
    assert scorer.score(ask(prefix=another), fleet) == pytest.approx(before, rel=0.02)
    for ticket in range(3):
        run.observe(ticket, Outcome(complete=True), 100.0)
    assert scorer.score(ask(prefix=prefix), fleet) == pytest.approx(before, rel=0.02)


def test_a_further_copy_is_worth_nothing_where_the_cache_is_full(make_fleet):
    fleet = make_fleet({"kv_usage": 1.0}, {"kv_usage": 1.0}, ledger=booked((0, 1, 1)))
    prefix = Match(hashes=(7, 8), tokens=4000, blocks={0: 2}, share={0: 1.0})
    run = scheduler()
    scorer = run.crew.find(DELAY_SCORER)
    before = scorer.score(ask(prefix=prefix), fleet)
    for ticket in range(3):
        first(run, ask(ticket=ticket, prefix=prefix), fleet)
    assert scorer.score(ask(prefix=prefix), fleet) == pytest.approx(before)


def test_beginnings_of_requests_whose_end_nobody_tells_are_forgotten():
    beginnings, match = Beginnings(), Match(hashes=(7,), tokens=64, blocks={0: 1}, share={0: 1.0})
    for ticket in range(MOST_BEGINNINGS + 5):
        beginnings.add(ticket, match)
    assert beginnings.count(match) == MOST_BEGINNINGS


def test_prompts_are_worked_off_with_time(make_fleet):
    ledger = booked((1, 20_000, 20_000))
    request = ask(prefix=Match(tokens=4000, share={1: 0.8}), now_ns=NOW_NS + 3_000_000_000)
    assert first(scheduler(), request, make_fleet({}, {}, ledger=ledger)) == 1


def test_without_prompts_to_compute_the_smaller_batch_wins(make_fleet):
    ledger = booked((0, 100, 0), (0, 100, 0), (1, 100, 0), (2, 100, 0), (2, 100, 0))
    assert first(scheduler(), ask(50), make_fleet({}, {}, {}, ledger=ledger)) == 1


def test_long_contexts_make_a_batch_larger(make_fleet):
    ledger = booked((0, 50_000, 0), (1, 100, 0))
    assert first(scheduler(), ask(50), make_fleet({}, {}, ledger=ledger)) == 1


def test_the_answers_given_until_now_make_a_batch_larger(make_fleet):
    rows = [{"kv_usage": usage, "block_size": 16, "num_blocks": 20_000} for usage in (0.9, 0.2)]
    ledger = booked((0, 100, 0), (1, 500, 0))
    assert first(scheduler(), ask(50), make_fleet({}, {}, ledger=ledger)) == 0
    assert first(scheduler(), ask(50), make_fleet(*rows, ledger=ledger)) == 1


def test_a_further_copy_goes_where_the_cache_has_room(make_fleet):
    fleet = make_fleet({"kv_usage": 0.9}, {"kv_usage": 0.1}, {"kv_usage": 0.5})
    assert first(scheduler(), ask(4000), fleet) == 1


def test_a_new_prompt_goes_where_nobody_waits_for_room(make_fleet):
    few, many = {"running": 4.0, "waiting": 4.0}, {"running": 9.0, "kv_usage": 0.5}
    full, empty = make_fleet(few | {"kv_usage": 1.0}, many), make_fleet(few | {"kv_usage": 0.1}, many)
    assert first(scheduler(), ask(100), full) == 1
    assert first(scheduler(), ask(100), empty) == 0, "who waits there waits for the next step"


def test_a_known_prompt_leaves_a_full_cache_s_queue_while_another_has_room(make_fleet):
    known = ask(100, prefix=Match(tokens=100, share={0: 0.6}))
    full, roomy, tight = (
        {"running": 4.0, "waiting": 4.0, "kv_usage": 1.0},
        {"running": 9.0, "kv_usage": 0.5},
        {"running": 9.0, "kv_usage": 0.9},
    )
    assert first(scheduler(), known, make_fleet(full, roomy)) == 1
    assert first(scheduler(), known, make_fleet(full, tight)) == 0, "both would read what begins it"


def test_a_full_cache_is_left_before_anybody_waits_while_another_has_room(make_fleet):
    known = ask(100, prefix=Match(tokens=100, share={0: 0.9}))
    full, roomy, tight = ({"running": 9.0, "kv_usage": usage} for usage in (1.0, 0.5, 0.9))
    assert first(scheduler(), known, make_fleet(full, roomy)) == 1
    assert first(scheduler(), known, make_fleet(full, tight)) == 0


def test_a_long_prompt_is_waited_for_for_longer_than_its_share(make_fleet):
    request = ask(30_000, prefix=Match(tokens=30_000, share={1: 0.9}))
    many, one = booked(*[(1, 2_500, 2_500)] * 32), booked((1, 80_000, 80_000))
    delay = scheduler().crew.find(DELAY_SCORER)
    assert (
        delay.waits_s(request, make_fleet({}, {}, ledger=one))[1]
        > 1.9 * delay.waits_s(request, make_fleet({}, {}, ledger=many))[1]
    )


def test_where_many_come_a_long_prompt_is_dearer_than_its_own_wait(make_fleet):
    prefix = Match(tokens=20_000, share={1: 1.0})
    waiting = (1, 24_000, 24_000)
    alone, crowded = booked(waiting), booked(waiting, *[(at % 2, 50, 0) for at in range(40)])
    scores = [
        scheduler().crew.find(DELAY_SCORER).score(ask(20_000, prefix=prefix), make_fleet({}, {}, ledger=each))
        for each in (alone, crowded)
    ]
    assert scores[0][0] > 2 * scores[1][0]


def teach(run, fleet, slot, first_s, duration_s, times=80):
    """Let requests sent to one endpoint take so long."""
    for ticket in range(10, 10 + times):
        alone = fleet.narrow([slot])
        run.run(ask(ticket=ticket), alone)
        run.observe(ticket, Outcome(complete=True, status=200, first_token_s=first_s, duration_s=duration_s), 100.0)


def test_a_slow_endpoint_gets_less(make_fleet):
    run, fleet = scheduler(), make_fleet({}, {})
    teach(run, fleet, 0, 4.0, 40.0)
    teach(run, fleet, 1, 0.5, 5.0)
    assert first(run, ask(ticket=500), fleet) == 1


def test_an_adapter_stays_where_it_is_loaded_until_that_costs_more(make_fleet):
    rows = [{"max_adapters": 2, "running_adapters": ("a", "b")}, {"max_adapters": 2, "running_adapters": ("c",)}]
    assert first(scheduler(), ask(500, target_model="a"), make_fleet(*rows, ledger=booked((0, 100, 0)))) == 0
    assert first(scheduler(), ask(500, target_model="a"), make_fleet(*rows, ledger=booked((0, 30_000, 30_000)))) == 1
    assert first(scheduler(), ask(500, target_model="base"), make_fleet(*rows, ledger=booked((0, 100, 0)))) == 1


def test_an_adapter_that_runs_and_is_waited_for_takes_room_once(make_fleet):
    run, ledger = scheduler(), booked((1, 1000, 0))
    full = {"max_adapters": 1, "running_adapters": ("b",)}
    first(run, ask(500), make_fleet({"max_adapters": 1, "running_adapters": ("c",)}, {}))  # by then it is known to be one
    for waiting, chosen in ((("a",), 1), (("b",), 0)):
        crowded = {"max_adapters": 2, "running_adapters": ("a",), "waiting_adapters": waiting}
        assert first(run, ask(500, target_model="c"), make_fleet(full, crowded, ledger=ledger)) == chosen


def test_in_a_large_fleet_everybody_has_a_turn_and_who_has_the_prompt_is_always_asked(make_fleet):
    fleet, run = make_fleet(*[{}] * (2 * MOST_ASKED)), scheduler()
    scored = set()
    for ticket in range(4):
        decision = run.run(ask(ticket=ticket), fleet).decision
        scored.update(decision.scores[0][1])
    assert len(scored) == 2 * MOST_ASKED
    for ticket in range(4):
        assert first(run, ask(ticket=ticket, prefix=Match(tokens=4000, share={7: 1.0})), fleet) == 7


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # it only builds
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9000), st.booleans(), st.booleans()), max_size=30))
def test_costs_that_are_kept_are_what_they_would_be_anew(make_fleet, bookings):
    ledger = Ledger()
    fleet, delay = make_fleet({"running": 3.0}, {}, {"waiting": 2.0}, {}, ledger=ledger), ExpectedDelay().start(SETTING)
    for ticket, (slot, tokens, ends, asks) in enumerate(bookings):
        fleet.add(ledger.book(ticket, Booking(slot, 1, NOW_NS + ticket, tokens, (), tokens, 100)), +1)
        if ends:
            fleet.add(ledger.release(ticket), -1)
        if asks:
            delay.score(ask(), fleet)
    delay.score(ask(), fleet)
    costs = fleet.keepers[delay]
    kept = costs.rows.copy(), costs.queues.copy()
    costs.touched.update(range(4))
    costs.refresh(fleet)
    assert (costs.rows, costs.queues) == kept


def test_of_many_who_have_the_prompt_those_with_most_of_it_are_asked_and_equals_in_turn(make_fleet):
    fleet, run = make_fleet(*[{}] * (3 * MOST_ASKED)), scheduler()
    share = {**dict.fromkeys(range(2 * MOST_ASKED), 0.5), 3 * MOST_ASKED - 1: 1.0}
    asked = Counter()
    for ticket in range(9):
        scores = run.run(ask(ticket=ticket, prefix=Match(tokens=4000, share=share)), fleet).decision.scores[0][1]
        assert len(scores) <= 2 * ASKED_IN_TURN
        asked.update(scores)
    assert asked[3 * MOST_ASKED - 1] == 9
    assert set(asked) >= set(range(2 * MOST_ASKED))


def test_those_who_have_the_prompt_and_are_no_candidates_are_in_nobodys_way(make_fleet):
    share = {**dict.fromkeys(range(1000, 1000 + 2 * MOST_ASKED), 1.0), 2 * MOST_ASKED: 0.9}
    assert (
        first(scheduler(), ask(prefix=Match(tokens=4000, share=share)), make_fleet(*[{}] * (3 * MOST_ASKED))) == 2 * MOST_ASKED
    )


def test_new_prompts_go_round_where_prompts_are_reused(make_fleet):
    run, fleet = scheduler(), make_fleet({}, {}, {})
    for ticket in range(200):
        run.run(ask(ticket=ticket, prefix=Match(tokens=4000, share={0: 1.0})), fleet)
    began = [first(run, ask(ticket=ticket), fleet) for ticket in range(300, 309)]
    assert [began.count(slot) for slot in range(3)] == [3, 3, 3]
    assert began[:3] == began[3:6] == began[6:]


def test_new_prompts_go_where_they_wait_least_where_none_is_reused(make_fleet):
    fleet = make_fleet({}, {}, {}, ledger=booked((0, 4000, 4000), (2, 4000, 4000)))
    run = scheduler()
    assert {first(run, ask(ticket=ticket), fleet) for ticket in range(9)} == {1}


def test_it_says_what_binds_the_fleet(make_fleet):
    run = scheduler()
    for ticket in range(300):
        run.run(ask(20_000, ticket=ticket), make_fleet({}, {}, ledger=booked((0, 90_000, 90_000), (1, 90_000, 90_000))))
    assert run.reports()[DELAY_SCORER].startswith("bound by prompts (")
    for ticket in range(300):
        run.run(ask(20, ticket=ticket), make_fleet({}, {}, ledger=booked(*[(at % 2, 4_000, 0) for at in range(80)])))
    assert run.reports()[DELAY_SCORER].startswith("bound by answers (")


def priced(*prices):
    return [{"labels": {PRICE_LABEL: price} if price else {}} for price in prices]


PRICED = [(DELAY_SCORER, ExpectedDelay()), ("price-scorer", Price())]


def test_the_cheapest_that_is_fast_enough_wins(make_fleet):
    fleet = make_fleet({}, {}, {}, endpoints=priced("9", "2", "4"))
    assert first(scheduler(*PRICED), ask(), fleet) == 1


def test_the_dear_one_takes_what_would_be_late(make_fleet):
    fleet = make_fleet({}, {}, endpoints=priced("9", "2"), ledger=booked((1, 30_000, 30_000)))
    assert first(scheduler(*PRICED), ask(), fleet) == 0
    patient = {"x-llm-d-slo-ttft-ms": "60000"}
    free = scheduler(("price-scorer", Price()), (DELAY_SCORER, ExpectedDelay()))
    decision = free.run(ask(headers=patient), fleet).decision
    assert decision.scores[0][1] == [0.0, 1.0]


@pytest.mark.parametrize("prices", [(None, None), ("3", "3"), ("dear", "nan"), ("3", None)])
def test_prices_that_say_nothing_change_nothing(make_fleet, prices):
    fleet = make_fleet({}, {}, endpoints=priced(*prices))
    assert set(
        scheduler(("price-scorer", Price()), (DELAY_SCORER, ExpectedDelay())).run(ask(), fleet).decision.scores[0][1]
    ) == {1.0}


OUTLIERS = [("outliers", OutlierEjection())]


def fail(run, fleet, slot, status=503, times=6, now_s=100.0, served=None):
    for ticket in range(10, 10 + times):
        run.run(ask(ticket=ticket), fleet.narrow([slot]))
        run.observe(ticket, Outcome(complete=True, status=status, served=served), now_s)


def chances(run, fleet, now_s):
    """How many of a hundred requests each slot may get."""
    ejection = run.crew.find("outliers")
    kept = [ejection.keep(ask(now_ns=int(now_s * 1e9)), fleet) for _ in range(100)]
    return [sum(at in positions for positions in kept) for at in range(len(fleet))]


def test_who_fails_is_left_out_and_comes_back_little_by_little(make_fleet):
    told = []
    run, fleet = scheduler(filters=OUTLIERS, tell=lambda name, data: told.append((name, data))), make_fleet({}, {}, {})
    fail(run, fleet, 1)
    assert chances(run, fleet, 101.0) == [100, 0, 100]
    assert 10 < chances(run, fleet, 117.0)[1] < 50
    assert 60 < chances(run, fleet, 135.0)[1] < 99
    assert chances(run, fleet, 141.0) == [100, 100, 100]
    other = scheduler(filters=OUTLIERS)
    other.hear(*told[0])
    assert chances(other, fleet, 101.0) == [100, 0, 100]


def test_clients_who_leave_before_an_answer_do_not_make_up_for_failures(make_fleet):
    run, fleet = scheduler(filters=OUTLIERS), make_fleet({}, {}, {})
    for _ in range(6):
        fail(run, fleet, 1, times=1)
        fail(run, fleet, 1, times=2, status=0)
    assert chances(run, fleet, 101.0)[1] == 0
    fail(run, fleet, 2, times=60, status=0)
    assert chances(run, fleet, 101.0)[2] == 100


def test_who_fails_again_is_left_out_for_longer(make_fleet):
    run, fleet = scheduler(filters=OUTLIERS), make_fleet({}, {}, {})
    fail(run, fleet, 1)
    fail(run, fleet, 1, now_s=112.0)
    assert chances(run, fleet, 125.0)[1] == 0


def test_what_was_sent_before_does_not_count_twice(make_fleet):
    run, fleet = scheduler(filters=OUTLIERS), make_fleet({}, {}, {})
    fail(run, fleet, 1, times=60)
    assert chances(run, fleet, 109.0)[1] == 0
    assert chances(run, fleet, 141.0)[1] == 100


def test_who_is_gone_is_forgotten(make_fleet):
    run = scheduler(filters=OUTLIERS)
    for incarnation in range(1, 9):
        fleet = make_fleet({}, {}, endpoints=[{"incarnation": incarnation}, {}])
        fail(run, fleet, 0)
    assert len(run.crew.find("outliers")._conduct) == 1


def test_an_answer_by_somebody_else_is_a_failure_of_the_chosen_one(make_fleet):
    run, fleet = scheduler(filters=OUTLIERS), make_fleet({}, {}, {})
    fail(run, fleet, 1, status=200, served="10.0.0.3:8000")
    assert chances(run, fleet, 101.0) == [100, 0, 100]


@pytest.mark.parametrize(("status", "times"), [(200, 20), (429, 20), (None, 20), (503, 4)])
def test_who_does_not_fail_or_not_often_stays(make_fleet, status, times):
    run, fleet = scheduler(filters=OUTLIERS), make_fleet({}, {}, {})
    fail(run, fleet, 1, status=status, times=times)
    assert chances(run, fleet, 101.0) == [100, 100, 100]


def test_if_most_fail_all_stay(make_fleet):
    run, fleet = scheduler(filters=OUTLIERS), make_fleet({}, {}, {})
    fail(run, fleet, 1)
    fail(run, fleet, 2)
    assert chances(run, fleet, 101.0) == [100, 100, 100]


def test_it_says_what_it_only_supposes(make_fleet):
    run = scheduler()
    run.run(ask(20_000), make_fleet({}))
    (report,) = run.reports().values()
    assert report.endswith("8,000 prompt tokens/s (not learnt yet), and an answer alone takes 4.00 s (not learnt yet)")
