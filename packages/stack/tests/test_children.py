"""Children start with a log, tell how they ended, and end when told to."""

import os
import signal
import sys
import time

import pytest

from shunter.stack.errors import StackError
from shunter.stack.shell import children
from shunter.stack.shell.children import Child, end

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_last_words_of_a_child_are_reported(tmp_path):
    child = Child("talker", (sys.executable, "-c", "print('\\n'.join(map(str, range(99)))); raise SystemExit(3)"), tmp_path)
    child.process.wait()
    assert not child.alive
    obituary = child.obituary()
    assert obituary.startswith("talker ended with exit code 3; its last lines")
    assert obituary.endswith("  98")
    assert len(obituary.splitlines()) == 1 + children.LAST_LINES


def test_a_signal_is_named(tmp_path):
    child = Child("victim", (sys.executable, "-c", "import time; time.sleep(600)"), tmp_path)
    os.kill(child.pid, signal.SIGKILL)
    child.process.wait()
    assert "victim was ended by SIGKILL" in child.obituary()


def test_a_module_runs_in_this_interpreter(tmp_path):
    child = Child("module", ("-m", "platform"), tmp_path)
    assert child.process.wait() == 0
    assert "Linux" in child.log.read_text()


def test_what_cannot_be_started_is_named(tmp_path):
    with pytest.raises(StackError, match="ghost cannot be started: /no/such/program: No such file"):
        Child("ghost", ("/no/such/program",), tmp_path)


def test_a_log_cannot_speak_to_the_terminal(tmp_path):
    child = Child("forger", (sys.executable, "-c", r"print('\x1b]0;mine\x07')"), tmp_path)
    child.process.wait()
    assert child.obituary().endswith(r"  \x1b]0;mine\x07")


def test_whoever_got_the_pid_of_a_dead_child_is_spared(tmp_path):
    dead = Child("dead", (sys.executable, "-c", ""), tmp_path)
    heir = Child("heir", (sys.executable, "-c", "import time; time.sleep(600)"), tmp_path)
    dead.process.wait()
    dead.process.pid = heir.pid
    end([dead])
    assert heir.alive
    end([heir])


def test_all_are_ended_even_the_deaf(tmp_path, monkeypatch):
    monkeypatch.setattr(children, "GRACE_S", 60.0)
    obedient = Child("obedient", (sys.executable, "-c", "import time; time.sleep(600)"), tmp_path)
    end([obedient])
    deaf = Child("deaf", (sys.executable, "-c", STUBBORN), tmp_path)
    wait_for(lambda: "deaf" in deaf.log.read_text())
    monkeypatch.setattr(children, "GRACE_S", 0.2)
    end([deaf])
    assert obedient.process.returncode == -signal.SIGTERM
    assert deaf.process.returncode == -signal.SIGKILL
