"""A way to a picker that can be cut, as the gateway would see the picker's sudden death."""

import asyncio
import contextlib
import socket
import struct

from shunter.conformance.core.addresses import split_address
from shunter.conformance.errors import UsageError
from shunter.conformance.shell.ports import hold

__all__ = ["Relay"]

# Close with a reset, as the kernel does for a process that left bytes unread.
RESET = struct.pack("ii", 1, 0)

# A body of 10 MB goes through here; in pieces of the usual 64 KiB it takes a busy machine seconds.
READ_BYTES = 1 << 20


class Relay:
    """Forwards bytes both ways between an address and a port of 127.0.0.1, while it is restored.

    The address is its own from the first `restore` until `close`, for somebody's client may be given the port of the dead.
    """

    def __init__(self, address: str, port: int) -> None:
        self._address = address
        self._port = port
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._held: contextlib.ExitStack | None = None

    async def restore(self) -> None:
        """Take connections, again; raises UsageError where that cannot be."""
        host, port = split_address(self._address)
        try:
            self._held = self._held or hold(host, port)
            self._server = self._server or await asyncio.start_server(self._serve, host, port, limit=READ_BYTES)
        except OSError as error:
            raise UsageError(f"the exam cannot be a picker at {self._address}: {error.strerror or error}") from None

    async def cut(self) -> None:
        """Reset all connections and refuse new ones."""
        if server := self._server:
            self._server = None
            server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def close(self) -> None:
        """Be cut, and give the address back."""
        await self.cut()
        if self._held:
            self._held.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 – a coroutine runs in one
        self._connections.add(task)
        ends = [writer]
        # Python 3.11 complains of a cancellation that reaches it.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            try:
                there, back = await asyncio.open_connection("127.0.0.1", self._port, limit=READ_BYTES)
                ends.append(back)
                await asyncio.gather(_pump(reader, back), _pump(there, writer))
            finally:
                self._connections.discard(task)
                for end in ends:
                    with contextlib.suppress(OSError):  # one that is closed already
                        end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    end.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(READ_BYTES):
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError  # so that both directions end
