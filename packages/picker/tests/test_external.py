"""What autoscalers read: the shape of external.metrics.k8s.io, and that it is what Prometheus shows."""

import msgspec
import pytest

from shunter.picker.core import families
from shunter.picker.core.external import OFFERED, offer
from shunter.picker.core.samples import Samples, by_label, single

NOW = "2026-11-26T08:00:00+00:00"
SHOWN = [
    by_label(families.DESIRED_REPLICAS, {"prefill": 2, "decode": 5}),
    Samples(families.QUEUE_SIZE, {("1", "llama"): 3, ("0", "llama"): 4}),
    by_label(families.AVERAGE_KV, {"llama": 0.12345}),
    single(families.RELEASED, 7),
]


def test_it_is_a_list_of_external_metric_values():
    told = msgspec.json.decode(msgspec.json.encode(offer(SHOWN, NOW, families.DESIRED_REPLICAS.name, {"role": "decode"})))
    assert told == {
        "kind": "ExternalMetricValueList",
        "apiVersion": "external.metrics.k8s.io/v1beta1",
        "metadata": {},
        "items": [
            {
                "metricName": "shunter_picker_desired_replicas",
                "metricLabels": {"role": "decode"},
                "timestamp": NOW,
                "value": "5",
            }
        ],
    }


def test_labels_choose_among_series_and_without_them_there_are_all():
    def values(labels):
        return [item.value for item in offer(SHOWN, NOW, families.QUEUE_SIZE.name, labels).items]

    assert (values({}), values({"priority": "0"}), values({"priority": "2"}), values({"colour": "red"})) == (
        ["3", "4"],
        ["4"],
        [],
        [],
    )


def test_what_is_no_gauge_of_the_pool_is_not_offered():
    assert {item.metric_name for item in offer(SHOWN, NOW).items} == {each.name for each in OFFERED} & {
        each.family.name for each in SHOWN
    }
    assert all(family.kind == "gauge" for family in OFFERED)


@pytest.mark.parametrize(
    ("value", "quantity"), [(0, "0"), (3.0, "3"), (0.5, "500m"), (0.12345, "123m"), (2.0001, "2"), (1.999, "1999m")]
)
def test_values_are_quantities(value, quantity):
    (item,) = offer([by_label(families.AVERAGE_KV, {"llama": value})], NOW).items
    assert item.value == quantity


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_quantity_is_left_out(value):
    assert offer([by_label(families.AVERAGE_KV, {"llama": value})], NOW).items == ()
