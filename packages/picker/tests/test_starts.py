import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.judgement import Outcome
from shunter.picker.core.starts import MOST_OPEN, PARDON_NS, REMEMBERED, Starts

HERE, THERE, ELSEWHERE = (0, 1), (1, 1), (2, 1)
NOW_NS = 1_000_000_000_000


def told(first_s, *, complete=True):
    return Outcome(complete=complete, first_token_s=first_s, duration_s=first_s)


def serve(starts, key, *firsts_s, now_ns=NOW_NS):
    for ticket, first_s in enumerate(firsts_s):
        starts.began(ticket, key, now_ns)
        starts.observe(ticket, told(first_s))


def test_who_is_late_by_far_is_late_by_what_the_quickest_needs_less():
    starts = Starts()
    serve(starts, HERE, *[0.8] * REMEMBERED)
    serve(starts, THERE, *[0.05] * REMEMBERED)
    assert starts.late_ns([HERE, THERE], NOW_NS) == {0: pytest.approx(0.75e9)}


def test_who_is_unknown_gets_a_chance_when_all_others_are_late():
    starts = Starts()
    serve(starts, HERE, *[0.8] * REMEMBERED)
    serve(starts, THERE, *[0.9] * REMEMBERED)
    assert set(starts.late_ns([HERE, THERE, ELSEWHERE], NOW_NS)) == {0, 1}
    serve(starts, ELSEWHERE, *[0.7] * REMEMBERED)
    assert starts.late_ns([HERE, THERE, ELSEWHERE], NOW_NS) == {}


def test_a_large_batch_is_not_late():
    starts = Starts()
    serve(starts, HERE, *[0.2] * REMEMBERED)
    serve(starts, THERE, *[0.01] * REMEMBERED)
    assert starts.late_ns([HERE, THERE], NOW_NS) == {}


def test_bad_luck_is_not_held_against_anybody():
    starts = Starts()
    serve(starts, HERE, 0.05, 60.0, 0.05, 60.0, 0.05, 0.05, 60.0)
    assert starts.late_ns([HERE, THERE], NOW_NS) == {}


def test_who_has_become_quick_again_is_believed_after_three():
    starts = Starts()
    serve(starts, HERE, *[0.8] * REMEMBERED, 0.05, 0.05)
    assert set(starts.late_ns([HERE, THERE], NOW_NS)) == {0}
    serve(starts, HERE, 0.05)
    assert starts.late_ns([HERE, THERE], NOW_NS) == {}


def test_who_is_late_is_tried_again_once_in_a_while():
    starts = Starts()
    serve(starts, HERE, *[0.8] * REMEMBERED)
    later_ns = NOW_NS + PARDON_NS
    assert starts.late_ns([HERE, THERE], later_ns) == {}
    starts.began(99, HERE, later_ns)
    assert set(starts.late_ns([HERE, THERE], later_ns)) == {0}


def test_a_new_owner_of_a_slot_is_not_blamed():
    starts = Starts()
    serve(starts, HERE, *[0.8] * REMEMBERED)
    assert starts.late_ns([(HERE[0], HERE[1] + 1), THERE], NOW_NS) == {}


@pytest.mark.parametrize("outcome", [told(0.8, complete=False), told(0.0), told(float("nan")), Outcome(complete=True)])
def test_what_tells_nothing_teaches_nothing(outcome):
    starts = Starts()
    for ticket in range(REMEMBERED):
        starts.began(ticket, HERE, NOW_NS)
        starts.observe(ticket, outcome)
    assert starts.late_ns([HERE, THERE], NOW_NS) == {}


def test_requests_whose_end_nobody_tells_are_forgotten():
    starts = Starts()
    for ticket in range(MOST_OPEN + REMEMBERED):
        starts.began(ticket, HERE, NOW_NS)
    for ticket in range(REMEMBERED):
        starts.observe(ticket, told(0.8))
    assert starts.late_ns([HERE, THERE], NOW_NS) == {}


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0.001, 100.0)), max_size=60))
def test_somebody_is_never_late(seen):
    starts = Starts()
    for ticket, (slot, first_s) in enumerate(seen):
        starts.began(ticket, (slot, 1), NOW_NS)
        starts.observe(ticket, told(first_s))
    late = starts.late_ns([HERE, THERE, ELSEWHERE], NOW_NS)
    assert len(late) < 3
    assert all(ns > 0 for ns in late.values())
