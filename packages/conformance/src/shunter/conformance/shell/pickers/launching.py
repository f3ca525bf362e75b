"""Pickers that the exam starts itself, as processes in sessions of their own, and ends with all their children."""

import asyncio
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from shunter.conformance.errors import LaunchError, Unanswered
from shunter.conformance.sections.pickers.asking import ANSWERS
from shunter.conformance.sections.pickers.operation import SERVICE, SERVING
from shunter.conformance.sections.pickers.target import Server
from shunter.conformance.shell.launching.sessions import bound_to_us
from shunter.conformance.shell.pickers.exam import Launched
from shunter.conformance.shell.pickers.recipes import Recipe, Site
from shunter.conformance.shell.pickers.streams import Line
from shunter.conformance.shell.ports import free_ports
from shunter.conformance.shell.wire import unreachable

__all__ = ["Process"]

READY_WITHIN_S = 60.0
END_WITHIN_S = 10.0
LOOK_EVERY_S = 0.05
LOG_CHARS = 2000


class Process:
    """A picker by a recipe, and what it needs beside it; see `Launcher`. A `config` takes the place of the recipe's."""

    def __init__(self, recipe: Recipe, config: Path | None = None) -> None:
        self._recipe, self._config = recipe, config
        self._servers: tuple[Server, ...] = ()
        self._running: list[asyncio.subprocess.Process] = []  # the picker is the last
        self._home: tempfile.TemporaryDirectory[str] | None = None
        self._site = Site(home=Path(os.devnull), picks=0, health=0, metrics=0, config=Path(os.devnull))

    def __call__(self, servers: Sequence[Server]) -> Self:
        self._servers = tuple(servers)
        return self

    async def __aenter__(self) -> Launched:
        self._home = tempfile.TemporaryDirectory(prefix=f"shunter-{self._recipe.profile}-")
        home = Path(self._home.name)
        picks, health, metrics = free_ports(3)
        self._site = Site(home=home, picks=picks, health=health, metrics=metrics, config=self._config or home / "config.yaml")
        if self._config is None:
            self._site.config.write_text(json.dumps(self._recipe.document(self._site)))
        try:
            await self.offer(self._servers)
            await self._start()
        except BaseException:
            await self._end()
            raise
        return Launched(
            address=f"127.0.0.1:{picks}",
            health=f"127.0.0.1:{health}",
            metrics_url=f"http://127.0.0.1:{metrics}/metrics",
            profile=self._recipe.profile,
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def offer(self, servers: Sequence[Server]) -> None:
        await asyncio.to_thread(self._recipe.offer, self._site, [each.address for each in servers])

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

    @property
    def _log(self) -> Path:
        return self._site.home / "log"

    async def _start(self) -> None:
        for command in self._recipe.commands(self._site):
            with self._log.open("ab") as log:
                try:
                    started = await asyncio.create_subprocess_exec(
                        *command,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                        preexec_fn=bound_to_us(),
                    )
                except OSError as error:
                    raise LaunchError(f"cannot run {command[0]}: {error.strerror}; --bin says what to run") from None
            self._running.append(started)
        await self._ready()

    async def _ready(self) -> None:
        """Wait until its health is SERVING, and it listens: the Go picker makes a key for TLS first, while it is healthy."""
        clock = asyncio.get_running_loop().time
        deadline_s = clock() + READY_WITHIN_S
        line = Line(f"127.0.0.1:{self._site.health}", lambda bound: bound.seconds)
        said = "no answer"
        try:
            while said != SERVING or await unreachable(f"http://127.0.0.1:{self._site.picks}"):
                if clock() > deadline_s or any(each.returncode is not None for each in self._running):
                    last = self._log.read_text(errors="replace")[-LOG_CHARS:]
                    raise LaunchError(f"{self._recipe.profile} is not ready ({said})\n{last}")
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
