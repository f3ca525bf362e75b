"""What prompts are in tokens: found again by the whole prompt, or by the longest known beginning; bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.spellings import Spellings, digest

BASE = (16, False)
NAMES = {BASE: list(range(40))}  # of a prompt of 1,000 bytes in four blocks of 200, and 200 that fill none
ENDS = [200, 400, 600, 800]


@pytest.fixture
def spellings():
    spellings = Spellings()
    spellings.learn(7, [11, 12, 13, 14], ENDS, 1000, NAMES)
    return spellings


def test_a_known_prompt_has_all_its_names(spellings):
    spelling = spellings.find(7, [11, 12, 13, 14], 1000, BASE)
    assert (list(spelling.names), spelling.strides) == (NAMES[BASE], 40)
    assert spellings.knows(7, [16])
    assert not spellings.knows(7, [16, 32])


def test_a_longer_prompt_has_those_of_what_it_begins_with(spellings):
    spelling = spellings.find(8, [11, 12, 13, 14, 15, 16], 2000, BASE)
    assert (list(spelling.names), spelling.strides) == (list(range(32)), 80)
    assert not spellings.knows(8, [16])


def test_one_that_parts_early_has_few(spellings):
    spelling = spellings.find(8, [11, 99], 400, BASE)
    assert (list(spelling.names), spelling.strides) == (list(range(8)), 16)


def test_of_one_with_more_blocks_than_are_looked_at_here_the_first_count(spellings):
    """It comes from a worker with another configuration, which is about to be replaced."""
    spellings.learn(9, [31, 32, 33], [200, 400], 1000, NAMES)
    assert list(spellings.find(8, [31, 32, 33], 1000, BASE).names) == list(range(16))


def test_one_that_begins_otherwise_is_not_known(spellings):
    assert spellings.find(8, [98, 99], 1000, BASE) is None


def test_memory_is_bounded_and_who_is_asked_for_stays():
    spellings = Spellings(max_entries=20)
    spellings.learn(7, [11, 12, 13, 14], ENDS, 1000, NAMES)
    for at in range(100):
        spellings.learn(100 + at, [1000 + at], [200], 250, NAMES)
        assert spellings.find(7, [11, 12], 500, BASE) is not None
        assert len(spellings) <= 20


def test_the_digest_tells_ends_apart():
    prompt = memoryview(b"x" * 300)
    assert digest(prompt, [1]) != digest(prompt, [2])
    assert digest(prompt, [1]) != digest(memoryview(b"x" * 299 + b"y"), [1])


@given(st.integers(1, 60), st.integers(1, 4), st.integers(0, 5000))
def test_never_more_than_a_prompt_has(count, depth, more):
    spellings = Spellings()
    spellings.learn(7, [11, 12, 13, 14], ENDS, 1000, {BASE: range(count)})
    spelling = spellings.find(8, [11, 12, 13, 14][:depth], ENDS[depth - 1] + more, BASE)
    assert len(spelling.names) <= spelling.strides
    assert len(spelling.names) <= count * ENDS[depth - 1] / 1000
