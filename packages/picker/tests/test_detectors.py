"""How full endpoints are, and how full that makes a pool."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shunter.picker import config
from shunter.picker.core.fleet import Roster
from shunter.picker.core.kinds import Named, Profile
from shunter.picker.core.ledger import Booking, Ledger
from shunter.picker.core.policy import Crew, Policy
from shunter.picker.core.request import Request
from shunter.picker.core.saturation import ROLE_LABEL, Gauge
from shunter.picker.core.schedule import Scheduler
from shunter.picker.errors import ConfigError
from shunter.picker.plugins.detectors import Concurrency, Utilization
from shunter.picker.plugins.inflight import InflightLoad
from shunter.picker.plugins.pickers import MaxScore
from shunter.snapshot import Health

NOW_NS = 100_000_000_000
REQUEST = Request(headers={})
FULL, ROOM = {"waiting": 5.0, "kv_usage": 0.1}, {"waiting": 4.0, "kv_usage": 0.4}
STALE = FULL | {"health": Health.FAILED}
OLD = FULL | {"sampled_ns": NOW_NS - 3 * 10**9}


def booked(*counts, tokens=10, uncached=10, answer=0):
    """A ledger with as many requests in flight, sent just now."""
    ledger = Ledger()
    for slot, count in enumerate(counts):
        for number in range(count):
            ledger.book(1000 * slot + number, Booking(slot, 1, NOW_NS, tokens, (), uncached, answer))
    return ledger


def at_work(detector, *others):
    """A detector beside other plugins."""
    named = (Named("detector", detector), *others)
    policy = Policy(profiles=(Profile("default", MaxScore()),), detector=named[0], others=named[1:])
    return Crew(policy, random.Random(1), lambda _, __: None).find("detector")


def saturation(detector, fleet, *, sent=False):
    return Gauge().read(fleet, detector.levels(fleet, NOW_NS, sent=sent))


@pytest.mark.parametrize(
    ("rows", "value"),
    [
        ([FULL], 1.0),
        ([FULL, {"waiting": 0.0, "kv_usage": 0.8}], 1.0),
        ([FULL, ROOM], 0.9),
        ([{"waiting": 50.0}, {"waiting": 0.0}], 0.5),
        ([FULL, STALE], 1.0),
        ([STALE], 0.0),
        ([ROOM, STALE], 0.8),
        ([OLD], 0.0),
        ([], 0.0),
    ],
)
def test_a_pool_is_as_full_as_those_who_are_known_are_on_average(make_fleet, rows, value):
    detector = Utilization(metrics_staleness_threshold="2s")
    assert saturation(detector, make_fleet(*rows)) == pytest.approx(value)


def test_without_a_threshold_of_its_own_fresh_is_what_the_picker_says(make_fleet):
    assert saturation(Utilization(), make_fleet(FULL | {"sampled_ns": NOW_NS - 4 * 10**9})) == 1.0


def test_what_was_sent_since_the_sample_counts_if_asked_for(make_fleet):
    fleet = make_fleet({"waiting": 0.0}, ledger=booked(4))
    assert saturation(Utilization(), fleet) == 0.0
    assert saturation(Utilization(), fleet, sent=True) == pytest.approx(0.8)


@pytest.mark.parametrize(("policy", "value"), [("ledger", 0.5), ("ignore", 0.0), ("saturated", 1.0)])
def test_where_nobody_is_known_the_policy_says_what_that_means(make_fleet, policy, value):
    fleet = make_fleet(STALE, STALE, ledger=booked(100, 0))
    assert saturation(Utilization(staleness_policy=policy), fleet) == value


@pytest.mark.parametrize(("mode", "value"), [("requests", 0.25), ("tokens", 0.5), ("hybrid", 0.5)])
def test_concurrency_is_a_share_of_the_limit(make_fleet, mode, value):
    detector = at_work(Concurrency(max_concurrency=10, max_token_concurrency=50, concurrency_mode=mode))
    assert saturation(detector, make_fleet(STALE, STALE, ledger=booked(5, 0))) == value


def test_concurrency_counts_what_is_still_to_compute_and_of_answers_what_its_producer_is_told_to(make_fleet):
    fleet = make_fleet(ROOM, ledger=booked(5, tokens=1000, uncached=4, answer=100))
    counting = {"max_token_concurrency": 40, "concurrency_mode": "tokens", "in_flight_load_producer_name": "load"}
    for answers, value in ((False, 20 / 40), (True, 520 / 40)):
        load = Named("load", InflightLoad(add_estimated_output_tokens=answers))
        detector = at_work(Concurrency(**counting), load)
        assert saturation(detector, fleet) == value
        assert list(detector.keep(Request(headers={}, at_ns=NOW_NS), fleet)) == [] if answers else [0]
    later_ns = NOW_NS + 10**12
    assert list(detector.levels(make_fleet(ROOM, ledger=booked(5)), later_ns, sent=True)) == [0.0]


def test_of_separate_stages_the_fuller_one_counts(make_fleet):
    def fleet(*roles):
        return make_fleet(*([ROOM | {"waiting": 0.0}, FULL][: len(roles)]), endpoints=[{"labels": role} for role in roles])

    prefill, decode, both = ({ROLE_LABEL: role} for role in ("prefill", "decode", "both"))
    assert saturation(Utilization(), fleet(prefill, decode)) == 1.0
    assert saturation(Utilization(), fleet(both, decode)) == pytest.approx(0.75), "the other one decodes too"
    assert saturation(Utilization(), fleet({}, {})) == pytest.approx(0.75)
    assert saturation(Utilization(), fleet({}, prefill)) == 1.0


def test_as_a_filter_utilization_drops_who_is_full_unless_all_are(make_fleet):
    assert list(Utilization().keep(REQUEST, make_fleet(FULL, ROOM, STALE))) == [1]
    assert list(Utilization(headroom=0.5).keep(REQUEST, make_fleet(FULL, ROOM, STALE))) == [0, 1]
    assert list(Utilization().keep(REQUEST, make_fleet(FULL, STALE))) == [0, 1]


def test_as_a_filter_utilization_drops_whose_metrics_are_older_than_it_is_told(make_fleet):
    fleet = make_fleet(ROOM, ROOM | {"sampled_ns": NOW_NS - 3 * 10**9})
    asked = Request(headers={}, at_ns=NOW_NS)
    assert list(Utilization(metrics_staleness_threshold="2s").keep(asked, fleet)) == [0]
    assert list(Utilization().keep(asked, fleet)) == [0, 1]


def test_who_is_idle_and_asked_once_a_second_is_known_whatever_threshold_the_reference_has(make_fleet):
    detector = Utilization(metrics_staleness_threshold="200ms")
    idle = {"waiting": 0.0, "kv_usage": 0.0, "sampled_ns": NOW_NS - 600_000_000}
    fleet = make_fleet(FULL, idle, idle)
    assert list(detector.keep(Request(headers={}, at_ns=NOW_NS), fleet)) == [1, 2]
    assert saturation(detector, fleet) == pytest.approx(1 / 3)


def test_a_threshold_of_nothing_is_refused():
    with pytest.raises(ValueError, match="metricsStalenessThreshold must be above 0"):
        Utilization(metrics_staleness_threshold="0s")


def test_as_a_filter_concurrency_drops_who_is_full_even_if_all_are(make_fleet):
    fleet = make_fleet(ROOM, ROOM, ledger=booked(10, 9))
    assert list(at_work(Concurrency(max_concurrency=10)).keep(REQUEST, fleet)) == [1]
    assert list(at_work(Concurrency(max_concurrency=10, headroom=0.1)).keep(REQUEST, fleet)) == [0, 1]
    assert list(at_work(Concurrency(max_concurrency=9, headroom=0.1)).keep(REQUEST, fleet)) == [], "9.9 are 9"
    assert list(at_work(Concurrency(max_concurrency=5)).keep(REQUEST, fleet)) == []


@pytest.mark.parametrize(("mode", "kept"), [("requests", [0, 1]), ("tokens", [1]), ("hybrid", [1])])
def test_as_a_filter_concurrency_goes_by_what_its_mode_counts(make_fleet, mode, kept):
    detector = at_work(Concurrency(max_concurrency=3, max_token_concurrency=20, concurrency_mode=mode))
    assert list(detector.keep(REQUEST, make_fleet(ROOM, ROOM, ledger=booked(2, 1)))) == kept


@pytest.mark.parametrize("detector", ["concurrency-detector", "utilization-detector"])
def test_a_detector_may_name_whoever_counts_what_is_in_flight(detector):
    text = (
        "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- {type: inflight-load-producer, name: load}\n"
        f"- {{type: {detector}, parameters: {{inFlightLoadProducerName: %s}}}}\n"
        f"flowControl: {{saturationDetector: {{pluginRef: {detector}}}}}\n"
    )
    assert config.load(text % "load").policy.detector.name == detector
    with pytest.raises(ConfigError, match="no plugin is named 'nobody'"):
        config.load(text % "nobody")


TOGETHER = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: concurrency-detector, name: sent, parameters: {maxConcurrency: 10}}
- {type: utilization-detector, name: queue, parameters: {queueDepthThreshold: 5}}
- {type: max-saturation-detector, name: both, parameters: {detectors: [sent, queue]%s}}
%s
flowControl: {saturationDetector: {pluginRef: %s}}
"""


def full(fleet, *, more="", others="", name="both"):
    policy = config.load(TOGETHER % (more, others, name)).policy
    return Scheduler(policy, random.Random(1), lambda _, __: None).saturation(fleet, NOW_NS, sent=False)


def test_of_several_detectors_the_one_that_finds_the_pool_fullest_counts(make_fleet):
    sent = make_fleet({"waiting": 1.0}, {"waiting": 0.0}, ledger=booked(8, 4))
    queued = make_fleet({"waiting": 4.0}, {"waiting": 4.0}, ledger=booked(1, 0))
    assert [full(sent, name=name) for name in ("sent", "queue", "both")] == pytest.approx([0.6, 0.1, 0.6])
    assert [full(queued, name=name) for name in ("sent", "queue", "both")] == pytest.approx([0.05, 0.8, 0.8])


def test_a_detector_is_asked_of_its_stages_where_these_are_separate(make_fleet):
    rows, ledger = ({"waiting": 4.0}, {"waiting": 2.0}), booked(1, 9)
    apart = make_fleet(
        *rows, endpoints=[{"labels": {ROLE_LABEL: "prefill"}}, {"labels": {ROLE_LABEL: "decode"}}], ledger=ledger
    )
    assert full(apart) == pytest.approx(0.9)
    assert full(apart, more=", stages: {sent: [prefill]}") == pytest.approx(0.8), "queues, of the prefill stage"
    assert full(apart, more=", stages: {sent: [prefill], queue: [decode]}") == pytest.approx(0.4)
    nested = "- {type: max-saturation-detector, name: all, parameters: {detectors: [both], stages: {both: [prefill]}}}"
    assert full(apart, others=nested, name="all") == pytest.approx(0.8)
    assert full(apart, more=", stages: {sent: [decode], queue: [decode]}", others=nested, name="all") == 0.0
    assert full(make_fleet(*rows, ledger=ledger), more=", stages: {queue: [decode]}") == pytest.approx(0.6), "of one stage"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("", "detectors"),
        ("detectors: []", "detectors"),
        ("detectors: [utilization-detector, utilization-detector]", "detectors names 'utilization-detector' twice"),
        ("detectors: [nobody]", r"detectors\[0\]: no plugin is named 'nobody'"),
        ("detectors: [queue-scorer]", "'queue-scorer' is a scorer, and what belongs here is a saturation detector"),
        ("detectors: [max-saturation-detector]", "in a circle"),
        ("detectors: [utilization-detector], stages: {queue: [decode]}", "stages has 'queue', which detectors does not name"),
        ("detectors: [utilization-detector], stages: {utilization-detector: []}", "stages"),
        ("detectors: [utilization-detector], stages: {utilization-detector: [encode]}", "encode"),
    ],
)
def test_what_several_detectors_cannot_be_is_refused(parameters, message):
    with pytest.raises(ConfigError, match=message):
        config.load(
            "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"
            "plugins:\n- type: queue-scorer\n- type: utilization-detector\n"
            f"- {{type: max-saturation-detector, parameters: {{{parameters}}}}}\n"
        )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.builds(
            dict,
            waiting=st.floats(0, 1e9) | st.just(float("nan")),
            kv_usage=st.floats(0, 1) | st.just(float("nan")),
            health=st.sampled_from(Health),
        ),
        max_size=6,
    ),
    st.sampled_from(["ledger", "ignore", "saturated"]),
    st.booleans(),
    st.randoms(),
)
def test_saturation_is_a_share_whatever_the_engines_say_and_in_whatever_order(make_view, rows, policy, sent, chance):
    def make_fleet(*rows):
        return Roster(Ledger()).fleet(make_view(*rows), NOW_NS)

    detector = Utilization(staleness_policy=policy)
    value = saturation(detector, make_fleet(*rows), sent=sent)
    assert 0.0 <= value <= 1.0
    chance.shuffle(rows)
    assert saturation(detector, make_fleet(*rows), sent=sent) == pytest.approx(value)
