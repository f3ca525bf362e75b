"""A real Envoy for tests: started with a bootstrap on free ports, ready when handed over, gone afterwards."""

import asyncio
import contextlib
import errno
import json
import random
import socket
import tempfile
import urllib.request
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec

from shunter.envoyconf.core.authority import join_authority
from shunter.envoyconf.core.render import render
from shunter.envoyconf.errors import EnvoyRefusedError
from shunter.envoyconf.shell.envoy import ensure

__all__ = ["RunningEnvoy", "free_ports", "running_envoy"]

# Half a second on an idle machine. A cluster with a health check waits for the first verdict, which takes two more.
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 10
POLL_S = 0.02


# Linux gives clients ports from 32,768 on: one of theirs may be in use at the moment when somebody wants to listen there.
UNASSIGNED = 15_000, 32_000
DRAWS = 100
LOTS = random.SystemRandom()  # not the dice that a test seeds: the run beside it, of the same seed, would draw the same


class RunningEnvoy(msgspec.Struct, frozen=True):
    """Where a running Envoy listens and what it wrote."""

    listeners: dict[str, str]  # name → host:port
    admin: str  # host:port
    directory: Path
    process: Process

    @property
    def url(self) -> str:
        """The URL of the first listener."""
        return f"http://{next(iter(self.listeners.values()))}"

    def access_log(self) -> list[dict[str, Any]]:
        """Return the requests logged to standard output so far."""
        lines = (self.directory / "stdout").read_text().splitlines()
        return [json.loads(line) for line in lines]


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 in a row that nobody has, and none that a client is given, for programs that must be told of one.

    Raises OSError where there are none. The exam, which shares no code with anybody, has its own.
    """
    for _ in range(DRAWS):
        first = LOTS.randrange(*UNASSIGNED)
        ports = [*range(first, first + count)]
        try:
            with contextlib.ExitStack() as held:
                for port in ports:
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return ports
    raise OSError(errno.EADDRINUSE, f"no {count} ports in a row are free on 127.0.0.1")


@contextlib.asynccontextmanager
async def running_envoy(
    bootstrap: dict[str, Any], binary: Path | None = None, *, threads: int = 1
) -> AsyncGenerator[RunningEnvoy]:
    """Run an Envoy with that many worker threads; it has an admin interface, on a port of the kernel's choice if none is given.

    Raises EnvoyRefusedError with Envoy's last words if it does not become ready.
    """
    binary = binary or await asyncio.to_thread(ensure)
    admin = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}
    with tempfile.TemporaryDirectory(prefix="shunter-envoy-") as name:
        directory = Path(name)
        (directory / "bootstrap.json").write_text(render({"admin": admin} | bootstrap, "json"))
        with (directory / "stdout").open("wb") as stdout, (directory / "stderr").open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *(str(binary), "-c", "bootstrap.json", "--admin-address-path", "admin", "--concurrency", str(threads)),
                *("--disable-hot-restart", "--log-level", "warning", "--file-flush-interval-msec", "50"),
                stdout=stdout,
                stderr=stderr,
                cwd=directory,
            )
            try:
                yield await _ready(process, directory)
            finally:
                await _stop(process)


async def _ready(process: Process, directory: Path) -> RunningEnvoy:
    """Wait until Envoy says that it is ready, and ask it for the ports it got."""
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while process.returncode is None:
                with contextlib.suppress(OSError):  # not yet written, not yet listening, or not yet ready (503)
                    admin = (directory / "admin").read_text()
                    await asyncio.to_thread(_get, f"http://{admin}/ready")
                    statuses = json.loads(await asyncio.to_thread(_get, f"http://{admin}/listeners?format=json"))
                    listeners = {each["name"]: _authority(each) for each in statuses["listener_statuses"] if _is_outside(each)}
                    return RunningEnvoy(listeners=listeners, admin=admin, directory=directory, process=process)
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise EnvoyRefusedError(f"not ready within {START_TIMEOUT_S} s: {_last_words(directory)}") from None
    raise EnvoyRefusedError(f"exit code {process.returncode}: {_last_words(directory)}")


async def _stop(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()


def _is_outside(status: dict[str, Any]) -> bool:
    """Say whether a listener has an address; one that serves Envoy itself has none."""
    return "socket_address" in status["local_address"]


def _authority(status: dict[str, Any]) -> str:
    address = status["local_address"]["socket_address"]
    return join_authority(address["address"], address["port_value"])


def _last_words(directory: Path) -> str:
    return (directory / "stderr").read_text(errors="replace")[-2000:]


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 # http to our own child
        return answer.read().decode()
