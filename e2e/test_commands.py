"""``shunter top``, ``shunter explain`` and ``shunter up`` as their users see them."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from shunter.snapshot import runtime_directory

pytestmark = pytest.mark.envoy


def shunter(*arguments):
    command = [sys.executable, "-m", "shunter.stack.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def fetch(url):
    with urllib.request.urlopen(url, timeout=30) as page:
        return page.read()


@pytest.fixture
def name():
    """Of a stack that is not running."""
    name = f"test-{os.getpid()}-{secrets.token_hex(3)}"
    yield name
    shutil.rmtree(runtime_directory(name))


def test_the_printed_curl_works(lean):
    (line,) = [line for line in lean.output.splitlines() if line.startswith("curl ")]
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("HTTP/1.1 200 OK"), done.stderr
    assert '"chat.completion"' in done.stdout


def test_top_shows_every_endpoint(lean):
    done = shunter("top", "--once", "--name", lean.name)
    assert done.returncode == 0, done.stderr
    for engine in lean.state.plan.engines:
        assert re.search(rf"^{engine.name} {engine.authority} +fresh +\d+\.\d s +\d", done.stdout, re.MULTILINE), done.stdout


async def test_explain_tells_who_was_considered_and_why(lean, connect):
    reply = await connect(lean).chat("why?")
    done = shunter("explain", "--name", lean.name, reply.request_id)
    assert done.returncode == 0, done.stderr
    assert f"to {reply.served}" in done.stdout
    for engine in lean.state.plan.engines:
        assert engine.authority in done.stdout
    assert "expected-delay-scorer" in done.stdout


def test_explaining_the_unknown_is_a_clear_error(lean):
    done = shunter("explain", "--name", lean.name, "no-such-id")
    assert done.returncode == 2
    assert "no decision for x-request-id no-such-id" in done.stderr


async def test_explain_tells_what_the_engine_had_cached(full, connect):
    """In profile full an answer's usage has gone by before its end has."""
    reply = await connect(full).chat("why? " * 100)
    done = shunter("explain", "--name", full.name, reply.request_id)
    assert re.search(r"status 200, .*, \d+ of the prompt's were cached", done.stdout), done


async def test_a_model_cannot_speak_to_the_terminal_of_whoever_asks_why(lean, connect):
    reply = await connect(lean).chat("why?", model="\x1b]0;mine\x07\nyours")
    done = shunter("explain", "--name", lean.name, reply.request_id)
    assert r"\x1b]0;mine\x07\nyours" in done.stdout


def test_without_a_stack_the_remedy_is_named(name):
    done = shunter("top", "--name", name)
    assert done.returncode == 2
    assert f"shunter up --name {name}" in done.stderr


def test_a_taken_port_is_named_and_nothing_is_started(name):
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        done = shunter(
            "up",
            "--name",
            name,
            "--port",
            str(port),
            *(
                f"--{p}=0"
                for p in ("picker-port", "health-port", "admin-port", "scraper-port", "envoy-admin-port", "engine-port")
            ),
        )
    assert done.returncode == 2
    assert f"port {port} (--port): Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_stack_of_the_same_name_is_refused(lean):
    done = shunter("up", "--name", lean.name, "--any-port")
    assert done.returncode == 2
    assert "is running already" in done.stderr


def test_a_backend_that_does_not_answer_is_named_at_once(name, lean):
    first = f"--backend=http://{lean.state.plan.engines[0].authority}"
    done = shunter("up", "--name", name, "--any-port", first, "--backend", "http://127.0.0.1:1")
    assert done.returncode == 2
    assert "http://127.0.0.1:1: no model" in done.stderr


def test_an_unknown_engine_is_named_with_near_matches_and_nothing_is_started(name, lean):
    backend = f"--backend=http://{lean.state.plan.engines[0].authority}"
    done = shunter("up", "--name", name, "--any-port", backend, "--dialect", "sglnag")
    assert done.returncode == 2
    assert "'sglnag' is not an engine; did you mean sglang?" in done.stderr
    assert not list(runtime_directory(name).glob("logs/*"))


def test_servers_that_run_already_are_used_and_left_alone(lean, connect):
    from shunter.stack.testing import running_stack

    urls = [f"http://{engine.authority}" for engine in lean.state.plan.engines]
    with running_stack(*(f"--backend={url}" for url in urls)) as stack:
        assert {engine.authority for engine in stack.state.plan.engines} == {url[7:] for url in urls}
        assert set(stack.state.pids) == {"scraper", "picker", "control-plane", "envoy"}
    assert {row.health for row in lean.fleet().endpoints} == {"fresh"}


EMPTY_POOL = """\
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: nobodys}
spec:
  selector: {matchLabels: {app: nobody}}
  targetPorts: [{number: 8000}]
  endpointPickerRef: {name: epp, port: {number: 9002}}
"""


def test_a_pool_without_endpoints_is_seen_below_the_table(tmp_path):
    from shunter.stack.testing import running_stack

    (tmp_path / "pool.yaml").write_text(EMPTY_POOL)
    with running_stack("--engines", "1", "--manifests", str(tmp_path / "pool.yaml")) as stack:
        shown = shunter("top", "--once", "--name", stack.name)
    assert shown.stdout.splitlines()[-1].endswith("default/nobodys: no endpoint belongs to it")


POLICY = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: running-requests-size-scorer
"""


async def test_what_was_decided_is_decided_anew_by_another_policy(lean, connect, tmp_path):
    for number in range(5):
        await connect(lean).chat(f"and then? {number}")
    other, decisions = tmp_path / "other.yaml", tmp_path / "decisions.ndjson"
    other.write_text(POLICY)
    admin = f"http://127.0.0.1:{lean.state.plan.ports.admin}"
    decisions.write_bytes(fetch(f"{admin}/debug/precedents?last=5"))
    count = len(decisions.read_bytes().splitlines())
    assert count >= 5
    replayed = shunter("lab", "replay", str(decisions), "--policy", str(other))
    assert f"of {count} picks would change" in replayed.stdout, replayed.stderr
    checked = shunter("picker", "check", "-f", str(other), "--against", admin)
    assert re.search(r"of \d+ picks would change \(\d.* % by the one in force\)", checked.stderr), checked.stderr


async def test_a_shadow_decides_every_request_too(connect, tmp_path):
    from shunter.stack.testing import running_stack

    other = tmp_path / "other.yaml"
    other.write_text(POLICY)
    with running_stack("--shadow-config", str(other)) as stack:
        for number in range(3):
            await connect(stack).chat(f"and then? {number}")
        deadline = time.monotonic() + 30
        while " of 4 requests" not in (done := shunter("explain", "--shadow", "--name", stack.name)).stdout:
            assert time.monotonic() < deadline, done  # the workers tell once a second; one request was the stack's own
    assert done.stdout.startswith("the shadow would have gone elsewhere with ")


def test_a_shadow_that_is_not_there_is_a_clear_error(lean):
    done = shunter("explain", "--shadow", "--name", lean.name)
    assert (done.returncode, "--shadow-config" in done.stderr) == (2, True)
