import random
from collections import Counter

import msgspec
import pytest
from hack import bench_plugins

from shunter.picker.core.kinds import ColumnScorer, Setting
from shunter.picker.core.ledger import Booking, Ledger
from shunter.picker.core.prefix import Match
from shunter.picker.core.request import Request
from shunter.picker.plugins import CATALOGUE, Kind
from shunter.picker.plugins.declared import ApproxPrefixCache
from shunter.picker.plugins.durations import duration_ns
from shunter.picker.plugins.filters import Decode, Encode, LabelSelector, NamedByHeader, Prefill
from shunter.picker.plugins.inflight import InflightLoad
from shunter.picker.plugins.pickers import MaxScore, Random, WeightedRandom
from shunter.picker.plugins.scorers import (
    ActiveRequest,
    KvCacheUtilization,
    LoadAware,
    LoraAffinity,
    PrefixCache,
    Queue,
    RunningRequests,
    TokenLoad,
)
from shunter.picker.plugins.upstream import TYPES

NOW_NS = 100_000_000_000
REQUEST = Request(headers={})
METHODS = {Kind.FILTER: "keep", Kind.SCORER: "score", Kind.PICKER: "pick", Kind.PARSER: "formats"}
METHODS |= {Kind.FAIRNESS: "line", Kind.ORDERING: "order", Kind.USAGE_LIMIT: "ceilings"}


@pytest.mark.parametrize(
    ("scorer", "values", "scores"),
    [
        (Queue(), [0, 5, 10], [1, 0.5, 0]),
        (Queue(), [3, 3], [1, 1]),
        (RunningRequests(), [2, 4], [1, 0]),
        (RunningRequests(), [7], [1]),
        (KvCacheUtilization(), [0, 0.25, 1], [1, 0.75, 0]),
        (LoadAware(), [0, 64, 128, 500], [0.5, 0.25, 0, 0]),
        (LoadAware(threshold=10), [5], [0.25]),
        (ActiveRequest(), [0, 1, 4], [1, 0.75, 0]),
        (ActiveRequest(idle_threshold=1, max_busy_score=0.5), [0, 1, 2, 4], [1, 1, 0.25, 0]),
    ],
)
def test_a_column_scores_by_its_formula(scorer, values, scores):
    assert isinstance(scorer, ColumnScorer)
    assert [scorer.at(value, min(values), max(values)) for value in values] == scores


@pytest.mark.parametrize(
    ("scorer", "shares", "tokens", "scores"),
    [
        (PrefixCache(), {1: 0.5, 2: 1.0}, 1000, {1: 0.5, 2: 1.0}),
        (PrefixCache(), {}, 0, {}),
        (PrefixCache(), {9: 1.0}, 1000, {}),
        (PrefixCache(match_length_weight=1.0, match_length_scale_tokens=1000), {0: 0.5, 1: 1.0}, 1000, {0: 0.25, 1: 1.0}),
        (PrefixCache(match_length_weight=0.5, match_length_scale_tokens=500), {0: 0.5}, 2000, {0: 0.75}),
    ],
)
def test_a_prefix_scores_by_share_and_length(make_fleet, scorer, shares, tokens, scores):
    request = Request(headers={}, prefix=Match(tokens=tokens, share=shares))
    assert scorer.score(request, make_fleet({}, {}, {})) == scores


def test_tokens_to_compute_lower_the_score(make_fleet):
    ledger = Ledger()
    ledger.book(1, Booking(slot=1, incarnation=1, booked_ns=NOW_NS, tokens=90, prefill_tokens=50))
    fleet = make_fleet({}, {}, {}, ledger=ledger)
    request = Request(headers={}, at_ns=NOW_NS, prompt_tokens=40, prefix=Match(share={2: 0.5}))
    scorer = TokenLoad(queue_threshold_tokens=80).start(Setting("it", random.Random(1), {}.__getitem__, list))
    assert scorer.score(request, fleet) == [0.5, 0, 0.75]
    load = InflightLoad(add_estimated_output_tokens=True)
    scorer = TokenLoad(queue_threshold_tokens=80, in_flight_load_producer_name="load").start(
        Setting("it", random.Random(1), {"load": load}.__getitem__, list)
    )
    ledger.book(2, Booking(slot=0, incarnation=1, booked_ns=NOW_NS, decode_tokens=20))
    assert scorer.score(request, make_fleet({}, {}, {}, ledger=ledger)) == [0.25, 0, 0.75]


@pytest.mark.parametrize("parameters", [{"outputRatio": 2}, {"maxEstimatedOutputTokens": 9}, {"syncCrossReplicaState": False}])
def test_what_the_account_cannot_honour_is_refused(parameters):
    with pytest.raises(msgspec.ValidationError, match="remove"):
        msgspec.convert(parameters, InflightLoad)


def test_an_adapter_scores_by_where_it_is(make_fleet):
    fleet = make_fleet(
        {"running_adapters": ("a",), "max_adapters": 1},
        {"running_adapters": ("b",), "max_adapters": 2},
        {"running_adapters": ("b",), "waiting_adapters": ("a",), "max_adapters": 2},
        {"running_adapters": ("b",), "waiting_adapters": ("c",), "max_adapters": 2},
        {"running_adapters": ("b", "c"), "waiting_adapters": ("c", "b"), "max_adapters": 3},
        {},
    )
    assert LoraAffinity().score(Request(headers={}, target_model="a"), fleet) == [1, 0.8, 0.6, 0, 0.8, 0]


ROLES = ["decode", "prefill", "encode", "prefill-decode", "encode-prefill", "encode-prefill-decode", "both", None, "other"]


@pytest.mark.parametrize(
    ("role_filter", "kept"),
    [
        (Decode(), ["decode", "prefill-decode", "encode-prefill-decode", "both", None]),
        (Prefill(), ["prefill", "prefill-decode", "encode-prefill", "encode-prefill-decode", "both"]),
        (Encode(), ["encode", "encode-prefill", "encode-prefill-decode"]),
    ],
)
def test_a_role_is_read_from_the_label(make_fleet, role_filter, kept):
    endpoints = [{"labels": {"llm-d.ai/role": role} if role else {}} for role in ROLES]
    fleet = make_fleet(*[{}] * len(ROLES), endpoints=endpoints)
    assert [ROLES[at] for at in role_filter.keep(REQUEST, fleet)] == kept


@pytest.mark.parametrize(
    ("selector", "kept"),
    [
        ({}, [0, 1, 2]),
        ({"matchLabels": {"gpu": "h100"}}, [0]),
        ({"matchLabels": {"gpu": "h100", "zone": "b"}}, []),
        ({"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h100", "l4"]}]}, [0, 1]),
        ({"matchExpressions": [{"key": "gpu", "operator": "NotIn", "values": ["h100"]}]}, [1, 2]),
        ({"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}, [0, 1]),
        ({"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}, [2]),
    ],
)
def test_a_label_selector_selects_as_in_kubernetes(make_fleet, selector, kept):
    endpoints = [{"labels": {"gpu": "h100", "zone": "a"}}, {"labels": {"gpu": "l4"}}, {}]
    fleet = make_fleet({}, {}, {}, endpoints=endpoints)
    assert msgspec.convert(selector, LabelSelector).keep(REQUEST, fleet) == kept


def test_the_testing_filter_obeys_the_header(make_fleet):
    fleet = make_fleet({}, {}, {})
    request = Request(headers={"test-epp-endpoint-selection": "10.0.0.3:8000, 10.0.0.1"})
    assert NamedByHeader().keep(request, fleet) == [0, 2]
    assert NamedByHeader().keep(REQUEST, fleet) == []


def test_max_score_names_fallbacks(dice):
    assert MaxScore().pick([1.0, 4.0, 3.0, 2.0], dice) == [1, 2, 3]
    assert MaxScore(max_num_of_endpoints=1).pick([1.0, 4.0], dice) == [1]


def test_random_ignores_scores(dice):
    chosen = Counter(Random(max_num_of_endpoints=1).pick([0.0, 9.0], dice)[0] for _ in range(1000))
    assert min(chosen.values()) > 400


def test_weighted_random_draws_in_proportion(dice):
    picker = WeightedRandom(max_num_of_endpoints=1)
    chosen = Counter(picker.pick([1.0, 3.0, 0.0, -1.0], dice)[0] for _ in range(4000))
    assert set(chosen) == {0, 1}
    assert 2600 < chosen[1] < 3400


def test_weighted_random_draws_in_proportion_to_the_smallest_totals(dice):
    picker = WeightedRandom(max_num_of_endpoints=1)
    chosen = Counter(picker.pick([1e-6, 3e-6], dice)[0] for _ in range(10_000))
    assert chosen[1] / 10_000 == pytest.approx(0.75, abs=0.02)


def test_weighted_random_without_scores_is_random(dice):
    chosen = Counter(WeightedRandom(max_num_of_endpoints=1).pick([0.0, 0.0], dice)[0] for _ in range(1000))
    assert min(chosen.values()) > 400


def test_weighted_random_names_everybody_once():
    assert sorted(WeightedRandom(max_num_of_endpoints=9).pick([1.0, 0.0, 5e-324], random.Random(1))) == [0, 1, 2]


def test_no_limits_still_bound_a_prompt():
    unlimited = ApproxPrefixCache(max_prefix_blocks_to_match=0, max_prefix_tokens_to_match=0)
    assert unlimited.settings.max_tokens == 4_000_000
    assert ApproxPrefixCache(max_prefix_blocks_to_match=3, max_prefix_tokens_to_match=0).settings.max_tokens == 192


@pytest.mark.parametrize(
    ("text", "ns"), [("", 0), ("200ms", 2 * 10**8), ("1m30s", 90 * 10**9), ("1.5h", 5400 * 10**9), ("2us", 2000), ("0", 0)]
)
def test_durations_are_read_as_go_writes_them(text, ns):
    assert duration_ns(text) == ns


@pytest.mark.parametrize("text", ["5", "s", "5 s", "1d", "-5s", "5s "])
def test_other_durations_are_refused(text):
    with pytest.raises(ValueError, match="is not a duration such as 200ms"):
        duration_ns(text)


@pytest.mark.parametrize("text", ["9" * 400 + "h", "2562048h", "9223372037s"])
def test_durations_longer_than_go_knows_are_refused(text):
    with pytest.raises(ValueError, match="is longer than 292 years"):
        duration_ns(text)


def test_every_plugin_does_what_its_kinds_promise():
    for registration in CATALOGUE.values():
        assert registration.plugin.__doc__, registration.type_name
        for kind in registration.kinds:
            method = METHODS.get(kind)
            assert (
                method is None
                or hasattr(registration.plugin, method)
                or hasattr(registration.plugin, "start")
                or (kind is Kind.SCORER and hasattr(registration.plugin, "at"))
            ), (registration.type_name, kind)


@pytest.mark.parametrize("name", sorted(name for name, entry in CATALOGUE.items() if {*entry.kinds} & {*bench_plugins.KINDS}))
def test_what_a_plugin_costs_can_be_measured(name):
    fleet = bench_plugins.busy(3)
    for call in bench_plugins.calls(name, fleet, bench_plugins.asking(fleet)).values():
        call()


def test_what_upstream_alone_has_is_not_in_the_catalogue():
    assert not TYPES & CATALOGUE.keys()
