"""The command: artefacts on standard output, diagnostics on standard error, exit codes that scripts can use."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from shunter.envoyconf.cli import main

INTENT = Path(__file__).parent / "golden" / "minimal.intent.yaml"
BOOTSTRAP = Path(__file__).parent / "golden" / "minimal.bootstrap.yaml"


@pytest.fixture
def run():
    def invoke(*arguments, stdin=None):
        return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)

    return invoke


@pytest.mark.parametrize("source", [["-f", INTENT], ["-f", "-"], []])
def test_generate_prints_nothing_but_the_bootstrap(source, run):
    result = run("generate", *source, stdin=INTENT.read_bytes())
    assert (result.exit_code, result.stdout, result.stderr) == (0, BOOTSTRAP.read_text(), "")


def test_generate_prints_json(run):
    result = run("generate", "-f", INTENT, "-o", "json")
    assert json.loads(result.stdout) == yaml.safe_load(BOOTSTRAP.read_text())


def test_generate_writes_a_file(run, tmp_path):
    result = run("generate", "-f", INTENT, "--output", tmp_path / "envoy.yaml")
    assert (result.exit_code, result.stdout) == (0, "")
    assert (tmp_path / "envoy.yaml").read_text() == BOOTSTRAP.read_text()


@pytest.mark.parametrize("command", ["generate", "validate"])
@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (b"pool: []", "Error: $: unknown field 'pool'; did you mean pools"),
        (b"pools: \xff", "the intent is not UTF-8"),
        (b"pools: \0", "Error: intent: not YAML"),
    ],
)
def test_a_bad_intent_is_exit_code_2(command, stdin, message, run):
    result = run(command, stdin=stdin)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_a_missing_file_is_exit_code_2(run):
    result = run("generate", "-f", "nowhere.yaml")
    assert result.exit_code == 2
    assert "nowhere.yaml" in result.stderr


def test_an_output_that_cannot_be_written_is_exit_code_2(run, tmp_path):
    result = run("generate", "-f", INTENT, "--output", tmp_path / "nowhere" / "envoy.yaml")
    assert result.exit_code == 2
    assert "nowhere/envoy.yaml: No such file or directory" in result.stderr


def test_schema_is_json_schema(run):
    assert json.loads(run("schema").stdout)["$ref"] == "#/$defs/Intent"


def test_no_envoy_is_exit_code_1(run, monkeypatch):
    monkeypatch.setenv("ENVOY_PATH", "nowhere")
    for arguments in (["validate", "-f", INTENT], ["fetch-envoy"]):
        result = run(*arguments)
        assert result.exit_code == 1
        assert "ENVOY_PATH=nowhere" in result.stderr


@pytest.mark.envoy
def test_validate_asks_envoy(run, envoy_binary):
    result = run("validate", "-f", INTENT)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "accepted by" in result.stderr
    refused = run("validate", stdin=INTENT.read_text() + "observability: {accessLog: /nowhere/at/all}")
    assert refused.exit_code == 1
    assert "Error: /nowhere/at/all: unable to open file" in refused.stderr


@pytest.mark.envoy
def test_fetch_envoy_prints_the_path(run, envoy_binary):
    assert run("fetch-envoy").stdout == f"{envoy_binary}\n"
