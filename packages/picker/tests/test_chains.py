from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.chains import Chains


def chain(letters):
    """Of each block a name that stands for the prompt up to it."""
    return [hash(tuple(letters[: at + 1])) for at in range(len(letters))]


PROMPTS = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=9).map(chain), max_size=40)


def send_plainly(line, prompt):
    """The same, block by block."""
    known = sum(value in line for value in prompt)
    for at, value in reversed([*enumerate(prompt)]):
        line[value] = at
        line.move_to_end(value)
    return known


@given(PROMPTS, st.integers(1, 12))
def test_pieces_keep_the_order_that_single_blocks_have(prompts, most):
    chains, line = Chains(), OrderedDict()
    for prompt in prompts:
        assert chains.send(prompt) == send_plainly(line, prompt)
        assert len(chains) == len(line)
        while len(line) > most:
            assert chains.pop() == line.popitem(last=False)
    while line:
        assert chains.pop() == line.popitem(last=False)
    assert len(chains) == 0


@given(st.lists(st.lists(st.integers(0, 3), max_size=9), max_size=40), st.integers(0, 12))
def test_hashes_that_are_no_chain_are_counted_all_the_same(prompts, most):
    """Whoever makes hashes collide on purpose spoils guesses, not the account."""
    chains, blocks = Chains(), 0
    for prompt in prompts:
        blocks += len(prompt) - chains.send(prompt)
        while blocks > most:
            chains.pop()
            blocks -= 1
        assert len(chains) == blocks == sum(len(piece.hashes) for piece in chains._order)


def test_a_prompt_that_begins_like_others_is_a_few_pieces():
    chains, shared = Chains(), chain([0] * 70)
    for own in range(20):
        chains.send([*shared, -own - 1])
    assert (len(chains), len(chains._order)) == (90, 21)
