import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shunter.picker.core.prefix import PrefixIndex, PrefixSettings, tune
from shunter.snapshot import Health, Load, LoadRow, Topology, View

BLOCK = 256


def index(**settings):
    return PrefixIndex(PrefixSettings(**settings))


def hashes(of, text, seed=b"model"):
    return of.hash(memoryview(text), seed)


def test_an_equal_prompt_is_found_whole():
    memory = index()
    prompt = hashes(memory, b"a" * BLOCK * 10)
    memory.insert(prompt, slot=3, incarnation=1)
    match = memory.match(prompt)
    assert (match.blocks, match.share, match.tokens) == ({3: 10}, {3: 1.0}, 640)


def test_a_prompt_is_found_up_to_where_it_differs():
    memory = index()
    memory.insert(hashes(memory, b"a" * BLOCK * 4 + b"b" * BLOCK * 4), slot=0, incarnation=1)
    memory.insert(hashes(memory, b"a" * BLOCK * 2), slot=5, incarnation=1)
    match = memory.match(hashes(memory, b"a" * BLOCK * 4 + b"c" * BLOCK * 4))
    assert match.blocks == {0: 4, 5: 2}
    assert match.share == {0: 0.5, 5: 0.25}


@pytest.mark.parametrize(
    ("told", "settings", "blocks"),
    [
        ([16, None], {"block_tokens": 128}, 16),  # the floor, as in the reference
        ([128, 16], {}, 8),
        ([16, 256], {"auto_tune": False}, 16),
        ([None], {"block_tokens": 128}, 8),
        ([], {}, 16),
        ([10**9, 0], {}, 16),
    ],
)
def test_blocks_are_as_large_as_the_engines(told, settings, blocks):
    memory = index(**settings)
    tune([memory], view_of(told))
    assert len(hashes(memory, b"a" * BLOCK * 16)) == blocks


def view_of(sizes):
    rows = [LoadRow(slot=at, incarnation=1, health=Health.FRESH, block_size=size) for at, size in enumerate(sizes)]
    return View(Topology(epoch=1, generation=1), Load.of(rows, epoch=1, topology_generation=1, published_ns=1))


def test_what_was_remembered_in_other_blocks_is_void_and_leaves_nothing_behind():
    one, other = index(), index(capacity_blocks=3, auto_tune=False)
    before = hashes(one, b"a" * BLOCK * 8)
    for memory in (one, other):
        memory.insert(before, slot=2, incarnation=1)
    tune([one, other], view_of([128]))
    for memory in (one, other):
        assert (len(memory), memory.pairs, memory.match(hashes(one, b"a" * BLOCK * 8)).share) == (0, 0, {})
        memory.take_back(before, slot=2, incarnation=1)
        memory.insert(before, slot=2, incarnation=1)  # another worker has not heard of it yet
        memory.insert(hashes(one, b"a" * BLOCK * 8), slot=2, incarnation=1)
        assert memory.match(hashes(one, b"a" * BLOCK * 8)).tokens == 512
    tune([one, other], view_of([128]))
    assert len(one) > 0


def blocks_of(chains):
    return {value for piece in chains._order for value in piece.hashes}


def counted(memory, prompt):
    """What match finds, block by block."""
    found = {}
    for slot, chains in memory._seen.items():
        seen = blocks_of(chains)
        depth = next((at for at, value in enumerate(prompt) if value not in seen), len(prompt))
        if depth:
            found[slot] = depth
    return found


@given(
    st.lists(st.tuples(st.lists(st.sampled_from("ab"), min_size=1, max_size=8), st.integers(0, 2)), min_size=1, max_size=60),
    st.integers(3, 20),
)
def test_of_every_prompt_a_slot_knows_a_beginning_and_nothing_beyond(sent, capacity):
    """Whatever is forgotten. It is what lets a match bisect."""
    memory = index(capacity_blocks=capacity, max_pairs=2 * capacity)
    prompts = [hashes(memory, b"".join(letter.encode() * BLOCK for letter in letters)) for letters, _ in sent]
    for prompt, (_, slot) in zip(prompts, sent, strict=True):
        memory.insert(prompt, slot=slot, incarnation=1)
        for each in prompts:
            known = counted(memory, each)
            assert memory.match(each).blocks == known
            for slot_of, chains in memory._seen.items():
                assert blocks_of(chains).isdisjoint(each[known.get(slot_of, 0) :])


def test_whoever_has_not_seen_the_first_block_matches_nothing():
    memory = index()
    prompt = hashes(memory, b"a" * BLOCK * 3)
    memory.insert(prompt[1:], slot=0, incarnation=1)
    assert memory.match(prompt).blocks == {}


@pytest.mark.parametrize("length", [0, 1, BLOCK - 1])
def test_less_than_a_block_is_not_hashed(length):
    memory = index()
    assert hashes(memory, b"a" * length) == []
    assert memory.match([]).share == {}


def test_another_seed_is_another_prompt():
    memory = index()
    memory.insert(hashes(memory, b"a" * BLOCK, seed=b"one"), slot=0, incarnation=1)
    assert memory.match(hashes(memory, b"a" * BLOCK, seed=b"two")).blocks == {}


def test_the_same_block_after_another_one_is_another_block():
    memory = index()
    assert len(set(hashes(memory, b"a" * BLOCK * 8))) == 8


def test_blocks_grow_so_that_long_prompts_have_few():
    assert len(hashes(index(), b"a" * (512 << 10))) == 322


def test_a_prompt_beyond_the_limit_is_not_looked_at():
    memory = index(max_tokens=128)
    assert hashes(memory, b"a" * 2 * BLOCK + b"b" * BLOCK) == hashes(memory, b"a" * 2 * BLOCK + b"c" * BLOCK)


def test_small_blocks_are_raised_to_the_floor():
    assert len(hashes(index(block_tokens=1), b"a" * BLOCK * 2)) == 2
    assert len(hashes(index(block_tokens=128), b"a" * BLOCK * 2)) == 1


def test_a_slot_with_a_new_owner_starts_cold():
    memory = index()
    old, new = hashes(memory, b"a" * BLOCK), hashes(memory, b"b" * BLOCK)
    memory.insert(old, slot=0, incarnation=1)
    memory.insert(new, slot=0, incarnation=2)
    assert memory.match(old).blocks == {}
    assert memory.match(new).blocks == {0: 1}


def test_retain_forgets_who_is_gone_or_somebody_else():
    memory = index()
    prompt = hashes(memory, b"a" * BLOCK)
    for slot in range(3):
        memory.insert(prompt, slot, incarnation=1)
    memory.retain({0: 1, 1: 2})
    assert memory.match(prompt).blocks == {0: 1}
    memory.retain({})
    assert (len(memory), memory.pairs) == (0, 0)


def test_a_full_endpoint_forgets_its_oldest_prompt():
    memory = index(capacity_blocks=10)
    prompts = [hashes(memory, bytes([letter]) * BLOCK * 5) for letter in range(3)]
    memory.insert(prompts[0], 0, 1)
    memory.insert(prompts[1], 0, 1)
    memory.insert(prompts[0], 0, 1)  # sent again: prompts[1] is now the oldest
    memory.insert(prompts[2], 0, 1)
    assert [memory.match(prompt).blocks.get(0, 0) for prompt in prompts] == [5, 0, 5]


def test_a_chain_loses_its_end_first():
    memory = index(capacity_blocks=6)
    first, second = hashes(memory, b"a" * BLOCK * 5), hashes(memory, b"b" * BLOCK * 3)
    memory.insert(first, 0, 1)
    memory.insert(second, 0, 1)
    assert memory.match(first).blocks == {0: 3}


def test_an_engine_that_tells_its_cache_size_is_believed():
    prompt_of = b"a" * BLOCK * 8
    for tuned, found in ((True, 4), (False, 8)):
        memory = index(auto_tune=tuned)
        prompt = hashes(memory, prompt_of)
        memory.insert(prompt, 0, 1, cache_tokens=256)
        assert memory.match(prompt).blocks == {0: found}


def test_when_memory_is_full_the_largest_endpoint_pays():
    memory = index(max_pairs=12)
    large = hashes(memory, b"a" * BLOCK * 9)
    memory.insert(large, 0, 1)
    small = hashes(memory, b"b" * BLOCK * 3)
    memory.insert(small, 1, 1)
    assert memory.match(large).blocks == {0: 7}
    assert memory.match(small).blocks == {1: 3}


def test_short_prompts_take_no_more_memory_than_long_ones():
    memory = index(max_pairs=10)
    for letter in range(9):
        memory.insert(hashes(memory, bytes([letter]) * BLOCK), 0, 1)
    assert len(memory) == 5


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=40))
def test_a_match_is_the_common_prefix(one, other):
    memory = index()
    texts = [b"".join(bytes([letter]) * BLOCK for letter in letters) for letters in (one, other)]
    memory.insert(hashes(memory, texts[0]), 7, 1)
    common = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    assert memory.match(hashes(memory, texts[1])).blocks.get(7, 0) == common


class Bounds(RuleBasedStateMachine):
    """Whatever is inserted, forgotten and retained: memory stays bounded and its accounts agree."""

    def __init__(self):
        super().__init__()
        self.memory = index(capacity_blocks=8, max_pairs=20)

    @rule(start=st.integers(0, 3), count=st.integers(0, 12), slot=st.integers(0, 4), incarnation=st.integers(1, 2))
    def insert(self, start, count, slot, incarnation):
        self.memory.insert([start * 100 + at for at in range(count)], slot, incarnation)

    @rule(start=st.integers(0, 3), count=st.integers(0, 12), slot=st.integers(0, 4), incarnation=st.integers(1, 2))
    def take_back(self, start, count, slot, incarnation):
        self.memory.take_back([start * 100 + at for at in range(count)], slot, incarnation)

    @rule(live=st.dictionaries(st.integers(0, 4), st.integers(1, 2)))
    def retain(self, live):
        self.memory.retain(live)

    @invariant()
    def bounded(self):
        memory = self.memory
        assert memory.pairs <= 20
        assert memory.pairs == sum(chains.size for chains in memory._seen.values())
        assert sum(map(len, memory._seen.values())) == sum(bits.bit_count() for bits in memory._owners.values())
        for slot, chains in memory._seen.items():
            assert memory._bytes[slot] == len(chains) * BLOCK <= 8 * BLOCK
            assert all(memory._owners[value] >> slot & 1 for value in blocks_of(chains))


TestBounds = Bounds.TestCase
