"""A model server as a process of this machine: started by a recipe, watched, and ended with all its children.

Everything runs in a session of its own: the terminal's Ctrl-C does not reach it, only ours does, and whatever it starts is
found by the session. Where there is no /proc to find it in, only the process group is ended.
"""

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import msgspec

from shunter.conformance.errors import LaunchError, Skip, Unanswered
from shunter.conformance.sections.servers.profiles import GENERIC, find_profile
from shunter.conformance.shell.launching.driver import Served
from shunter.conformance.shell.launching.readiness import POLL_S, READY_WITHIN_S, last_words, ready
from shunter.conformance.shell.launching.recipe import Launcher, Recipe, Site
from shunter.conformance.shell.launching.sessions import bound_to_us, members, shared_memory
from shunter.conformance.shell.wire import Wire

__all__ = ["Process"]

# An engine that has nothing to do any more frees its memory within seconds; one that hangs is killed.
END_WITHIN_S = 15.0

# Of a log, what is kept of it when the server has gone.
LOG_BYTES = 1 << 16


class Process:
    """One server in one process group at a time; keeps the promises of `Driver`. `name` is for messages."""

    def __init__(
        self,
        name: str,
        launch: Launcher,
        *,
        python: str = "",
        program: str = "",
        arguments: tuple[str, ...] = (),
        ready_within_s: float = READY_WITHIN_S,
    ) -> None:
        self.grace_s = 0.0
        self._name, self._launch, self._ready_within_s = name, launch, ready_within_s
        self._site: Callable[[Path], Site] = lambda home: Site(home, python=python, program=program, arguments=arguments)
        self._home: tempfile.TemporaryDirectory[str] | None = None
        self._recipe: Recipe | None = None
        self._leader: asyncio.subprocess.Process | None = None
        self._shared: set[Path] = set()
        self._said = ""

    async def __aenter__(self) -> Served:
        self._home = tempfile.TemporaryDirectory(prefix=f"shunter-{self._name}-")
        try:
            return await self._come_up(self._launch(self._site(Path(self._home.name))))
        except BaseException:
            await self._end()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def terminate(self) -> None:
        """Send SIGTERM to the process that was started, as a kubelet does."""
        if self._leader and self._leader.returncode is None:
            self._leader.terminate()

    async def kill_engine(self) -> None:
        """Kill the process that generates; raises Skip if the one that answers does that too."""
        name = self._recipe.engine if self._recipe else ""
        self._note_shared()
        engines = [pid for pid, command in self._members() if name and name in command]
        if not engines:
            raise Skip("one process answers and generates")
        for pid in engines:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def ended(self, within_s: float) -> bool:
        """Wait until no process of the session is left."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                if self._leader:
                    await self._leader.wait()
                while self._members():  # noqa: ASYNC110 – no event tells that a stranger’s child has ended
                    await asyncio.sleep(POLL_S)
                return True
        return False

    async def restart(self) -> None:
        """Kill what is left, and start the same command once more."""
        self._note_shared()
        await self._kill()
        await self._start()

    def log(self) -> str:
        """Return the end of what it has printed, in all its lives."""
        with suppress(OSError), self._log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
            self._said = file.read().decode(errors="replace")
        return self._said

    @property
    def _log(self) -> Path:
        return Path(self._home.name if self._home else os.devnull) / "log"

    async def _come_up(self, recipe: Recipe) -> Served:
        self._recipe, self.grace_s = recipe, recipe.grace_s
        await self._start()
        profile = find_profile(recipe.profile) if recipe.profile else GENERIC
        try:
            await ready(recipe.url + profile.health_path, self._trouble, self._ready_within_s)
        except TimeoutError as error:
            raise LaunchError(f"{self._name}: {error}{last_words(self.log())}{self._kept()}") from None
        return Served(
            url=recipe.url,
            profile=recipe.profile,
            model=recipe.model,
            metrics_url=recipe.metrics_url,
            means=recipe.means,
            version=await _version(recipe),
        )

    async def _start(self) -> None:
        assert self._recipe  # noqa: S101 – it has come up once
        program, *words = self._recipe.command
        with self._log.open("ab") as log:
            try:
                self._leader = await asyncio.create_subprocess_exec(
                    program,
                    *words,
                    env=os.environ | self._recipe.environment,
                    cwd=self._log.parent,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=bound_to_us(),
                )
            except OSError as error:
                raise LaunchError(
                    f"{self._name}: cannot run {program}: {error.strerror}; --bin or --python says where it is"
                ) from None

    async def _trouble(self) -> str | None:
        """Say why it will never be ready."""
        if self._leader is None or self._leader.returncode is None:
            return None
        return (
            f"`{' '.join(self._recipe.command[:4]) if self._recipe else ''} …` ended with exit code {self._leader.returncode}"
        )

    def _kept(self) -> str:
        """Keep the whole log of a server that did not come up."""
        descriptor, path = tempfile.mkstemp(prefix=f"shunter-{self._name}-", suffix=".log")
        os.close(descriptor)
        self._log.replace(path)
        return f"\n  all of it: {path}"

    def _members(self) -> list[tuple[int, str]]:
        return list(members(self._leader.pid)) if self._leader else []

    def _note_shared(self) -> None:
        """Remember the shared memory that it has: who is killed does not remove it."""
        for pid, _ in self._members():
            self._shared |= shared_memory(pid)

    async def _kill(self) -> None:
        """Kill all of the session; first the one that would start others again."""
        if self._leader is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._leader.pid, signal.SIGKILL)
        while left := self._members():
            for pid, _ in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(POLL_S)
        await self._leader.wait()
        self._leader = None

    async def _end(self) -> None:
        """End it politely, then not, and remove its files and its shared memory."""
        try:
            self._note_shared()
            await self.terminate()
            await self.ended(END_WITHIN_S)
        finally:
            await asyncio.shield(self._kill())
            self.log()
            for path in self._shared:
                path.unlink(missing_ok=True)
            if self._home:
                self._home.cleanup()
                self._home = None


async def _version(recipe: Recipe) -> str:
    """Ask a server which version it is; whatever goes wrong, that is no matter of the exam."""
    if recipe.version:
        return recipe.version
    path, field = recipe.version_at
    with suppress(Unanswered, msgspec.DecodeError):
        async with Wire() as wire:
            return str(
                msgspec.json.decode((await wire.exchange("GET", recipe.url + path)).body, type=dict[str, object]).get(field, "")
            )
    return ""
