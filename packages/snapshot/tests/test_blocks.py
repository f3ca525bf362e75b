"""Names of blocks: equal where an engine could use the block, different everywhere else; statements survive the log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.snapshot import Begun, Cleared, Dropped, Held, decode_statement, encode_statement, names_of
from shunter.snapshot.blocks import MAX_NAMES, link, pack, root, stride_blocks
from shunter.snapshot.log import MAX_RECORD_BYTES

TOKENS = st.lists(st.integers(0, 2**32 - 1), max_size=400)
SIZES = st.integers(1, 200)


@given(TOKENS, TOKENS, SIZES)
def test_a_longer_prompt_has_the_names_of_its_beginning(start, rest, size):
    names = names_of(start, size)
    assert names_of(start + rest, size)[: len(names)] == names


@given(TOKENS, SIZES)
def test_strides_have_names_and_what_does_not_fill_one_has_none(tokens, size):
    stride = size * stride_blocks(size)
    assert stride >= 64
    assert stride - size < 64
    assert len(names_of(tokens, size)) == len(tokens) // stride


@pytest.mark.parametrize("other", [{"adapter": "lora-a"}, {"adapter": "lora-b"}, {"salt": "lora-a"}, {"salt": "x"}])
def test_adapter_and_salt_tell_all_blocks_apart(other):
    tokens = list(range(256))
    assert not set(names_of(tokens, 16)) & set(names_of(tokens, 16, **other))


def test_block_sizes_tell_blocks_apart():
    assert not set(names_of(range(256), 16)) & set(names_of(range(256), 32))


@given(st.lists(st.integers(0, 2**32 - 1), min_size=64, max_size=64), st.integers(0, 63), st.integers(1, 2**32 - 1))
def test_one_token_changes_the_name(tokens, at, change):
    other = list(tokens)
    other[at] ^= change
    assert names_of(tokens, 16) != names_of(other, 16)


def test_names_are_linked_block_by_block_as_an_engine_tells_them():
    tokens = list(range(128))
    name = root("lora-a", 32)
    for at in range(4):
        name = link(name, pack(tokens[at * 32 : at * 32 + 32]), ("salt",) if at == 0 else ())
    assert names_of(tokens, 32, adapter="lora-a", salt="salt")[-1] == name


def test_a_token_that_is_none_is_refused():
    with pytest.raises(OverflowError):
        names_of([2**32] * 64, 16)


NAMES = st.lists(st.integers(0, 2**64 - 1), max_size=20).map(tuple)
PAIR = (st.integers(0, 2**14), st.integers(0, 2**40))
STATEMENTS = st.one_of(
    st.just(Begun()),
    st.builds(Held, *PAIR, st.text(max_size=16), st.integers(1, 1024), st.none() | st.text(max_size=99), NAMES),
    st.builds(Dropped, *PAIR, st.text(max_size=16), NAMES),
    st.builds(Cleared, *PAIR),
)


@given(STATEMENTS)
def test_a_statement_survives_the_log(statement):
    assert decode_statement(encode_statement(statement)) == statement


@given(st.binary(max_size=200))
def test_foreign_bytes_say_nothing_or_something_and_never_raise(record):
    assert isinstance(decode_statement(record), Begun | Held | Dropped | Cleared | None)


def test_a_slot_beyond_all_is_damage():
    assert decode_statement(encode_statement(Held(1 << 60, 1, "gpu", 16, None, (1,)))) is None


def test_the_longest_statement_fits_a_record():
    held = Held(2**14, 2**63, "g" * 16, 2**16, "a" * 1024, (2**64 - 1,) * MAX_NAMES)
    assert len(encode_statement(held)) <= MAX_RECORD_BYTES
