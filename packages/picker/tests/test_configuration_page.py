"""docs/configuration.md shows what the commands print."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from shunter.picker.cli import main

PAGE = Path(__file__).resolve().parents[3] / "docs" / "configuration.md"
BLOCK = re.compile(r"(?:`(?P<before>[\w-]+\.yaml)`[^\n]*\n\n)?```(?P<kind>yaml|console)\n(?P<text>.*?)```", re.DOTALL)


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """Write the page's files and run its commands; yield each command with what the page shows and what is printed."""
    monkeypatch.chdir(tmp_path)
    found = []
    for block in BLOCK.finditer(PAGE.read_text()):
        text = block["text"]
        if block["kind"] == "yaml":
            name = block["before"] or text.splitlines()[0].removeprefix("# ")
            Path(name).write_text(text)
            continue
        command, _, output = text.partition("\n")
        words, _, target = command.removeprefix("$ shunter picker ").partition(" > ")
        done = CliRunner().invoke(main, shlex.split(words))
        if target:
            Path(target).write_text(done.stdout)
        found.append((command, output, done.stderr if target else done.output))
    return found


def test_the_page_shows_what_is_printed(shown):
    assert len(shown) > 4
    for command, output, printed in shown:
        assert output == printed, command
