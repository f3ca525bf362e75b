import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.named_counts import NamedCounts
from shunter.picker.core.tables import COUNTERS_BYTES, RULINGS, Counters, fold

ROW = 4


@pytest.fixture
def words():
    return memoryview(bytearray(8 * ROW * 3)).cast("Q")


def test_counts_go_on_when_another_takes_over(words):
    for times in (1, 2):
        counts = NamedCounts(words, ROW)
        counts.begin()
        counts.add("a")
        counts.add("b")
        assert counts.counts() == {"a": times, "b": times}


@pytest.mark.parametrize("name", ["", "\0", "a\0\0", "\ud800", "é" * 40, "\0" * 40 + "b", "a" * 23 + "\0b"])
def test_any_name_is_found_again_and_takes_nobody_elses_row(words, name):
    for times in (1, 2):
        counts = NamedCounts(words, ROW)
        counts.begin()
        counts.add(name)
        counts.add("b")
        assert counts.counts()["b"] == times
        assert sum(counts.counts().values()) == 2 * times


def test_what_finds_no_room_is_counted_as_other(words):
    counts = NamedCounts(words, ROW)
    for name in ("a", "b", "c", "d", "a", "other"):
        counts.add(name)
    assert counts.counts() == {"a": 2, "b": 1, "other": 3}


def test_names_too_long_for_their_row_are_one_if_they_begin_alike(words):
    for times in (1, 2):
        counts = NamedCounts(words, ROW)
        counts.begin()
        counts.add("a" * 30)
        counts.add("a" * 31)
        counts.add("b")
        assert counts.counts() == {"a" * 24: 2 * times, "b": times}


@given(st.lists(st.text(min_size=1).filter(lambda name: "\0" not in name)))
def test_nothing_is_lost_whatever_the_names(names):
    counts = NamedCounts(memoryview(bytearray(8 * ROW * 3)).cast("Q"), ROW)
    for name in names:
        counts.add(name)
    assert sum(counts.counts().values()) == len(names)


def test_rulings_of_all_seats_are_added_up():
    tallies = []
    for seat in range(2):
        counters = Counters(bytearray(COUNTERS_BYTES))
        counters.begin(1, pid=0, now_ns=0)
        counters.ruled("rule", "model", "target")
        counters.ruled("rule", "", f"target-{seat}")
        tallies.append(counters.tally())
    assert fold(tallies).rulings == {
        ("rule", "model", "target"): 2,
        ("rule", "", "target-0"): 1,
        ("rule", "", "target-1"): 1,
    }


def test_the_longest_names_that_kubernetes_allows_fit():
    counters = Counters(bytearray(COUNTERS_BYTES))
    counters.begin(1, pid=0, now_ns=0)
    ruling = f"InferenceModelRewrite {'n' * 63}/{'r' * 253}", "m" * 256, "t" * 253
    counters.ruled(*ruling)
    assert counters.tally().rulings == {ruling: 1}


def test_more_rulings_than_anybody_follows_are_others():
    counters = Counters(bytearray(COUNTERS_BYTES))
    counters.begin(1, pid=0, now_ns=0)
    for at in range(RULINGS + 5):
        counters.ruled("rule", "model", str(at))
    rulings = counters.tally().rulings
    assert (len(rulings), rulings["other", "", ""]) == (RULINGS, 6)
