import random

import pytest

from shunter.picker.core.kinds import Named, Profile
from shunter.picker.core.policy import Crew, Policy
from shunter.picker.core.request import Request
from shunter.picker.plugins.legacy import LegacyTree
from shunter.picker.plugins.pickers import Random

CRITICAL = Request(headers={}, target_model="lora", priority=1)
SHEDDABLE = Request(headers={}, target_model="lora")


def keep(fleet, request, seed=1, **parameters):
    policy = Policy(profiles=(Profile("default", Random()),), others=(Named("tree", LegacyTree(**parameters)),))
    return list(Crew(policy, random.Random(seed), lambda *_: None).find("tree").keep(request, fleet))


def queue(*waiting):
    return [{"waiting": float(value), "kv_usage": 0.5} for value in waiting]


@pytest.mark.parametrize(
    ("waiting", "kept"),
    [
        ([5, 0, 1, 2], [1, 2]),  # 0 + 5 // 4 = 1
        ([0, 2, 4, 6], [0]),
        ([3, 3, 6], [0, 1]),  # 6 is more than 5; the range of the others is 0
        ([6, 9], []),
    ],
)
def test_the_sheddable_need_room_and_get_the_least_queue(make_fleet, waiting, kept):
    assert keep(make_fleet(*queue(*waiting)), SHEDDABLE) == kept


def test_a_full_cache_has_no_room(make_fleet):
    rows = [{"waiting": 0.0, "kv_usage": 0.8}, {"waiting": 0.0, "kv_usage": 0.81}]
    assert keep(make_fleet(*rows), SHEDDABLE) == [0]
    assert keep(make_fleet(rows[1]), SHEDDABLE) == []


def test_the_critical_are_never_dropped(make_fleet):
    assert keep(make_fleet(*queue(500, 200)), CRITICAL) == [1]


def test_the_least_used_caches_are_left(make_fleet):
    fleet = make_fleet(*({"kv_usage": usage} for usage in (0.1, 0.3, 0.7)))
    assert keep(fleet, SHEDDABLE) == [0, 1]  # 0.1 + 0.6 / 3


def test_the_critical_look_for_their_adapter_before_the_queue(make_fleet):
    rows = [
        {"waiting": 4.0, "running_adapters": ("lora",), "max_adapters": 1},
        {"waiting": 0.0, "running_adapters": ("other",), "max_adapters": 1},
    ]
    assert keep(make_fleet(*rows), CRITICAL) == [0]
    assert keep(make_fleet(*rows), SHEDDABLE) == [1]


def test_affinity_now_and_then_loads_an_adapter_elsewhere(make_fleet):
    fleet = make_fleet({"running_adapters": ("lora",), "max_adapters": 4}, {"max_adapters": 4})
    found = [keep(fleet, CRITICAL, seed, lora_affinity_threshold=0.75)[0] for seed in range(400)]
    assert 70 < sum(found) < 130


def test_an_adapter_goes_where_there_is_room(make_fleet):
    full = {"running_adapters": ("a",), "max_adapters": 1}
    assert keep(make_fleet(full, full | {"max_adapters": 2}), CRITICAL) == [1]
    assert keep(make_fleet(full, full), CRITICAL) == [0, 1]


def test_from_128_waiting_on_the_queue_is_looked_at_first(make_fleet):
    rows = [
        {"waiting": 400.0, "running_adapters": ("lora",), "max_adapters": 1},
        {"waiting": 128.0, "running_adapters": ("other",), "max_adapters": 1},
    ]
    assert keep(make_fleet(*rows), CRITICAL) == [1]
