"""The KV cache keeps vLLM's rules. That it agrees with a cache of single blocks is shown in test_leaps."""

import pytest

from shunter.lab.core.cache import KvCache
from shunter.lab.core.requests import Request, SegmentRequest


@pytest.fixture
def cache_of():
    """A cache of 4-token blocks in which nobody is lazy, and a way to make paths of it: letters are pieces of 8 tokens."""

    def build(blocks, **options):
        cache = KvCache(blocks + 1, 4, lambda path: pytest.fail("nobody is lazy"), **options)
        return cache, lambda letters: cache.path(letters, [8 * (at + 1) for at in range(len(letters))])

    return build


def test_the_null_block_is_never_given_out(cache_of):
    cache, path = cache_of(4)
    assert cache.extend(path("ab"), 16)
    assert (cache.usage, cache.free) == (1.0, 0)


def test_an_extension_that_does_not_fit_changes_nothing(cache_of):
    cache, path = cache_of(4)
    assert cache.extend(path("a"), 5)
    other = path("bc")
    assert not cache.fits(other, 12)
    assert not cache.extend(other, 12)
    assert (cache.used, other.tokens) == (2, 0)
    assert cache.extend(other, 8)


def test_who_begins_alike_shares_blocks(cache_of):
    cache, path = cache_of(10)
    cache.extend(path("ab"), 16)
    other = path("ac")
    assert cache.match(other, 15) == 8
    cache.extend(other, 16)
    assert cache.used == 6


def test_a_prefix_is_matched_in_whole_blocks_up_to_the_limit(cache_of):
    cache, path = cache_of(10)
    cache.extend(path("ab"), 15)
    assert [cache.match(path("ab"), tokens) for tokens in (3, 4, 11, 16)] == [0, 4, 8, 12]
    assert cache.match(path("b"), 8) == 0


def test_what_is_released_is_free_and_still_known(cache_of):
    cache, path = cache_of(4)
    first = path("a")
    cache.extend(first, 7)
    cache.release(first)
    assert (cache.used, cache.known, cache.match(path("a"), 8)) == (0, 1, 4)


def test_a_block_that_is_computed_twice_is_kept_once(cache_of):
    """The last token of a prompt is always computed, so a prompt of full blocks comes to a block that is known."""
    cache, path = cache_of(4)
    cache.extend(path("a"), 8)
    again = path("a")
    assert cache.match(again, 7) == 4
    cache.extend(again, 8)
    assert cache.used == 2


def test_blocks_that_nobody_knows_are_given_out_first(cache_of):
    cache, path = cache_of(4)
    for letter, tokens in (("a", 8), ("b", 5)):
        gone = path(letter)
        cache.extend(gone, tokens)
        cache.release(gone)
    cache.extend(path("c"), 4)
    assert (cache.match(path("a"), 8), cache.match(path("b"), 8)) == (8, 4)


def test_least_recently_released_is_forgotten_first_and_tails_before_heads(cache_of):
    cache, path = cache_of(4)
    first, second = path("a"), path("b")
    cache.extend(first, 8)
    cache.extend(second, 8)
    cache.release(first)
    cache.release(second)
    cache.extend(path("c"), 4)
    assert (cache.match(path("a"), 8), cache.match(path("b"), 8)) == (4, 8)
    cache.extend(path("c"), 8)
    cache.extend(path("d"), 4)
    assert (cache.match(path("a"), 8), cache.match(path("b"), 8)) == (0, 4)


def test_a_hit_saves_a_block_from_being_forgotten(cache_of):
    cache, path = cache_of(4)
    gone = path("a")
    cache.extend(gone, 8)
    cache.release(gone)
    again = path("ab")
    assert cache.extend(again, 16), "two blocks revived, two fresh ones"
    assert (cache.used, cache.match(path("a"), 8)) == (4, 8)


def test_without_caching_nothing_is_known_or_shared(cache_of):
    cache, path = cache_of(4, caching=False)
    first = path("a")
    cache.extend(first, 8)
    cache.extend(path("a"), 8)
    assert (cache.used, cache.match(path("a"), 8)) == (4, 0)
    cache.release(first)
    assert (cache.used, cache.known) == (2, 0)


def test_what_is_forgotten_leaves_no_trace(cache_of):
    cache, _ = cache_of(4)
    for number in range(100):
        gone = cache.path([number, "tail"], [9, 12])
        cache.extend(gone, 12)
        cache.release(gone)
    assert len(cache._root.children) <= 2
    assert cache.used == 0


def test_an_enormous_cache_costs_only_what_is_used(cache_of):
    cache, path = cache_of(10**12)
    cache.extend(path("a"), 5)
    assert cache.used == 2


def test_adapters_and_salts_have_contents_of_their_own():
    variants = [{}, {"adapter": "a"}, {"adapter": "b"}, {"cache_salt": "a"}, {"adapter": "a", "cache_salt": "b"}]
    keys = [Request(id="r", prompt=range(8), output=(1,), **fields).pieces(4)[0][:2] for fields in variants]
    assert len({key for pair in keys for key in pair}) == 10


def test_real_tokens_are_cut_into_blocks_and_a_rest_of_its_own():
    request = Request(id="r", prompt=range(6), output=range(3))
    keys, ends = request.pieces(4)
    assert (len(keys), keys[-1], ends) == (3, "r", [4, 8, 9])
    assert request.pieces(4) == (keys, ends)


def test_imagined_tokens_are_cut_into_their_segments(segment):
    request = SegmentRequest(id=0, prompt=(segment(7, 100), segment(8, 5)), output=segment(9, 50), adapter="a")
    assert request.pieces(16) == ([("a", 7), 8, 9], [100, 105, 155])
