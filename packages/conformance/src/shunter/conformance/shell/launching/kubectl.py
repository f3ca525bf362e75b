"""Asking Kubernetes by kubectl, which knows every kubeconfig, every way to log in, and how to forward a port."""

import asyncio
import json
import os
import re
import shutil
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from shunter.conformance.errors import LaunchError, UsageError

__all__ = ["Forward", "Kubectl", "RefusedError", "end"]

# An API server that has said nothing for so long does not come back while somebody waits; kubectl alone would wait for ever.
ANSWER_WITHIN_S = 30

# Between two attempts to forward: the server may need a moment to listen.
FORWARD_AGAIN_S = 0.2


class RefusedError(LaunchError):
    """What kubectl or the API server said no to, in their words."""


class Kubectl:
    """kubectl for one context and namespace; empty means what the kubeconfig, or the Pod that this runs in, says."""

    def __init__(self, context: str = "", namespace: str = "") -> None:
        self._where = ["--context", context] if context else []
        self._where += ["--namespace", namespace] if namespace else []

    async def start(self, *arguments: str, **settings: Any) -> Process:
        """Start kubectl; the caller ends it. Raises UsageError if there is none."""
        program = shutil.which("kubectl")
        if program is None:
            raise UsageError("--kube needs kubectl on PATH: install the one that fits your cluster")
        return await asyncio.create_subprocess_exec(program, *self._where, *arguments, start_new_session=True, **settings)

    async def run(self, *arguments: str, stdin: str = "") -> str:
        """Return what it prints; raises RefusedError."""
        status, out, err = await self.attempt(*arguments, f"--request-timeout={ANSWER_WITHIN_S}s", stdin=stdin)
        if status:
            raise RefusedError(err.strip() or f"kubectl ended with {status}")
        return out

    async def attempt(self, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        """Return how it ends and what it prints; it ends with us if we are interrupted."""
        process = await self.start(*arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        try:
            out, err = await process.communicate(stdin.encode())
        finally:
            await end(process)
        return process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace")

    async def read(self, *arguments: str, stdin: str = "") -> Any:
        """Return what it prints as JSON; raises RefusedError."""
        return json.loads(await self.run(*arguments, "--output=json", stdin=stdin))


class Forward:
    """A local port that leads into a Pod for as long as the block lasts, whatever becomes of the Pod.

    kubectl gives up a forward as soon as one connection is refused inside, which is what a server does that is not ready or
    has ended; so it is started again and again at the same port. Nobody listens there meanwhile.
    """

    def __init__(self, kubectl: Kubectl, pod: str, port: int, wanted: Callable[[], bool]) -> None:
        self.local_port = 0
        self._kubectl, self._pod, self._port, self._wanted = kubectl, pod, port, wanted
        self._open = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Return when the port is there; raises RefusedError if it does not come."""
        self._task = asyncio.create_task(self._forward())
        opening = asyncio.create_task(self._open.wait())
        done, _ = await asyncio.wait([self._task, opening], timeout=ANSWER_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        opening.cancel()
        if self._task in done:
            self._task.result()
        if not done:
            raise RefusedError(f"no port is forwarded within {ANSWER_WITHIN_S} s")

    async def close(self) -> None:
        """End it."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _forward(self) -> None:
        while True:
            if self._wanted():
                await self._forward_once()
            await asyncio.sleep(FORWARD_AGAIN_S)

    async def _forward_once(self) -> None:
        ports = f"{self.local_port or ''}:{self._port}"
        command = ("port-forward", "--address=127.0.0.1", f"pod/{self._pod}", ports)
        process = await self._kubectl.start(*command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT)
        said = b""
        assert process.stdout  # noqa: S101 – it was asked for
        try:
            while line := await process.stdout.readline():
                said = line
                if found := re.match(rb"Forwarding from 127\.0\.0\.1:(\d+) ", line):
                    self.local_port = int(found[1])
                    self._open.set()
        finally:
            await end(process)
        if not self._open.is_set():
            raise RefusedError(f"no port can be forwarded: {said.decode(errors='replace').strip()}")


async def end(process: Process) -> None:
    """Kill a process unless it has ended, and wait for it.

    Not by its own `kill`, which takes a process that has ended away from the loop that waits for it.
    """
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    await process.wait()
