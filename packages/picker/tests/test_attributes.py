import random

import msgspec
import pytest

from shunter.picker import config
from shunter.picker.core.ledger import Booking, Ledger
from shunter.picker.core.policy import Crew
from shunter.picker.core.request import Request
from shunter.picker.errors import ConfigError
from shunter.picker.plugins.attributes import EndpointAttributeFilter, EndpointAttributeScorer, UtilizationFilter
from shunter.snapshot import Health

REQUEST = Request(headers={})
LOADS = [{"waiting": 0.0, "kv_usage": 0.9}, {"waiting": 2.0, "kv_usage": 0.5}, {"waiting": 5.0, "kv_usage": 0.1}]
STALE = {"waiting": 1.0, "health": Health.FAILED}


def keep(plugin, fleet, **parameters):
    return list(msgspec.convert(parameters, plugin).keep(REQUEST, fleet))


def most(**limits):
    return [{"metric": metric.replace("_", "-"), "maxValue": value} for metric, value in limits.items()]


def threshold(operator, value):
    return {"type": "threshold", "threshold": {"operator": operator, "value": value}}


def priced(make_fleet, *prices):
    return make_fleet(*({} for _ in prices), endpoints=[{"labels": {"price": price} if price else {}} for price in prices])


@pytest.mark.parametrize(
    ("limits", "fallback", "kept"),
    [
        ({"waiting_queue": 2}, False, [0, 1]),
        ({"waiting_queue": 2, "kv_cache_utilization": 0.5}, False, [1]),
        ({"waiting_queue": 1, "kv_cache_utilization": 0.5}, False, []),
        ({"waiting_queue": 1, "kv_cache_utilization": 0.5}, True, [0, 1, 2]),
        ({"active_requests": 0, "running_requests": 0}, False, [0, 1, 2]),
    ],
)
def test_all_conditions_must_be_met(make_fleet, limits, fallback, kept):
    assert keep(UtilizationFilter, make_fleet(*LOADS), conditions=most(**limits), fallbackOnEmpty=fallback) == kept


def test_an_unknown_load_is_the_worst_one(make_fleet):
    assert keep(UtilizationFilter, make_fleet(*LOADS, STALE), conditions=most(waiting_queue=4)) == [0, 1]


def test_a_filter_without_conditions_is_refused():
    with pytest.raises(msgspec.ValidationError, match="length >= 1"):
        msgspec.convert({"conditions": []}, UtilizationFilter)


@pytest.mark.parametrize(
    ("operator", "kept"),
    [
        ("LessThan", [0]),
        ("LessThanOrEqual", [0, 1]),
        ("GreaterThan", [2]),
        ("GreaterThanOrEqual", [1, 2]),
        ("Equal", [1]),
        ("NotEqual", [0, 2]),
    ],
)
def test_a_threshold_compares(make_fleet, operator, kept):
    for name in ("waiting-queue", "num_requests_waiting"):
        fleet = make_fleet(*LOADS, STALE)
        filtered = keep(EndpointAttributeFilter, fleet, attribute=name, onMissing="Fail", algorithm=threshold(operator, 2))
        assert filtered == kept


@pytest.mark.parametrize(
    ("algorithm", "kept"),
    [
        ({"type": "range", "range": {"min": 2, "max": 3}}, [1, 2, 3]),
        ({"type": "topK", "topK": {"k": 1}}, [4]),
        ({"type": "topK", "topK": {"k": 2, "higherIsBetter": False}}, [0, 1, 2]),  # two are second
        ({"type": "topK", "topK": {"k": 9}}, [0, 1, 2, 3, 4]),
        ({"type": "percentile", "percentile": {"percentile": 80}}, [3, 4]),
        ({"type": "percentile", "percentile": {"percentile": 20, "higherIsBetter": False}}, [0]),
        ({"type": "percentile", "percentile": {"percentile": 0}}, [0, 1, 2, 3, 4]),
    ],
)
def test_ranges_and_ranks_keep_their_part(make_fleet, algorithm, kept):
    fleet = priced(make_fleet, "1", "2", "2", "3", "9", None)
    parameters = {"attribute": "price", "producer": "labels", "onMissing": "Fail", "algorithm": algorithm}
    assert keep(EndpointAttributeFilter, fleet, **parameters) == kept
    assert keep(EndpointAttributeFilter, priced(make_fleet, None), **parameters) == []


@pytest.mark.parametrize(
    ("algorithm", "words"),
    [
        ({"type": "topK"}, "algorithm.topK is missing"),
        ({"type": "range", "range": {"min": 2, "max": 1}}, "min must be at most max"),
    ],
)
def test_an_algorithm_without_its_parameters_is_refused(algorithm, words):
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert({"attribute": "waiting-queue", "algorithm": algorithm}, EndpointAttributeFilter)


def test_a_missing_attribute_passes_or_fails(make_fleet):
    parameters = {"attribute": "price", "producer": "labels", "algorithm": threshold("LessThan", 2)}
    fleet = priced(make_fleet, "1", "3", None, "dear")
    assert keep(EndpointAttributeFilter, fleet, **parameters) == [0, 2, 3]
    assert keep(EndpointAttributeFilter, fleet, **parameters, onMissing="Fail") == [0]
    fleet = priced(make_fleet, "3", "3")
    assert keep(EndpointAttributeFilter, fleet, **parameters) == []
    assert keep(EndpointAttributeFilter, fleet, **parameters, fallbackOnEmpty=True) == [0, 1]


def test_requests_of_ours_are_known_without_metrics(make_fleet):
    ledger = Ledger()
    ledger.book(1, Booking(0, 1, 1))
    parameters = {"attribute": "active-requests", "onMissing": "Fail", "algorithm": threshold("LessThan", 1)}
    assert keep(EndpointAttributeFilter, make_fleet(STALE, STALE, ledger=ledger), **parameters) == [1]


def test_an_attribute_that_nobody_has_is_refused():
    with pytest.raises(msgspec.ValidationError, match="no attribute is named 'custom': there are active-requests"):
        keep(EndpointAttributeFilter, None, attribute="custom", algorithm=threshold("Equal", 1))


@pytest.mark.parametrize(
    ("kind", "normalization", "scores"),
    [
        ("linear_lower_is_better", {}, [1, 0.5, 0, 0]),
        ("linear_higher_is_better", {"adaptiveRange": {}}, [0, 0.5, 1, 0]),
        ("linear_higher_is_better", {"fixedRange": {"min": 0, "max": 4}}, [0.25, 0.5, 0.75, 0]),
        ("linear_lower_is_better", {"fixedRange": {"min": 2, "max": 2.5}}, [1, 1, 0, 0]),
    ],
)
def test_an_attribute_scores_between_the_extremes(make_fleet, kind, normalization, scores):
    parameters = {"attributeKey": "price", "producer": "labels", "algorithm": {"type": kind, "normalization": normalization}}
    scorer = msgspec.convert(parameters, EndpointAttributeScorer)
    assert scorer.score(REQUEST, priced(make_fleet, "1", "2", "3", None)) == scores
    if "fixedRange" not in normalization:
        assert scorer.score(REQUEST, priced(make_fleet, "2", "2", None)) == [1, 1, 0]


@pytest.mark.parametrize(
    ("normalization", "words"),
    [
        ({"fixedRange": {"min": 1, "max": 1}}, "min must be less than max"),
        ({"fixedRange": {"min": 0, "max": 1}, "adaptiveRange": {}}, "exclude each other"),
    ],
)
def test_a_range_that_is_none_is_refused(normalization, words):
    parameters = {
        "attributeKey": "waiting-queue",
        "algorithm": {"type": "linear_lower_is_better", "normalization": normalization},
    }
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert(parameters, EndpointAttributeScorer)


WEIGHED = """\
apiVersion: llm-d.ai/v1
kind: EndpointPickerConfig
plugins:
- type: label-producer
  name: where
  parameters: {labels: [{label: topology.kubernetes.io/region, attributeKey: region}, {label: make, attributeKey: gpu}]}
- type: endpoint-attribute-weight-scorer
  name: weighed
  parameters: %s
schedulingProfiles: [{name: default, plugins: [{pluginRef: weighed}]}]
"""


def weighed(fleet, parameters):
    crew = Crew(config.load(WEIGHED % parameters).policy, random.Random(1), lambda _, __: None)
    return list(crew.find("weighed").score(REQUEST, fleet))


@pytest.mark.parametrize(
    ("parameters", "scores"),
    [
        ("{attributeKey: region, producer: where, weights: {near: 4, far: 1, nowhere: 2}}", [1, 0.25, 0.25, 0.25]),
        ('{attributeKey: region, producer: where, weights: {near: 1, "": 2, far: 1.5}}', [0.5, 0.75, 1, 0.5]),
        ("{attributeKey: gpu, producer: where, weights: {H100: 2, A100: 1}}", [0.5, 1, 0.5, 0.5]),
        ("{attributeKey: rack, producer: where, weights: {near: 2, far: 1}}", [0.5] * 4),
        ('{attributeKey: region, producer: "", weights: {near: 2, far: 1}}', [0.5] * 4),
    ],
)
def test_what_a_label_says_is_worth_its_weight_and_anything_else_the_least(make_fleet, parameters, scores):
    region = "topology.kubernetes.io/region"
    labels = [{region: "near"}, {region: "far", "make": "H100"}, {region: ""}, {"region": "near"}]
    assert weighed(make_fleet(*({} for _ in labels), endpoints=[{"labels": each} for each in labels]), parameters) == scores


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("{attributeKey: region, weights: {near: 1}}", "producer"),
        ("{producer: where, weights: {near: 1}}", "attributeKey"),
        ('{attributeKey: "", producer: where, weights: {near: 1}}', "attributeKey"),
        ("{attributeKey: region, producer: where, weights: {}}", "weights"),
        ("{attributeKey: region, producer: where, weights: {near: 0}}", "weights"),
        ("{attributeKey: region, producer: where, weights: {near: .inf}}", "not a number below"),
        ("{attributeKey: region, producer: where, weights: {near: 5.0e-324, far: 9.0e+18}}", "vanishes beside the greatest"),
        ("{attributeKey: region, producer: nobody, weights: {near: 1}}", "no plugin is named 'nobody'"),
    ],
)
def test_weights_that_say_nothing_are_refused(parameters, message):
    with pytest.raises(ConfigError, match=message):
        config.load(WEIGHED % parameters)


def test_two_labels_of_a_name_are_refused():
    with pytest.raises(ConfigError, match="same attributeKey"):
        config.load(
            (WEIGHED % "{attributeKey: gpu, producer: where, weights: {a: 1}}").replace(
                "attributeKey: region", "attributeKey: gpu"
            )
        )
