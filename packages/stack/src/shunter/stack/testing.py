"""A whole stack for tests and drills: ``running_stack`` brings one up on free ports and down again."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

from shunter.snapshot import runtime_directory
from shunter.stack.core.fleet import Decision, Fleet
from shunter.stack.core.plan import LOOPBACK
from shunter.stack.shell import state, top, web
from shunter.stack.shell.state import State

__all__ = ["Running", "running_stack"]

# Several times what a stack needs on a busy two-core machine, the first download of Envoy included.
START_S = 240.0
STOP_S = 30.0
ANSWER_S = 120.0
POLL_S = 0.05


class Running:
    """A stack that is up."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", output: Path) -> None:
        self.name = name
        self.process = process
        self._output = output

    @property
    def state(self) -> State:
        """What runs now; a revived process has a new pid."""
        return state.load(self.name)

    @property
    def gateway(self) -> str:
        """The gateway's URL."""
        return f"http://{LOOPBACK}:{self.state.plan.ports.gateway}"

    @property
    def directory(self) -> Path:
        """Its files, rings and logs."""
        return Path(self.state.plan.directory)

    @property
    def output(self) -> str:
        """What ``shunter up`` printed."""
        return self._output.read_text(errors="replace")

    def chat(self, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        """Ask the gateway once, and read the answer, whatever it is."""
        told = {"content-type": "application/json", **(headers or {})}
        request = urllib.request.Request(f"{self.gateway}/v1/chat/completions", json.dumps(body).encode(), told)  # noqa: S310  http, ours
        with suppress(OSError, HTTPException), urllib.request.urlopen(request, timeout=ANSWER_S) as answer:  # noqa: S310  as above
            answer.read()

    @contextmanager
    def crowd(self, size: int, ask: Callable[[], object]) -> Generator[None]:
        """Let so many clients ask, each one time after the other."""
        enough = threading.Event()

        def client() -> None:
            while not enough.is_set():
                ask()

        clients = [threading.Thread(target=client) for _ in range(size)]
        for each in clients:
            each.start()
        try:
            yield
        finally:
            enough.set()
            for each in clients:
                each.join()

    def fleet(self) -> Fleet:
        """The fleet as the picker sees it."""
        return top.fetch_fleet(f"{LOOPBACK}:{self.state.plan.ports.admin}")

    def workers(self) -> list[dict[str, Any]]:
        """The picker's workers, as its page has them, without the collector."""
        page = web.get(f"{LOOPBACK}:{self.state.plan.ports.admin}", "/debug/workers").json()
        return [worker for worker in page if worker["worker"] != "collector"]

    def decisions(self) -> tuple[Decision, ...]:
        """The picker's last decisions, newest first."""
        return top.fetch_decisions(f"{LOOPBACK}:{self.state.plan.ports.admin}", top.ALL).decisions


@contextmanager
def running_stack(*options: str) -> Generator[Running]:
    """Run ``shunter up --any-port`` with further ``options``; an error carries what it and its processes printed."""
    name = f"test-{os.getpid()}-{secrets.token_hex(3)}"
    with tempfile.TemporaryDirectory(prefix="shunter-stack-") as scratch:
        output = Path(scratch) / "output"
        command = [sys.executable, "-m", "shunter.stack.cli", "up", "--any-port", "--name", name, *options]
        with output.open("wb") as sink:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT)  # noqa: S603  our own module
        running = Running(name, process, output)
        try:
            _await_ready(running)
            yield running
        except BaseException as error:
            error.add_note(f"shunter up printed:\n{running.output}")
            raise
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_S)
            finally:
                process.kill()
                process.wait()
                shutil.rmtree(runtime_directory(name))


def _await_ready(running: Running) -> None:
    deadline = time.monotonic() + START_S
    while "A request went through." not in running.output:
        if running.process.poll() is not None:
            raise AssertionError(f"shunter up ended with {running.process.returncode}")
        if time.monotonic() > deadline:
            raise AssertionError(f"shunter up is not ready after {START_S:.0f} s")
        time.sleep(POLL_S)
