"""What the pod driver makes of what kubectl says; real clusters are asked end to end."""

import asyncio
import json
import stat
import sys
import textwrap

import pytest

from shunter.conformance.core.image import Image
from shunter.conformance.errors import LaunchError, UsageError
from shunter.conformance.shell.launching.kubectl import Forward, Kubectl, RefusedError
from shunter.conformance.shell.launching.pod import Pod
from shunter.conformance.shell.wire import unreachable

# Writes down what it is asked for and answers with the file of that name; a forward listens until its first guest.
KUBECTL = """
    import signal, socket, sys
    from pathlib import Path

    here, words = Path(__file__).parent, sys.argv[1:]
    while words[0] in {"--context", "--namespace"}:
        del words[:2]
    verb = words[0]
    with (here / "asked").open("a") as asked:
        print(*sys.argv[1:], file=asked)
    if verb == "port-forward" and (here / "mute").exists():
        signal.pause()
    if verb == "port-forward":
        with socket.create_server(("127.0.0.1", int(sys.argv[-1].partition(":")[0] or 0))) as listener:
            print(f"Forwarding from 127.0.0.1:{listener.getsockname()[1]} -> 8000", flush=True)
            listener.accept()
        sys.exit("error: lost connection to pod")
    if (here / f"{verb}.refused").exists():
        sys.exit((here / f"{verb}.refused").read_text())
    answer = here / verb
    print(answer.read_text() if answer.exists() else "{}")
"""


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    """A kubectl that says what it is told to say; what it was asked for is in `asked`."""
    program = tmp_path / "kubectl"
    program.write_text(f"#!{sys.executable}\n{textwrap.dedent(KUBECTL)}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    return tmp_path


def status(**fields):
    return json.dumps({"status": fields})


async def failure(**options):
    with pytest.raises(LaunchError) as caught:
        async with Pod(Image(name="vllm:1"), **options):
            pass
    return str(caught.value)


async def test_that_there_is_no_kubectl_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="needs kubectl"):
        async with Pod(Image(name="vllm:1")):
            pass


async def test_what_is_refused_is_told_and_cleaned_up(kubectl):
    (kubectl / "create.refused").write_text("services is forbidden")
    assert await failure() == "vllm:1: services is forbidden"
    asked = (kubectl / "asked").read_text().splitlines()
    assert asked[-1].startswith("delete pod/shunter-exam-")


async def test_context_and_namespace_are_passed_on(kubectl):
    (kubectl / "create.refused").write_text("no")
    await failure(context="kind-kind", namespace="models")
    first = (kubectl / "asked").read_text().splitlines()[0]
    assert "--context" in first
    assert "models" in first


async def test_an_image_that_cannot_be_pulled_is_not_waited_for(kubectl):
    waiting = {"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
    (kubectl / "get").write_text(status(phase="Pending", containerStatuses=[waiting]))
    assert await failure() == "vllm:1: it is waiting: ErrImagePull: not found"


async def test_a_server_that_ended_is_told_with_its_last_words(kubectl):
    ended = {"state": {"terminated": {"exitCode": 1, "reason": "Error"}}}
    (kubectl / "get").write_text(status(phase="Running", containerStatuses=[ended]))
    (kubectl / "logs").write_text("no CUDA device\n")
    assert (await failure()).startswith("vllm:1: it ended with exit code 1 (Error)\n  no CUDA device")


async def test_what_a_pod_waits_for_is_told_when_it_is_given_up(kubectl):
    unscheduled = {"type": "PodScheduled", "status": "False", "message": "Insufficient nvidia.com/gpu"}
    (kubectl / "get").write_text(status(phase="Pending", conditions=[unscheduled]))
    words = "vllm:1: not ready within 3 s: it is Pending: Insufficient nvidia.com/gpu"
    assert (await failure(ready_within_s=3)).startswith(words)


async def test_a_patch_that_does_not_fit_is_the_examiners_mistake(kubectl):
    (kubectl / "patch.refused").write_text("cannot restore slice from map")
    with pytest.raises(UsageError, match="--pod-patch does not fit a Pod: cannot restore"):
        async with Pod(Image(name="vllm:1"), patch="spec: {containers: {}}"):
            pass


async def test_a_port_that_is_never_forwarded_is_given_up(kubectl, monkeypatch):
    monkeypatch.setattr("shunter.conformance.shell.launching.kubectl.ANSWER_WITHIN_S", 0.1)
    (kubectl / "mute").touch()
    forward = Forward(Kubectl(), "exam", 8000, lambda: True)
    with pytest.raises(RefusedError, match="no port is forwarded"):
        await forward.open()
    await forward.close()


async def test_an_api_server_that_says_nothing_is_not_waited_for(kubectl):
    await Kubectl().run("get", "pods")
    assert (kubectl / "asked").read_text() == "get pods --request-timeout=30s\n"


async def test_a_forwarded_port_comes_back_where_it_was(kubectl):
    forward = Forward(Kubectl(), "exam", 8000, lambda: True)
    await forward.open()
    url = f"http://127.0.0.1:{forward.local_port}"
    try:
        async with asyncio.timeout(30):
            while len(asked := (kubectl / "asked").read_text().splitlines()) < 3:
                await unreachable(url)  # each look ends the one that answers it
                await asyncio.sleep(0.02)
    finally:
        await forward.close()
    assert {line.split()[-1] for line in asked[1:]} == {f"{forward.local_port}:8000"}
    assert await unreachable(url)
