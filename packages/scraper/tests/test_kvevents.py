"""KV events: both encodings of vLLM and SGLang's, sequence numbers, and what foreign bytes can do (nothing)."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.scraper.core.kvevents import AllCleared, Order, Removed, Stored, Verdict, decode, sequence_of
from shunter.scraper.errors import KvEventError

encode = msgspec.msgpack.encode

# Recorded of vLLM 0.32, tokens shortened: the prompt's first block of an adapter with a salt, and an eviction.
VLLM = {
    "type": "BlockStored",
    "block_hashes": [14549860257199381808],
    "parent_block_hash": 4477007493067189617,
    "token_ids": [265, 319],
    "block_size": 2,
    "lora_id": 4,
    "medium": "GPU",
    "lora_name": "lora-b",
    "extra_keys": [["lora-b", "abc"]],
    "group_idx": 0,
    "kv_cache_spec_kind": "full_attention",
}
REMOVED = {"type": "BlockRemoved", "block_hashes": [2219459595342643281], "medium": "GPU", "group_idx": 0}
# Recorded of SGLang 0.5: signed hashes, no extra keys, an adapter's name only where there is one.
SGLANG = {
    "type": "BlockStored",
    "block_hashes": [-1512444685475629517],
    "parent_block_hash": None,
    "token_ids": [321, 320],
    "block_size": 2,
    "lora_id": None,
    "medium": "GPU",
}


def publication(*events, rank=0):
    return encode([1795427711.69, list(events), rank])


def test_maps_of_vllm():
    stored, removed, cleared = decode(publication(VLLM, REMOVED, {"type": "AllBlocksCleared"}))
    assert stored == Stored(**{name: value for name, value in VLLM.items() if name != "type"})
    assert stored.adapter == "lora-b"
    assert removed == Removed(block_hashes=[2219459595342643281], medium="GPU", group_idx=0)
    assert cleared == AllCleared()


def test_arrays_of_older_releases_say_the_same():
    arrays = [["BlockStored", *list(VLLM.values())[1:]], ["BlockRemoved", *list(REMOVED.values())[1:]], ["AllBlocksCleared"]]
    assert decode(publication(*arrays)) == decode(publication(VLLM, REMOVED, {"type": "AllBlocksCleared"}))


def test_an_old_array_is_shorter():
    (stored,) = decode(publication(["BlockStored", [b"\x01" * 32], None, [1, 2], 2, 4]))
    assert (stored.block_hashes, stored.medium, stored.adapter) == ([b"\x01" * 32], None, "4")


def test_signed_hashes_of_sglang():
    (stored,) = decode(publication(SGLANG))
    assert stored.block_hashes == [-1512444685475629517]
    assert stored.adapter is None


def test_what_later_releases_add_is_passed_over():
    assert decode(publication({"type": "BlockMoved", "to": 1}, VLLM | {"colour": "red"})) == decode(publication(VLLM))


def test_windows_are_not_prefixes():
    (stored,) = decode(publication(VLLM | {"kv_cache_spec_kind": "sliding_window"}))
    assert stored.partial
    assert not decode(publication(VLLM))[0].partial


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        encode({"events": []}),
        encode([1.0]),
        encode([1.0, 7, 0]),
        publication("BlockStored"),
        publication([]),
        publication({"block_hashes": []}),
        publication({"type": 7}),
        publication(VLLM | {"block_hashes": "abc"}),
        publication(VLLM | {"token_ids": [1]}),
        publication(VLLM | {"token_ids": [1, 2**32]}),
        publication(VLLM | {"token_ids": [-1, 2]}),
        publication(VLLM | {"block_size": 0}),
        publication(VLLM | {"extra_keys": []}),
        publication(VLLM | {"extra_keys": 3}),
        publication(VLLM | {"lora_name": "x" * 257}),
        b"\x93\x00\x91" + b"\x91" * 5000 + b"\x00\x00",
    ],
)
def test_what_is_no_publication_is_an_error(payload):
    with pytest.raises(KvEventError):
        decode(payload)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
SPOILT = st.dictionaries(st.sampled_from(sorted(VLLM)), ANYTHING, max_size=4).map(lambda changes: VLLM | changes)


@given(st.binary(max_size=300) | st.lists(SPOILT | ANYTHING, max_size=3).map(lambda events: publication(*events)))
def test_any_bytes_are_events_or_an_error(payload):
    with contextlib.suppress(KvEventError):
        assert all(isinstance(event, Stored | Removed | AllCleared) for event in decode(payload))


@pytest.mark.parametrize(
    "frames",
    [[b"topic", (7).to_bytes(8, "big"), b"x"], [b"", b"topic", (7).to_bytes(8, "big"), b"x"], [(7).to_bytes(8, "big"), b"x"]],
)
def test_the_sequence_number_stands_before_the_payload(frames):
    assert sequence_of(frames) == 7


@pytest.mark.parametrize("frames", [[], [b"x"], [b"topic", b"7", b"x"]])
def test_frames_without_a_sequence_number_are_refused(frames):
    with pytest.raises(KvEventError):
        sequence_of(frames)


def test_order_tells_gaps_repetitions_and_restarts():
    order = Order()
    assert order.live(0) is Verdict.NEXT
    order.take(0)
    assert order.live(3) is Verdict.GAP
    assert order.repeated(1) is Verdict.NEXT  # a replay brings them up to 4
    order.take(4)
    assert order.live(4) is Verdict.KNOWN  # published while the replay ran
    assert order.live(5) is Verdict.NEXT
    order.take(5)
    assert order.live(0) is Verdict.RESTARTED


def test_joining_late_is_a_gap():
    assert Order().live(313) is Verdict.GAP
