"""A way to a server that can be cut or blocked, as a kill -9 or a hang of the server would be seen from its clients."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncGenerator

__all__ = ["Relay"]

# Close with a reset, as the kernel does for a process that left bytes unread.
RESET = struct.pack("ii", 1, 0)


class Relay:
    """Forwards bytes both ways from a port of its own, until told otherwise."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._open = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncGenerator["Relay"]:
        """Be there, from the beginning and, with ``restore``, after each ``cut``."""
        await self.restore()
        try:
            yield self
        finally:
            await self.cut()

    async def restore(self) -> None:
        """Let bytes and connections through again."""
        self._open.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    def block(self) -> None:
        """Take connections and bytes, and let nothing through."""
        self._open.clear()

    async def cut(self) -> None:
        """Reset all connections and refuse new ones."""
        if server := self._server:
            self._server = None
            server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # a coroutine runs in one
        self._connections.add(task)
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        with contextlib.suppress(OSError, asyncio.CancelledError):  # Python 3.11 complains of one that reaches it
            try:
                await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
            finally:
                self._connections.discard(task)
                for end in (writer, back):
                    with contextlib.suppress(OSError):  # one that is closed already
                        end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await self._open.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError  # so that both directions end
