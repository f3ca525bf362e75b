"""What every filter, scorer, picker, producer and admitter promises, whatever the world looks like."""

import math
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.picker.core.fleet import Roster
from shunter.picker.core.judgement import Refusal
from shunter.picker.core.kinds import Named, Profile, Weighted
from shunter.picker.core.ledger import Booking, Ledger
from shunter.picker.core.media import Media
from shunter.picker.core.policy import Crew, Policy
from shunter.picker.core.prefix import Match
from shunter.picker.core.request import Request
from shunter.picker.core.schedule import PEER, Scheduler
from shunter.picker.plugins import CATALOGUE, Kind
from shunter.picker.plugins.attributes import LabelProducer
from shunter.picker.plugins.delay import DELAY_SCORER, ExpectedDelay
from shunter.picker.plugins.latency import PRODUCER, Prediction
from shunter.picker.plugins.pickers import MaxScore
from shunter.snapshot import Endpoint, Health, Load, LoadRow, Pool, Topology, View

NOW_NS = 100_000_000_000

# Parameters of the plugins that do not go without, and of those that do something else with others.
THRESHOLD = {"type": "threshold", "threshold": {"operator": "LessThan", "value": 3}}
COPIED = {"labels": [{"label": "price", "attributeKey": "price"}]}
PARAMETERS = {
    "by-label": [{"label": "zone", "validValues": ["a"]}, {"label": "zone", "allowsNoLabel": True}],
    "label-selector-filter": [{"matchLabels": {"zone": "a"}}],
    "utilization-filter": [
        {"conditions": [{"metric": "waiting-queue", "maxValue": 3}, {"metric": "kv-cache-utilization", "maxValue": 0.5}]},
        {"conditions": [{"metric": "active-requests", "maxValue": 0}], "fallbackOnEmpty": True},
    ],
    "endpoint-attribute-filter": [
        {"attribute": "waiting-queue", "algorithm": THRESHOLD},
        {"attribute": "price", "producer": "labels", "onMissing": "Fail", "algorithm": THRESHOLD},
        {"attribute": "running-requests", "algorithm": {"type": "topK", "topK": {"k": 2}}},
        {"attribute": "waiting-queue", "algorithm": {"type": "percentile", "percentile": {"percentile": 50}}},
    ],
    "endpoint-attribute-scorer": [
        {"attributeKey": "running-requests", "algorithm": {"type": "linear_lower_is_better"}},
        {
            "attributeKey": "price",
            "producer": "labels",
            "algorithm": {"type": "linear_higher_is_better", "normalization": {"fixedRange": {"min": 1, "max": 2}}},
        },
    ],
    "endpoint-attribute-weight-scorer": [{"attributeKey": "price", "producer": "labels", "weights": {"1": 2, "dear": 1}}],
    "label-producer": [COPIED],
    "header-label-affinity-scorer": [{"headerName": "x-zone", "labelKey": "zone", "stampResponseHeader": True}],
    "context-length-aware": [{}, {"enableFiltering": True}],
    "prefix-cache-affinity-filter": [
        {},
        {"explorationProbability": 0.5, "maxTTFTPenaltyMs": 1},
        {"ttftSource": "latencyPredictor", "maxTTFTPenaltyMs": 30},
    ],
    "latency-scorer": [{}, {"headroomSelectionStrategy": "most", "ttftWeight": 0, "tpotWeight": 0}],
    "slo-headroom-tier-filter": [{}, {"epsilonExploreNeg": 0.5}],
    "predicted-latency-producer": [{}, {"streamingMode": True}],
    "prefix-cache-scorer": [{}, {"matchLengthWeight": 0.5}],
    "session-affinity-filter": [{}, {"strategy": "session_id"}],
    "session-affinity-scorer": [{}, {"strategy": "session_id"}],
    "price-scorer": [{}, {"label": "price", "ttftSloMs": 1}],
    "legacy-v0.3": [{}, {"loraAffinityThreshold": 0.5}],
    "concurrency-detector": [{"maxConcurrency": 2}, {"concurrencyMode": "hybrid", "maxTokenConcurrency": 50}],
}

# Whom plugins look for.
FOUND = (Named(DELAY_SCORER, ExpectedDelay()), Named("labels", msgspec.convert(COPIED, LabelProducer)))


def cases(*kinds):
    return [
        pytest.param(name, parameters, id=f"{name}-{at}" if at else name)
        for name, entry in sorted(CATALOGUE.items())
        if set(kinds) & set(entry.kinds)
        for at, parameters in enumerate(PARAMETERS.get(name, [{}]))
    ]


FILTERS, SCORERS = cases(Kind.FILTER), cases(Kind.SCORER)
PICKERS, ADMITTERS, PRODUCERS = cases(Kind.PICKER), cases(Kind.ADMITTER), cases(Kind.PRODUCER)


class World(msgspec.Struct):
    """Endpoints, what is known of them, and what is asked."""

    endpoints: list[Endpoint]
    rows: list[LoadRow]
    bookings: list[Booking]
    request: Request

    def fleet(self, order=None):
        """Make the fleet of it, with the endpoints listed in that order of slots."""
        ledger = Ledger()
        for ticket, booking in enumerate(self.bookings):
            ledger.book(ticket, booking)
        endpoints = [self.endpoints[slot] for slot in order or range(len(self.endpoints))]
        topology = Topology(epoch=1, generation=1, pools=(Pool(name="pool"),), endpoints=tuple(endpoints))
        load = Load.of(self.rows, epoch=1, topology_generation=1, published_ns=NOW_NS)
        return Roster(ledger).fleet(View(topology, load), NOW_NS)


ODD = (math.nan, math.inf, -1.0, None)
LABELS = {
    "llm-d.ai/role": ("decode", "prefill", "both", "encode-prefill", "?"),
    "llm-d.ai/context-length-range": ("0-10", "5-100", "7-7", "100-", "x"),
    "zone": ("a", "b"),
    "price": ("1", "2.5", "nan", "dear"),
    "kubernetes.io/hostname": ("h1", "h2"),
    "topology.kubernetes.io/zone": ("z1", "z2"),
}
HEADERS = {
    "x-zone": ("a", "c"),
    "x-session-id": ("one", "two", "\udcff"),
    "x-session-token": ("ZGVmYXVsdC9wb2QtMQ==", "ZGVmYXVsdA==", "=", "é"),
    "x-llm-d-slo-ttft-ms": ("100", "0", "x"),
    "x-llm-d-slo-tpot-ms": ("10", "nan"),
    "test-epp-endpoint-selection": ("10.0.0.1", "10.0.0.2:8000, nobody"),
}
ADAPTERS = ((), ("m",), ("other",), ("other", "m"), ("third", "other"))


def some(of, chance):
    """Choose a value for some of the keys."""
    return {key: chance.choice(values) for key, values in of.items() if chance.random() < 0.5}


def predict(slots, chance):
    """Predict something for most."""
    headrooms = (-50.0, -1.0, 0.0, 20.0)
    return {
        slot: Prediction(
            chance.choice([0.0, 90.0]), 20.0, chance.choice(headrooms), chance.choice(headrooms), chance.randrange(2)
        )
        for slot in slots
        if chance.random() < 0.8
    }


def make_world(seed):
    """Make one from a seed: to draw every field by itself costs a hundred times as much."""
    chance = random.Random(seed)
    slots = range(chance.randint(1, 5))
    endpoints = [
        Endpoint(
            slot=slot,
            incarnation=1,
            name=f"pod-{slot}",
            address=f"10.0.0.{slot + 1}",
            port=8000,
            pools=(0,),
            labels=some(LABELS, chance),
        )
        for slot in slots
    ]
    rows = [
        LoadRow(
            slot=slot,
            incarnation=1,
            health=chance.choice([Health.FRESH, Health.FRESH, Health.FAILED]),
            sampled_ns=chance.choice([NOW_NS, NOW_NS - 10**9, 1]),
            waiting=chance.choice([*ODD, 0.0, 1.0, 2.0, 3.0, 9.0]),
            running=chance.choice([*ODD, 0.0, 1.0, 2.0, 3.0, 9.0]),
            kv_usage=chance.choice([*ODD, 0.0, 0.25, 0.5, chance.random(), 1.0]),
            max_adapters=chance.choice([None, 0, 1, 3]),
            running_adapters=chance.choice(ADAPTERS),
            waiting_adapters=chance.choice(ADAPTERS),
        )
        for slot in slots
        if chance.random() < 0.9  # now and then nothing is known at all
    ]
    bookings = [
        Booking(chance.choice(slots), 1, NOW_NS - chance.randrange(10**9), tokens, (), tokens, 10)
        for tokens in chance.choices([0, 10, 10_000, 10**6], k=chance.randrange(8))
    ]
    share = {slot: chance.choice([0.01, 0.5, 0.8, 1.0]) for slot in range(7) if chance.random() < 0.3}
    request = Request(
        headers=some(HEADERS, chance),
        target_model="m",
        prompt_tokens=chance.choice([0, 7, 1000, 10**6]),
        priority=chance.choice([-1, 0, 1]),
        prefix=Match(tokens=chance.choice([0, 1000]), share=share, blocks=dict.fromkeys(share, 1)),
        media=tuple(Media("image", memoryview(each), 10) for each in chance.choices([b"a", b"b"], k=chance.randrange(3))),
        ticket=1,
        at_ns=NOW_NS,
        facts=chance.choice([{}, {PEER: endpoints[0], PRODUCER: predict(slots, chance)}]),
    )
    return World(endpoints, rows, bookings, request)


WORLDS = st.integers(0, 2**32).map(make_world)


def at_work(name, parameters):
    plugin = msgspec.convert(parameters, CATALOGUE[name].plugin)
    return Crew(Policy(profiles=(Profile("default", MaxScore()),), others=(Named("it", plugin), *FOUND)), dice(), ignore).find(
        "it"
    )


def dice():
    return random.Random(7)


def ignore(*_):
    pass


def scores(name, parameters, world, order=None):
    """Return the score of every slot."""
    fleet, scorer = world.fleet(order), at_work(name, parameters)
    if hasattr(scorer, "at"):
        column = getattr(fleet, scorer.column)
        found = [scorer.at(value, min(column), max(column)) for value in column]
    else:
        found = scorer.score(world.request, fleet)
    if isinstance(found, dict):
        assert found.keys() <= set(range(len(fleet)))
        found = [found.get(at, 0.0) for at in range(len(fleet))]
    assert len(found) == len(fleet)
    return {endpoint.slot: score for endpoint, score in zip(fleet.endpoints, found, strict=True)}


def kept(name, parameters, world, order=None):
    """Return the slots that stay."""
    fleet = world.fleet(order)
    plugin = at_work(name, parameters)
    positions = plugin.keep(world.request, fleet)
    assert not isinstance(positions, tuple) or plugin.keep(world.request, fleet) is positions  # see kinds.Filter
    assert len(set(positions)) == len(positions)
    assert set(positions) <= set(range(len(fleet)))
    return {fleet.endpoints[at].slot for at in positions}


EXAMPLES = settings(max_examples=40, deadline=None)


@pytest.mark.parametrize(("name", "parameters"), SCORERS)
@EXAMPLES
@given(world=WORLDS)
def test_scores_are_between_0_and_1(name, parameters, world):
    assert all(0.0 <= score <= 1.0 for score in scores(name, parameters, world).values())


@pytest.mark.parametrize(("name", "parameters"), SCORERS)
@EXAMPLES
@given(world=WORLDS, seed=st.integers(0, 999))
def test_scores_do_not_depend_on_the_order(name, parameters, world, seed):
    order = random.Random(seed).sample(range(len(world.endpoints)), len(world.endpoints))
    assert scores(name, parameters, world, order) == pytest.approx(scores(name, parameters, world))


@pytest.mark.parametrize(("name", "parameters"), FILTERS)
@EXAMPLES
@given(world=WORLDS, seed=st.integers(0, 999))
def test_filters_keep_the_same_in_any_order(name, parameters, world, seed):
    order = random.Random(seed).sample(range(len(world.endpoints)), len(world.endpoints))
    assert kept(name, parameters, world, order) == kept(name, parameters, world)


@pytest.mark.parametrize(("name", "parameters"), [*FILTERS, *SCORERS])
@EXAMPLES
@given(world=WORLDS)
def test_a_profile_decides_without_complaint_and_the_same_again(name, parameters, world):
    plugin, kinds = msgspec.convert(parameters, CATALOGUE[name].plugin), CATALOGUE[name].kinds
    named = Named("it", plugin)
    profile = Profile(
        "default",
        MaxScore(),
        (named,) if Kind.FILTER in kinds else (),
        (Weighted("it", plugin),) if Kind.SCORER in kinds else (),
    )
    chosen = []
    for _ in range(2):
        scheduler = Scheduler(Policy(profiles=(profile,), others=FOUND), dice(), ignore)
        verdicts = [scheduler.run(world.request, world.fleet()) for _ in range(2)]
        chosen.append([verdict and verdict.decision.chosen for verdict in verdicts])
        assert not scheduler.complaints.words
    assert chosen[0] == chosen[1]


class Nobody(msgspec.Struct, frozen=True):
    """Leaves nobody, as a filter or before all profiles."""

    def keep(self, request, fleet):
        return ()

    screen = keep


@pytest.mark.parametrize("before", ["profile", "everything"])
@pytest.mark.parametrize(("name", "parameters"), [*FILTERS, *SCORERS, *PICKERS, *ADMITTERS, *PRODUCERS])
def test_of_an_empty_set_nobody_is_chosen_and_nobody_complains(name, parameters, before):
    plugin, kinds = msgspec.convert(parameters, CATALOGUE[name].plugin), CATALOGUE[name].kinds
    named, nobody = Named("it", plugin), (Named("nobody", Nobody()),)
    profile = Profile(
        "default",
        plugin if Kind.PICKER in kinds else MaxScore(),
        (*(nobody if before == "profile" else ()), *((named,) if Kind.FILTER in kinds else ())),
        (Weighted("it", plugin),) if Kind.SCORER in kinds else (),
    )
    policy = Policy(
        profiles=(profile,),
        producers=(named,) if Kind.PRODUCER in kinds and hasattr(at_work(name, parameters), "produce") else (),
        admitters=(named,) if Kind.ADMITTER in kinds and before != "profile" else (),
        others=(*FOUND, *(nobody if before != "profile" else ())),
    )
    scheduler, world = Scheduler(policy, dice(), ignore), make_world(5)
    assert scheduler.run(world.request, world.fleet()) is None
    assert not scheduler.complaints.words


@pytest.mark.parametrize(("name", "parameters"), PICKERS)
@EXAMPLES
@given(totals=st.lists(st.floats(allow_nan=False), min_size=1, max_size=9), most=st.integers(1, 4))
def test_pickers_name_different_candidates(name, parameters, totals, most):
    chosen, again = (list(at_work(name, parameters | {"maxNumOfEndpoints": most}).pick(totals, dice())) for _ in range(2))
    assert len(set(chosen)) == len(chosen) == min(most, len(totals))
    assert set(chosen) <= set(range(len(totals)))
    assert chosen == again


@pytest.mark.parametrize(("name", "parameters"), ADMITTERS)
@EXAMPLES
@given(world=WORLDS)
def test_admitters_admit_or_refuse_as_clients_understand(name, parameters, world):
    refusal = at_work(name, parameters).admit(world.request, world.fleet())
    assert refusal is None or (isinstance(refusal, Refusal) and refusal.status in (404, 429, 503))


@pytest.mark.parametrize(("name", "parameters"), PRODUCERS)
@EXAMPLES
@given(world=WORLDS)
def test_producers_find_the_same_in_the_same(name, parameters, world):
    found = [
        worker.produce(world.request, world.fleet())
        for worker in (at_work(name, parameters), at_work(name, parameters))
        if hasattr(worker, "produce")
    ]
    assert not found or found[0] == found[1]
