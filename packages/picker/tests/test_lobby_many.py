"""Flow control where there are several: pools that come and go, and workers that know of each other late."""

import heapq
import random
from types import SimpleNamespace

import msgspec
import pytest

from shunter.picker.core import lobby
from shunter.picker.core.flow import BandSettings, FlowSettings
from shunter.picker.core.gate import CLAIM_S
from shunter.picker.core.journal import Journal, Peers
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, DropReason, Outcome, Parked, Pick
from shunter.picker.core.kinds import Named, Profile
from shunter.picker.core.lobby import TURN_S
from shunter.picker.core.policy import Policy
from shunter.picker.plugins.detectors import Concurrency
from shunter.picker.plugins.flow_policies import (
    FirstCome,
    GlobalStrict,
    PriorityHoldback,
    StaticLimit,
)
from shunter.picker.plugins.pickers import MaxScore
from shunter.snapshot import Objective, Pool

NOW_S = 100.0
DONE = Outcome(complete=True, status=200)
OBJECTIVES = tuple(
    Objective(namespace="default", name=name, pool="pool", priority=priority)
    for name, priority in (("gold", 10), ("free", -1), ("worthless", -2))
)
IDLE = {"waiting": 0.0, "running": 0.0, "kv_usage": 0.0}
BODY = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10})


def ask(objective=None):
    headers = {":path": "/v1/chat/completions"}
    if objective:
        headers["x-llm-d-inference-objective"] = objective
    return Ask(headers, BODY)


def make_policy(detector, **fields):
    band = BandSettings(fairness=GlobalStrict(), ordering=FirstCome())
    flow = FlowSettings(**{"default": band, "limits": StaticLimit()} | fields)
    return Policy(profiles=(Profile("default", MaxScore()),), detector=Named("detector", detector), flow=flow)


class Nearly:
    """A detector that finds every endpoint full to nine tenths."""

    def levels(self, fleet, now_ns, *, sent):
        return [0.9] * len(fleet)


def test_each_pool_has_a_queue_of_its_own_and_the_counters_have_all(make_view):
    view = make_view(
        IDLE,
        IDLE,
        endpoints=[{"pools": (0,)}, {"pools": (1,)}],
        pools=(Pool(name="a", namespace="n"), Pool(name="b", namespace="n")),
    )
    judge = FleetJudge(make_policy(Concurrency(max_concurrency=1)), lambda _: view, random.Random(1))
    asks = {name: msgspec.structs.replace(ask(), pool=f"n/{name}") for name in "ab"}
    first = {name: judge.decide(each, NOW_S).ticket for name, each in asks.items()}
    waiting = {name: judge.decide(each, NOW_S).ticket for name, each in asks.items()}
    assert judge.counters.tally().queue.bands[0].requests == 2
    judge.release(first["b"], DONE, NOW_S + 1)
    assert [ticket for ticket, _ in judge.dispatch(NOW_S + 1)] == [waiting["b"]]
    assert judge.counters.tally().queue.bands[0].requests == 1


def next_of(views):
    """The last one goes; the first one stays."""
    return views.pop() if len(views) > 1 else views[0]


def test_a_pool_may_go_while_others_are_served(make_view):
    one, other = Pool(name="a", namespace="n"), Pool(name="b", namespace="n")
    both = make_view(IDLE, IDLE, endpoints=[{"pools": (0,)}, {"pools": (1,)}], pools=(one, other))
    one = make_view(IDLE, endpoints=[{"pools": (0,)}], pools=(one,))
    shown = [both]
    judge = FleetJudge(make_policy(Concurrency(max_concurrency=1)), lambda _: next_of(shown), random.Random(1))
    first, _, _ = (judge.decide(msgspec.structs.replace(ask(), pool=f"n/{name}"), NOW_S).ticket for name in "aab")
    judge.release(first, DONE, NOW_S + 1)
    shown[:] = [one, both]
    assert len(judge.dispatch(NOW_S + 1)) == 1


def test_a_priority_that_goes_while_its_last_request_does_is_counted_down(make_view):
    with_, without = make_view(IDLE, objectives=OBJECTIVES), make_view(IDLE)
    shown = [with_]
    judge = FleetJudge(make_policy(Concurrency(max_concurrency=1)), lambda _: next_of(shown), random.Random(1))
    first = judge.decide(ask("gold"), NOW_S).ticket
    assert isinstance(judge.decide(ask("gold"), NOW_S), Parked)
    judge.release(first, DONE, NOW_S + 1)
    shown[:] = [without, with_, with_]  # to see who is late, to see who goes on, and then
    assert len(judge.dispatch(NOW_S + 1)) == 1
    assert judge.counters.tally().queue.bands[10].requests == 0


def test_a_pool_that_is_asked_for_later_knows_its_priorities_from_the_first_request(make_view):
    pools = (Pool(name="pool", namespace="default"), Pool(name="other", namespace="default"))
    view = make_view(IDLE, endpoints=[{"pools": (0,)}], pools=pools, objectives=OBJECTIVES)
    policy = make_policy(Nearly(), limits=PriorityHoldback(min_ceiling=0.5))
    judge = FleetJudge(policy, lambda _: view, random.Random(1))
    assert isinstance(judge.decide(msgspec.structs.replace(ask(), pool="default/pool"), NOW_S), Parked), "second of four"


LAG_S = 0.001  # how long it takes to decide: what others decided meanwhile is not known


class SlowLog:
    """A journal that others can read only when LAG_S is over."""

    def __init__(self, clock):
        self.clock = clock
        self.records = []

    def append(self, record):
        self.records.append((self.clock.now_s, record))

    def reader(self):
        at = 0

        def read():
            nonlocal at
            first = at
            while at < len(self.records) and self.records[at][0] + LAG_S <= self.clock.now_s:
                at += 1
            records = [record for _, record in self.records[first:at]]
            return SimpleNamespace(records=records, lost=0) if records else None

        return SimpleNamespace(read=read)


class Workers:
    """Several workers' judges over shared journals in virtual time. Each endpoint has room for one request.

    A worker does one thing after the other, and each takes LAG_S; every TURN_S it looks at what waits there.
    """

    def __init__(self, make_view, workers, endpoints, **fields):
        self.now_s = NOW_S
        logs = [SlowLog(self) for _ in range(workers)]
        view = make_view(*[IDLE] * endpoints, objectives=OBJECTIVES)
        policy = make_policy(Concurrency(max_concurrency=1), **fields)
        self.chance = random.Random(7)
        self.judges = []
        for life, log in enumerate(logs, 1):
            journal = Journal(log, life)
            journal.begun()
            peers = Peers([each.reader() for each in logs], life)
            self.judges.append(FleetJudge(policy, lambda _: view, random.Random(life), life=life, journal=journal, peers=peers))
        self.free_s = [0.0] * workers  # when each has done what it does
        self.agenda = []
        self.in_flight = {}  # ticket → worker
        self.waiting = {}  # ticket → (priority, since when, how long it will be served)
        self.most = self.most_waiting = self.picked = self.refused = 0
        self.inversions = []  # of those who were served before somebody better: how long the better one had waited
        for worker in range(workers):
            self.at(NOW_S + worker * TURN_S / workers, worker, self.turn)

    def at(self, time_s, worker, what, *args):
        heapq.heappush(self.agenda, (time_s, self.chance.random(), worker, what, args))

    def run(self, until_s):
        while self.agenda[0][0] < until_s:
            self.now_s, _, worker, what, args = heapq.heappop(self.agenda)
            if self.now_s < self.free_s[worker]:
                self.at(self.free_s[worker], worker, what, *args)
            else:
                self.free_s[worker] = self.now_s + LAG_S
                what(self.judges[worker], worker, *args)

    def arrive(self, judge, worker, objective, priority, served_s):
        verdict = judge.decide(ask(objective), self.now_s)
        if isinstance(verdict, Parked):
            self.waiting[verdict.ticket] = priority, self.now_s, served_s
            self.most_waiting = max(self.most_waiting, len(self.waiting))
        elif isinstance(verdict, Pick):
            self.begin(worker, verdict.ticket, served_s)
        else:
            assert verdict.reason is DropReason.SATURATED
            self.refused += 1

    def turn(self, judge, worker):
        self.at(self.now_s + TURN_S, worker, self.turn)
        for ticket, verdict in judge.dispatch(self.now_s):
            assert isinstance(verdict, Pick)
            priority, _, served_s = self.waiting.pop(ticket)
            better = [since_s for theirs, since_s, _ in self.waiting.values() if theirs > priority]
            self.inversions += [self.now_s - min(better)] if better else []
            self.begin(worker, ticket, served_s)

    def begin(self, worker, ticket, served_s):
        self.in_flight[ticket] = worker
        self.most = max(self.most, len(self.in_flight))
        self.picked += 1
        self.at(self.now_s + served_s, worker, self.end, ticket)

    def end(self, judge, worker, ticket):
        del worker, self.in_flight[ticket]
        judge.release(ticket, DONE, self.now_s)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_together_exceed_no_limit_by_more_than_they_are_nor_invert_priorities_for_longer_than_a_turn(
    make_view, monkeypatch, workers
):
    monkeypatch.setattr(lobby, "MOST_PER_TURN", 1)  # one thing after the other
    world = Workers(make_view, workers, endpoints=8, max_requests=40)
    chance, time_s = random.Random(3), NOW_S
    for _ in range(4000):
        time_s += chance.expovariate(120.0)
        objective, priority = chance.choice([("gold", 10), (None, 0), ("free", -1)])
        world.at(time_s, chance.randrange(workers), world.arrive, objective, priority, chance.expovariate(1 / 0.1))
    world.run(time_s + 20.0)
    assert not world.waiting
    assert world.picked + world.refused == 4000
    assert world.refused > 0, "the load was above what fits"
    assert 8 <= world.most <= 8 + workers - 1
    assert 40 <= world.most_waiting <= 40 + workers - 1
    if workers > 1:
        assert world.most > 8, "else the bound was not put to the test"
        assert world.inversions
    assert max(world.inversions, default=0.0) <= TURN_S + LAG_S


def test_who_waits_long_elsewhere_is_not_forgotten(make_view):
    world = Workers(make_view, 2, endpoints=1)
    other, mine = world.judges
    first = mine.decide(ask(), NOW_S)
    world.now_s += LAG_S
    assert isinstance(other.decide(ask("gold"), world.now_s), Parked)
    for _ in range(3):
        world.now_s += CLAIM_S / 2
        assert other.dispatch(world.now_s) == []
    world.now_s += LAG_S
    assert isinstance(mine.decide(ask(), world.now_s), Parked)
    mine.release(first.ticket, DONE, world.now_s)
    assert mine.dispatch(world.now_s) == []


def test_a_worker_that_dies_with_requests_waiting_holds_nobody_up(make_view):
    world = Workers(make_view, 2, endpoints=1)
    dead, living = world.judges
    first = living.decide(ask(), NOW_S)
    world.now_s = died_s = NOW_S + LAG_S
    assert isinstance(dead.decide(ask("gold"), died_s), Parked)
    world.now_s += LAG_S
    assert isinstance(living.decide(ask(), world.now_s), Parked)
    living.release(first.ticket, DONE, world.now_s)
    assert living.dispatch(world.now_s) == [], "the other one's is better"
    assert len(living.dispatch(died_s + CLAIM_S)) == 1
