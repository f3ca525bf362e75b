"""What an endpoint holds: an engine's events, in whatever hashes, end up as the names that a prompt's tokens have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.scraper.core.holdings import Holdings
from shunter.scraper.core.kvevents import AllCleared, Removed, Stored
from shunter.snapshot import Cleared, Dropped, Held, names_of

PROMPT = list(range(1000, 1256))  # 256 tokens: 16 blocks, 4 strides


def stored(hashes, tokens, parent=None, **more):
    return Stored(block_hashes=hashes, token_ids=tokens, parent_block_hash=parent, block_size=16, medium="GPU", **more)


def names(statements, kind=Held):
    return [name for statement in statements if isinstance(statement, kind) for name in statement.names]


@pytest.fixture
def holdings():
    return Holdings(3, 7)


def test_a_prompt_stored_at_once(holdings):
    (held,) = holdings.apply([stored(list(range(16)), PROMPT)])
    assert held == Held(3, 7, "gpu", 16, None, names_of(PROMPT, 16))


def test_a_prompt_stored_block_by_block_has_the_same_names(holdings):
    events = [stored([at], PROMPT[at * 16 : at * 16 + 16], at - 1 if at else None) for at in range(16)]
    assert tuple(names(holdings.apply(events))) == names_of(PROMPT, 16)


def test_adapter_and_salt_are_told_apart_as_in_vllm(holdings):
    keys = [["lora-b", "salt"], *[["lora-b"]] * 15]
    statements = holdings.apply([stored(list(range(16)), PROMPT, lora_name="lora-b", extra_keys=keys)])
    assert tuple(names(statements)) == names_of(PROMPT, 16, adapter="lora-b", salt="salt")


def test_sglang_tells_the_adapter_only_by_name(holdings):
    statements = holdings.apply([stored([-1, -2, -3, -4], PROMPT[:64], lora_name="lora-b")])
    assert tuple(names(statements)) == names_of(PROMPT[:64], 16, adapter="lora-b")


def test_images_have_names_of_their_own(holdings):
    keys = [None, None, ["a hash", 3], None]
    assert tuple(names(holdings.apply([stored([1, 2, 3, 4], PROMPT[:64], extra_keys=keys)]))) != names_of(PROMPT[:64], 16)


def test_the_same_block_told_twice_is_said_once(holdings):
    event = stored(list(range(16)), PROMPT)
    holdings.apply([event])
    assert holdings.apply([event]) == []


def test_a_stride_is_dropped_with_its_last_block(holdings):
    holdings.apply([stored(list(range(16)), PROMPT)])
    assert holdings.apply([Removed(block_hashes=[14], medium="GPU")]) == []
    assert names(holdings.apply([Removed(block_hashes=[15], medium="GPU")]), Dropped) == list(names_of(PROMPT, 16)[3:])


def test_a_block_without_a_known_parent_has_no_name_until_its_chain_is_stored_again(holdings):
    tail = stored([4, 5, 6, 7], PROMPT[64:128], 3)
    assert holdings.apply([tail]) == []
    assert holdings.orphans == 4
    assert tuple(names(holdings.apply([stored([0, 1, 2, 3], PROMPT[:64]), tail]))) == names_of(PROMPT[:128], 16)


def test_what_is_offloaded_is_known_by_its_hash(holdings):
    holdings.apply([stored([0, 1, 2, 3], PROMPT[:64])])
    name = names_of(PROMPT[:64], 16)
    assert holdings.apply([Stored(block_hashes=[3], medium="CPU")]) == [Held(3, 7, "cpu", 16, None, name)]
    assert holdings.apply([Removed(block_hashes=[3], medium="GPU")]) == [Dropped(3, 7, "gpu", name)]
    assert holdings.apply([Removed(block_hashes=[3], medium="CPU")]) == [Dropped(3, 7, "cpu", name)]
    assert len(holdings) == 3


def test_cleared_is_empty(holdings):
    holdings.apply([stored([0, 1, 2, 3], PROMPT[:64])])
    assert holdings.apply([AllCleared()]) == [Cleared(3, 7)]
    assert len(holdings) == 0
    assert holdings.apply([Removed(block_hashes=[3], medium="GPU")]) == []


def test_layers_that_keep_a_window_say_nothing(holdings):
    window = stored([0, 1, 2, 3], PROMPT[:64], group_idx=1, kv_cache_spec_kind="sliding_window")
    whole = stored([0, 1, 2, 3], PROMPT[:64], group_idx=0, kv_cache_spec_kind="full_attention")
    assert len(holdings.apply([window, whole])) == 1
    assert holdings.apply([Removed(block_hashes=[0, 1, 2, 3], medium="GPU", group_idx=1)]) == []


def test_an_engine_that_never_removes_is_bounded():
    holdings = Holdings(0, 1, max_blocks=8)
    statements = holdings.apply([stored(list(range(16)), PROMPT)])
    assert len(holdings) == 8
    assert names(statements, Dropped) == list(names_of(PROMPT, 16)[:2])


def test_another_content_under_an_old_hash_replaces_it(holdings):
    holdings.apply([stored([0, 1, 2, 3], PROMPT[:64])])
    statements = holdings.apply([stored([0, 1, 2, 3], PROMPT[64:128])])
    assert names(statements, Dropped) == list(names_of(PROMPT[:64], 16))
    assert names(statements) == list(names_of(PROMPT[64:128], 16))


HASHES = st.integers(0, 30)
EVENTS = st.one_of(
    st.builds(
        lambda hashes, parent, seed: stored(hashes, [seed + at for at in range(16 * len(hashes))], parent),
        st.lists(HASHES, min_size=1, max_size=9),
        st.none() | HASHES,
        st.integers(0, 3),
    ),
    st.builds(
        lambda hashes, medium: Removed(block_hashes=hashes, medium=medium), st.lists(HASHES), st.sampled_from(["GPU", "CPU"])
    ),
    st.builds(lambda hashes: Stored(block_hashes=hashes, medium="CPU"), st.lists(HASHES)),
    st.just(AllCleared()),
)


@given(st.lists(EVENTS, max_size=20))
def test_what_is_said_agrees_with_itself(events):
    """Whatever the engine says: a block is dropped only after it was held, and held only if it was not."""
    holdings = Holdings(0, 1, max_blocks=20)
    held = {}
    for statement in holdings.apply(events):
        match statement:
            case Held():
                held.setdefault(statement.tier, []).extend(statement.names)
            case Dropped():
                for name in statement.names:
                    held[statement.tier].remove(name)
            case Cleared():
                held.clear()
    assert len(holdings) <= 20
