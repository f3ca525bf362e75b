"""A door of our own to a picker behind TLS: plain inside, and outside whatever certificate it shows, as gateways take it.

The gRPC library cannot be told to take any certificate, and pickers make their own, often without a name in it.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from shunter.conformance.core.addresses import split_address

__all__ = ["anybody", "dial", "tunnel"]

READ_BYTES = 64 << 10


def anybody() -> ssl.SSLContext:
    """Whoever answers is believed."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


async def dial(address: str, tls: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect; raises OSError, of which ssl.SSLError is one."""
    return await asyncio.open_connection(*split_address(address), ssl=tls)


@asynccontextmanager
async def tunnel(address: str, outside: ssl.SSLContext | None, inside: ssl.SSLContext | None = None) -> AsyncGenerator[str]:
    """Listen on loopback, with `inside` if that is given, and hand on to the address, with `outside`; yields where."""
    conversations: set[asyncio.Task[None]] = set()

    async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task  # noqa: S101 – a server's callback is one
        conversations.add(task)
        try:
            if inside:
                await writer.start_tls(inside)
            far_reader, far_writer = await dial(address, outside)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(_pump(reader, far_writer))
                    both.create_task(_pump(far_reader, writer))
            finally:
                far_writer.transport.abort()  # a TLS connection that is closed waits for the other side's goodbye
        except (OSError, ExceptionGroup):
            pass  # who hangs up on one side hangs up on the other
        finally:
            conversations.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(hand_on, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in [*conversations]:
            task.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)
        await asyncio.sleep(0)  # what was aborted is gone in the loop's next turn


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(READ_BYTES):
        writer.write(data)
        await writer.drain()
    with suppress(OSError):
        writer.close()
