"""Listening to KV events over ZeroMQ, and asking for those that were missed."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any, Literal, cast

from shunter.conformance.core.kvevents import KvMessage, read_frames
from shunter.conformance.errors import UsageError

__all__ = ["Listener", "check_endpoint", "listening", "replayed"]

# What ends a replay: a sequence number that is none.
END = b"\xff" * 8

# A frame larger than this is dropped with its connection: a batch is a few thousand blocks at most.
MAX_FRAME_BYTES = 64 << 20


def check_endpoint(endpoint: str) -> None:
    """Raise UsageError unless the endpoint can be listened to here."""
    if not re.fullmatch(r"tcp://[^/*]+:\d+|ipc://.+", endpoint):
        raise UsageError(f"KV events at {endpoint!r}: want tcp://HOST:PORT, as a client sees it")
    if find_spec("zmq") is None:
        raise UsageError("KV events need pyzmq: pip install 'shunter-conformance[kv-events]'")


class Listener:
    """A subscription to all topics of one endpoint."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    async def receive(self, within_s: float) -> KvMessage | None:
        """Return the next message, None if none comes in time; raises FormatError for one that is none."""
        try:
            async with asyncio.timeout(within_s):
                return read_frames(cast("list[bytes]", await self._socket.recv_multipart()))
        except TimeoutError:
            return None


@asynccontextmanager
async def listening(endpoint: str) -> AsyncGenerator[Listener]:
    """Listen while the block runs. What is published before the subscription has arrived is not heard."""
    async with _connected("SUB", endpoint) as socket:
        socket.subscribe(b"")
        yield Listener(socket)


async def replayed(endpoint: str, start: int, within_s: float) -> list[KvMessage]:
    """Ask for all messages from a number on; what has come when the time is over is all there is. Raises FormatError."""
    messages: list[KvMessage] = []
    try:
        async with _connected("DEALER", endpoint) as socket, asyncio.timeout(within_s):
            await socket.send_multipart([b"", start.to_bytes(8, "big")])
            while True:
                frames = cast("list[bytes]", await socket.recv_multipart())[1:]
                if END in frames:
                    break
                messages.append(read_frames(frames))
    except TimeoutError:
        pass
    return messages


@asynccontextmanager
async def _connected(kind: Literal["SUB", "DEALER"], endpoint: str) -> AsyncGenerator[Any]:
    import zmq.asyncio  # noqa: PLC0415 – an extra brings it

    context = zmq.asyncio.Context(io_threads=1)
    try:
        socket = context.socket(zmq.SUB if kind == "SUB" else zmq.DEALER)
        socket.setsockopt(zmq.IPV6, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise UsageError(f"KV events at {endpoint!r}: {error}") from None
        yield socket
    finally:
        context.destroy(linger=0)
