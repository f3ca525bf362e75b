"""Counts of scrapes add up, whatever came of them."""

from hypothesis import given
from hypothesis import strategies as st

from shunter.scraper.core.scrapes import BOUNDS_S, Scrapes

SCRAPES = st.tuples(st.integers(0, 3), st.floats(0, 10), st.sampled_from([(True, True), (True, False), (False, False)]))


@given(st.lists(SCRAPES))
def test_every_scrape_is_in_one_place_of_each_count(scrapes):
    counted = Scrapes()
    for slot, took_s, (answered, readable) in scrapes:
        counted.note(slot, 1, took_s, answered=answered, readable=readable)
    assert sum(each.answered + each.failed for each in counted.by_endpoint.values()) == len(scrapes)
    assert sum(each.failed for each in counted.by_endpoint.values()) == counted.unanswered + counted.unreadable
    assert sum(counted.durations) == len(scrapes)


def test_a_duration_is_counted_at_the_first_bound_that_it_does_not_exceed():
    counted = Scrapes()
    for took_s in (BOUNDS_S[0], BOUNDS_S[0] * 1.01, BOUNDS_S[-1] + 1):
        counted.note(0, 1, took_s, answered=True, readable=True)
    assert [counted.durations[0], counted.durations[1], counted.durations[-1]] == [1, 1, 1]
