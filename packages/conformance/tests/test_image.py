"""What can be asked of an image, and the command that kills an engine inside one."""

import subprocess
import sys

import pytest

from shunter.conformance.core.image import KILL_ENGINE, NO_ENGINE, Image, parse_environment, parse_volume
from shunter.conformance.errors import UsageError

# A process that takes the name of its argument, says so, and sleeps.
SLEEPER = 'import sys, time; open("/proc/self/comm", "w").write(sys.argv[1]); print("named", flush=True); time.sleep(600)'


@pytest.mark.parametrize("gpus", ["", "all", "1", "16"])
def test_a_number_of_gpus_is_taken(gpus):
    assert Image(name="vllm", gpus=gpus).gpus == gpus


@pytest.mark.parametrize("gpus", ["0", "-1", "some", "1.5", "all "])
def test_what_is_no_number_of_gpus_is_refused(gpus):
    with pytest.raises(UsageError, match="--gpus"):
        Image(name="vllm", gpus=gpus)


@pytest.mark.parametrize("name", ["", "two words"])
def test_what_is_no_image_is_refused(name):
    with pytest.raises(UsageError, match="want a name"):
        Image(name=name)


def test_environment_is_read():
    assert parse_environment(["A=1", "B_2=x=y", "C="]) == {"A": "1", "B_2": "x=y", "C": ""}


@pytest.mark.parametrize("setting", ["A", "=1", "1A=2", "A B=2"])
def test_what_is_no_variable_is_refused(setting):
    with pytest.raises(UsageError, match="want NAME=VALUE"):
        parse_environment([setting])


def test_a_volume_is_read():
    assert parse_volume("/here/models:/models") == ("/here/models", "/models")


@pytest.mark.parametrize("text", ["/here", "here:/there", "/here:there", "/here:/there:rw"])
def test_what_is_no_volume_is_refused(text):
    with pytest.raises(UsageError, match="both absolute"):
        parse_volume(text)


@pytest.fixture
def alone():
    """A command that runs where it sees no processes but its own, as in a container; only root can have that."""
    isolated = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*isolated, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no process namespace: only root can make one")
    return isolated


@pytest.mark.parametrize("engine", ["VLLM::EngineCore", "VLLM::Worker_TP0", "sglang::scheduler", "triton_python_backend_stub"])
def test_an_engine_is_killed_by_its_name(alone, engine):
    script = f"""
        coproc ENGINE {{ exec "$0" -c '{SLEEPER}' {engine}; }}
        engine=$ENGINE_PID
        read -r named <&"${{ENGINE[0]}}"
        "$@"; echo kill $?
        wait $engine; echo engine $?
    """
    command = [*alone, "bash", "-c", script, sys.executable, *KILL_ENGINE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split("\n")[:2] == ["kill 0", "engine 137"], done.stderr


def test_that_there_is_no_engine_is_said(alone):
    assert subprocess.run([*alone, *KILL_ENGINE], check=False, timeout=60).returncode == NO_ENGINE
