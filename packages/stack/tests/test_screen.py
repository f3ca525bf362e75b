"""What is shown stays on its screen, whatever it consists of."""

import io

from hypothesis import given
from hypothesis import strategies as st

from shunter.stack.core.screen import fit, printable
from shunter.stack.shell.top import Screen


def test_escapes_are_spelled_out():
    assert printable("\x1b[2J\nlab/llama → ü") == r"\x1b[2J\nlab/llama → ü"


@given(st.text())
def test_what_is_shown_is_one_line_of_printable_text(text):
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown


@given(st.lists(st.text(max_size=20), max_size=20), st.integers(1, 20), st.integers(2, 20))
def test_a_block_leaves_a_row_for_the_cursor(lines, columns, rows):
    shown = fit(lines, columns, rows)
    assert len(shown) < rows
    assert all(len(line) <= columns for line in shown)
    if len(lines) < rows and all(len(line) <= columns for line in lines):
        assert shown == lines


def test_what_was_drawn_is_drawn_over_and_what_was_said_stays(monkeypatch):
    monkeypatch.setattr("sys.stdout", terminal := io.StringIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "10")
    monkeypatch.setenv("LINES", "5")
    screen = Screen()
    screen.show(["a" * 30, "b"])
    screen.say("said")
    screen.show(["c"])
    assert terminal.getvalue() == f"{'a' * 9}…\nb\n\x1b[2A\x1b[Jsaid\nc\n"
