"""Child processes: started with their output in a file, ended by pid, dead when we are."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from shunter.stack.core.screen import printable
from shunter.stack.errors import StackError

__all__ = ["Child", "end"]

PR_SET_PDEATHSIG = 1
# Long enough for an engine to finish a short answer; whoever needs longer is in a hurry to leave.
GRACE_S = 5.0
LAST_LINES = 12

_libc = ctypes.CDLL(None, use_errno=True)


def _die_with(parent: int) -> None:
    # Runs in the child. A parent that is killed cannot end its children: the kernel does it, if it was asked in time.
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


class Child:
    """One process of the stack."""

    def __init__(self, name: str, argv: Sequence[str], logs: Path, environment: Mapping[str, str] | None = None) -> None:
        """Start it; ``argv`` beginning with ``-m`` is a module of this interpreter. ``environment`` is added to ours."""
        self.name = name
        self.argv = tuple(argv)
        self.log = logs / f"{name}.log"
        self.started_s = time.monotonic()
        command = [sys.executable, *argv] if argv[0] == "-m" else list(argv)
        with self.log.open("ab") as log:
            try:
                self.process = subprocess.Popen(  # noqa: S603  argv is built by core.plan
                    command,
                    stdin=subprocess.DEVNULL,
                    env=os.environ | dict(environment or {}),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is for us alone: we end the children in order
                    preexec_fn=partial(_die_with, os.getpid()),  # noqa: PLW1509  no threads run here
                )
            except OSError as error:
                raise StackError(f"{name} cannot be started: {command[0]}: {error.strerror}") from error

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def obituary(self) -> str:
        """How it ended, with the last lines it wrote."""
        code = self.process.poll() or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        lines = self.log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        return "\n".join([f"{self.name} {how}; its last lines ({self.log}):", *(f"  {printable(line)}" for line in lines)])


def end(children: Sequence[Child]) -> None:
    """End these processes, newest first: SIGTERM, and SIGKILL for what is still there after GRACE_S."""
    for child in reversed(children):
        child.process.terminate()  # unlike os.kill it spares whoever has got the pid of one that is dead and reaped
    deadline = time.monotonic() + GRACE_S
    for child in reversed(children):
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
