"""Which stack runs is known while it runs, and no longer."""

import errno
import os
import secrets
import shutil
import signal
import subprocess
import sys

import pytest

from shunter.snapshot import runtime_directory
from shunter.stack.core.plan import Plan, Ports
from shunter.stack.errors import StackError
from shunter.stack.shell import state

HOLDER = """
import sys, time
from pathlib import Path
from shunter.stack.shell import state
with state.hold(sys.argv[1], Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def name():
    name = f"test-{os.getpid()}-{secrets.token_hex(3)}"
    yield name
    shutil.rmtree(runtime_directory(name))


@pytest.fixture
def saved():
    ports = Ports(gateway=1, picker=(2,), health=3, admin=4, collector=6, envoy_admin=5, scraper=7)
    return state.State(Plan(directory="d", profile="lean", model="m", ports=ports, engines=()), {"picker": 7})


def test_a_stack_is_known_until_it_ends(name, saved):
    directory = runtime_directory(name)
    with state.hold(name, directory):
        state.save(directory, saved)
        assert state.load(name) == saved
    with pytest.raises(StackError, match=f"shunter up --name {name}"):
        state.load(name)


def test_a_killed_stack_is_forgotten_and_succeeded(name, saved):
    directory = runtime_directory(name)
    command = [sys.executable, "-c", HOLDER, name, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        state.save(directory, saved)
        with pytest.raises(StackError, match=f"is running already .process {holder.pid}."), state.hold(name, directory):
            pass
        assert state.load(name) == saved
        holder.send_signal(signal.SIGKILL)
    with pytest.raises(StackError, match="no stack"):
        state.load(name)
    with state.hold(name, directory), pytest.raises(StackError, match="no stack"):
        state.load(name)  # not yet saved: what the killed one left is not its successor's


def test_asking_for_a_stack_that_never_ran_leaves_nothing_behind():
    name = f"test-{os.getpid()}-{secrets.token_hex(3)}"
    with pytest.raises(StackError, match="no stack"):
        state.load(name)
    assert not runtime_directory(name, create=False).exists()


def test_a_directory_that_others_may_write_is_not_believed(name):
    directory = runtime_directory(name)
    directory.chmod(0o777)
    try:
        with pytest.raises(StackError, match="others may write it"):
            state.load(name)
    finally:
        directory.chmod(0o700)


def test_where_nothing_can_be_locked_that_is_told(name, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    directory = runtime_directory(name)
    (directory / state.LOCK).touch()
    monkeypatch.setattr("shunter.snapshot.locks.fcntl.flock", refuse)
    words = f"{directory / state.LOCK}: cannot be locked: No locks available"
    with pytest.raises(StackError, match=words), state.hold(name, directory):
        pass
    with pytest.raises(StackError, match=words):
        state.load(name)
