"""Which endpoints of a snapshot are an intent's, and what they weigh."""

import contextlib
import json

import pytest

from shunter.envoyconf import load_intent
from shunter.envoyconf.core.xds.members import Member
from shunter.envoyconf.core.xds.weights import USUAL_WEIGHT
from shunter.envoyconf.shell.fleet import Fleet
from shunter.envoyconf.shell.speeds import Speeds
from shunter.picker.core.learned import Learned, Row, encode_learned, row_key
from shunter.snapshot import Endpoint, Health, Load, LoadRow, Pool, RingWriter, Topology, View


def view(*endpoints, waiting=None, pools=("llama",)):
    """Return a view of (port, ready, pool) triples."""
    rows = [
        Endpoint(slot=slot, incarnation=1, name=str(port), address="10.0.0.1", port=port, ready=ready, pools=(pool,))
        for slot, (port, ready, pool) in enumerate(endpoints)
    ]
    loads = [
        LoadRow(slot=each.slot, incarnation=1, health=Health.FRESH, waiting=(waiting or {}).get(each.port, 0.0), running=1.0)
        for each in rows
    ]
    every = tuple(
        Pool(name=name, namespace=namespace or "default") for namespace, _, name in (p.rpartition("/") for p in pools)
    )
    return View(
        Topology(epoch=1, generation=1, pools=every, endpoints=tuple(rows)), Load.of(loads, epoch=1, topology_generation=1)
    )


def intent(profile="lean", **pool):
    whole = {"name": "llama", "selector": {"app": "vllm"}} | pool
    return load_intent(json.dumps({"pools": [whole], "profile": profile}))


def test_ready_endpoints_of_the_pool_are_there_once_and_in_order():
    seen = Fleet().members(intent(), view((3, True, 0), (1, True, 0), (2, False, 0), (4, True, 1), (1, True, 0)), 0.0)
    assert seen == {"llama": (Member("10.0.0.1", 1), Member("10.0.0.1", 3))}


@pytest.mark.parametrize(
    ("named", "pools", "found"),
    [
        (None, ("other",), False),
        (None, ("prod/llama",), True),
        (None, ("prod/llama", "default/llama"), False),  # number 1
        (None, ("prod/llama", "test/llama"), True),
        ("prod/vllm", ("llama", "prod/vllm"), False),  # number 1, and the endpoint is of number 0
        ("prod/vllm", ("prod/vllm", "llama"), True),
        ("prod/vllm", ("test/vllm",), None),
    ],
)
def test_a_pool_is_the_inference_pool_it_names_or_the_one_of_its_name(named, pools, found):
    seen = Fleet().members(intent(inferencePool=named), view((1, True, 0), pools=pools), 0.0)
    assert bool(seen.get("llama")) == bool(found)


def test_weights_are_for_where_nobody_picks():
    fleet, busy = Fleet(), view((1, True, 0), (2, True, 0), (3, True, 0), waiting={1: 50.0})
    for tick in range(50):
        seen = fleet.members(intent("native"), busy, tick / 10)["llama"]
    assert seen[0].weight < seen[1].weight == USUAL_WEIGHT
    assert {each.weight for each in fleet.members(intent(), busy, 6.0)["llama"]} == {1}


def test_who_was_seen_to_be_fast_gets_more(tmp_path):
    rows = [Row(slot=slot, incarnation=1, endpoint="", decode_per_s=rate) for slot, rate in enumerate((50.0, 200.0, None))]
    learned = Learned(rows={row_key((row.slot, 1)): row for row in rows})
    with contextlib.closing(RingWriter(tmp_path / "learned")) as writer, contextlib.closing(Speeds(tmp_path)) as speeds:
        assert speeds.read(1) == {}
        writer.publish(encode_learned(learned), 2)
        known = speeds.read(10**9)
        assert known == {(0, 1): 50.0, (1, 1): 200.0}
        writer.publish(b"something else", 3)
        assert speeds.read(2 * 10**9) == known
    fleet = Fleet()
    for tick in range(50):
        seen = fleet.members(intent("native"), view((1, True, 0), (2, True, 0), (3, True, 0)), tick / 10, known)["llama"]
    assert seen[0].weight < seen[2].weight < seen[1].weight


def test_one_that_comes_between_two_weighings_weighs_as_usual():
    fleet = Fleet()
    fleet.members(intent("native"), view((1, True, 0)), 0.0)
    seen = fleet.members(intent("native"), view((1, True, 0), (2, True, 0)), 0.01)
    assert [each.weight for each in seen["llama"]] == [USUAL_WEIGHT, USUAL_WEIGHT]
