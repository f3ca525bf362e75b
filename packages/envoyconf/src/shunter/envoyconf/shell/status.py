"""The control plane's pages, for people and for Prometheus.

::

    /          who is connected, what each accepted, and what it refused, in its own words
    /status    the same as JSON
    /metrics   Prometheus text
    /healthz   200 while it lives
    /readyz    200 when the newest intent is served, else 503 with the reasons
"""

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from shunter.envoyconf.core.authority import join_authority
from shunter.envoyconf.core.xds.report import Report, render_metrics, render_page
from shunter.envoyconf.errors import IntentError
from shunter.snapshot.addresses import addresses_of, why_not

__all__ = ["StatusPages"]

# Who needs longer for a line, or more room for its headers, is no browser and no Prometheus.
PATIENCE_S = 5.0
MAX_HEAD_BYTES = 16 << 10

TEXT = "text/plain; charset=utf-8"


class StatusPages:
    """A small server of its own: five pages need no framework."""

    def __init__(self, report: Callable[[], Report]) -> None:
        self._report = report
        self._servers: list[asyncio.Server] = []
        self._asking: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(self, host: str, port: int) -> int:
        """Listen and return the port; raise IntentError if that cannot be."""
        try:
            for each in addresses_of(host):
                server = await asyncio.start_server(self._accept, each, port, limit=MAX_HEAD_BYTES)
                self._servers.append(server)
                port = server.sockets[0].getsockname()[1]
        except OSError as error:
            raise IntentError(f"cannot serve the status pages on {join_authority(host, port)}: {why_not(error)}") from None
        return port

    async def stop(self) -> None:
        """Stop listening, and leave whoever has not asked or read yet."""
        for server in self._servers:
            server.close()
        for writer in self._asking.values():
            writer.transport.abort()
        if self._asking:
            await asyncio.wait(self._asking)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer in a task of our own: of one of theirs that is cancelled Python 3.11 complains on standard error."""
        task = asyncio.create_task(self._answer(reader, writer))
        self._asking[task] = writer
        task.add_done_callback(self._asking.pop)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                head = await reader.readuntil(b"\r\n\r\n")
                status, kind, body = self._page(head)
                data = body.encode()
                lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(data)}", "connection: close"]
                writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if head.startswith(b"HEAD ") else data))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError):
            pass  # not worth an answer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _page(self, head: bytes) -> tuple[str, str, str]:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0].decode("latin-1")
        if method not in (b"GET", b"HEAD"):
            return "405 Method Not Allowed", TEXT, "only GET\n"
        report = self._report()
        if path == "/":
            return "200 OK", TEXT, render_page(report)
        if path == "/status":
            return "200 OK", "application/json", msgspec.json.encode(report).decode()
        if path == "/metrics":
            return "200 OK", "text/plain; version=0.0.4; charset=utf-8", render_metrics(report)
        if path == "/healthz":
            return "200 OK", TEXT, "ok\n"
        if path == "/readyz":
            ready = not report.trouble
            return ("200 OK", TEXT, "ready\n") if ready else ("503 Service Unavailable", TEXT, "\n".join(report.trouble) + "\n")
        return "404 Not Found", TEXT, "pages: / /status /metrics /healthz /readyz\n"
