"""What the README shows is what happens."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from shunter.envoyconf import load_intent
from shunter.envoyconf.cli import main
from shunter.envoyconf.core.envoy.listener import ACCESS_LOG_FIELDS
from shunter.envoyconf.shell import envoy

README = (Path(__file__).parents[1] / "README.md").read_text()


def block(language):
    return re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)[1]


def test_the_intent_is_one():
    assert load_intent(block("yaml")).observability.served_header


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with the files that the commands name."""
    (tmp_path / "intent.yaml").write_text(block("yaml"))
    (tmp_path / "wrong.yaml").write_text(block("yaml") + "limits: {idleTimeout: 5}\n")
    monkeypatch.chdir(tmp_path)


def commands(verb):
    """Return each command of the README that begins so, and what it shows to be printed, as one text."""
    shown = re.findall(rf"^\$ shunter envoyconf ({verb}\b[^\n]*)\n((?:(?!\$ |```).*\n)*)", README, re.MULTILINE)
    return [(line.partition(" > ")[0].split(), printed) for line, printed in shown]


@pytest.mark.usefixtures("here")
def test_the_error_is_the_one_printed():
    ((arguments, printed),) = [each for each in commands("generate") if "wrong.yaml" in each[0]]
    assert CliRunner().invoke(main, arguments).stderr == printed


@pytest.mark.envoy
@pytest.mark.usefixtures("here")
def test_the_verdict_is_the_one_printed(envoy_binary):
    ((arguments, printed),) = commands("validate")
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    assert result.stderr == printed.replace(f"~/.cache/shunter/tools/envoy/{envoy.VERSION}/envoy", str(envoy_binary))


def test_the_access_log_has_these_fields():
    assert set(re.findall(r'"(\w+)":', block("json"))) == set(ACCESS_LOG_FIELDS)


@pytest.mark.envoy
def test_the_python_example_runs(envoy_binary, monkeypatch):
    monkeypatch.setattr(envoy, "ensure", lambda: envoy_binary)
    exec(block("python"), {})
