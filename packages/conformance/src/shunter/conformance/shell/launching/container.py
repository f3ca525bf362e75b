"""A model server in a container of this machine's Docker, or of the one at `DOCKER_HOST`, by testcontainers.

Testcontainers also starts a container of its own, Ryuk, that removes ours if the exam is killed; where its image cannot be
had, `TESTCONTAINERS_RYUK_DISABLED=true` does without, and all is as well unless the exam gets a SIGKILL.
"""

import asyncio
from contextlib import suppress
from importlib import import_module
from types import TracebackType
from typing import Any

from shunter.conformance.core.image import KILL_ENGINE, NO_ENGINE, SHM_BYTES, Image
from shunter.conformance.errors import LaunchError, Skip, UsageError
from shunter.conformance.shell.launching.driver import Served
from shunter.conformance.shell.launching.readiness import GRACE_S, POLL_S, READY_WITHIN_S, last_words, ready

__all__ = ["Container"]

LOG_LINES = 200


class Container:
    """One server in one container at a time; keeps the promises of `Driver`.

    Only loopback can reach it when Docker is on this machine. A restart is a new container behind the same port.
    """

    def __init__(self, image: Image, *, grace_s: float = GRACE_S, ready_within_s: float = READY_WITHIN_S) -> None:
        self.grace_s = grace_s
        self._image = image
        self._ready_within_s = ready_within_s
        self._library: Any = None
        self._docker: Any = None
        self._errors: tuple[type[Exception], ...] = ()
        self._running: Any = None
        self._port: int | None = None
        self._host = ""
        self._stopping: asyncio.Task[None] | None = None
        self._said = ""

    async def __aenter__(self) -> Served:
        library, docker = self._library, self._docker = _libraries()
        own = (library.ContainerStartException, library.ContainerConnectException)
        self._errors = (docker.errors.DockerException, *own, OSError)
        try:
            await self._start()
            url = f"http://{self._host}:{self._port}"
            await ready(url + self._image.health_path, lambda: asyncio.to_thread(self._end), self._ready_within_s)
        except TimeoutError as error:
            await self._remove()
            raise LaunchError(f"{self._image.name}: {error}{last_words(self._said)}") from None
        except BaseException:
            await self._remove()
            raise
        return Served(url=url, profile="", version=self._image.name)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._remove()

    async def terminate(self) -> None:
        """Ask it to end as `docker stop` does: its stop signal, and SIGKILL when the grace is over."""
        self._stopping = asyncio.create_task(asyncio.to_thread(self._inner.stop, timeout=int(self.grace_s)))

    async def kill_engine(self) -> None:
        """Kill the engine's processes inside; raises Skip if there are none beside the server's own."""
        try:
            status, output = await asyncio.to_thread(self._inner.exec_run, list(KILL_ENGINE))
        except self._errors as error:
            raise Skip(f"nothing can be killed inside the container: {error}") from None
        if status == NO_ENGINE:
            raise Skip("no process in the container is known as an engine's")
        if status:
            raise Skip(f"nothing can be killed inside the container: {output.decode(errors='replace').strip()}")

    async def ended(self, within_s: float) -> bool:
        """Wait until the container is not running any more."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while await asyncio.to_thread(self._end) is None:  # noqa: ASYNC110 – Docker is asked, nobody tells
                    await asyncio.sleep(POLL_S)
                return True
        return False

    async def restart(self) -> None:
        """Remove the container and start another one at the same port."""
        await self._remove()
        await self._start()

    def log(self) -> str:
        """Return the last lines of the server, or of the last one when there is none."""
        if self._running is not None:
            self._said = self._inner.logs(tail=LOG_LINES).decode(errors="replace")
        return self._said

    @property
    def _inner(self) -> Any:
        """Docker's own view of the container."""
        return self._running.get_wrapped_container()

    async def _start(self) -> None:
        """Start a container; if the exam is interrupted meanwhile, wait for it, lest it be left behind."""
        starting = asyncio.create_task(asyncio.to_thread(self._run))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait([starting])
            raise

    def _run(self) -> None:
        try:
            container = self._library.DockerContainer(self._image.name)
        except self._errors as error:
            raise LaunchError(f"no Docker to run {self._image.name}: {error}") from None
        self._running = container
        if self._image.arguments:
            container.with_command(list(self._image.arguments))
        container.with_envs(**self._image.environment)
        for here, there in self._image.volumes:
            container.with_volume_mapping(here, there, "ro")
        local = container.get_docker_client().host() == "localhost"
        container.ports[str(self._image.port)] = ("127.0.0.1", self._port) if local else self._port
        container.with_kwargs(shm_size=SHM_BYTES, device_requests=self._devices())
        try:
            container.start()
            if self._port is None:
                self._port = container.get_exposed_port(self._image.port)
            self._host = "127.0.0.1" if local else container.get_container_host_ip()
        except self._errors as error:
            why = self._end() or f"it does not start: {error}"
            raise LaunchError(f"{self._image.name}: {why}{last_words(self._last_log())}") from None

    def _devices(self) -> list[Any]:
        if not self._image.gpus:
            return []
        count = -1 if self._image.gpus == "all" else int(self._image.gpus)
        return [self._docker.types.DeviceRequest(count=count, capabilities=[["gpu"]])]

    def _end(self) -> str | None:
        """Say how it ended, if it has."""
        with suppress(*self._errors):
            self._inner.reload()
            if self._inner.status not in {"created", "running"}:
                return f"it ended with exit code {self._inner.attrs['State']['ExitCode']}"
        return None

    def _last_log(self) -> str:
        with suppress(*self._errors):
            return self.log()
        return self._said

    async def _remove(self) -> None:
        """Remove the container, whatever state it is in."""
        if self._running is None:
            return

        def remove() -> None:
            self._last_log()
            try:
                self._running.stop()
            except self._docker.errors.NotFound:
                pass
            except self._errors as error:
                raise LaunchError(f"{self._image.name}: its container cannot be removed: {error}") from None

        await asyncio.shield(asyncio.to_thread(remove))
        self._running = None
        if self._stopping is not None:
            await asyncio.wait([self._stopping])
            self._stopping.exception()
            self._stopping = None


def _libraries() -> tuple[Any, Any]:
    """Return what of testcontainers and of Docker's own library is needed; raises UsageError."""
    try:
        return import_module("testcontainers.core.container"), import_module("docker")
    except ImportError:
        raise UsageError("--container needs testcontainers: pip install 'shunter-conformance[containers]'") from None
