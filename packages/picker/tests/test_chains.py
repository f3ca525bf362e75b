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


@given(st.lists(st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=9).map(chain), st.booleans()), max_size=40))
def test_what_is_taken_back_was_never_sent(sent):
    chains, kept = Chains(), Chains()
    for prompt, _ in sent:
        chains.send(prompt)
    gone = [pair for prompt, stays in sent if not stays for pair in chains.take_back(prompt)]
    for prompt, stays in sent:
        if stays:
            kept.send(prompt)
    blocks = {value for piece in chains._order for value in piece.hashes}
    assert blocks == {value for piece in kept._order for value in piece.hashes}
    every = {(value, at) for prompt, _ in sent for at, value in enumerate(prompt)}
    assert sorted(gone) == sorted(pair for pair in every if pair[0] not in blocks)
    assert chains.size == len(blocks) + len(chains._order)


def test_of_a_prompt_of_which_a_part_is_forgotten_nothing_is_taken_back():
    chains, prompt, other = Chains(), chain([0, 0, 0]), chain([0, 0, 1])
    chains.send(prompt)
    chains.pop()
    chains.send(other)
    assert chains.take_back(prompt) == []
    assert chains.send(other) == len(other)


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
