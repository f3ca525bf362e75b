"""What the pages for users show can be copied: commands are accepted, the Job is what is printed, the code runs."""

import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from shunter.conformance.cli import main
from shunter.conformance.core.case import find
from shunter.conformance.core.waivers import load_waivers
from shunter.conformance.sections import CASES

DOCS = Path(__file__).parents[3] / "docs" / "conformance"
PAGES = {name: (DOCS / name).read_text(encoding="utf-8") for name in ("ci.md", "targets.md")}
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(name, language, textwrap.dedent(text)) for name, page in PAGES.items() for _, language, text in BLOCK.findall(page)]
COMMAND = re.compile(r"(?:shunter conformance|(?<!\[)shunter-conformance) ((?:run|compare|report|manifests) [^|`\n]+)")


def blocks(language):
    return [pytest.param(text, id=f"{name}-{text[:20]!r}") for name, known, text in BLOCKS if known == language]


def commands():
    for page in PAGES.values():
        unfolded = re.sub(r"\n +(?=--)", " ", page)
        yield from COMMAND.findall(unfolded)


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_a_command_is_accepted(command):
    words = shlex.split(re.sub(r"\$\{\{.*?\}\}", "x", command).replace("…", ""))
    context = click.Context(main)
    name, found, rest = main.resolve_command(context, words)
    found.make_context(name, rest, parent=context)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_is_yaml(text):
    assert yaml.safe_load(text)


def test_the_waivers_are_waivers():
    (text,) = (text for _, _, text in BLOCKS if text.startswith("waivers:"))
    waivers = load_waivers(text, "ci.md", {case.id for case in CASES})
    assert all(find(CASES, waiver.id) for waiver in waivers)


def test_the_job_that_is_shown_is_the_one_that_is_printed():
    (shown,) = (text for name, language, text in BLOCKS if language == "console" and "manifests" in text)
    command, _, expected = shown.partition("\n")
    printed = CliRunner().invoke(main, shlex.split(command.removeprefix("$ shunter conformance ")))
    assert printed.output == expected


@pytest.mark.parametrize("text", blocks("python"))
def test_the_code_runs(text):
    """Nobody is there to be examined, which is a verdict, too."""
    text = text.replace("127.0.0.1:8000", "127.0.0.1:1")
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.startswith("error ms.reachability.health"), done.stderr
