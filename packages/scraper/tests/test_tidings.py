"""The log tells of every endpoint that fails, and one that flaps leaves it room for the others."""

from shunter.scraper.core.fold import fail
from shunter.scraper.core.tidings import SILENCE_NS, Tidings, tally
from shunter.snapshot import Health, LoadRow

WELL = LoadRow(slot=0, incarnation=1, health=Health.FRESH)
BAD = fail(WELL, "connection refused")


def told(rows, *, step_ns, tidings=None):
    tidings = tidings or Tidings()
    pairs = zip([WELL, *rows], rows, strict=False)
    return [words for at, (before, after) in enumerate(pairs) if (words := tidings.hear(before, after, at * step_ns))]


def test_a_failure_is_told_once_and_its_end_with_how_many_there_were():
    assert told([BAD, fail(BAD, "other"), WELL, WELL], step_ns=1) == [
        "scrape failed: connection refused",
        "answers again after 2 failures",
    ]


def test_an_endpoint_that_flaps_has_two_lines_and_then_one_that_tells_how_often():
    rows = [BAD, WELL] * 100
    lines = told(rows, step_ns=SILENCE_NS // 100)
    assert lines[:3] == [
        "scrape failed: connection refused",
        "answers again after 1 failure",
        "scrape failed: connection refused (and 50 times before, shortly)",
    ]
    assert len(lines) == 4


def test_a_failure_that_begins_in_silence_and_lasts_is_told_after_it():
    tidings = Tidings()
    assert tidings.hear(WELL, BAD, 0)
    assert tidings.hear(BAD, WELL, 1)
    assert not tidings.hear(WELL, BAD, 2)
    assert tidings.hear(BAD, fail(BAD, "no complete answer"), 2 + SILENCE_NS) == "scrape failed: no complete answer"


def test_many_are_summed_up_by_their_reasons():
    rows = [BAD] * 3 + [fail(WELL, reason) for reason in "abbc"] + [WELL] * 2
    assert tally(rows) == "7 of 9 endpoints fail: 3 connection refused, 2 b, 1 a, 1 more reasons"
    assert tally([WELL, WELL]) == "none of 2 endpoints fails"
