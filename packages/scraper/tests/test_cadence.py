from hypothesis import given
from hypothesis import strategies as st

from shunter.scraper.core.cadence import Cadence
from shunter.scraper.core.fold import fail
from shunter.snapshot import Health, LoadRow

CADENCE = Cadence(0.05, 1.0)
IDLE = LoadRow(slot=0, incarnation=1, health=Health.FRESH, waiting=0, running=0, kv_usage=0.5)
BUSY = LoadRow(slot=0, incarnation=1, health=Health.FRESH, waiting=0, running=3, kv_usage=0.5)


def after(row, count, *, start_s, took_s=0.004):
    """The intervals after ``count`` scrapes that all gave ``row``."""
    intervals = [start_s]
    for _ in range(count):
        intervals.append(CADENCE.next_s(intervals[-1], row, row, took_s))
    return intervals


def test_an_endpoint_with_work_is_asked_at_the_shortest_interval():
    assert after(BUSY, 3, start_s=1.0)[1:] == [0.05] * 3


def test_an_idle_endpoint_ends_up_where_a_page_that_costs_3_4_ms_is_below_one_percent():
    intervals = after(IDLE, 5, start_s=0.05)
    assert intervals == sorted(intervals)
    assert 0.0034 / intervals[-1] < 0.01


def test_a_value_that_moves_brings_the_endpoint_back_to_the_shortest_interval():
    assert CADENCE.next_s(1.0, BUSY, IDLE, 0.004) == 0.05


def test_a_slow_server_is_asked_less_often_though_it_is_busy():
    assert CADENCE.next_s(0.05, BUSY, BUSY, 0.1) == 0.4


def test_a_dead_endpoint_backs_off_to_the_longest_interval_and_no_further():
    row, interval_s = BUSY, 0.05
    intervals = []
    for _ in range(8):
        before, row = row, fail(row, "connection refused")
        interval_s = CADENCE.next_s(interval_s, before, row, 0.0001)
        intervals.append(interval_s)
    assert intervals[:4] == [0.1, 0.2, 0.4, 0.8]
    assert set(intervals[4:]) == {1.0}


@given(st.floats(0.05, 1), st.floats(0, 100), st.floats(0, 1), st.sampled_from([IDLE, BUSY, fail(BUSY, "x")]))
def test_intervals_stay_in_their_bounds_and_jitter_within_a_tenth(last_s, took_s, dice, row):
    interval_s = CADENCE.next_s(last_s, BUSY, row, took_s)
    assert CADENCE.min_s <= interval_s <= CADENCE.max_s
    assert 0.89 * interval_s <= CADENCE.jittered(interval_s, dice) <= 1.11 * interval_s
    assert 0 <= CADENCE.first_s(dice) <= CADENCE.min_s
