"""The umbrella knows every installed package and imports none before it is asked."""

import json
import os
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import click
import pytest
from click.testing import CliRunner

from shunter.snapshot import runtime_directory
from shunter.stack.cli import main
from shunter.stack.shell import top
from shunter.stack.shell.web import Answer


def test_help_lists_every_package():
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for command in ("conformance", "envoyconf", "explain", "lab", "picker", "scraper", "top", "up"):
        assert f"\n  {command} " in result.output


def groups(command, name, parent=None):
    context = click.Context(command, info_name=name, parent=parent)
    if isinstance(command, click.Group):
        yield command, context
        for each in command.list_commands(context):
            yield from groups(command.get_command(context, each), each, context)


def test_lists_of_commands_break_off_nowhere(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for group, context in groups(main, "shunter"):
        lines = group.get_help(context).partition("Commands:")[2].splitlines()
        assert [line for line in lines if line.endswith("...")] == [], context.command_path


def test_an_unknown_command_is_a_usage_error():
    result = CliRunner().invoke(main, ["pikcer"])
    assert result.exit_code == 2
    assert "pikcer" in result.output


def test_help_imports_nothing_heavy():
    code = "import sys; from shunter.stack.cli import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1].split()
    assert not {"aiohttp", "grpc", "numpy", "prometheus_client", "uvloop"}.intersection(loaded)


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc", "a b", "x" * 41])
@pytest.mark.parametrize("command", ["up", "top", "explain"])
def test_a_name_that_is_no_directory_is_refused(command, name):
    result = CliRunner().invoke(main, [command, "--name", name])
    assert result.exit_code == 2
    assert "it names a directory" in result.output


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--dialect=sglang"], "--dialect is only for --backend servers"),
        (["--backend=http://127.0.0.1:1", "--engine=lab"], "--engine is not for --backend servers"),
        (["--backend=http://127.0.0.1:1", "--engines=3"], "--engines is not for --backend servers"),
        (["--backend=http://127.0.0.1:1", "--disaggregated"], "--disaggregated is for the lab's engines only"),
        (["--engine=llamacpp", "--disaggregated"], "--disaggregated is for the lab's engines only"),
        (["--encoders=1"], "--encoders are only for --disaggregated engines"),
        (["--sidecar-option=--prefill-timeout=5"], "--sidecar-option is only for --disaggregated engines"),
    ],
)
def test_an_option_without_effect_is_refused(options, complaint):
    result = CliRunner().invoke(main, ["up", *options])
    assert result.exit_code == 2
    assert complaint in result.output


def test_a_prometheus_that_is_not_there_is_told_before_anything_starts(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SHUNTER_TOOLS_DIR", str(tmp_path))
    result = CliRunner().invoke(main, ["up", "--prometheus", "--name", "nobody"])
    assert result.exit_code == 2
    assert "--prometheus: no prometheus on PATH; install your system's package" in result.output


OBJECTIVE = """
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata: {name: urgent}
spec: {poolRef: {name: nowhere}}
"""


@pytest.mark.parametrize(
    ("text", "place"), [("kind: [", ", line "), (OBJECTIVE, ", document 1: $.spec.poolRef.name")], ids=["no YAML", "no pool"]
)
def test_manifests_that_the_scraper_cannot_use_are_named_before_anything_starts(tmp_path, text, place):
    manifests = tmp_path / "mine.yaml"
    manifests.write_text(text)
    name = f"manifests-{os.getpid()}"
    try:
        result = CliRunner().invoke(main, ["up", "--any-port", "--name", name, "--manifests", str(manifests)])
    finally:
        shutil.rmtree(runtime_directory(name))
    assert result.exit_code == 2
    assert f"shunter: {manifests}{place}" in result.output


class Page(BaseHTTPRequestHandler):
    """Answers as a picker that has refused one request."""

    def do_GET(self):
        refusal = {"status": 503, "message": "no endpoint is ready"}
        decision = {"ticket": 7, "at_s": 1.0, "request_id": "wagon-7", "model": "m", "refusal": refusal}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"now_s": 3.0, "decisions": [decision]}).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def picker():
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_picker_is_asked_wherever_it_runs(picker):
    result = CliRunner().invoke(main, ["explain", "--picker", picker])
    assert result.output == "#0.7  2.0 s ago  m  wagon-7  refused with 503: no endpoint is ready\n"


@pytest.mark.parametrize(
    "pages",
    ["TYPO", "", ":1", "http://127.0.0.1:9", "ä..b:1", "a..b:1", "::1:9090", "a:0", "a:65536", "a:1/debug", f"{'a' * 64}:1"],
)
@pytest.mark.parametrize("command", ["top", "explain"])
def test_pages_that_are_nowhere_are_refused(command, pages):
    result = CliRunner().invoke(main, [command, "--picker", pages])
    assert result.exit_code == 2
    assert f"{pages}: want HOST:PORT of its admin pages" in result.output


@pytest.mark.parametrize("host", ["localhost", "picker.llm.svc.", "my_picker", "127.0.0.1", "[::1]", "[fe80::1%eth0]"])
def test_pages_at_a_name_or_an_address_are_asked_for(host, monkeypatch):
    asked = []

    def refuse(authority, _path):
        asked.append(authority)
        raise OSError("refused")

    monkeypatch.setattr("shunter.stack.shell.web.get", refuse)
    CliRunner().invoke(main, ["top", "--once", "--picker", f"{host}:9090"])
    assert asked == [f"{host}:9090"]


def test_what_a_picker_says_instead_of_decisions_is_shown(monkeypatch):
    answer = Answer(503, b"no worker has answered within 1 s\n")
    monkeypatch.setattr("shunter.stack.shell.web.get", lambda _authority, _path: answer)
    result = CliRunner().invoke(main, ["explain", "--picker", "127.0.0.1:9090"])
    assert result.exit_code == 2
    assert "/debug/decisions?last=10 answered 503: no worker has answered within 1 s" in result.output


def test_where_a_pickers_pages_are_is_told_when_nobody_answers(monkeypatch):
    def refuse(_authority, _path):
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr("shunter.stack.shell.web.get", refuse)
    result = CliRunner().invoke(main, ["top", "--once", "--picker", "127.0.0.1:9002"])
    assert result.exit_code == 2
    assert "nobody answers at http://127.0.0.1:9002" in result.output
    assert "--admin-port" in result.output


def test_of_a_scraper_that_is_not_there_no_pickers_pages_are_told(monkeypatch):
    def hang(_authority, _path):
        raise TimeoutError("timed out")

    monkeypatch.setattr("shunter.stack.shell.web.get", hang)
    (line,) = top.fetch_complaints("127.0.0.1:9091")
    assert line == "nobody answers at http://127.0.0.1:9091/debug/cluster: timed out; the scraper is not there, or hangs"


def test_who_answers_without_being_a_picker_is_told(monkeypatch):
    monkeypatch.setattr("shunter.stack.shell.web.get", lambda _authority, _path: Answer(200, b"<html>"))
    result = CliRunner().invoke(main, ["explain", "--picker", "127.0.0.1:8080"])
    assert result.exit_code == 2
    assert (
        "what answers at http://127.0.0.1:8080/debug/decisions?last=10 is no picker's page; a picker's pages are where"
        in result.output
    )


def test_traces_are_a_stacks():
    result = CliRunner().invoke(main, ["explain", "--trace", "--picker", "127.0.0.1:1"])
    assert result.exit_code == 2
    assert "ask your collector of traces" in result.output
