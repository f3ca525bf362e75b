"""Power over a server in this process, as whoever launched one has over another process."""

import asyncio

from shunter.lab.shell.server import LabServer

__all__ = ["Control"]


class Control:
    """Ends a server and starts it again at the same port. Its faults stay, and are set aside only to get rid of it."""

    def __init__(self, server: LabServer, grace_s: float = 30.0) -> None:
        self.grace_s = grace_s
        self._server = server
        self._ending: asyncio.Task[None] | None = None

    async def terminate(self) -> None:
        """Ask it to end: what runs may finish for `grace_s`."""
        self._ending = asyncio.create_task(self._server.stop(self.grace_s))

    async def kill_engine(self) -> None:
        """Let its engine die, and nothing else."""
        await self._server.kill_engine()

    async def ended(self, within_s: float) -> bool:
        """Wait until it has ended; False if it has not in time."""
        if self._ending is None:
            return False
        done, _ = await asyncio.wait({self._ending}, timeout=within_s)
        return bool(done)

    async def restart(self) -> None:
        """End what is left of it, and start it again."""
        if self._ending is not None:
            self._ending.cancel()
            await asyncio.gather(self._ending, return_exceptions=True)
            self._ending = None
        faults = self._server.faults
        self._server.mend()
        await self._server.stop()
        self._server.faults = faults
        await self._server.start()
