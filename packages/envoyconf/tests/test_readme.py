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


def test_the_error_is_the_one_printed():
    wrong = block("yaml") + "limits: {idleTimeout: 5}\n"
    result = CliRunner().invoke(main, ["generate"], input=wrong)
    assert result.stderr in README


def test_the_access_log_has_these_fields():
    assert set(re.findall(r'"(\w+)":', block("json"))) == set(ACCESS_LOG_FIELDS)


@pytest.mark.envoy
def test_the_python_example_runs(envoy_binary, monkeypatch):
    monkeypatch.setattr(envoy, "ensure", lambda: envoy_binary)
    exec(block("python"), {})
