import math
import random
from collections import Counter
from typing import ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.fleet import Roster
from shunter.picker.core.judgement import Outcome, Refusal
from shunter.picker.core.kinds import Named, Profile, Weighted
from shunter.picker.core.ledger import Booking, Ledger
from shunter.picker.core.policy import Policy
from shunter.picker.core.request import Request
from shunter.picker.core.schedule import FEW, PEER, Complaints, Run, Scheduler, best_first
from shunter.picker.plugins.pickers import MaxScore, Random, WeightedRandom
from shunter.picker.plugins.scorers import ActiveRequest, KvCacheUtilization, Queue, RunningRequests

REQUEST = Request(headers={})
NOW_NS = 100_000_000_000


class Fixed(msgspec.Struct, frozen=True):
    """Scores as told."""

    scores: object

    def score(self, request, fleet):
        return self.scores


class Broken(msgspec.Struct, frozen=True):
    """Raises, whatever it is asked."""

    def score(self, request, fleet):
        raise ZeroDivisionError("scorer")

    keep = pick = saturated = score


class Only(msgspec.Struct, frozen=True):
    """Keeps these positions."""

    positions: list[int]

    def keep(self, request, fleet):
        return self.positions


class Choosing(msgspec.Struct, frozen=True):
    """Picks as told."""

    positions: list[int]

    def pick(self, totals, dice):
        return self.positions


class Square(msgspec.Struct, frozen=True):
    """A column scorer out of bounds."""

    column: ClassVar[str] = "waiting"

    def at(self, value, low, high):
        return math.nan if value > 2 else value**2


def profile(*scorers, filters=(), picker=None, name="default"):
    weighted = tuple(Weighted(f"s{at}", plugin, weight) for at, (plugin, weight) in enumerate(scorers))
    named = tuple(Named(f"f{at}", plugin) for at, plugin in enumerate(filters))
    return Profile(name, picker or MaxScore(), named, weighted, f"{name}-picker")


def running(*scorers, seed=1, **parts):
    return Run(profile(*scorers, **parts), Complaints(), random.Random(seed))


def scheduler(*profiles, **parts):
    return Scheduler(Policy(profiles=profiles or (profile(),), **parts), random.Random(1), lambda name, data: None)


def test_the_total_is_the_sum_of_weights_times_scores(make_fleet, dice):
    decision = running((Fixed([1.0, 0.5, 0.0]), 2), (Fixed({2: 1.0}), 3)).decide(REQUEST, make_fleet({}, {}, {}))
    assert decision.totals == [2, 1, 3]
    assert decision.chosen == [2, 0, 1]
    assert [(each.name, list(scores)) for each, scores in decision.scores] == [("s0", [1, 0.5, 0]), ("s1", [2])]


def test_a_picker_that_goes_by_no_total_has_everybody_to_choose_from(make_fleet):
    some = dict.fromkeys(range(40), 1.0)
    run = running((Fixed(some), 1), picker=Random())
    fleet = make_fleet(*[{}] * 100)
    assert max(run.decide(REQUEST, fleet).chosen[0] for _ in range(50)) >= 40


@pytest.mark.parametrize("picker", [MaxScore, WeightedRandom])
def test_a_picker_names_as_many_as_it_is_told_though_fewer_have_a_score(make_fleet, picker):
    some = dict.fromkeys(range(40), 1.0)
    decision = running((Fixed(some), 1), picker=picker(max_num_of_endpoints=50)).decide(REQUEST, make_fleet(*[{}] * 100))
    assert len(decision.chosen) == 50
    assert set(decision.chosen[:40]) == set(some)


def test_a_weight_may_be_negative(make_fleet):
    assert running((Fixed([1.0, 0.5]), -1)).decide(REQUEST, make_fleet({}, {})).chosen[0] == 1


def test_scores_are_clamped(make_fleet, dice):
    run = running((Fixed([7.0, -7.0, math.inf]), 1))
    assert run.decide(REQUEST, make_fleet({}, {}, {})).totals == [1, 0, 1]
    assert run.complaints.words == {}


@pytest.mark.parametrize("scores", [[math.nan, 0.5], {0: math.nan, 1: 0.5}])
def test_nan_is_zero_and_noted(make_fleet, dice, scores):
    run = running((Fixed(scores), 1))
    assert run.decide(REQUEST, make_fleet({}, {})).totals == [0, 0.5]
    assert run.complaints.words == {"s0": "a score was NaN and counted as 0"}
    assert run.complaints.errors == 0


def test_a_column_scorer_is_clamped_too(make_fleet, dice):
    run = running((Square(), 1))
    fleet = make_fleet({"waiting": 0.5}, {"waiting": 2.0}, {"waiting": 3.0})
    assert run.decide(REQUEST, fleet).totals == [0.25, 1, 0]
    assert "NaN" in run.complaints.words["s0"]


def test_filters_narrow_in_order(make_fleet, dice):
    fleet = make_fleet({}, {}, {}, {})
    decision = running((Fixed([0.1, 0.9]), 1), filters=(Only([3, 2, 1]), Only([2, 0]))).decide(REQUEST, fleet)
    assert [endpoint.slot for endpoint in decision.candidates] == [1, 3]
    assert [decision.candidates[at].slot for at in decision.chosen] == [3, 1]


def test_filters_may_leave_nobody(make_fleet, dice):
    decision = running(filters=(Only([]),)).decide(REQUEST, make_fleet({}))
    assert (decision.chosen, [name for name, _ in decision.narrowed]) == ((), ["f0"])
    assert scheduler(profile(filters=(Only([]),))).run(REQUEST, make_fleet({})) is None


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ({"scorers": [(Broken(), 1)]}, "s0"),
        ({"scorers": [(Fixed([1.0]), 1)]}, "s0"),
        ({"scorers": [(Fixed({5: 1.0}), 1)]}, "s0"),
        ({"scorers": [(Fixed(["x", "y"]), 1)]}, "s0"),
        ({"filters": (Broken(),)}, "f0"),
        ({"filters": (Only([9]),)}, "f0"),
        ({"filters": (Only([-1]),)}, "f0"),
        ({"filters": (Only([1, 1]),)}, "f0"),
        ({"filters": (Only([0, 1, 1]),)}, "f0"),
        ({"picker": Broken()}, "the picker"),
        ({"picker": Choosing([])}, "the picker"),
        ({"picker": Choosing([0, 7])}, "the picker"),
        ({"picker": Choosing([-1])}, "the picker"),
    ],
)
def test_a_broken_plugin_leaves_the_request_to_who_has_the_fewest(make_fleet, dice, parts, name):
    ledger = Ledger()
    ledger.book(1, Booking(slot=0, incarnation=1, booked_ns=1))
    run = running(*parts.pop("scorers", ()), **parts)
    assert run.decide(REQUEST, make_fleet({}, {}, ledger=ledger)).chosen == [1, 0]
    assert (run.complaints.errors, list(run.complaints.words)) == (1, [name])


def test_a_broken_detector_sheds_nobody(make_fleet):
    run = scheduler(detector=Named("d", Broken()))
    assert run.saturation(make_fleet({}), NOW_NS, sent=False) == 0
    assert run.complaints.errors == 1


def test_without_a_detector_nothing_is_saturated(make_fleet):
    assert scheduler().saturation(make_fleet({"waiting": 1e9}), NOW_NS, sent=False) == 0


@given(
    st.lists(st.sampled_from([-math.inf, 0.0, 1.0, 2.0, math.inf]), min_size=1, max_size=30),
    st.integers(1, 40),
    st.sampled_from([1, FEW]),
    st.integers(),
)
def test_best_first_is_a_sort(some, count, times, seed):
    totals = some * times
    chosen = best_first(totals, count, random.Random(seed))
    assert [totals[at] for at in chosen] == sorted(totals, reverse=True)[:count]
    assert len(set(chosen)) == len(chosen)


def test_totals_that_are_no_numbers_end():
    assert best_first([math.nan] * 3, 2, random.Random(1)) == []


class Moody(msgspec.Struct):
    """A column scorer that raises while told to."""

    column: ClassVar[str] = "waiting"
    broken: bool = False

    def at(self, value, low, high):
        if self.broken:
            raise ZeroDivisionError
        return 1 - value / 10


@pytest.mark.parametrize("touched", [False, True])
def test_after_a_column_scorer_raised_nothing_stale_is_used(make_fleet, dice, touched):
    moody, ledger = Moody(), Ledger()
    run = running((KvCacheUtilization(), 1), (moody, 1))
    fleet = make_fleet({"waiting": 1.0, "kv_usage": 0.0}, {"waiting": 9.0, "kv_usage": 0.0}, ledger=ledger)
    run.decide(REQUEST, fleet)
    moody.broken = True
    if touched:
        fleet.add(ledger.book(1, Booking(0, 1, NOW_NS)), +1)
        assert run.decide(REQUEST, fleet).totals == ()
        assert list(run.complaints.words) == ["s0, s1"]
    moody.broken = False
    assert run.decide(REQUEST, fleet).totals == pytest.approx([1.8 if touched else 1.9, 1.1])


def test_equals_are_chosen_equally_often(dice):
    chosen = Counter(best_first([1.0, 2.0, 2.0, 2.0], 1, dice)[0] for _ in range(3000))
    assert set(chosen) == {1, 2, 3}
    assert min(chosen.values()) > 800


KEPT = [(Queue(), 2), (RunningRequests(), 0.7), (KvCacheUtilization(), 3), (ActiveRequest(), 1.3)]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.floats(0, 1)), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30),
)
def test_kept_scores_equal_those_computed_anew(rows, steps):
    from shunter.snapshot import Endpoint, Health, Load, LoadRow, Topology, View

    endpoints = tuple(Endpoint(slot=at, incarnation=1, name="p", address="10.0.0.1", port=at) for at in range(len(rows)))
    loads = [
        LoadRow(slot=at, incarnation=1, health=Health.FRESH, sampled_ns=NOW_NS, waiting=float(a), running=float(b), kv_usage=c)
        for at, (a, b, c) in enumerate(rows)
    ]
    view = View(Topology(epoch=1, generation=1, endpoints=endpoints), Load.of(loads, epoch=1, topology_generation=1))
    ledger = Ledger()
    fleet = Roster(ledger).fleet(view, NOW_NS)
    keeping = running(*KEPT)
    for ticket, (slot, ask) in enumerate(steps):
        fleet.add(ledger.book(ticket, Booking(slot, 1, NOW_NS + 1)), +1)
        if ticket % 3 == 2:
            fleet.add(ledger.release(ticket - 1), -1)
        if ask:
            kept = keeping.decide(REQUEST, fleet)
            anew = running(*KEPT).decide(REQUEST, Roster(ledger).fleet(view, NOW_NS))
            assert (kept.totals, kept.scores) == (anew.totals, anew.scores)


def test_two_profiles_that_keep_scores_of_one_fleet_both_follow_a_booking(make_fleet):
    ledger = Ledger()
    runs = [running((Queue(), 1)), running((Queue(), 1))]
    fleet = make_fleet({"waiting": 0.0}, {"waiting": 1.0}, ledger=ledger)
    assert [run.decide(REQUEST, fleet).totals for run in runs] == [[1, 0]] * 2
    for ticket in (1, 2):
        fleet.add(ledger.book(ticket, Booking(0, 1, NOW_NS)), +1)
    assert [run.decide(REQUEST, fleet).totals for run in runs] == [[0, 1]] * 2


def test_a_subset_does_not_disturb_what_is_kept(make_fleet, dice):
    run = running(*KEPT)
    fleet = make_fleet({"waiting": 0.0}, {"waiting": 5.0}, {"waiting": 9.0})
    before = run.decide(REQUEST, fleet).totals
    assert run.decide(REQUEST, fleet.narrow([1, 2])).totals != before[1:]
    assert run.decide(REQUEST, fleet).totals == before


def test_the_same_dice_choose_the_same(make_fleet):
    fleet = make_fleet(*[{}] * 20)
    runs = [[run.decide(REQUEST, fleet).chosen for _ in range(3)] for run in (running(*KEPT, seed=5), running(*KEPT, seed=5))]
    assert runs[0] == runs[1]


class Busy(msgspec.Struct, frozen=True):
    """A plugin of many kinds, with a memory."""

    refuses: bool = False

    def start(self, setting):
        return Working(self, setting)


class Working:
    """Busy at work."""

    def __init__(self, parameters, setting):
        self.parameters, self.setting, self.seen = parameters, setting, []

    def produce(self, request, fleet):
        return len(fleet)

    def admit(self, request, fleet):
        return Refusal(429, "ResourceExhausted", "no") if self.parameters.refuses else None

    def picked(self, request, verdict):
        self.setting.tell(b"picked")
        return [("x-to-engine", str(request.facts["busy"]))], [("x-to-client", "1")]

    def observe(self, ticket, outcome, now_s):
        self.seen.append(ticket)

    def hear(self, data):
        self.seen.append(data)


def a_request():
    return Request(headers={}, facts={})


def test_a_plugin_with_a_memory_is_started_once_and_found_by_name():
    busy = Named("busy", Busy())
    crew = scheduler(producers=(busy,), admitters=(busy,)).crew
    assert crew.find("busy") is crew.find("busy")
    assert crew.find("busy").setting.find("default-picker") is crew.find("default-picker")
    with pytest.raises(KeyError):
        crew.find("nobody")


def test_every_kind_of_plugin_is_asked(make_fleet):
    told = []
    busy = Named("busy", Busy())
    policy = Policy(profiles=(profile(),), producers=(busy,), admitters=(busy,))
    run = Scheduler(policy, random.Random(1), lambda name, data: told.append((name, data)))
    request = a_request()
    verdict = run.run(request, make_fleet({}, {}))
    assert request.facts == {"busy": 2}
    assert (verdict.set_headers, verdict.response_headers) == ([("x-to-engine", "2")], [("x-to-client", "1")])
    assert told == [("busy", b"picked")]
    run.observe(7, Outcome(complete=True), 1.0)
    run.hear("busy", b"words")
    run.hear("nobody", b"words")
    assert run.crew.find("busy").seen == [7, b"words"]


def test_an_admitter_refuses(make_fleet):
    run = scheduler(admitters=(Named("busy", Busy(refuses=True)),))
    assert run.run(a_request(), make_fleet({})) == Refusal(429, "ResourceExhausted", "no")


class Screening(msgspec.Struct, frozen=True):
    """Lets all profiles choose from these positions."""

    positions: object

    def screen(self, request, fleet):
        return self.positions


def test_where_a_screener_leaves_nobody_nobody_is_asked(make_fleet):
    busy = Named("busy", Clumsy())
    run = scheduler(others=(Named("screening", Screening([])),), producers=(busy,), admitters=(busy,), handler=busy)
    assert run.run(a_request(), make_fleet({}, {})) is None
    assert list(run.complaints.words) == ["busy"]  # as a screener, before


@pytest.mark.parametrize("positions", [[7], [-1], [1, 1], None, ["0"]])
def test_a_screener_that_keeps_whom_there_is_not_is_left_out(make_fleet, positions):
    run = scheduler(others=(Named("screening", Screening(positions)),))
    assert run.run(a_request(), make_fleet({}, {})).decision.chosen
    assert list(run.complaints.words) == ["screening"]


class Clumsy(msgspec.Struct, frozen=True):
    """Raises in every capacity."""

    def profiles(self, *_):
        raise ZeroDivisionError

    identify = screen = produce = admit = picked = observe = hear = settle = profiles


def test_plugins_that_raise_are_left_out(make_fleet):
    clumsy = Named("clumsy", Clumsy())
    run = scheduler(producers=(clumsy,), admitters=(clumsy,), handler=clumsy)
    assert run.run(run.identify(a_request()), make_fleet({})).decision.chosen == [0]
    run.observe(1, Outcome(complete=True), 1.0)
    run.hear("clumsy", b"")
    assert run.complaints.errors == 8


class Pair(msgspec.Struct, frozen=True):
    """A handler of two profiles, the second of which serves."""

    endless: bool = False

    def profiles(self, request, decided):
        if self.endless:
            return ["one"]
        return () if "two" in decided else ("two",) if "one" in decided else ("one",)

    def settle(self, request, decided):
        return "two", [("x-first", decided["one"].candidates[decided["one"].chosen[0]].authority)]


def test_a_handler_runs_profiles_and_says_which_one_counts(make_fleet):
    one, two = profile(filters=(Only([0]),), name="one"), profile(filters=(Only([1]),), name="two")
    two = msgspec.structs.replace(two, filters=(Named("g0", Only([1])),))
    request = a_request()
    verdict = scheduler(one, two, handler=Named("pair", Pair())).run(request, make_fleet({}, {}))
    assert [each.slot for each in verdict.decision.candidates] == [1]
    assert request.facts[PEER].slot == 0  # as the second one could see
    assert [each.slot for each in verdict.others["one"].candidates] == [0]
    assert verdict.set_headers == [("x-first", "10.0.0.1:8000")]


def test_a_handler_that_never_has_enough_is_stopped(make_fleet):
    run = scheduler(profile(name="one"), handler=Named("pair", Pair(endless=True)))
    assert run.run(a_request(), make_fleet({})).decision.chosen == [0]
    assert list(run.complaints.words) == ["the profile handler"]
