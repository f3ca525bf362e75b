"""Pickers that the exam starts itself, told of its model servers by a file: Shunter's, and the Go one of llm-d."""

import asyncio
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from shunter.conformance.errors import LaunchError, Unanswered, UsageError
from shunter.conformance.sections.pickers.asking import ANSWERS
from shunter.conformance.sections.pickers.operation import SERVICE, SERVING
from shunter.conformance.sections.pickers.target import Server
from shunter.conformance.shell.pickers.exam import Launched, Launcher
from shunter.conformance.shell.pickers.streams import Line

__all__ = ["KINDS", "free_ports", "launcher"]

READY_WITHIN_S = 60.0
END_WITHIN_S = 10.0
LOOK_EVERY_S = 0.05
LOG_CHARS = 2000

# What an examined picker is to heed, in the words that all of them read; weights as in the default of GIE and llm-d.
SCORERS = {"queue-scorer": 2, "kv-cache-utilization-scorer": 2, "prefix-cache-scorer": 3, "lora-affinity-scorer": 1}


# Of Shunter: who looks at the model servers, and who picks.
PARTS = ("scraper", "picker")

# Tells a client who served it.
ECHO = "destination-endpoint-served-verifier"


class Ports(msgspec.Struct, frozen=True):
    """Where it listens, in all its lives."""

    picks: int
    health: int
    metrics: int


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of picker: its profile, and how it is started."""

    profile: str
    needs: str
    """A module that must be there, unless --bin says what to run instead."""

    binary: str
    """What to run if --bin does not say."""


KINDS = {
    "shunter": Kind(profile="shunter", needs="shunter.picker", binary=""),
    "epp": Kind(profile="llm-d-router", needs="", binary="epp"),
}


def launcher(kind: str, binary: str = "", config: Path | None = None, arguments: Sequence[str] = ()) -> Launcher:
    """Return who starts a picker of this kind; raises UsageError if it is not there to be started."""
    known = KINDS[kind]
    if known.needs and not binary and importlib.util.find_spec(known.needs) is None:
        raise UsageError(f"--launch {kind}: {known.needs} is not installed here; --bin names the command `shunter`")
    return _Process(kind, known, binary or known.binary, config, tuple(arguments))


class _Process:
    """A picker and what it needs beside it, as processes of one session each; see `Launcher`."""

    def __init__(self, name: str, kind: Kind, binary: str, config: Path | None, arguments: tuple[str, ...]) -> None:
        self._name, self._kind, self._binary, self._arguments = name, kind, binary, arguments
        self._config = config
        self._servers: tuple[Server, ...] = ()
        self._running: list[asyncio.subprocess.Process] = []  # the picker is the last
        self._home: tempfile.TemporaryDirectory[str] | None = None
        self._ports = Ports(0, 0, 0)

    def __call__(self, servers: Sequence[Server]) -> Self:
        self._servers = tuple(servers)
        return self

    async def __aenter__(self) -> Launched:
        self._home = tempfile.TemporaryDirectory(prefix=f"shunter-{self._name}-")
        self._ports = Ports(*free_ports(3))
        await self.offer(self._servers)
        self._path("config.yaml").write_text(self._config.read_text() if self._config else json.dumps(self._document()))
        try:
            await self._start()
        except BaseException:
            await self._end()
            raise
        return Launched(
            address=f"127.0.0.1:{self._ports.picks}",
            health=f"127.0.0.1:{self._ports.health}",
            metrics_url=f"http://127.0.0.1:{self._ports.metrics}/metrics",
            profile=self._kind.profile,
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def offer(self, servers: Sequence[Server]) -> None:
        """Write the file of endpoints, in llm-d's file-discovery format; whoever reads it sees the old one or the new one."""
        names = [each.address for each in self._servers]
        endpoints = [
            {"name": f"server-{names.index(each.address)}", "address": host.strip("[]"), "port": port}
            for each in servers
            for host, _, port in [each.address.rpartition(":")]
        ]
        draft = self._path("endpoints.draft")
        draft.write_text(json.dumps({"endpoints": endpoints}))
        draft.replace(self._path("endpoints.yaml"))

    async def terminate(self) -> None:
        if self._running and self._running[-1].returncode is None:
            self._running[-1].terminate()

    async def ended(self, within_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._running[-1].wait()
                return True
        return False

    async def restart(self) -> None:
        await self._kill()
        await self._start()

    def _path(self, name: str) -> Path:
        return Path(self._home.name if self._home else os.devnull) / name

    def _document(self) -> dict[str, object]:
        plugins: list[dict[str, object]] = [_plugin(name) for name in (*SCORERS, "max-score-picker", ECHO)]
        chosen: list[dict[str, object]] = [{"pluginRef": name, "weight": weight} for name, weight in SCORERS.items()]
        chosen.append({"pluginRef": "max-score-picker"})
        document: dict[str, object] = {"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig"}
        if self._name == "epp":
            plugins += [
                _plugin("file-discovery", path=str(self._path("endpoints.yaml")), watchFile=True),
                _plugin("metrics-data-source", scheme="http", path="/metrics", insecureSkipVerify=True),
                _plugin("core-metrics-extractor"),
            ]
            document["dataLayer"] = {"discovery": {"pluginRef": "file-discovery"}}
        return document | {"plugins": plugins, "schedulingProfiles": [{"name": "default", "plugins": chosen}]}

    def _commands(self) -> list[list[str]]:
        ports, config = self._ports, str(self._path("config.yaml"))
        if self._name == "epp":
            flags = {
                "pool-name": "exam",
                "pool-namespace": "default",
                "config-file": config,
                "grpc-port": ports.picks,
                "grpc-health-port": ports.health,
                "metrics-port": ports.metrics,
                "drain-timeout": "1s",
                "tracing": "false",
                "metrics-endpoint-auth": "false",
                "secure-serving": "false",
                "allow-experimental-plugins": "true",
            }
            return [[self._binary, *(f"--{name}={value}" for name, value in flags.items()), *self._arguments]]
        scraper, picker = (
            [self._binary, each] if self._binary else [sys.executable, "-m", f"shunter.{each}"]
            for each in ("scraper", "picker")
        )
        snapshot = str(self._path("snapshot"))
        look = [*scraper, "run", "--endpoints", str(self._path("endpoints.yaml")), "--snapshot", snapshot]
        serve = [*picker, "run", "--config", config, "--snapshot", snapshot, "--runtime", str(self._path("runtime"))]
        numbers = {"port": ports.picks, "health-port": ports.health, "admin-port": ports.metrics, "workers": 1}
        serve += [word for name, value in numbers.items() for word in (f"--{name}", str(value))]
        return [[*look, "--interval-max-ms", "250"], [*serve, *self._arguments]]

    async def _start(self) -> None:
        for command in self._commands():
            with self._path("log").open("ab") as log:
                try:
                    started = await asyncio.create_subprocess_exec(
                        *command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                    )
                except OSError as error:
                    raise LaunchError(
                        f"{self._name}: cannot run {command[0]}: {error.strerror}; --bin says what to run"
                    ) from None
            self._running.append(started)
        await self._ready()

    async def _ready(self) -> None:
        """Wait until its health is SERVING."""
        clock = asyncio.get_running_loop().time
        deadline_s = clock() + READY_WITHIN_S
        line = Line(f"127.0.0.1:{self._ports.health}", lambda bound: bound.seconds)
        said = "no answer"
        try:
            while said != SERVING:
                if clock() > deadline_s or any(each.returncode is not None for each in self._running):
                    raise LaunchError(f"{self._name}: is not ready ({said})\n{self._path('log').read_text()[-LOG_CHARS:]}")
                with suppress(Unanswered):
                    said = await line.check(SERVICE, ANSWERS)
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            await line.close()

    async def _kill(self) -> None:
        while self._running:
            process = self._running.pop()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def _end(self) -> None:
        """End it politely, then not, and remove its files."""
        try:
            await self.terminate()
            if self._running:
                await self.ended(END_WITHIN_S)
        finally:
            await asyncio.shield(self._kill())
            if self._home:
                self._home.cleanup()


def _plugin(kind: str, **parameters: object) -> dict[str, object]:
    return {"type": kind, "parameters": parameters}


def free_ports(count: int) -> list[int]:
    """Numbers that are free at this moment; whoever is told of one has to be told before it listens."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
