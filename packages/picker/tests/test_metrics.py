"""The figures of a pool, and of each when there are several."""

import pytest

from shunter.picker.core.overview import look
from shunter.picker.core.tables import Tally
from shunter.picker.shell.metrics import averages
from shunter.snapshot import Pool

NOW_NS = 100_000_000_000


@pytest.fixture
def figures(make_view):
    def figures(*rows, **resources):
        overview = look(make_view(*rows, **resources), None, Tally(), NOW_NS)
        samples = [sample for family in averages(overview, "default") for sample in family.samples]
        return {(sample.name.removeprefix("llm_d_epp_"), sample.labels["name"]): sample.value for sample in samples}

    return figures


def test_one_pool_has_its_averages_of_what_is_known(figures):
    told = figures({"waiting": 1.0}, {"waiting": 4.0}, None, endpoints=[{"pools": (0,)}, {"pools": (0,)}, {"pools": (0,)}])
    assert told == {("ready_endpoints", "default"): 3, ("average_queue_size", "default"): 2.5}


def test_of_several_pools_each_has_its_own(figures):
    told = figures(
        {"running": 2.0},
        {"running": 4.0},
        endpoints=[{"pools": (0, 1)}, {"pools": (1,)}],
        pools=(Pool(name="a"), Pool(name="b")),
    )
    assert told == {
        ("ready_endpoints", "default"): 2,
        ("ready_endpoints", "default/a"): 1,
        ("ready_endpoints", "default/b"): 2,
        ("average_running_requests", "default"): 3,
        ("average_running_requests", "default/a"): 2,
        ("average_running_requests", "default/b"): 3,
    }
