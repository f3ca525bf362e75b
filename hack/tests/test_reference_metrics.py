"""What the picker shows under the reference's names is what the reference shows, and the rest has a reason."""

import pytest
from hack.reference_metrics import METRICS, PREFIX

from shunter.picker.core.families import families

OURS = {family.name: family for family in families() if family.name.startswith(PREFIX)}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_is_the_references_or_the_reason_is_told(metric):
    family = OURS.get(PREFIX + metric.name)
    if family is None:
        assert metric.why, "it is missing, and nobody says why"
        return
    assert family.kind == metric.kind
    missing = set(metric.labels.split()) - set(family.labels)
    assert set(family.labels) <= set(metric.labels.split()), "labels that the reference does not have"
    assert bool(missing) == bool(metric.why), f"without {missing}"


def test_no_name_is_invented_in_the_references_name():
    assert OURS.keys() <= {PREFIX + metric.name for metric in METRICS}


def test_each_is_listed_once():
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
