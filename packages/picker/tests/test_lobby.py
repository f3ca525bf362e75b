"""Flow control in whole judges: who is parked, and what becomes of it."""

import math
import random
import weakref
from functools import partial

import msgspec
import pytest

from shunter.picker.core.decisions import LONGEST_NAME
from shunter.picker.core.events import BodyMode
from shunter.picker.core.eviction import EVICTED, LONGEST_S, SETTLE_S
from shunter.picker.core.flow import BandSettings, FlowSettings
from shunter.picker.core.gate import ARRIVAL_S, GONE
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, DropReason, Outcome, Parked, Pick, Refusal
from shunter.picker.core.kinds import Named, Profile
from shunter.picker.core.lobby import MOST_PER_TURN, MOST_REFUSED_PER_TURN
from shunter.picker.core.overview import look
from shunter.picker.core.policy import Policy
from shunter.picker.core.queue_counters import OUTCOMES
from shunter.picker.plugins.detectors import Concurrency, Utilization
from shunter.picker.plugins.flow_policies import (
    FirstCome,
    GlobalStrict,
    ProgramAware,
    RoundRobin,
    SloDeadline,
    SoftReflectiveCeiling,
    StaticLimit,
)
from shunter.picker.plugins.pickers import MaxScore
from shunter.picker.testing import FakeEnvoy
from shunter.snapshot import Health, Objective

NOW_S = 100.0
DONE = Outcome(complete=True, status=200)
OBJECTIVES = tuple(
    Objective(namespace="default", name=name, pool="pool", priority=priority)
    for name, priority in (("gold", 10), ("free", -1), ("worthless", -2))
)
IDLE = {"waiting": 0.0, "running": 0.0, "kv_usage": 0.0}
BODY = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10})


def ask(objective=None, flow=None, **headers):
    headers = {":path": "/v1/chat/completions"} | headers
    if objective:
        headers["x-llm-d-inference-objective"] = objective
    if flow:
        headers["x-llm-d-inference-fairness-id"] = flow
    return Ask(headers, BODY)


def make_policy(detector, *, fairness=None, ordering=None, **fields):
    band = BandSettings(fairness=fairness or GlobalStrict(), ordering=ordering or FirstCome())
    flow = FlowSettings(**{"default": band, "limits": StaticLimit()} | fields)
    return Policy(profiles=(Profile("default", MaxScore()),), detector=Named("detector", detector), flow=flow)


@pytest.fixture
def make_judge(make_view):
    """A judge over endpoints with room for one request of ours each, unless told otherwise."""

    def make(endpoints=1, detector=None, **fields):
        shown = [make_view(*[IDLE] * endpoints, objectives=OBJECTIVES)]
        policy = make_policy(detector or Concurrency(max_concurrency=1), **fields)
        judge = FleetJudge(policy, lambda _: shown[0], random.Random(1))
        judge.see = lambda *rows, **more: shown.__setitem__(0, make_view(*rows, objectives=OBJECTIVES, **more))
        return judge

    return make


def refusals(judge):
    return judge.counters.tally().refusals


def outcomes(judge):
    counted = zip(OUTCOMES, judge.counters.tally().queue.bands[0].outcomes, strict=True)
    return {outcome: count for outcome, count in counted if count}


def test_who_finds_room_goes_on_at_once_and_is_told_that_it_did_not_wait(make_judge):
    judge = make_judge()
    pick = judge.decide(ask(), NOW_S)
    assert pick.response_headers == (("x-llm-d-flow-queue-duration-ms", "0"),)
    assert not judge.dispatch(NOW_S)


def test_who_finds_none_goes_on_when_somebody_ends(make_judge):
    judge = make_judge()
    first = judge.decide(ask(), NOW_S)
    parked = judge.decide(ask(), NOW_S)
    assert isinstance(parked, Parked)
    assert parked.until_s == NOW_S + 60.0
    assert judge.dispatch(NOW_S + 1) == []
    judge.release(first.ticket, DONE, NOW_S + 2.5)
    ((ticket, pick),) = judge.dispatch(NOW_S + 2.5)
    assert ticket == pick.ticket == parked.ticket
    assert pick.response_headers == (("x-llm-d-flow-queue-duration-ms", "2500"),)
    assert judge.ledger.get(ticket).booked_ns == int((NOW_S + 2.5) * 1e9)
    told = [entry.explain() for entry in judge.decisions.latest()]
    assert [each["ticket"] for each in told] == [parked.ticket, first.ticket]
    assert [each.get("waited_s") for each in told] == [2.5, None]


def test_one_end_lets_one_go_on(make_judge):
    judge = make_judge(endpoints=2)
    running = [judge.decide(ask(), NOW_S).ticket for _ in range(2)]
    waiting = [judge.decide(ask(), NOW_S).ticket for _ in range(5)]
    for at, ended in enumerate(running):
        judge.release(ended, DONE, NOW_S + 1)
        assert [ticket for ticket, _ in judge.dispatch(NOW_S + 1)] == [waiting[at]]


def test_objectives_and_fairness_ids_and_slos_are_what_counts(make_judge):
    judge = make_judge(ordering=SloDeadline(), fairness=RoundRobin())
    running = judge.decide(ask(), NOW_S).ticket
    tickets = {
        judge.decide(ask(objective, flow, **slo), NOW_S + at / 10).ticket: name
        for at, (name, objective, flow, slo) in enumerate(
            [
                ("free", "free", "a", {}),
                ("a, late", None, "a", {}),
                ("a, soon", None, "a", {"x-llm-d-slo-ttft-ms": "500"}),
                ("b", None, "b", {"x-slo-ttft-ms": "what"}),
                ("gold", "gold", "a", {}),
            ]
        )
    }
    order = []
    for _ in tickets:
        judge.release(running, DONE, NOW_S + 1)
        ((running, _),) = judge.dispatch(NOW_S + 1)
        order.append(tickets[running])
    assert order == ["gold", "a, soon", "b", "a, late", "free"]


def test_below_zero_waits_instead_of_being_shed(make_judge):
    judge = make_judge()
    judge.decide(ask(), NOW_S)
    assert isinstance(judge.decide(ask("free"), NOW_S), Parked)


def test_who_waits_too_long_is_refused(make_judge):
    judge = make_judge(request_ttl_s=5.0)
    judge.decide(ask(), NOW_S)
    parked = judge.decide(ask(), NOW_S)
    assert judge.dispatch(NOW_S + 4.9) == []
    ((ticket, refusal),) = judge.dispatch(parked.until_s)
    assert (ticket, refusal.status, refusal.reason) == (parked.ticket, 429, DropReason.TTL_EXPIRED)
    assert refusals(judge) == {"rejected-ttl-expired": 1}


def test_a_full_queue_refuses(make_judge):
    judge = make_judge(max_requests=1)
    judge.decide(ask(), NOW_S)
    judge.decide(ask(), NOW_S)
    refusal = judge.decide(ask(), NOW_S)
    assert (refusal.status, refusal.reason) == (429, DropReason.SATURATED)


def test_who_goes_away_is_forgotten_and_one_that_was_just_dispatched_released(make_judge):
    judge = make_judge()
    first = judge.decide(ask(), NOW_S)
    gone, other = judge.decide(ask(), NOW_S).ticket, judge.decide(ask(), NOW_S).ticket
    judge.leave(gone, NOW_S + 1)
    assert refusals(judge) == {"rejected-context-cancelled": 1}
    judge.release(first.ticket, DONE, NOW_S + 1)
    ((ticket, _),) = judge.dispatch(NOW_S + 1)
    assert ticket == other
    judge.leave(other, NOW_S + 1)
    assert len(judge.ledger) == 0


def test_the_first_requests_wait_for_the_first_endpoint(make_judge):
    judge = make_judge(endpoints=0, detector=Utilization(), request_ttl_s=5.0, no_endpoint_ttl_s=600.0)
    parked = judge.decide(ask(), NOW_S)
    assert parked.until_s == NOW_S + 600.0
    assert judge.dispatch(NOW_S + 300.0) == []
    judge.see(IDLE, now_ns=int((NOW_S + 300.0) * 1e9))
    assert judge.dispatch(NOW_S + 300.0) == []  # the gateway may not know it yet
    ((ticket, pick),) = judge.dispatch(NOW_S + 300.0 + ARRIVAL_S)
    assert (ticket, pick.endpoints) == (parked.ticket, ("10.0.0.1:8000",))


def test_nobody_comes_up(make_judge):
    judge = make_judge(endpoints=0, no_endpoint_ttl_s=10.0)
    judge.decide(ask(), NOW_S)
    ((_, refusal),) = judge.dispatch(NOW_S + 60.0)
    assert (refusal.status, refusal.reason) == (503, DropReason.NO_ENDPOINTS)


def test_a_drain_refuses_who_waits_once(make_judge):
    judge = make_judge()
    judge.decide(ask(), NOW_S)
    envoy = FakeEnvoy.before(judge, BodyMode.BUFFERED)
    envoy.request(pieces=[BODY])
    assert envoy.session.parked
    envoy.session.drain(NOW_S)
    assert refusals(judge) == {"rejected-shutting-down": 1}
    assert outcomes(judge) == {"Dispatched": 1, "EvictedOther": 1}


@pytest.mark.parametrize(("level", "saturation"), [(math.nan, 0.0), (-1.0, 0.0), (math.inf, 1e6)])
def test_a_detector_that_makes_no_sense_harms_nothing(make_judge, level, saturation):
    judge = make_judge(detector=Constant(level), request_ttl_s=5.0)
    assert isinstance(judge.decide(ask(), NOW_S), Parked if level > 1 else Pick)
    judge.dispatch(NOW_S + 5)
    assert not judge.dispatch(NOW_S + 6)
    assert judge.counters.tally().queue.saturation == saturation
    assert not judge.complaints


def test_a_pool_that_nobody_asks_for_any_longer_is_seen_to_be_idle(make_judge):
    judge = make_judge()
    first = judge.decide(ask(), NOW_S).ticket
    judge.decide(ask(), NOW_S)
    assert judge.counters.tally().queue.saturation == 1.0
    judge.release(first, DONE, NOW_S + 1)
    ((second, _),) = judge.dispatch(NOW_S + 1)
    judge.release(second, DONE, NOW_S + 2)
    judge.catch_up(NOW_S + 2)
    assert judge.counters.tally().queue.saturation == 0.0


def test_an_empty_pool_is_full(make_judge):
    judge = make_judge(endpoints=0)
    judge.decide(ask(), NOW_S)
    assert judge.counters.tally().queue.saturation == 1.0


def test_names_of_flows_are_remembered_as_far_as_names_are_long(make_judge):
    judge = make_judge(fairness=ProgramAware())
    for letter in "ab":
        assert isinstance(judge.decide(ask(flow=letter * 60_000), NOW_S), Pick if letter == "a" else Parked)
    line = judge._wards.default.lobby.gate.bands[0].line
    assert all(len(name) <= LONGEST_NAME for name in (*line._services, *line._heaps))


def test_a_subset_that_leaves_nobody_is_refused_though_there_is_room(make_judge):
    judge = make_judge()
    refusal = judge.decide(msgspec.structs.replace(ask(), subset=()), NOW_S)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is DropReason.NO_ENDPOINTS


def test_a_scraper_that_dies_stops_nobody(make_judge):
    judge = make_judge(detector=Utilization())
    judge.see(IDLE | {"health": Health.FAILED, "waiting": 99.0})
    assert isinstance(judge.decide(ask(), NOW_S), Pick)
    assert all(isinstance(judge.decide(ask(), NOW_S), Pick) for _ in range(99))
    assert isinstance(judge.decide(ask(), NOW_S), Parked), "a hundred in flight are enough for one of whom nothing is known"


def test_between_two_scrapes_an_endpoint_gets_no_more_than_its_queue_may_hold(make_judge):
    judge = make_judge(detector=Utilization(queue_depth_threshold=5))
    verdicts = [judge.decide(ask(), NOW_S) for _ in range(9)]
    assert [type(each) for each in verdicts] == [Pick] * 5 + [Parked] * 4
    judge.see(IDLE | {"running": 5.0}, now_ns=int((NOW_S + 0.05) * 1e9))
    assert len(judge.dispatch(NOW_S + 0.05)) == 4, "the engine has begun with all of them"


def test_all_of_it_is_counted(make_judge):
    judge = make_judge(max_requests=2, request_ttl_s=5.0)
    first = judge.decide(ask(), NOW_S).ticket
    going, leaving = (judge.decide(ask(), NOW_S).ticket for _ in range(2))
    judge.decide(ask(), NOW_S)
    band = judge.counters.tally().queue.bands[0]
    assert (band.requests, band.size_bytes, judge.counters.tally().queue.saturation) == (2, 2 * len(BODY), 1.0)
    overview = look(judge._view(0), None, judge.counters.tally(), 0)
    assert (overview.queued, overview.saturation) == ({0: 2}, 1.0)
    judge.release(first, DONE, NOW_S + 1)
    assert [ticket for ticket, _ in judge.dispatch(NOW_S + 1)] == [going]
    judge.leave(leaving, NOW_S + 2)
    judge.decide(ask(), NOW_S + 3)
    judge.dispatch(NOW_S + 8)
    band = judge.counters.tally().queue.bands[0]
    assert outcomes(judge) == {"Dispatched": 2, "RejectedCapacity": 1, "EvictedTTL": 1, "EvictedContextCancelled": 1}
    assert (band.requests, band.size_bytes) == (0, 0)
    assert band.waited_us == 1_000_000


class TestEviction:
    """``enableEviction``: who is in flight and below zero makes room for who waits."""

    @pytest.fixture
    def judge(self, make_judge):
        return make_judge(endpoints=4, eviction=True)

    def start(self, judge, *objectives):
        picks = [judge.decide(ask(objective), NOW_S + at / 100) for at, objective in enumerate(objectives)]
        assert all(isinstance(pick, Pick) for pick in picks)
        return [pick.ticket for pick in picks]

    def test_the_lowest_and_newest_go_two_at_a_time(self, judge):
        _, old, worse, new = self.start(judge, None, "free", "worthless", "free")
        assert isinstance(judge.decide(ask("gold"), NOW_S + 1), Parked)
        assert judge.dispatch(NOW_S + 1) == [(worse, EVICTED), (new, EVICTED)]
        assert judge.dispatch(NOW_S + 1.1) == [], "these have to end first"
        for ticket in (worse, new):
            judge.release(ticket, Outcome(complete=False), NOW_S + 1.2)
        ((_, pick),) = judge.dispatch(NOW_S + 1.2)
        assert isinstance(pick, Pick)
        assert judge.ledger.get(old) is not None
        assert refusals(judge) == {"evicted": 2}

    def test_only_what_is_below_zero_can_be_evicted(self, judge):
        picks = [judge.decide(ask(objective), NOW_S) for objective in (None, "gold", "free")]
        assert [pick.evictable for pick in picks] == [False, False, True]

    def test_nobody_goes_for_equals_nor_while_there_is_room(self, judge):
        self.start(judge, *["free"] * 4)
        assert isinstance(judge.decide(ask("free"), NOW_S + 1), Parked)
        assert judge.dispatch(NOW_S + 1) == []

    def test_after_an_eviction_has_ended_the_next_one_waits_for_it_to_show(self, judge):
        tickets = self.start(judge, *["free"] * 4)
        for at in range(4):
            judge.decide(ask("gold"), NOW_S + 1 + at / 100)
        first = [ticket for ticket, _ in judge.dispatch(NOW_S + 2)]
        assert first == tickets[:1:-1]
        for ticket in first:
            judge.release(ticket, Outcome(complete=False), NOW_S + 2.1)
        assert all(isinstance(verdict, Pick) for _, verdict in judge.dispatch(NOW_S + 2.1))
        assert judge.dispatch(NOW_S + 2.1 + SETTLE_S * 0.9) == []
        assert len(judge.dispatch(NOW_S + 2.1 + SETTLE_S)) == 2

    def test_one_that_does_not_end_is_not_waited_for_for_ever(self, judge):
        self.start(judge, *["free"] * 4)
        judge.decide(ask("gold"), NOW_S + 1)
        assert len(judge.dispatch(NOW_S + 1)) == 2
        assert len(judge.dispatch(NOW_S + 1 + LONGEST_S)) == 2

    def test_who_is_over_cannot_be_evicted(self, judge):
        tickets = self.start(judge, *["free"] * 4)
        for ticket in tickets[2:]:
            judge.release(ticket, Outcome(complete=True, lasts=True), NOW_S)
        judge.decide(ask("gold"), NOW_S + 1)
        assert [ticket for ticket, _ in judge.dispatch(NOW_S + 1)] == tickets[1::-1]

    def test_the_ceilings_are_asked_for_once_a_turn(self, make_judge):
        judge = make_judge(detector=Constant(0.67), limits=SoftReflectiveCeiling(), eviction=True)  # open in every other asking
        assert isinstance(judge.decide(ask("gold"), NOW_S), Pick)
        assert isinstance(judge.decide(ask("gold"), NOW_S), Pick)
        assert isinstance(judge.decide(ask("free"), NOW_S), Parked)
        judge.decide(ask("gold"), NOW_S)
        assert [len(judge.dispatch(NOW_S + at)) for at in (1, 2)] == [0, 1]

    def test_a_policy_that_breaks_then_costs_nobody_the_verdict(self, make_judge):
        judge = make_judge(eviction=True, request_ttl_s=5.0)
        judge.decide(ask("free"), NOW_S)
        for later_s in (0.0, 1.0):
            judge.decide(ask(), NOW_S + later_s)
        judge._wards.default.lobby.gate._open = Broken().order
        ((_, refusal),) = judge.dispatch(NOW_S + 5.5)
        assert refusal.reason is DropReason.TTL_EXPIRED

    def test_without_it_nobody_is_evicted(self, make_judge):
        judge = make_judge()
        assert not judge.decide(ask("free"), NOW_S).evictable
        judge.decide(ask("gold"), NOW_S + 1)
        assert judge.dispatch(NOW_S + 1) == []


class Constant:
    """A detector that finds every endpoint equally full."""

    def __init__(self, level):
        self.level = level

    def levels(self, fleet, now_ns, *, sent):
        return [self.level] * len(fleet)


class Ungrateful(GlobalStrict, frozen=True):
    """A fairness policy whose line breaks when it is told what somebody got."""

    def line(self):
        line = super().line()
        line.charge = Broken().order
        return line


class Broken:
    """A policy that is good for nothing."""

    def order(self, waiter):
        raise RuntimeError("no order")

    def ceilings(self, priorities, saturation, tick):
        raise RuntimeError("no ceilings")


def test_a_policy_that_raises_keeps_nobody_out(make_judge):
    judge = make_judge(ordering=Broken())
    assert [type(judge.decide(ask(), NOW_S)) for _ in range(2)] == [Pick, Pick]
    assert judge.complaints == {"flow control": "RuntimeError: no order"}
    assert isinstance(make_judge(limits=Broken()).decide(ask(), NOW_S), Pick)


def test_a_policy_that_breaks_later_holds_nobody_for_ever(make_judge):
    judge = make_judge(request_ttl_s=5.0)
    first = judge.decide(ask(), NOW_S).ticket
    judge.decide(ask(), NOW_S)
    judge._wards.default.lobby.gate._open = Broken().order
    judge.release(first, DONE, NOW_S + 1)
    assert judge.dispatch(NOW_S + 1) == []
    ((_, refusal),) = judge.dispatch(NOW_S + 5)
    assert refusal.reason is DropReason.TTL_EXPIRED


def test_a_line_that_breaks_when_it_is_charged_holds_nobody_for_ever(make_judge):
    judge = make_judge(fairness=Ungrateful(), request_ttl_s=5.0)
    first = judge.decide(ask(), NOW_S).ticket
    waiting = judge.decide(ask(), NOW_S)
    judge.release(first, DONE, NOW_S + 1)
    told = [ticket for at in (1, 5) for ticket, _ in judge.dispatch(NOW_S + at)]
    assert told == [waiting.ticket]


class Cluttered(GlobalStrict, frozen=True):
    """A fairness policy whose line breaks when it is to be cleared of those who have left it."""

    def line(self):
        line = super().line()
        line.prune = partial(Broken().order, None)
        return line


def test_a_line_that_cannot_be_cleared_costs_nobody_the_word_that_its_time_is_over(make_judge):
    judge = make_judge(fairness=Cluttered(), request_ttl_s=5.0)
    judge.decide(ask(), NOW_S)
    waiting = [judge.decide(ask(), NOW_S).ticket for _ in range(GONE + 2)]
    assert [ticket for ticket, _ in judge.dispatch(NOW_S + 5)] == waiting
    assert judge.complaints == {"flow control": "RuntimeError: no order"}


@pytest.mark.parametrize("booked", [False, True])
def test_whose_choice_breaks_is_refused_and_the_others_go_on(make_judge, monkeypatch, booked):
    judge = make_judge(endpoints=3)
    running = [judge.decide(ask(), NOW_S).ticket for _ in range(3)]
    first, second, third = (judge.decide(ask(), NOW_S).ticket for _ in range(3))
    for ticket in running:
        judge.release(ticket, DONE, NOW_S + 1)
    settle = judge._settle

    def breaking(ask, request, ward, now_s):
        verdict = settle(ask, request, ward, now_s) if booked or request.ticket != second else None
        if request.ticket == second:
            raise RuntimeError("not this one")
        return verdict

    monkeypatch.setattr(judge, "_settle", breaking)
    told = dict(judge.dispatch(NOW_S + 1))
    assert {ticket: type(each) for ticket, each in told.items()} == {first: Pick, second: Refusal, third: Pick}
    assert (told[second].status, told[second].code) == (500, "Internal")
    assert judge.complaints == {"flow control": "RuntimeError: not this one"}
    assert judge.counters.tally().refusals["Internal"] == 1
    assert [judge.ledger.get(each) is None for each in told] == [False, True, False]


def test_a_turn_has_an_end(make_judge):
    judge = make_judge(endpoints=200)
    running = [judge.decide(ask(), NOW_S).ticket for _ in range(200)]
    waiting = [judge.decide(ask(), NOW_S) for _ in range(200)]
    assert all(isinstance(each, Parked) for each in waiting)
    for ticket in running:
        judge.release(ticket, DONE, NOW_S + 1)
    assert len(judge.dispatch(NOW_S + 1)) == MOST_PER_TURN
    in_vain = [len(judge.dispatch(NOW_S + 60)) for _ in range(3)]
    assert in_vain == [MOST_REFUSED_PER_TURN + MOST_PER_TURN, 200 - 2 * MOST_PER_TURN - MOST_REFUSED_PER_TURN, 0]


class Body(bytearray):
    """One that can be watched."""


def test_nobody_holds_the_body_of_who_is_gone(make_judge):
    judge = make_judge(request_ttl_s=5.0)
    judge.decide(ask(), NOW_S)
    bodies = []
    for _ in range(2):
        body = Body(BODY)
        bodies.append(weakref.ref(body))
        leaving = judge.decide(Ask({":path": "/v1/chat/completions"}, body), NOW_S).ticket
    judge.leave(leaving, NOW_S + 1)
    judge.dispatch(NOW_S + 5)
    del body
    assert [reference() for reference in bodies] == [None, None]


def test_without_flow_control_nobody_is_ever_parked(make_view):
    policy = msgspec.structs.replace(make_policy(Concurrency(max_concurrency=1)), flow=None)
    judge = FleetJudge(policy, lambda _: make_view(IDLE), random.Random(1))
    picks = [judge.decide(ask(), NOW_S) for _ in range(5)]
    assert all(isinstance(pick, Pick) and not pick.response_headers for pick in picks)
    assert not judge.dispatch(NOW_S)
