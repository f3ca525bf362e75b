"""The command line refuses in words what it cannot use, and prints what a configuration comes down to."""

import json
import random
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
import yaml
from click.testing import CliRunner

from shunter.picker import config
from shunter.picker.cli import main
from shunter.picker.core.schedule import Scheduler
from shunter.picker.errors import ConfigError
from shunter.picker.plugins import Kind, Plugin


def shunter(*arguments):
    command = [sys.executable, "-m", "shunter.picker", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_an_unknown_plugin_is_refused_before_anything_starts(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: quue-scorer\n")
    run = ["run", "--config", str(path), "--snapshot", str(tmp_path), "--runtime", str(tmp_path)]
    for command in (["check", "-f", str(path)], run):
        done = shunter(*command)
        assert done.returncode == 2
        assert "$.plugins[0].type" in done.stderr
        assert "queue-scorer" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--body-bytes", "4096", "--buffered-bytes", "10"], "raise --buffered-bytes or lower --body-bytes"),
        (["--port", "65535", "--workers", "2"], "lower --port or --workers"),
        (["--host", "unix:p.sock", "--one-port", "--workers", "2"], "--one-port is for TCP"),
        (["--host", "unix:"], "what is there is not a socket"),
        (["--host", "unix:nowhere/p.sock"], "there is no directory nowhere"),
        (["--host", f"unix:/{'p' * 103}"], "longer than 103 bytes"),
        (["--socket-mode", "0660"], "--socket-mode is for sockets in the file system"),
        (["--host", "192.0.2.1"], "give an address of this machine with --host"),
        (["--one-port", "--workers", "2", "--port", "0", "--port", "0"], "give --port once"),
        (["--admin-host", "192.0.2.1", "--port", "0"], "choose another with --admin-host or --admin-port"),
        (["--admin-host", "", "--port", "0"], "--admin-host is empty"),
        (["--max-streams", "2147483648"], "'--max-streams': 2147483648 is not in the range"),
        (["--drain-timeout", "nan"], "'--drain-timeout': 'nan' is not a number"),
        (["--record-sample", "nan"], "'--record-sample': 'nan' is not a number"),
        (["--runtime", "/proc/nowhere"], "choose another with --runtime"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, options, words):
    done = shunter(
        "run", "--snapshot", str(tmp_path), "--runtime", str(tmp_path), "--health-port", "0", "--admin-port", "0", *options
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert ": None" not in done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_environment_says_of_traces_is_refused_in_words_too(tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "ten")
    done = shunter("run", "--snapshot", str(tmp_path), "--runtime", str(tmp_path))
    assert done.returncode == 2
    assert "OTEL_TRACES_SAMPLER_ARG=ten: give a number from 0 to 1" in done.stderr
    assert "Traceback" not in done.stderr


def test_only_a_body_router_needs_no_snapshot(tmp_path):
    done = shunter("run", "--runtime", str(tmp_path))
    assert done.returncode == 2
    assert "Missing option '--snapshot'" in done.stderr


def test_base_models_are_read_before_anything_starts(tmp_path):
    path = tmp_path / "models.yaml"
    path.write_text("- no manifest")
    done = shunter("run", "--role", "body-router", "--config", str(path), "--runtime", str(tmp_path))
    assert done.returncode == 2
    assert "document 1 is no manifest" in done.stderr


def test_a_body_router_has_no_pool(tmp_path):
    done = shunter("run", "--role", "body-router", "--pool", "llama", "--runtime", str(tmp_path))
    assert done.returncode == 2
    assert "--pool is for endpoint pickers" in done.stderr


def test_a_reload_that_is_asked_for_while_it_starts_ends_nothing(tmp_path):
    hang_up = (
        "import signal; from shunter.picker import cli; from shunter.picker.shell import supervisor;"
        "supervisor.run = lambda *_: signal.raise_signal(signal.SIGHUP) or 7; cli.main()"
    )
    command = [sys.executable, "-c", hang_up, "run", "--snapshot", str(tmp_path), "--runtime", str(tmp_path)]
    assert subprocess.run(command, timeout=60, check=False).returncode == 7


def test_a_process_that_goes_on_after_the_command_has_its_signals_as_before(tmp_path):
    before = signal.getsignal(signal.SIGHUP)
    result = CliRunner().invoke(main, ["run", "--snapshot", str(tmp_path), "--tls-cert-file", "tls.crt"])
    assert result.exit_code == 2
    assert signal.getsignal(signal.SIGHUP) == before


def test_a_missing_file_is_named(tmp_path):
    done = shunter("check", "-f", str(tmp_path / "absent.yaml"))
    assert done.returncode == 2
    assert "absent.yaml: No such file or directory" in done.stderr


@pytest.mark.parametrize("text", ["plugins: [", "kind: EndpointPickerConfig"])
def test_a_file_that_cannot_be_used_is_named(tmp_path, text):
    path = tmp_path / "epp.yaml"
    path.write_text(text)
    done = CliRunner().invoke(main, ["check", "-f", str(path)])
    assert done.exit_code == 2
    assert f"shunter picker: {path}: " in done.output


@pytest.mark.parametrize("option", ["--config", "--service-levels"])
def test_a_picker_that_cannot_start_names_the_file(tmp_path, option):
    path = tmp_path / "a.yaml"
    path.write_text("kind: Pod")
    done = CliRunner().invoke(main, ["run", "--snapshot", str(tmp_path), "--runtime", str(tmp_path), option, str(path)])
    assert done.exit_code == 2
    assert f"shunter picker: {path}: " in done.output


def test_check_prints_every_default_and_its_own_output_passes(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n")
    first = shunter("check", "-f", str(path))
    assert first.returncode == 0, first.stderr
    path.write_text(first.stdout)
    assert shunter("check", "-f", str(path)).stdout == first.stdout


def test_plugins_are_listed_and_described():
    listed = shunter("plugins").stdout
    assert "scorers:\n" in listed
    assert "  prefix-cache-scorer" in listed
    page = shunter("plugins", "prefix-cache-scorer")
    assert page.stdout.startswith("prefix-cache-scorer, a scorer\n=")
    assert "matchLengthWeight" in page.stdout
    missing = shunter("plugins", "queue-scorers")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "no plugin has the type 'queue-scorers'; did you mean 'queue-scorer'" in missing.stderr
    assert "'nonsense'; `shunter picker plugins` lists them" in shunter("plugins", "nonsense").stderr


def test_the_schema_is_printed():
    assert json.loads(shunter("schema").stdout)["$defs"]


def test_the_rules_are_printed_and_lead_to_the_runbook_where_it_is_published():
    printed = shunter("rules").stdout
    assert "runbook_url: docs/runbook.md#pickerbypassed" in printed
    there = yaml.safe_load(shunter("rules", "--kubernetes", "--runbook", "https://wiki.example/runbook").stdout)
    assert there["kind"] == "PrometheusRule"
    (url,) = {rule["annotations"]["runbook_url"].partition("#")[0] for rule in rules_of(there["spec"]) if "alert" in rule}
    assert url == "https://wiki.example/runbook"
    assert [rule["expr"] for rule in rules_of(there["spec"])] == [rule["expr"] for rule in rules_of(yaml.safe_load(printed))]


def rules_of(document):
    return [rule for group in document["groups"] for rule in group["rules"]]


def test_builtin_configurations_are_listed_printed_and_checked():
    listed = shunter("builtins").stdout
    assert listed.startswith("default")
    text = shunter("builtins", "default").stdout
    named, given = shunter("check", "--builtin", "default"), shunter("check", "--config-text", text)
    assert named.stdout == given.stdout
    assert "did you mean 'default'" in shunter("check", "--builtin", "defualt").stderr


def test_one_configuration_is_enough():
    done = shunter("check", "--builtin", "default", "--config-text", "{}")
    assert done.returncode == 2
    assert "exclude each other" in done.stderr


def test_warnings_go_to_stderr_and_count_if_one_is_strict():
    text = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins: [{type: queue-scorer}, {type: random-picker}]\n"
    done = shunter("check", "--config-text", text)
    assert done.returncode == 0
    assert done.stderr == (
        "warning: $.schedulingProfiles[0]: 'random-picker' ignores scores; use max-score-picker, or drop the scorers\n"
    )
    assert shunter("check", "--strict", "--config-text", text).returncode == 1
    assert shunter("check", "--strict", "--builtin", "default").returncode == 0


def test_a_plugin_that_cannot_be_started_is_a_mistake_in_words(register_plugin, tmp_path):
    class Stillborn(Plugin, frozen=True):
        """Cannot start."""

        def start(self, setting):
            raise ValueError("not today")

    register_plugin("stillborn-scorer", Kind.SCORER)(Stillborn)
    path = tmp_path / "config.yaml"
    path.write_text("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins: [{type: stillborn-scorer}]\n")
    result = CliRunner().invoke(main, ["check", "-f", str(path)])
    words = (
        f"{path}: the plugin 'stillborn-scorer' raised ValueError('not today') when it was started; mend it, or leave it out"
    )
    assert (result.exit_code, words in result.output) == (2, True), result.output
    with pytest.raises(ConfigError, match="not today"):  # so a worker that has it says why it cannot serve
        Scheduler(config.load(path.read_text()).policy, random.Random(1), lambda *_: None)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--against", "ftp://127.0.0.1/", "give the admin pages as http://HOST:PORT"),
        ("--against", "http://127.0.0.1:1", "http://127.0.0.1:1/debug/precedents?last=1000: [Errno 111] Connection refused"),
        ("--decisions", "LINES", "line 2: not a recorded decision: "),
    ],
)
def test_what_cannot_be_compared_is_named(tmp_path, option, value, words):
    path = tmp_path / "lines"
    path.write_text("\n{}\n")
    result = CliRunner().invoke(main, ["check", option, value.replace("LINES", str(path))])
    assert (result.exit_code, words in result.output) == (2, True), result.output


def test_a_picker_whose_workers_are_silent_cannot_be_compared_with():
    class Silent(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(503)
            self.end_headers()
            self.wfile.write(b"no worker has answered\n")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Silent) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        result = CliRunner().invoke(main, ["check", "--against", f"http://127.0.0.1:{server.server_port}"])
        server.shutdown()
    assert (result.exit_code, "/debug/precedents?last=1000: 503 no worker has answered\n" in result.output) == (2, True)
