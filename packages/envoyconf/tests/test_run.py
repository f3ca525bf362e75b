"""``run`` runs an Envoy, and ``diff`` compares with one that runs."""

import asyncio
import contextlib
import http.server
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from shunter.envoyconf.cli import main
from shunter.envoyconf.core.authority import join_authority

INTENT = Path(__file__).parent / "golden" / "minimal.intent.yaml"
DEADLINE_S = 60


@contextlib.contextmanager
def running(directory, *arguments, intent=INTENT, changes=()):
    """Run the command in a process of its own; yield it and its admin interface's address."""
    command = [sys.executable, "-m", "shunter.envoyconf", "run", "-f", str(intent)]
    for change in ("admin.port=0", "listeners=[{port: 0}]", *changes):
        command += ["--set", change]
    command += ["--", "--admin-address-path", str(directory / "admin"), *arguments]
    with (directory / "output").open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield process, until_ready(process, directory)
        finally:
            process.terminate()
            process.wait(DEADLINE_S)


def until_ready(process, directory):
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, (directory / "output").read_text()[-2000:]
        with contextlib.suppress(OSError):
            admin = (directory / "admin").read_text()
            get(f"http://{admin}/ready")
            return admin
        time.sleep(0.02)
    raise AssertionError((directory / "output").read_text())


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read()


@pytest.mark.envoy
@pytest.mark.usefixtures("envoy_binary")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_is_an_envoy_that_ends_as_it_is_told(number, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with running(tmp_path, "--log-level", "warning") as (process, admin):
        assert b'"log_level": "warning"' in get(f"http://{admin}/server_info")
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["admin", "output"]


@pytest.mark.envoy
async def test_a_new_user_is_served(scene, tmp_path):
    """The way through the README: an intent, validated and run; one model server up, neither the other nor a picker."""
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    intent = tmp_path / "intent.yaml"
    intent.write_text(readme.partition("```yaml\n")[2].partition("```")[0])
    here = [
        f'pools[0].endpoints=["{scene.upstreams[0].authority}", "{scene.nobody}"]',
        f'pools[0].picker.addresses=["{scene.nobody}"]',
    ]
    async with contextlib.AsyncExitStack() as stack:
        run = running(tmp_path, changes=here, intent=intent)
        _, admin = await asyncio.to_thread(run.__enter__)
        stack.push_async_callback(asyncio.to_thread, run.__exit__, None, None, None)
        listeners = await asyncio.to_thread(get, f"http://{admin}/listeners?format=json")
        port = json.loads(listeners)["listener_statuses"][0]["local_address"]["socket_address"]["port_value"]
        for _ in range(4):
            async with scene.client.get(f"http://127.0.0.1:{port}/v1/models") as answer:
                assert answer.status == 200
                assert answer.headers["x-gateway-destination-endpoint-served"] == scene.upstreams[0].authority


@pytest.mark.envoy
@pytest.mark.usefixtures("envoy_binary")
def test_the_exit_code_is_envoys(tmp_path):
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "shunter.envoyconf",
            "run",
            "-f",
            str(INTENT),
            "--set",
            "listeners=[{port: 0}]",
            "--",
            "--no-such",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "--no-such" in result.stderr


@pytest.mark.envoy
@pytest.mark.usefixtures("envoy_binary")
def test_two_run_side_by_side_and_diff_tells_them_apart(tmp_path):
    here, there = tmp_path / "a", tmp_path / "b"
    here.mkdir()
    there.mkdir()
    with running(here) as (_, admin), running(there):
        asked = ["diff", "-f", str(INTENT), "--set", "admin.port=0", "--set", "listeners=[{port: 0}]"]
        same = CliRunner().invoke(main, [*asked, f"http://{admin}"])
        assert (same.exit_code, same.stdout, same.stderr) == (0, "", "")
        other = CliRunner().invoke(main, [*asked, "--set", "limits.retries=7", f"http://{admin}/"])
        assert other.exit_code == 1
        assert re.search(r"^\+ +num_retries: 7$", other.stdout, re.MULTILINE)


@pytest.mark.envoy
@pytest.mark.usefixtures("envoy_binary")
@pytest.mark.parametrize(("ours", "theirs"), [("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "0.0.0.0"), ("::", "::")])
def test_run_shares_no_port_with_one_who_was_forgotten(ours, theirs):
    with socket.create_server(
        (theirs, 0), family=socket.AF_INET6 if ":" in theirs else socket.AF_INET, reuse_port=True
    ) as other:
        port = other.getsockname()[1]
        change = f"listeners=[{{address: '{ours}', port: {port}}}]"
        result = CliRunner().invoke(main, ["run", "-f", str(INTENT), "--set", change])
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Error: listener http: somebody listens on {join_authority(ours, port)} already" in result.stderr


def test_run_refuses_what_is_not_for_an_envoy(tmp_path):
    text = INTENT.read_text() + "profile: full\n"
    result = CliRunner().invoke(main, ["run", "--target", "istio", "--set", "pools[0].selector={a: b}"], input=text)
    assert result.exit_code == 2
    assert "Error: " in result.stderr


class NoAdmin(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"[1]" if self.path.startswith("/json") else b"hello")

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("path", "message"), [("", "is it the address of Envoy's admin"), ("/json", "no bootstrap is in the answer")]
)
def test_what_is_no_admin_interface_is_named(path, message):
    with http.server.HTTPServer(("127.0.0.1", 0), NoAdmin) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        result = CliRunner().invoke(main, ["diff", "-f", str(INTENT), f"http://127.0.0.1:{server.server_port}{path}"])
        thread.join()
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
