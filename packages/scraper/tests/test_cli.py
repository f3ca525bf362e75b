import json
import signal
import socket
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from shunter.scraper.cli import main
from shunter.snapshot import Health, SnapshotReader


def invoke(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_without_files_and_kubeconfig_it_says_what_would_help(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    code, output = invoke("run", "--snapshot", tmp_path / "s")
    assert code == 2
    assert f"there is no kubeconfig {tmp_path / 'none'}" in output
    assert "--endpoints FILE" in output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--endpoints", "e.yaml", "--namespace", "a"], "either --endpoints says who exists or a Kubernetes API"),
        (["--endpoints", "e.yaml", "--context", "a"], "either --endpoints"),
        (["--namespace", "a", "--all-namespaces"], "leave one of them out"),
        (["--namespace", ""], "'' is no namespace"),
        (["--namespace", "a/pods"], "'a/pods' is no namespace"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, words):
    code, output = invoke("run", "--snapshot", "s", *options)
    assert code == 2
    assert words in output


def kubeconfig(user="{token: t}", server="https://127.0.0.1:1", **cluster):
    """One of a single cluster, user and context."""
    cluster = ", ".join(f'{name}: "{value}"' for name, value in {"server": server, **cluster}.items())
    return (
        f"apiVersion: v1\nclusters: [{{name: c, cluster: {{{cluster}}}}}]\nusers: [{{name: u, user: {user}}}]\n"
        "contexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n"
    )


@pytest.mark.parametrize(
    "text",
    ["", "a: 1", "[1, 2]", "\t:", "\x00", kubeconfig(user="abc"), kubeconfig(user=""), kubeconfig(server="10.0.0.1:6443")]
    + [kubeconfig(server=server) for server in ("", "https://a:99999", "https://")]
    + [kubeconfig(**{"certificate-authority-data": data}) for data in ("@@@", "aGFsbG8=")],
)
def test_a_kubeconfig_that_is_none_is_refused(tmp_path, text):
    path = tmp_path / "config"
    path.write_text(text)
    code, output = invoke("run", "--snapshot", tmp_path / "s", "--kubeconfig", path)
    assert code == 2
    assert f"{path}: " in output or "kubeconfig: " in output
    assert "\ufffd" not in output, "what a library says in lines is said in one"


def test_bad_files_are_refused_before_anything_starts(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text("endpoints: [{nme: a}]")
    code, output = invoke("run", "--endpoints", path, "--snapshot", tmp_path / "s")
    assert code == 2
    assert "$.endpoints[0].nme: unknown field; did you mean name?" in output
    code, output = invoke("run", "--endpoints", path)
    assert code == 2
    assert "--snapshot DIRECTORY" in output
    code, output = invoke("run", "--endpoints", path, "--snapshot", tmp_path, "--interval-min-ms", 5000)
    assert code == 2
    assert "--interval-min-ms 5000 is more than --interval-max-ms 1000" in output
    code, output = invoke("run", "--endpoints", path, "--snapshot", tmp_path, "--models-interval", 0.01)
    assert code == 2
    assert "--models-interval 0.01: at least 0.1 s, or 0 for never" in output


def test_pages_that_cannot_be_served_are_refused_with_their_place(server, tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text("endpoints: []")
    port = server.split(":")[1]
    code, output = invoke("run", "--endpoints", path, "--snapshot", tmp_path / "s", "--admin-port", port)
    assert code == 2
    assert f"cannot serve the admin pages on 127.0.0.1:{port}: Address already in use; choose another" in output


def test_pages_at_an_ipv6_address_are_refused_with_a_place_that_can_be_copied(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text("endpoints: []")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        options = ("--snapshot", tmp_path / "s", "--admin-host", "::1", "--admin-port", port)
        code, output = invoke("run", "--endpoints", path, *options)
    assert code == 2
    assert f"cannot serve the admin pages on [::1]:{port}: " in output


def test_a_snapshot_directory_that_cannot_be_is_refused_by_name(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text("endpoints: []")
    code, output = invoke("run", "--endpoints", path, "--snapshot", path)
    assert code == 2
    assert f"{path}: File exists; --snapshot is a directory" in output


def test_no_server_drives_the_terminal_of_a_probe(recorded, server, monkeypatch):
    monkeypatch.setitem(recorded, "vllm-with-lora", b'vllm:lora_requests_info{running_lora_adapters="\x1b[2J\\n"} 1\n')
    monkeypatch.setitem(recorded, "vllm-with-lora", recorded["vllm-with-lora"] + b"vllm:num_requests_waiting 1\n")
    code, output = invoke("probe", server)
    assert code == 0
    assert "running_adapters  \ufffd[2J\nwaiting_adapters  none\n" in output


def test_probe_prints_what_is_read(server):
    code, output = invoke("probe", server)
    assert code == 0
    assert "engine            vllm\nwaiting           4\n" in output
    assert "running_adapters  lora-a, lora-b\n" in output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["http://{}/metrics", "--engine", "sglang"], 1, "no metric of engine sglang on the page: it looks like vllm"),
        (["{}/other"], 1, "no metric of any engine on the page"),
        (["{}", "--engine", "vlm"], 2, "did you mean vllm?"),
        (["https://{}"], 2, "plain http only"),
        (["http://x:99999"], 2, "is not a URL"),
        (["http://x:0"], 2, "is not a URL"),
        (["http://[::1"], 2, "is not a URL"),
        (["{}/a b"], 2, "is not a URL"),
        (["127.0.0.1:1"], 1, "connection refused"),
    ],
)
def test_probe_says_what_is_wrong(server, arguments, code, message):
    found, output = invoke("probe", *(argument.format(server) for argument in arguments))
    assert found == code
    assert message in output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_publishes_until_it_is_told_to_end(server, tmp_path, number):
    path = tmp_path / "e.yaml"
    path.write_text(f"endpoints: [{{name: a, address: 127.0.0.1, port: {server.split(':')[1]}}}]")
    command = [sys.executable, "-m", "shunter.scraper", "run", "--endpoints", path, "--snapshot", tmp_path / "s"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    reader = SnapshotReader(tmp_path / "s")
    try:
        deadline = time.monotonic() + 30
        while not ((view := reader.view(time.monotonic_ns())) and view.load.health == (Health.FRESH,)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "Traceback" not in errors
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
        reader.close()


def test_its_log_is_json_and_more_of_it_while_it_runs(tmp_path):
    (tmp_path / "e.yaml").write_text("endpoints: []")
    options = ["--endpoints", tmp_path / "e.yaml", "--snapshot", tmp_path / "s", "--log-format", "json"]
    with subprocess.Popen([sys.executable, "-m", "shunter.scraper", "run", *options], stderr=subprocess.PIPE) as process:
        try:
            said = json.loads(process.stderr.readline())
            assert (said["level"], said["process"]) == ("info", "scraper")
            for level in ("debug", "info"):
                process.send_signal(signal.SIGUSR2)
                while (said := json.loads(process.stderr.readline())["message"]) != f"log level: {level}":
                    assert "Traceback" not in said
        finally:
            process.kill()
