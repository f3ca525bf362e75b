"""The blocks that decoding sequences need in many steps are those of each step, added."""

from hypothesis import given
from hypothesis import strategies as st

from shunter.lab.core.needs import Needs

JOINED = st.lists(st.integers(-50, 50), min_size=1, max_size=8)


def needs_of(size, joined):
    needs = Needs(size)
    for step in joined:
        needs.join(step)
    return needs


@given(st.integers(1, 6), JOINED, st.integers(0, 50), st.integers(0, 40))
def test_a_span_needs_what_its_steps_need(size, joined, first, steps):
    needs = needs_of(size, joined)
    assert needs.of(first, steps) == sum(needs.at(step) for step in range(first, first + steps))


@given(st.integers(1, 6), JOINED, st.integers(0, 50), st.integers(1, 40), st.integers(0, 60))
def test_free_blocks_are_enough_until_the_steps_after_the_first_need_more(size, joined, step, steps, free):
    needs = needs_of(size, joined)
    enough = needs.met(step, steps, free)
    assert 1 <= enough <= steps
    assert needs.of(step + 1, enough - 1) <= free
    assert enough == steps or needs.of(step + 1, enough) > free


@given(st.integers(1, 6), JOINED)
def test_who_leaves_needs_nothing(size, joined):
    needs = needs_of(size, joined)
    needs.leave(joined[0])
    assert needs.of(0, size) == len(joined) - 1
