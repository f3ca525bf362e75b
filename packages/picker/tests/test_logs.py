"""A flood of one kind is cut short and counted; whatever else is logged is not."""

import logging

import pytest

from shunter.picker.shell.logs import BURST, PERIOD_S, Sparing


class Shown(logging.Handler):
    """Keeps what is shown."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.fixture
def shown():
    """What passes; ``shown.now_s`` is the clock."""
    shown = Shown()
    shown.now_s = 0.0
    shown.addFilter(Sparing(lambda: shown.now_s))
    log = logging.getLogger("shunter.picker.tests.logs")
    log.propagate = False
    log.addHandler(shown)
    yield shown
    log.removeHandler(shown)
    log.propagate = True


def complain(who):
    logging.getLogger("shunter.picker.tests.logs").warning("a mistake of %s", who)


def test_a_flood_is_cut_short_and_counted_and_hides_nothing_else(shown):
    for number in range(3 * BURST):
        complain(number)
    logging.getLogger("shunter.picker.tests.logs").warning("a fire")
    assert shown.lines == [*(f"a mistake of {number}" for number in range(BURST)), "a fire"]
    shown.now_s += PERIOD_S
    complain("somebody")
    complain("another one")
    assert shown.lines[BURST + 1 :] == [
        f"a mistake of somebody (and {2 * BURST} before it that were not shown)",
        "a mistake of another one",
    ]


def test_what_comes_now_and_then_is_shown_as_it_is(shown):
    for number in range(3 * BURST):
        complain(number)
        shown.now_s += PERIOD_S / BURST
    assert shown.lines == [f"a mistake of {number}" for number in range(3 * BURST)]
