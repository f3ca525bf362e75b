"""The snapshots' bytes: what schema 1 looks like, what a reader of another release makes of them, what it refuses."""

import contextlib
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.snapshot import (
    Endpoint,
    Health,
    InferenceModel,
    Load,
    LoadRow,
    Objective,
    Pool,
    Rewrite,
    RewriteRule,
    SnapshotError,
    Target,
    Topology,
    decode_load,
    decode_topology,
    encode,
)

GOLDEN = Path(__file__).parent / "golden"

TOPOLOGY = Topology(
    epoch=1_700_000_000_000_000_000,
    generation=7,
    pools=(Pool(name="llama", selector={"app": "vllm"}, target_ports=(8000, 8001), failure_mode="FailOpen"),),
    endpoints=(
        Endpoint(slot=0, incarnation=1, name="vllm-0", address="10.1.2.3", port=8000, pools=(0,), labels={"app": "vllm"}),
        Endpoint(slot=3, incarnation=9, name="vllm-1", address="fd00::7", port=8001, rank=1, ready=False, engine="sglang"),
    ),
    objectives=(Objective(name="chat", pool="llama", priority=10), Objective(name="batch", pool="llama", priority=-5)),
    rewrites=(
        Rewrite(
            name="canary",
            pool="llama",
            created="2026-01-01T00:00:00Z",
            rules=(
                RewriteRule(models=("food",), targets=(Target(model="food-v1", weight=90), Target(model="food-v2", weight=10))),
            ),
        ),
    ),
    models=(InferenceModel(name="old", pool="llama", model="m", criticality="Sheddable", targets=(Target(model="m-1"),)),),
)
ROWS = (
    LoadRow(
        slot=0,
        incarnation=1,
        health=Health.FRESH,
        sampled_ns=123_456_789,
        waiting=2.0,
        running=4.0,
        kv_usage=0.25,
        block_size=16,
        num_blocks=1024,
        max_adapters=4,
        running_adapters=("lora-a", "lora-b"),
        waiting_adapters=("lora-c",),
    ),
    LoadRow(slot=3, incarnation=9, health=Health.FAILED, failures=3, reason="connection refused"),
)
LOAD = Load.of(ROWS, epoch=TOPOLOGY.epoch, topology_generation=7, published_ns=123_500_000)
CASES = [("schema1-topology.msgpack", TOPOLOGY, decode_topology), ("schema1-load.msgpack", LOAD, decode_load)]


@pytest.mark.parametrize(("name", "value", "decode"), CASES)
def test_the_bytes_of_schema_1_never_change(name, value, decode):
    path = GOLDEN / name
    if os.environ.get("SHUNTER_UPDATE_GOLDEN"):
        path.write_bytes(encode(value))
    assert encode(value) == path.read_bytes()
    assert decode(path.read_bytes()) == value


@pytest.mark.parametrize(("name", "value", "decode"), CASES)
def test_a_newer_writers_further_fields_are_ignored(name, value, decode):
    fields = msgspec.msgpack.decode(encode(value))
    assert decode(msgspec.msgpack.encode([*fields, {"new": 1}, "field"])) == value


@pytest.mark.parametrize("missing", [1, 2])
def test_an_older_writers_endpoints_list_no_adapters_or_no_models_at_all(missing):
    fields = msgspec.msgpack.decode(encode(TOPOLOGY))
    at = Topology.__struct_fields__.index("endpoints")
    fields[at] = [endpoint[:-missing] for endpoint in fields[at]]
    assert decode_topology(msgspec.msgpack.encode(fields)) == TOPOLOGY


def test_an_older_writers_missing_columns_take_the_rows_defaults():
    fields = msgspec.msgpack.decode(encode(LOAD))
    rows = decode_load(msgspec.msgpack.encode(fields[:-2])).rows()
    assert [row.waiting for row in rows] == [2.0, None]
    assert [row.reason for row in rows] == ["", ""]


@pytest.mark.parametrize(("name", "value", "decode"), CASES)
def test_another_schema_is_refused_with_both_numbers(name, value, decode):
    fields = msgspec.msgpack.decode(encode(value))
    for rest in (fields[1:], ["entirely", "different"]):
        with pytest.raises(SnapshotError, match="schema 2, this reader 1"):
            decode(msgspec.msgpack.encode([2, *rest]))


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise_snapshot_error(data):
    for decode in (decode_topology, decode_load):
        with contextlib.suppress(SnapshotError):
            decode(data)


@given(st.integers(0, 200), st.binary(max_size=8))
def test_a_damaged_snapshot_decodes_or_raises_snapshot_error(at, patch):
    data = bytearray(encode(LOAD))
    data[at : at + len(patch)] = patch
    with contextlib.suppress(SnapshotError):
        decode_load(bytes(data))


def test_columns_and_rows_are_the_same_thing():
    assert LOAD.rows() == ROWS
    assert decode_load(encode(LOAD)).rows() == ROWS
    nobody = Load.of([], epoch=1, topology_generation=1)
    assert decode_load(encode(nobody)).rows() == ()


def test_an_ipv6_authority_is_bracketed():
    assert [endpoint.authority for endpoint in TOPOLOGY.endpoints] == ["10.1.2.3:8000", "[fd00::7]:8001"]


def test_a_value_never_sampled_or_from_the_future_is_infinitely_old():
    assert ROWS[0].age_s(1_123_456_789) == 1.0
    assert ROWS[0].age_s(1) == float("inf")
    assert ROWS[1].age_s(1_123_456_789) == float("inf")
