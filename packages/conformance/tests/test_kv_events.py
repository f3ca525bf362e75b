"""KV events are read in both of their forms, and bytes that are none are said to be none."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.conformance.core.kvevents import Cleared, Other, Removed, Stored, read_batch, read_frames
from shunter.conformance.errors import FormatError, UsageError
from shunter.conformance.sections.servers.target import Means
from shunter.conformance.shell.servers.exam import examine

MAPS = [
    {
        "type": "BlockStored",
        "block_hashes": [1, 2],
        "parent_block_hash": None,
        "token_ids": [7, 8, 9, 10],
        "block_size": 2,
        "lora_id": None,
        "medium": "GPU",
        "group_idx": 0,
    },
    {"type": "BlockRemoved", "block_hashes": [1], "medium": "GPU"},
    {"type": "AllBlocksCleared"},
]
ARRAYS = [
    ["BlockStored", [1, 2], None, [7, 8, 9, 10], 2, None, "GPU", None, "more"],
    ["BlockRemoved", [1], "GPU"],
    ["AllBlocksCleared"],
]


def batch(events, *rank):
    return msgspec.msgpack.encode([1.5, events, *rank])


def test_maps_and_arrays_say_the_same():
    assert read_batch(batch(MAPS)).events == read_batch(batch(ARRAYS)).events
    stored, removed, cleared = read_batch(batch(MAPS, 3)).events
    assert isinstance(stored, Stored)
    assert stored.token_ids == [7, 8, 9, 10]
    assert removed == Removed([1], "GPU")
    assert cleared == Cleared()
    assert read_batch(batch(MAPS, 3)).rank == 3


def test_signed_and_unsigned_hashes_are_one():
    signed = {**MAPS[1], "block_hashes": [-1]}
    unsigned = {**MAPS[1], "block_hashes": [2**64 - 1]}
    assert read_batch(batch([signed])).events == read_batch(batch([unsigned])).events


def test_hashes_may_be_bytes():
    assert read_batch(batch([{**MAPS[1], "block_hashes": [b"ab"]}])).events == (Removed([b"ab"], "GPU"),)


def test_an_event_of_an_unknown_type_is_left_alone():
    assert read_batch(batch([["BlockMoved", 1], {"type": "BlockMoved"}])).events == (Other("BlockMoved"),) * 2


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (b"\xc1", "cannot be read"),
        (msgspec.msgpack.encode({"a": 1}), "cannot be read"),
        (msgspec.msgpack.encode([1.5]), "of 1 members"),
        (batch([{"hashes": []}]), "event 0 has no type"),
        (batch([[]]), "event 0 has no type"),
        (batch([7]), "cannot be read"),
        (batch([{**MAPS[0], "block_size": "2"}]), "event 0, a BlockStored"),
        (batch([MAPS[1], {**MAPS[0], "token_ids": [7]}]), "event 1, a BlockStored of 2 blocks of 2 tokens: 1 tokens"),
        (batch([["BlockRemoved"]]), "event 0, a BlockRemoved"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(payload, problem):
    with pytest.raises(FormatError, match=problem):
        read_batch(payload)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(payload):
    with contextlib.suppress(FormatError):
        read_batch(payload)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5) | st.binary(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5) | st.integers(0, 9), inner, max_size=4),
    max_leaves=20,
)
EVENTS = st.sampled_from([*MAPS, *ARRAYS]).flatmap(
    lambda event: (
        st.dictionaries(st.sampled_from(list(event)), VALUES, max_size=2).map(lambda changed: event | changed)
        if isinstance(event, dict)
        else st.lists(VALUES, max_size=6).map(lambda rest: [event[0], *rest])
    )
)


@given(st.lists(EVENTS | VALUES, max_size=4), VALUES)
def test_a_batch_of_anything_is_read_or_refused(events, rank):
    with contextlib.suppress(FormatError):
        read_batch(batch(events, rank))


@given(st.lists(st.binary(max_size=10), max_size=5))
def test_any_frames_are_read_or_refused(frames):
    try:
        message = read_frames(frames)
    except FormatError:
        assert len(frames) not in {2, 3} or len(frames[-2]) != 8
    else:
        assert message.payload == frames[-1]


def test_the_topic_may_be_missing():
    assert read_frames([b"\0" * 7 + b"\5", b"x"]) == read_frames([b"", b"\0" * 7 + b"\5", b"x"])


@pytest.mark.parametrize("endpoint", ["tcp://*:5557", "http://a", "127.0.0.1:5557", "tcp://"])
def test_an_endpoint_that_is_none_is_refused_before_anything_happens(endpoint):
    with pytest.raises(UsageError, match="want tcp://HOST:PORT"):
        examine("http://127.0.0.1:9", means=Means(kv_events=endpoint))


def test_without_pyzmq_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("shunter.conformance.shell.servers.kvevents.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"shunter-conformance\[kv-events\]"):
        examine("http://127.0.0.1:9", means=Means(kv_events="tcp://127.0.0.1:9"))
