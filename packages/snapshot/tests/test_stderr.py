"""One event is one line, whatever it is about; a flood of one kind is cut short and counted; nothing else is hidden."""

import json
import logging
import re

import pytest
from aiohttp.http_exceptions import BadStatusLine
from hypothesis import given
from hypothesis import strategies as st

from shunter.snapshot.stderr import BURST, LONGEST_BYTES, PERIOD_S, JsonLines, Sparing, TextLines, shorten

# Whatever Python can hold: also halves of surrogate pairs, as bytes that are no UTF-8 become by surrogateescape.
ANY_TEXT = st.text(st.characters(codec=None), max_size=3000)
ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), 1 << 63) | st.floats() | ANY_TEXT | st.builds(object),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


class Shown(logging.Handler):
    """Keeps what is shown."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(self.format(record))


@pytest.fixture
def shown():
    """What passes; ``shown.now_s`` is the clock."""
    shown = Shown()
    shown.now_s = 0.0
    shown.addFilter(Sparing(lambda: shown.now_s))
    log = logging.getLogger("shunter.snapshot.tests.stderr")
    log.propagate = False
    log.addHandler(shown)
    yield shown
    log.removeHandler(shown)
    log.propagate = True


def complain(who, **more):
    logging.getLogger("shunter.snapshot.tests.stderr").warning("a mistake of %s", who, **more)


def a_record(message, *args, fields=None, error=None):
    made = logging.LogRecord("some.module", logging.WARNING, "file.py", 1, message, args, error and (type(error), error, None))
    made.created = 1_790_000_000.25
    if fields is not None:
        made.fields = fields
    return made


def test_what_is_no_http_is_a_warning_in_one_line():
    record = a_record("Error handling request from %s", "10.0.0.7", error=BadStatusLine("GET / HTTP/9.9"))
    record.levelno, record.levelname = logging.ERROR, "ERROR"
    assert shorten(record)
    assert (
        TextLines("scraper")
        .format(record)
        .endswith(" WARNING scraper some.module Error handling request from 10.0.0.7: BadStatusLine")
    )


def test_a_mistake_of_our_own_keeps_its_traceback():
    record = a_record("Error handling request from %s", "10.0.0.7", error=LookupError("ours"))
    assert shorten(record)
    assert "LookupError: ours" in TextLines("scraper").format(record)


def test_what_clients_do_wrong_does_not_hide_what_the_server_does(shown):
    said = logging.getLogger("shunter.snapshot.tests.stderr")
    for level in [logging.WARNING] * 2 * BURST + [logging.ERROR]:
        said.log(level, "from one line")
    assert len(shown.lines) == BURST + 1


def test_a_line_of_json_tells_when_who_and_what():
    line = JsonLines("worker-0").format(a_record("a mistake of %s", "somebody", fields={"model": "m", "tokens": 3}))
    assert json.loads(line) == {
        "time": "2026-09-21T14:13:20.250Z",
        "level": "warning",
        "logger": "some.module",
        "process": "worker-0",
        "message": "a mistake of somebody",
        "model": "m",
        "tokens": 3,
    }


def test_a_field_takes_the_place_of_no_member_that_every_line_has():
    assert json.loads(JsonLines("p").format(a_record("true", fields={"message": "false", "level": "debug"}))) == {
        **json.loads(JsonLines("p").format(a_record("true"))),
    }


def test_a_traceback_is_one_member_of_the_line_and_its_end_is_kept():
    line = JsonLines("p").format(a_record("an error", error=ValueError("x" * 5000 + "the end")))
    assert json.loads(line)["exception"].endswith("the end")


@given(ANY_TEXT, ANY_TEXT, st.dictionaries(ANY_TEXT, ANY_VALUE, max_size=4), st.booleans())
def test_whatever_is_said_is_one_line_of_json_and_bounded(message, argument, fields, has_error):
    error = ValueError(argument) if has_error else None
    line = JsonLines("p").format(a_record(message.replace("%", "%%") + "%s", argument, fields=fields, error=error))
    assert "\n" not in line
    assert len(line.encode()) < LONGEST_BYTES
    assert {"time", "level", "logger", "process", "message"} <= json.loads(line).keys()


@given(ANY_TEXT, st.dictionaries(ANY_TEXT, ANY_VALUE, max_size=4))
def test_a_line_for_people_is_one_line_too(message, fields):
    line = TextLines("p").format(a_record("%s", message, fields=fields))
    assert re.match(r"[0-9-]+ [0-9:,]+ WARNING p some\.module ", line)
    assert len(line.splitlines()) == 1


def test_fields_follow_the_message_for_people_and_their_ends_can_be_seen():
    line = TextLines("p").format(a_record("decision", fields={"model": "m", "why": "it won", "endpoint": None, "cached": 0.5}))
    assert line.endswith('some.module decision model=m why="it won" endpoint=null cached=0.5')


def test_a_flood_is_cut_short_and_counted_and_hides_nothing_else(shown):
    for number in range(3 * BURST):
        complain(number)
    logging.getLogger("shunter.snapshot.tests.stderr").warning("a fire")
    *most, last, fire = shown.lines
    assert most == [f"a mistake of {number}" for number in range(BURST - 1)]
    assert last == f"a mistake of {BURST - 1} (if there are more within {PERIOD_S:g} s, they are not shown)"
    assert fire == "a fire"
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
        shown.now_s += PERIOD_S / (BURST - 1)
    assert shown.lines == [f"a mistake of {number}" for number in range(3 * BURST)]


def test_a_sample_is_as_large_as_it_was_wanted(shown):
    for number in range(3 * BURST):
        complain(number, extra={"fields": {"number": number}})
    assert len(shown.lines) == 3 * BURST
