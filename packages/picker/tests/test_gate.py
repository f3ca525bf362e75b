"""Who waits, in which order they go, and that nobody is lost."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.flow import BandSettings, FlowSettings, Waiter
from shunter.picker.core.gate import ARRIVAL_S, CLAIM_S, DESERTED, EXPIRED, FULL, GONE, NOBODY, Claim, Gate, Room
from shunter.picker.core.judgement import Parked, Refusal
from shunter.picker.core.lines import MOST_COMPARED, MOST_FLOWS
from shunter.picker.plugins.flow_policies import (
    EarliestDeadline,
    FirstCome,
    GlobalStrict,
    PriorityHoldback,
    ProgramAware,
    RoundRobin,
    SloDeadline,
    SoftReflectiveCeiling,
    StaticLimit,
)

IDLE, BUSY, EMPTY = Room(0.0), Room(1.0), Room(1.0, empty=True)
PLAIN = BandSettings(fairness=GlobalStrict(), ordering=FirstCome())


def make_settings(default=PLAIN, limits=None, **fields):
    return FlowSettings(default=default, limits=limits or StaticLimit(), **fields)


def make_waiter(ticket, at_s=0.0, priority=0, flow="f", size_bytes=100, tokens=10, **fields):
    return Waiter(ticket, priority, flow, size_bytes, tokens, at_s, at_s + 60.0, **fields)


def fill(gate, *waiters, room=BUSY):
    for each in waiters:
        assert isinstance(gate.admit(each, room), Parked)


def drain(gate, now_s=1.0, room=IDLE):
    taken = []
    while (waiter := gate.take(room, now_s)) is not None:
        taken.append(waiter.ticket)
    return taken


def test_nobody_waits_while_there_is_room():
    gate = Gate(make_settings())
    assert gate.admit(make_waiter(1), Room(0.99)) is None
    assert len(gate) == 0


def test_who_finds_the_pool_full_waits_and_goes_when_it_is_not():
    gate = Gate(make_settings(request_ttl_s=30.0))
    assert gate.admit(make_waiter(1, at_s=5.0), BUSY) == Parked(1, 35.0)
    assert gate.take(BUSY, 6.0) is None
    assert drain(gate) == [1]
    assert len(gate) == 0


def test_a_newcomer_does_not_overtake_those_who_wait_but_a_higher_priority_does():
    gate = Gate(make_settings())
    fill(gate, make_waiter(1))
    fill(gate, make_waiter(2), make_waiter(3, priority=-1), room=IDLE)
    assert gate.admit(make_waiter(4, priority=1), IDLE) is None
    assert drain(gate) == [1, 2, 3]


def test_no_lower_band_is_served_while_a_higher_one_waits():
    limits = PriorityHoldback(min_ceiling=0.5)
    gate = Gate(make_settings(limits=limits, bands={1: PLAIN, 0: PLAIN}))
    fill(gate, make_waiter(1, priority=0), make_waiter(2, priority=1))
    assert gate.take(Room(1.0), 1.0) is None
    assert drain(gate, room=Room(0.7)) == [2], "the lower one's ceiling is 0.5"
    assert drain(gate, room=Room(0.4)) == [1]


@pytest.mark.parametrize(
    ("bounds", "fits"),
    [
        ({"max_requests": 2}, 2),
        ({"max_bytes": 250}, 2),
        ({"default": BandSettings(fairness=GlobalStrict(), ordering=FirstCome(), max_requests=1)}, 1),
        ({"default": BandSettings(fairness=GlobalStrict(), ordering=FirstCome(), max_bytes=399)}, 3),
    ],
)
def test_who_does_not_fit_is_turned_away(bounds, fits):
    gate = Gate(make_settings(**bounds))
    fill(gate, *map(make_waiter, range(fits)))
    assert gate.admit(make_waiter(99), BUSY) is FULL
    assert gate.leave(0) is not None
    assert isinstance(gate.admit(make_waiter(100), BUSY), Parked)


def test_without_endpoints_the_answer_is_another_one():
    gate = Gate(make_settings(max_requests=1))
    fill(gate, make_waiter(1), room=EMPTY)
    refusal = gate.admit(make_waiter(2), EMPTY)
    assert refusal is NOBODY
    assert refusal.status == 503


def test_each_priority_has_its_own_bounds():
    small = BandSettings(fairness=GlobalStrict(), ordering=FirstCome(), max_requests=1)
    gate = Gate(make_settings(negative=small, bands={5: small}))
    fill(gate, make_waiter(1, priority=-1), make_waiter(2, priority=5), make_waiter(3, priority=0), make_waiter(4, priority=0))
    assert gate.admit(make_waiter(5, priority=-1), BUSY) is FULL
    assert gate.admit(make_waiter(6, priority=5), BUSY) is FULL
    assert isinstance(gate.admit(make_waiter(7, priority=-2), BUSY), Parked), "a band of its own, by the same template"


class TestTime:
    def test_who_waits_too_long_is_told_so(self):
        gate = Gate(make_settings(request_ttl_s=10.0))
        fill(gate, make_waiter(1, at_s=0.0), make_waiter(2, at_s=5.0))
        assert list(gate.expire(BUSY, 9.9)) == []
        assert [(each.ticket, refusal) for each, refusal in gate.expire(BUSY, 10.0)] == [(1, EXPIRED)]
        assert drain(gate) == [2]

    def test_nobody_goes_on_before_the_gateway_has_heard_of_the_first_endpoint(self):
        gate = Gate(make_settings())
        fill(gate, make_waiter(1), room=EMPTY)
        assert drain(gate, now_s=5.0) == []
        assert isinstance(gate.admit(make_waiter(2, at_s=5.0 + ARRIVAL_S / 2), IDLE), Parked)
        assert gate.blocked is None  # so nobody is evicted for it
        assert drain(gate, now_s=5.0 + ARRIVAL_S) == [1, 2]
        assert gate.admit(make_waiter(3, at_s=5.0 + ARRIVAL_S), IDLE) is None

    def test_an_empty_pool_is_waited_for_as_long_as_that_is_allowed(self):
        gate = Gate(make_settings(request_ttl_s=10.0, no_endpoint_ttl_s=100.0))
        fill(gate, make_waiter(1), room=EMPTY)
        assert list(gate.expire(EMPTY, 99.0)) == []
        ((waiter, refusal),) = gate.expire(EMPTY, 100.0)
        assert (waiter.ticket, refusal) == (1, DESERTED)

    def test_when_the_first_endpoint_comes_up_the_wait_for_capacity_begins(self):
        gate = Gate(make_settings(request_ttl_s=10.0, no_endpoint_ttl_s=100.0))
        fill(gate, make_waiter(1), room=EMPTY)
        assert list(gate.expire(BUSY, 50.0)) == []
        assert list(gate.expire(BUSY, 59.9)) == []
        assert len(list(gate.expire(BUSY, 60.0))) == 1

    def test_turning_again_and_again_keeps_nobody_beyond_the_longer_of_both(self):
        gate = Gate(make_settings(request_ttl_s=10.0, no_endpoint_ttl_s=20.0))
        fill(gate, make_waiter(1), room=EMPTY)
        for second in range(1, 20):
            assert list(gate.expire(Room(1.0, empty=second % 2 == 0), float(second))) == []
        assert len(list(gate.expire(BUSY, 20.0))) == 1

    def test_a_band_may_have_a_time_of_its_own(self):
        brief = BandSettings(fairness=GlobalStrict(), ordering=FirstCome(), request_ttl_s=1.0)
        settings = make_settings(bands={3: brief}, request_ttl_s=10.0)
        gate = Gate(settings)
        fill(gate, make_waiter(1), make_waiter(2, priority=3), make_waiter(3, at_s=0.5, priority=3))
        assert [waiter.ticket for waiter, _ in gate.expire(BUSY, 1.0)] == [2]
        assert [waiter.ticket for waiter, _ in gate.expire(BUSY, 9.9)] == [3]
        assert [waiter.ticket for waiter, _ in gate.expire(BUSY, 10.0)] == [1]
        assert settings.longest_s == 10.0
        assert make_settings(brief, request_ttl_s=10.0).longest_s == 1.0, "no band has the section's"

    def test_zero_is_for_ever(self):
        gate = Gate(make_settings(request_ttl_s=0.0))
        assert gate.admit(make_waiter(1), BUSY) == Parked(1, math.inf)
        assert list(gate.expire(BUSY, 1e9)) == []


class TestOrder:
    def test_first_come_first_served(self):
        gate = Gate(make_settings())
        fill(gate, *(make_waiter(ticket, at_s=ticket / 10, flow=f"f{ticket % 2}") for ticket in range(6)))
        assert drain(gate) == [0, 1, 2, 3, 4, 5]

    def test_the_deadline_of_the_first_token(self):
        slo = BandSettings(fairness=GlobalStrict(), ordering=SloDeadline())
        gate = Gate(make_settings(slo))
        fill(
            gate,
            make_waiter(1),
            make_waiter(2, at_s=0.1, ttft_slo_ms=900.0),
            make_waiter(3, at_s=0.2, ttft_slo_ms=500.0),
            make_waiter(4),
        )
        assert drain(gate) == [3, 2, 1, 4]

    def test_the_end_of_the_wait(self):
        edf = BandSettings(fairness=GlobalStrict(), ordering=EarliestDeadline())
        gate = Gate(make_settings(edf))
        fill(gate, make_waiter(1, at_s=2.0), make_waiter(2, at_s=1.0))
        assert drain(gate) == [2, 1]


def jain(shares):
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


class TestFairness:
    def serve(self, fairness, count, **small):
        """One flow has sent a hundred requests before each of the others sent ten; ``count`` go on."""
        gate = Gate(make_settings(BandSettings(fairness=fairness, ordering=FirstCome())))
        fill(gate, *(make_waiter(ticket, flow="greedy") for ticket in range(100)))
        fill(gate, *(make_waiter(100 + ticket, 0.1, flow=f"small-{ticket % 3}", **small) for ticket in range(30)))
        served = Counter()
        for step in range(count):
            waiter = gate.take(IDLE, 1.0 + step / 100)
            served[waiter.flow] += 1
        return served

    def test_a_single_line_serves_who_sends_most(self):
        assert self.serve(GlobalStrict(), 40) == {"greedy": 40}

    def test_taking_turns_serves_all_alike(self):
        served = self.serve(RoundRobin(), 40)
        assert jain(served.values()) == 1.0
        assert len(served) == 4

    def test_the_least_served_goes_first(self):
        served = self.serve(ProgramAware(), 40, tokens=20)
        assert served["greedy"] == pytest.approx(2 * served["small-0"], abs=3), "its requests cost half as much"

    def test_who_was_served_before_stands_back(self):
        gate = Gate(make_settings(BandSettings(fairness=ProgramAware(), ordering=FirstCome())))
        assert gate.admit(make_waiter(1, flow="a", tokens=1000), IDLE) is None
        fill(gate, make_waiter(2, 1.0, flow="a"), make_waiter(3, 1.0, flow="b"))
        assert drain(gate) == [3, 2]

    def test_what_was_served_long_ago_is_forgotten(self):
        gate = Gate(make_settings(BandSettings(fairness=ProgramAware(las_half_life_seconds=1.0), ordering=FirstCome())))
        assert gate.admit(make_waiter(1, flow="a", tokens=1000), IDLE) is None
        fill(gate, make_waiter(2, 99.0, flow="a"), make_waiter(3, 99.9, flow="b"))
        assert drain(gate, now_s=100.0) == [2, 3], "all that counts is the wait"

    def test_of_very_many_flows_each_gets_its_turn(self):
        gate = Gate(make_settings(BandSettings(fairness=ProgramAware(), ordering=FirstCome())))
        flows = 3 * MOST_COMPARED
        fill(gate, *(make_waiter(ticket, flow=str(ticket % flows)) for ticket in range(2 * flows)))
        for ticket in range(MOST_COMPARED):
            gate.leave(ticket)
            gate.leave(ticket + flows)
        served = Counter(gate.take(IDLE, 1.0).flow for _ in range(flows - MOST_COMPARED))
        assert len(served) >= 0.9 * (flows - MOST_COMPARED)

    def test_without_a_time_to_forget_service_is_never_forgotten(self):
        for ttl_s, remembered in ((0.0, True), (10.0, False)):
            line = ProgramAware(eviction_ttl_seconds=ttl_s, eviction_sweep_seconds=1.0).line()
            line.charge("early", 100.0, 0.0)
            line.charge("late", 1.0, 1000.0)
            assert ("early" in line._services) is remembered

    def test_names_without_end_are_not_remembered_for_ever(self):
        line = ProgramAware().line()
        line.charge("greedy", 1e6, 0.0)
        for number in range(3 * MOST_FLOWS):
            line.charge(f"name-{number}", 1.0, 0.1)
        assert len(line._services) <= MOST_FLOWS
        assert "greedy" in line._services

    @pytest.mark.parametrize(
        ("turns", "pause_s", "wait_s", "flow", "order"),
        [
            (20, 0.0, 0.0, "a", [2, 3]),  # the deep session first
            (20, 0.0, 50.0, "a", [3, 2]),  # unless the other one has waited 0.5 turns a second
            (20, 200.0, 1.0, "a", [3, 2]),  # a session that paused is at its first turn
            (20, 0.0, 1.0, "default-flow", [3, 2]),  # and nobody's in particular always
        ],
    )
    def test_the_deepest_session_goes_first(self, turns, pause_s, wait_s, flow, order):
        deepest = BandSettings(fairness=ProgramAware(strategy="turn-priority"), ordering=FirstCome())
        gate = Gate(make_settings(deepest))
        for ticket in range(100, 100 + turns):
            assert gate.admit(make_waiter(ticket, flow=flow), IDLE) is None
        now_s = pause_s + wait_s
        fill(gate, make_waiter(3, pause_s, flow="b"), make_waiter(2, now_s, flow=flow))
        assert drain(gate, now_s=now_s) == order

    def test_sessions_without_end_are_not_remembered_for_ever(self):
        line = ProgramAware(strategy="turn-priority").line()
        for number in range(3 * MOST_FLOWS):
            line.charge(f"name-{number}", 1.0, float(number))
        assert len(line._sessions) <= MOST_FLOWS
        assert f"name-{3 * MOST_FLOWS - 1}" in line._sessions

    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 30)), min_size=1, max_size=5, unique_by=lambda each: each[0]))
    def test_while_two_flows_wait_neither_gets_two_more_than_the_other(self, flows):
        gate = Gate(make_settings(BandSettings(fairness=RoundRobin(), ordering=FirstCome())))
        tickets = iter(range(1000))
        for flow, count in flows:
            fill(gate, *(make_waiter(next(tickets), flow=str(flow)) for _ in range(count)))
        left, served = Counter({str(flow): count for flow, count in flows}), Counter()
        while (waiter := gate.take(IDLE, 1.0)) is not None:
            served[waiter.flow] += 1
            left[waiter.flow] -= 1
            waiting = [served[flow] for flow, count in left.items() if count]
            assert not waiting or max(waiting) - min(waiting) <= 1


class TestLimits:
    def test_holdback_by_rank_and_by_value(self):
        by_rank = PriorityHoldback(min_ceiling=0.4, max_ceiling=1.0)
        by_value = PriorityHoldback(min_ceiling=0.4, max_ceiling=1.0, domain="value")
        assert by_rank.ceilings((100, 10, 0), 0.0, 1) == pytest.approx([1.0, 0.7, 0.4])
        assert by_value.ceilings((100, 10, 0), 0.0, 1) == pytest.approx([1.0, 0.46, 0.4])
        assert by_rank.ceilings((7,), 0.0, 1) == by_value.ceilings((7,), 0.0, 1) == [1.0]

    def test_holdback_upside_down_is_refused(self):
        with pytest.raises(ValueError, match=r"minCeiling 0.9 is above maxCeiling 0.5"):
            PriorityHoldback(min_ceiling=0.9, max_ceiling=0.5)

    def test_soft_ceilings_close_lower_priorities_for_most_askings(self):
        policy = SoftReflectiveCeiling()
        at_three_quarters = [policy.ceilings((1, 0), 0.75, tick)[1] > 0.75 for tick in range(300)]
        assert sum(at_three_quarters) == 100, "round(0.75 / 0.25) = 3: one in three"
        assert not any(policy.ceilings((1, 0), 1.0, tick)[1] >= 1.0 for tick in range(10))
        assert policy.ceilings((0,), 0.9, 1) == [1.0]

    @given(
        st.sets(st.integers(-100, 100), min_size=1, max_size=8),
        st.floats(0, 3),
        st.integers(0, 1000),
        st.sampled_from(
            (
                StaticLimit(),
                PriorityHoldback(min_ceiling=0.2),
                PriorityHoldback(min_ceiling=0.2, domain="value"),
                SoftReflectiveCeiling(),
            )
        ),
    )
    def test_a_lower_priority_never_has_the_higher_ceiling(self, priorities, saturation, tick, policy):
        ceilings = policy.ceilings(tuple(sorted(priorities, reverse=True)), saturation, tick)
        assert len(ceilings) == len(priorities)
        assert list(ceilings) == sorted(ceilings, reverse=True)


class TestOtherWorkers:
    def test_what_waits_elsewhere_counts_towards_the_bounds(self):
        gate = Gate(make_settings(max_requests=3))
        gate.hear(Claim(2, 0.0, ((0, 2, 200),)))
        fill(gate, make_waiter(1))
        assert gate.admit(make_waiter(2), BUSY) is FULL
        gate.hear(Claim(2, 0.0))
        fill(gate, make_waiter(3))

    def test_who_waits_elsewhere_at_a_higher_priority_goes_first(self):
        gate = Gate(make_settings())
        fill(gate, make_waiter(1, priority=0))
        gate.hear(Claim(2, 1.0, ((3, 1, 1),)))
        assert gate.take(IDLE, 1.0) is None
        gate.hear(Claim(2, 1.001))
        assert drain(gate) == [1]

    def test_equals_do_not_wait_for_each_other(self):
        gate = Gate(make_settings())
        fill(gate, make_waiter(1))
        gate.hear(Claim(2, 1.0, ((0, 1, 1),)))
        assert drain(gate) == [1]

    def test_a_newcomer_does_not_overtake_those_who_wait_elsewhere(self):
        gate = Gate(make_settings())
        gate.hear(Claim(2, 0.0, ((0, 1, 1),)))
        assert isinstance(gate.admit(make_waiter(1), IDLE), Parked)
        assert gate.admit(make_waiter(2, priority=1), IDLE) is None

    def test_a_claim_that_is_not_renewed_is_not_believed(self):
        gate = Gate(make_settings())
        gate.hear(Claim(2, 0.0, ((3, 1, 1),)))
        fill(gate, make_waiter(1))
        assert gate.take(IDLE, CLAIM_S * 0.9) is None
        assert drain(gate, now_s=CLAIM_S) == [1]

    def test_a_claim_tells_what_waits(self):
        gate = Gate(make_settings())
        fill(gate, make_waiter(1), make_waiter(2, priority=4, size_bytes=7))
        assert gate.changed
        assert gate.claim(9, 3.0) == Claim(9, 3.0, [(4, 1, 7), (0, 1, 100)])
        assert not gate.changed


def test_a_line_is_freed_of_those_who_left_it():
    for fairness in (GlobalStrict(), RoundRobin(), ProgramAware(), ProgramAware(strategy="turn-priority")):
        gate = Gate(make_settings(BandSettings(fairness=fairness, ordering=FirstCome())))
        fill(gate, *(make_waiter(ticket, flow=str(ticket)) for ticket in range(GONE + 2)))
        for ticket in range(1, GONE + 2):
            gate.leave(ticket)
        gate.prune()
        assert gate.bands[0].gone == 0
        assert drain(gate) == [0]


ROOMS = st.builds(Room, st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0, 2.0]), st.booleans())
POLICIES = st.builds(
    BandSettings,
    fairness=st.sampled_from([GlobalStrict(), RoundRobin(), ProgramAware(), ProgramAware(strategy="turn-priority")]),
    ordering=st.sampled_from([FirstCome(), EarliestDeadline(), SloDeadline()]),
    max_bytes=st.sampled_from([300, 10_000]),
    max_requests=st.sampled_from([1, 3, 100]),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("arrive"),
            st.integers(-2, 2),
            st.sampled_from("abc"),
            st.integers(0, 200),
            st.none() | st.floats(0, 5000),
        ),
        st.tuples(st.just("take"), ROOMS),
        st.tuples(st.just("expire"), ROOMS),
        st.tuples(st.just("leave"), st.integers(0, 60)),
        st.tuples(st.just("wait"), st.floats(0, 20)),
    ),
    max_size=60,
)


@given(
    POLICIES,
    st.none() | POLICIES,
    st.sampled_from([StaticLimit(), PriorityHoldback(min_ceiling=0.2), SoftReflectiveCeiling()]),
    st.sampled_from([0, 500]),
    st.sampled_from([0, 4]),
    STEPS,
    ROOMS,
)
def test_whatever_happens_everybody_ends_once_in_order_and_within_the_bounds(
    default, negative, limits, max_bytes, max_requests, steps, room
):
    settings = make_settings(
        default,
        limits,
        negative=negative,
        max_bytes=max_bytes,
        max_requests=max_requests,
        request_ttl_s=10.0,
        no_endpoint_ttl_s=15.0,
    )
    gate, now_s, ends, waiting = Gate(settings), 1.0, Counter(), {}
    for ticket, step in enumerate(steps):
        match step:
            case "arrive", priority, flow, size_bytes, slo_ms:
                waiter = make_waiter(ticket, now_s, priority, flow, size_bytes, ttft_slo_ms=slo_ms)
                verdict = gate.admit(waiter, room)
                ends[ticket] += not isinstance(verdict, Parked)
                if verdict is None:
                    assert not room.empty
                    assert room.saturation < 1.0
                    assert all(each.priority < priority for each in waiting.values()), "nobody is overtaken"
                elif isinstance(verdict, Parked):
                    assert now_s < verdict.until_s <= now_s + 15.0
                    waiting[ticket] = waiter
                else:
                    assert isinstance(verdict, Refusal)
            case "take", room:
                waiter = gate.take(room, now_s)
                if waiter is not None:
                    assert not room.empty
                    assert waiter.priority == max(each.priority for each in waiting.values())
                    del waiting[waiter.ticket]
                    ends[waiter.ticket] += 1
            case "expire", room:
                for waiter, _ in gate.expire(room, now_s):
                    assert now_s >= waiter.arrived_s + 10.0
                    del waiting[waiter.ticket]
                    ends[waiter.ticket] += 1
                assert all(now_s < each.arrived_s + 15.0 for each in waiting.values())
            case "leave", ticket:
                assert gate.leave(ticket) is waiting.get(ticket)
                ends[ticket] += waiting.pop(ticket, None) is not None
            case "wait", seconds:
                now_s += seconds
        assert len(gate) == len(waiting)
        assert not max_requests or len(waiting) <= max_requests
        assert not max_bytes or sum(each.size_bytes for each in waiting.values()) <= max_bytes
        for priority, band in gate.bands.items():
            mine = [each for each in waiting.values() if each.priority == priority]
            assert band.requests == len(mine) <= band.settings.max_requests
            assert band.size_bytes == sum(each.size_bytes for each in mine) <= band.settings.max_bytes
    left = [*drain(gate, now_s), *drain(gate, now_s + ARRIVAL_S)]
    assert sorted(left) == sorted(waiting)
    assert max(ends.values(), default=0) <= 1
