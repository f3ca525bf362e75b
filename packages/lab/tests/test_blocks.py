"""The KV block pool keeps vLLM's rules."""

from hypothesis import given
from hypothesis import strategies as st

from shunter.lab.core.blocks import BlockPool, chain, chain_root


def test_the_null_block_is_never_given_out():
    pool = BlockPool(5)
    assert sorted(pool.take([], 4)) == [1, 2, 3, 4]
    assert pool.usage == 1.0


def test_an_enormous_cache_costs_only_what_is_used():
    pool = BlockPool(10**12)
    pool.release(pool.take([], 3))
    assert (pool.used, pool.take([], 1)) == (0, [4])


def test_a_refused_take_changes_nothing():
    pool = BlockPool(4)
    pool.take([], 2)
    assert pool.take([], 2) is None
    assert pool.used == 2
    assert pool.take([], 1) is not None


def test_a_freed_block_is_free_and_still_known():
    pool = BlockPool(4)
    (block,) = pool.take([], 1)
    pool.learn(block, 77)
    pool.release([block])
    assert pool.used == 0
    assert pool.match([77, 78]) == [block]


def test_a_hit_needs_room_only_if_its_block_is_free():
    pool = BlockPool(3)
    held = pool.take([], 1)
    pool.learn(held[0], 1)
    assert pool.take(held, 1) is not None, "a shared block costs nothing"
    assert pool.used == 2
    assert pool.take(held, 1) is None


def test_a_revived_block_is_not_counted_as_room_for_fresh_ones():
    pool = BlockPool(3)
    held = pool.take([], 1)
    pool.learn(held[0], 1)
    pool.release(held)
    assert pool.take(held, 2) is None
    assert len(pool.take(held, 1)) == 1


def test_the_least_recently_freed_content_is_forgotten_first_and_tails_before_heads():
    pool = BlockPool(4)
    first = pool.take([], 2)
    for content, block in enumerate(first):
        pool.learn(block, content)
    second = pool.take([], 1)
    pool.learn(second[0], 9)
    pool.release(first)
    pool.release(second)
    pool.take([], 1)
    assert pool.match([0]) == [first[0]], "the head of the first sequence survives its tail"
    assert pool.match([1]) == []
    assert pool.match([9]) == second


def test_without_caching_nothing_is_known():
    pool = BlockPool(4, caching=False)
    (block,) = pool.take([], 1)
    pool.learn(block, 1)
    assert pool.match([1]) == []


def test_adapters_salts_and_prefixes_have_contents_of_their_own():
    roots = {chain_root(None, ""), chain_root("a", ""), chain_root("b", ""), chain_root(None, "a"), chain_root("a", "b")}
    assert len(roots) == 5
    assert len({chain(root, (1, 2)) for root in roots}) == 5
    assert chain(0, (1, 2)) != chain(0, (2, 1))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.booleans()), max_size=60))
def test_references_and_free_blocks_always_add_up(operations):
    """Sequences share heads, take tails and go, in any order; nothing leaks, nothing is given out twice."""
    pool = BlockPool(8)
    live: list[list[int]] = []
    for content, fresh, leave in operations:
        if leave and live:
            pool.release(live.pop(content % len(live)))
        else:
            hits = pool.match([content])
            given = pool.take(hits, fresh)
            if given is None:
                continue
            for block in given[:1]:
                pool.learn(block, content)
            live.append([*hits, *given])
        held = [block for blocks in live for block in blocks]
        assert pool.used == len(set(held)) <= pool.capacity
        assert 0 not in held
        assert pool._references == [held.count(block) for block in range(len(pool._references))]
    for blocks in live:
        pool.release(blocks)
    assert pool.used == 0
