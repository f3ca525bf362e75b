"""Who has failed is asked last, or by one at a time, until it works."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.lab.core.suspects import FORGOTTEN_S, LONGEST_PENALTY_S, MOST, Attempt, Failure, Suspects, penalty_s

HANGS = Failure("timeout", "no answer within 60 s")
REFUSES = Failure("error", "it answered 503")
REJECTS = Failure("rejected", "it answered 400")


@pytest.fixture
def suspects():
    return Suspects()


def chosen(suspects, *addresses, now_s=0.0):
    """Whom a request would ask first, if it did."""
    attempt = suspects.choose(addresses, now_s)
    if attempt is None:
        return None
    suspects.leave(attempt)
    return attempt.address


def test_whoever_has_not_failed_is_asked_as_named(suspects):
    assert chosen(suspects, "a", "b") == "a"
    assert chosen(suspects) is None


def test_who_failed_at_once_is_asked_after_the_others(suspects):
    suspects.blame(Attempt("a"), REFUSES, 0.0)
    assert chosen(suspects, "a", "b") == "b"
    assert chosen(suspects, "a") == "a"


def test_who_let_somebody_wait_is_not_asked_in_its_penalty(suspects):
    suspects.blame(Attempt("a"), HANGS, 0.0)
    assert chosen(suspects, "a", now_s=0.9) is None
    assert chosen(suspects, "a", "b", now_s=0.9) == "b"
    assert chosen(suspects, "a", "b", now_s=1.0) == "a"


def test_after_its_penalty_one_at_a_time_tries_it(suspects):
    suspects.blame(Attempt("a"), HANGS, 0.0)
    first = suspects.choose(["a"], 1.0)
    assert suspects.choose(["a"], 1.0) is None
    suspects.leave(first)
    assert suspects.choose(["a"], 1.0).address == "a"


def test_one_success_forgets_all_failures(suspects):
    for now_s in range(0, 100, 20):
        suspects.blame(Attempt("a"), HANGS, now_s)
    assert suspects.clear(Attempt("a")).failures == 5
    assert chosen(suspects, "a", "b", now_s=80) == "a"
    suspects.blame(Attempt("a"), HANGS, 80)
    assert chosen(suspects, "a", now_s=81) == "a", "the first penalty again"


def test_a_penalty_grows_to_a_bound_and_a_comeback_is_found_within_seconds(suspects):
    lasted, now_s = [], 0.0
    for _ in range(6):
        suspects.blame(Attempt("a"), HANGS, now_s)
        begin_s = now_s
        while chosen(suspects, "a", now_s=now_s) is None:
            now_s += 0.5
        lasted.append(now_s - begin_s)
    assert lasted == [1, 2, 4, 8, 10, 10]
    assert penalty_s(10**9) == LONGEST_PENALTY_S


def test_those_that_were_on_their_way_do_not_lengthen_the_penalty(suspects):
    for _ in range(20):
        suspects.blame(Attempt("a"), HANGS, 0.5)
    assert chosen(suspects, "a", now_s=1.5) == "a"


def test_a_request_that_is_itself_wrong_says_nothing_of_who_refuses_it(suspects):
    assert not suspects.blame(Attempt("a"), REJECTS, 0.0)
    assert suspects.known(0.0) == []


def test_a_try_that_ends_twice_does_not_end_the_next_ones(suspects):
    suspects.blame(Attempt("a"), HANGS, 0.0)
    first = suspects.choose(["a"], 1.0)
    suspects.leave(first)
    suspects.choose(["a"], 1.0)
    suspects.leave(first)
    assert suspects.choose(["a"], 1.0) is None


def test_a_try_from_before_a_success_does_not_end_one_after_it(suspects):
    suspects.blame(Attempt("a"), HANGS, 0.0)
    old = suspects.choose(["a"], 1.0)
    suspects.clear(Attempt("a"))
    suspects.blame(Attempt("a"), HANGS, 2.0)
    suspects.choose(["a"], 3.0)
    suspects.leave(old)
    assert suspects.choose(["a"], 3.0) is None


def test_only_the_first_failure_makes_a_suspect(suspects):
    assert [suspects.blame(Attempt("a"), HANGS, now_s) for now_s in (0.0, 5.0)] == [True, False]
    assert suspects.clear(Attempt("a")) is not None
    assert suspects.clear(Attempt("a")) is None


def test_nobody_is_a_suspect_for_ever(suspects):
    """A pod that is gone is named no more, and neither fails nor works again."""
    suspects.blame(Attempt("a"), HANGS, 0.0)
    suspects.blame(Attempt("b"), HANGS, 9.0)
    assert [address for address, _ in suspects.known(FORGOTTEN_S)] == ["b"]


def test_who_is_being_tried_is_not_forgotten_meanwhile(suspects):
    """Else all requests at once would ask it, if requests may wait longer than names are kept."""
    suspects.blame(Attempt("a"), HANGS, 0.0)
    suspects.choose(["a"], 1.0)
    assert suspects.choose(["a"], FORGOTTEN_S + 1) is None


def test_of_any_number_of_names_a_few_are_remembered(suspects):
    for number in range(MOST + 50):
        suspects.blame(Attempt(f"{number}"), HANGS, 0.0)
    assert [address for address, _ in suspects.known(0.0)] == [f"{number}" for number in range(50, MOST + 50)]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "clear", "blame", "blame", "leave"]), st.integers(0, 99), st.sampled_from([0, 0.5, 3])
    ),
    max_size=60,
)


@given(STEPS, st.sampled_from([HANGS, REFUSES]))
def test_whatever_happens_who_hangs_has_one_request_at_a_time_and_the_others_all(steps, failure):
    """The promises as a client of the rule sees them: kept beside a plain account of who was asked and has not ended."""
    suspects, now_s = Suspects(), 0.0
    asked: list[Attempt] = []
    tries: dict[str, list[Attempt]] = {}  # by suspect: those who asked it since it became one, and have not ended
    for what, which, passed_s in steps:
        now_s += passed_s
        if what == "ask":
            named = list("abc")[which % 3 :]
            order = []
            while (attempt := suspects.choose(named, now_s)) is not None:
                named.remove(attempt.address)
                order.append(attempt.address)
                asked.append(attempt)
                if attempt.address in tries and (failure is HANGS or attempt.tries is not None):
                    tries[attempt.address].append(attempt)
            assert len(set(order)) == len(order)
            assert set(named) <= set(tries), "nobody is left out but suspects"
            assert failure is HANGS or not named, "nobody is left out who fails at once"
        elif asked:
            attempt = asked.pop(which % len(asked))
            for each in tries.values():
                each[:] = [other for other in each if other is not attempt]
            if what == "leave":
                suspects.leave(attempt)
            elif what == "clear":
                suspects.clear(attempt)
                tries.pop(attempt.address, None)
            else:
                suspects.blame(attempt, failure, now_s)
                tries.setdefault(attempt.address, [])
        assert all(len(each) <= 1 for each in tries.values())
        assert {address for address, _ in suspects.known(now_s)} == set(tries)
