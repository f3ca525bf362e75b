"""Model servers in containers, started and examined and ended by the exam: a real Docker daemon, images of what is here."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest
from hack.kube import programs
from hack.kube.docker import running_docker
from hack.kube.image import PYTHON, write_image

from shunter.conformance.core.image import Image
from shunter.conformance.errors import LaunchError
from shunter.conformance.shell.launching.container import Container
from shunter.conformance.shell.launching.readiness import ready
from shunter.conformance.shell.wire import Wire
from shunter.envoyconf.testing_gateway import own_network

pytest.importorskip("testcontainers", reason="no testcontainers: pip install 'shunter-conformance[containers]'")

IMAGE = "shunter-lab:test"
SERVE = ("shunter-lab", "serve", "--host", "0.0.0.0", "--shutdown-timeout", "5")
# An engine in name only, beside the server: it does nothing until somebody kills it, or this time is over.
SLEEPER = 'import time; open("/proc/self/comm", "w").write("VLLM::EngineCore"); print("loading", flush=True); time.sleep(600)'
WITH_ENGINE = ("sh", "-c", f"{PYTHON} -c '{SLEEPER}' & exec \"$@\"", "-", *SERVE)


@pytest.fixture(scope="module")
def docker(tmp_path_factory):
    """A daemon with the lab server's image, which everybody here uses."""
    archive = tmp_path_factory.mktemp("images") / "lab.tar"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(own_network())
            running = stack.enter_context(running_docker())
        except programs.Missing as missing:
            pytest.skip(str(missing))
        except PermissionError:
            pytest.skip("no network namespace: only root can give a Docker daemon a network of its own")
        write_image(archive, IMAGE, ["shunter-lab"])
        running.docker("load", "--input", archive)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("DOCKER_HOST", running.host)
        patch.setenv("TESTCONTAINERS_RYUK_DISABLED", "true")  # its image is not here
        from testcontainers.core.config import testcontainers_config

        patch.setattr(testcontainers_config, "ryuk_disabled", True)
        yield running


@pytest.fixture
def left(docker):
    """What is left of containers."""
    return lambda: docker.docker("ps", "--all", "--quiet").split()


async def nothing():
    """Nothing is known to be wrong."""


async def get(url):
    async with Wire(5) as wire:
        return (await wire.exchange("GET", url)).status


async def test_a_server_in_a_container_is_ready_when_it_is_entered_and_gone_afterwards(docker, left):
    async with Container(Image(name=IMAGE, arguments=SERVE)) as served:
        assert await get(served.url + "/health") == 200
        assert left()
    assert not left()


async def test_it_ends_when_it_is_asked_to_and_comes_again_at_the_same_port(docker):
    driver = Container(Image(name=IMAGE, arguments=SERVE))
    async with driver as served:
        await driver.terminate()
        assert await driver.ended(60)
        await driver.restart()
        await ready(served.url + "/health", nothing, 30)
        assert not await driver.ended(0.2)


async def test_one_that_will_not_end_is_killed_when_the_grace_is_over(docker):
    stubborn = ("sh", "-c", "trap '' TERM; \"$@\"", "-", *SERVE)
    driver = Container(Image(name=IMAGE, arguments=stubborn), grace_s=1)
    async with driver:
        await driver.terminate()
        assert await driver.ended(60)


async def test_an_engine_is_killed_and_its_server_is_not(docker):
    driver = Container(Image(name=IMAGE, arguments=WITH_ENGINE))
    async with driver as served:
        await driver.kill_engine()
        assert await get(served.url + "/health") == 200


async def test_what_is_mounted_and_set_is_there(docker, tmp_path):
    (tmp_path / "weights").write_text("some weights")
    show = ("sh", "-c", 'cat /models/weights; echo " for $WHOM"; exec "$@"', "-", *SERVE)
    image = Image(name=IMAGE, arguments=show, environment={"WHOM": "you"}, volumes=((str(tmp_path), "/models"),))
    driver = Container(image)
    async with driver:
        assert "some weights for you" in driver.log()


async def test_what_ends_at_once_is_told_with_its_last_words(docker, left):
    with pytest.raises(LaunchError, match=r"(?s)ended with exit code 3\b.*no weights here"):
        async with Container(Image(name=IMAGE, arguments=("sh", "-c", "echo no weights here; exit 3"))):
            pass
    assert not left()


async def test_what_never_gets_ready_is_given_up(docker, left):
    image = Image(name=IMAGE, arguments=(str(PYTHON), "-c", SLEEPER))
    with pytest.raises(LaunchError, match="not ready within 1 s: "):
        async with Container(image, ready_within_s=1):
            pass
    assert not left()


async def test_an_image_that_is_nowhere_is_named(docker):
    with pytest.raises(LaunchError, match="no-such-image"):
        async with Container(Image(name="localhost:1/no-such-image:1")):
            pass


def exam(*words, **settings):
    command = [sys.executable, "-m", "shunter.conformance", "run", "--container", IMAGE, *words, "--", *SERVE]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **settings)


def test_the_exam_of_an_image_includes_how_it_ends(docker, left):
    with exam("--select", "ms.reachability", "--select", "ms.drain.in-flight", "--tries", "1") as process:
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "pass   ms.drain.in-flight" in said
    assert not left()


def test_ctrl_c_leaves_no_container(docker, left, tmp_path):
    with exam("--report", str(tmp_path / "run.yaml")) as process:
        assert any("ms.reachability.health" in line for line in iter(process.stdout.readline, ""))
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert not left()
    assert "interrupted" in (tmp_path / "run.yaml").read_text()


def test_that_there_is_no_docker_is_said(docker):
    with exam(env=os.environ | {"DOCKER_HOST": "unix:///no/such.sock"}) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    assert f"no Docker to run {IMAGE}" in said
