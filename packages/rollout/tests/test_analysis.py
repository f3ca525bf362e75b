from itertools import accumulate

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.rollout.core.analysis import Counts, compare, quantile, since
from shunter.rollout.core.spec import Analysis

BOUNDS = (0.1, 0.2, 0.4)


def counts(requests, errors=0, at=0.15):
    return Counts(requests, errors, requests, tuple((bound, float(requests * (at <= bound))) for bound in BOUNDS))


def test_errors_of_both_sides_alike_are_nobodys_fault():
    assert not compare(Analysis(), counts(1000, 300), counts(200, 60), 60.0).worse


def test_more_errors_than_the_old_one_has_are():
    assert compare(Analysis(), counts(1000, 10), counts(200, 10), 60.0).worse == "10 of 200 requests failed, allowed are 3.0%"


def test_errors_enough_for_all_requests_that_are_waited_for_decide_at_once():
    assert compare(Analysis(min_requests=100), counts(1000), counts(5, 5), 60.0).worse
    assert not compare(Analysis(min_requests=100), counts(1000), counts(2, 2), 60.0).worse


def test_one_error_or_two_may_be_anybodys():
    assert not compare(Analysis(min_requests=1), counts(1000), counts(2, 2), 60.0).worse
    assert compare(Analysis(min_requests=1), counts(1000), counts(3, 3), 60.0).worse


def test_few_requests_say_nothing():
    opinion = compare(Analysis(), counts(1000), counts(99), 60.0)
    assert (opinion.enough, opinion.words) == (False, "99 of 100 requests judged")


def test_a_slow_first_token_is_worse():
    assert "more than 1.5 times as long" in compare(Analysis(), counts(1000), counts(100, at=0.3), 60.0).worse
    assert not compare(Analysis(latency=None), counts(1000), counts(100, at=0.3), 60.0).worse
    assert not compare(Analysis(), counts(10), counts(100, at=0.3), 60.0).worse, "ten requests are no distribution"


def lasting(requests, at):
    """Requests that were answered at once, and were over after so long."""
    durations = tuple((bound, float(requests * (at <= bound))) for bound in (1.0, 5.0, 60.0))
    return msgspec.structs.replace(counts(requests), timed=requests, durations=durations)


def test_a_version_that_stalls_after_its_first_token_is_worse():
    opinion = compare(Analysis(), lasting(1000, 0.5), lasting(100, 30.0), 60.0)
    assert opinion.worse == "time of a whole answer at 0.9: 54.500 s, of the old one 0.900 s: more than 3 times as long"
    assert not compare(Analysis(duration=None), lasting(1000, 0.5), lasting(100, 30.0), 60.0).worse
    assert not compare(Analysis(), lasting(10, 0.5), lasting(100, 30.0), 60.0).worse, "ten requests are no distribution"


def test_only_durations_since_the_step_began_count():
    assert since(lasting(110, 0.5), lasting(100, 0.5)) == lasting(10, 0.5)
    assert since(lasting(10, 0.5), lasting(100, 0.5)) == lasting(10, 0.5)


def hanging(requests, answered=0):
    """Requests that were given up, but for some."""
    return Counts(requests, 0, answered, tuple((bound, float(answered)) for bound in BOUNDS))


def test_requests_that_nobody_answered_are_not_judged_to_be_good():
    opinion = compare(Analysis(min_requests=20), counts(1000), hanging(25), 1.0)
    assert (opinion.worse, opinion.enough, opinion.words) == ("", False, "0 of 20 requests judged")


def test_a_version_that_answers_hardly_anybody_is_worse():
    opinion = compare(Analysis(min_requests=20), counts(1000), hanging(25, 1), 60.0)
    assert opinion.worse == "24 of 25 requests ended without an answer"
    assert not compare(Analysis(min_requests=20), counts(1000), hanging(25, 20), 60.0).worse, "records may be lost"


def test_where_first_tokens_are_not_counted_nobody_is_blamed_for_it():
    assert compare(Analysis(min_requests=20), hanging(1000), hanging(25), 60.0).enough


def test_a_picker_that_started_anew_counts_from_nothing():
    assert since(counts(10, 1), counts(1000, 5)) == counts(10, 1)
    assert since(counts(1010, 6), counts(1000, 5)).requests == 10


@pytest.mark.parametrize(("share", "expected"), [(0.5, 0.15), (1.0, 0.2)])
def test_a_quantile_lies_within_its_bucket_as_prometheus_has_it(share, expected):
    assert quantile(10.0, ((0.1, 0.0), (0.2, 10.0)), share) == pytest.approx(expected)


def test_what_is_beyond_the_last_bound_is_at_the_last_bound():
    assert quantile(10.0, ((0.1, 0.0), (0.2, 0.0)), 0.9) == 0.2


@given(st.lists(st.integers(0, 50), min_size=4, max_size=4), st.floats(0.01, 0.99))
def test_a_quantile_grows_with_its_share_and_nothing_has_none(added, share):
    *cumulated, total = accumulate(map(float, added))
    buckets = tuple(zip(BOUNDS, cumulated, strict=True))
    value = quantile(total, buckets, share)
    assert (value is None) == (total == 0)
    assert value is None or 0 <= value <= quantile(total, buckets, 0.999)
