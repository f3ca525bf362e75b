"""Fetches one page of one server again and again, over one kept-alive connection.

A Fetcher never raises for what a server does: it returns the page or a Failure that says what happened. One timeout
covers everything from connecting to the last byte, so neither a server that hangs nor one that drips holds it longer.

Plain text is asked for (``Accept-Encoding: identity``): compressing a page costs vLLM 1.5 ms on the thread that serves
requests.
"""

import asyncio
from collections.abc import Awaitable
from typing import cast

from msgspec import Struct

from shunter.scraper.core.exposition import MAX_PAGE_BYTES
from shunter.scraper.core.http import Response
from shunter.scraper.errors import ResponseError

__all__ = ["DEFAULT_TIMEOUT_S", "Failure", "Fetcher"]

# The reference's bound for a scrape. A starved vLLM has been seen to need 2.1 s; by then its numbers are history.
DEFAULT_TIMEOUT_S = 1.0


class Failure(Struct, frozen=True):
    """Why there is no page, in words for people; ``connected`` tells whether somebody accepted the connection."""

    reason: str
    connected: bool = True


class Fetcher:
    """GETs ``path`` from ``host`` (an IP address or a DNS name) and ``port``."""

    def __init__(
        self,
        host: str,
        port: int,
        path: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        limit_bytes: int = MAX_PAGE_BYTES,
        spare: list[bytearray] | None = None,
    ) -> None:
        """``spare``: the buffers that all Fetchers of a process receive in, see Response."""
        self.timeout_s = timeout_s
        self._address = (host, port)
        self._limit_bytes = limit_bytes
        self._spare: list[bytearray] = [] if spare is None else spare
        self._connection: _Connection | None = None
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: shunter-scraper\r\n"
            "Accept: text/plain;version=0.0.4\r\nAccept-Encoding: identity\r\n\r\n"
        ).encode()

    async def get(self) -> bytes | Failure:
        """Return the page as it is now. Only one call at a time."""
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._get()
        except TimeoutError:
            return self._fail(f"no complete answer within {self.timeout_s:g} s")
        except (OSError, ResponseError) as error:
            return self._fail(_reason(error))
        except asyncio.CancelledError:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection:
            self._connection.abort()
            self._connection = None

    def _fail(self, reason: str) -> Failure:
        connected = self._connection is not None
        self.close()
        return Failure(reason, connected)

    async def _get(self) -> bytes:
        if self._connection and self._connection.usable:
            response = Response(self._limit_bytes, self._spare)
            try:
                return await self._ask(self._connection, response)
            except (OSError, ResponseError):
                # A server may close an idle connection at any time, also while our request is on its way; that is no
                # failure. Anything it had begun to say is.
                if response.begun:
                    raise
        self.close()
        loop = asyncio.get_running_loop()
        _, self._connection = await loop.create_connection(_Connection, *self._address)
        return await self._ask(self._connection, Response(self._limit_bytes, self._spare))

    async def _ask(self, connection: "_Connection", response: Response) -> bytes:
        await connection.ask(self._request, response)
        if not response.reusable:
            self.close()
        return response.body


class _Connection(asyncio.BufferedProtocol):
    """Carries one request at a time; unusable as soon as anything is out of order."""

    def __init__(self) -> None:
        self.usable = False
        self._transport: asyncio.Transport | None = None
        self._response: Response | None = None
        self._answered: asyncio.Future[None] | None = None

    def ask(self, request: bytes, response: Response) -> Awaitable[None]:
        """Send ``request``; the result is there when ``response`` is done, else OSError or ResponseError."""
        self._response = response
        self._answered = asyncio.get_running_loop().create_future()
        if self._transport and self.usable:
            self._transport.write(request)
        else:  # lost between connecting and asking: nobody would ever call back
            self._answered.set_exception(ConnectionResetError())
        return self._answered

    def abort(self) -> None:
        """Close at once, whatever is on its way."""
        self.usable = False
        self._answered = self._response = None
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it
        self.usable = True

    def get_buffer(self, sizehint: int) -> memoryview:
        """See asyncio."""
        del sizehint
        return self._response.room() if self._response else memoryview(bytearray(1))

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio."""
        if self._response is None:
            self.abort()  # nobody asked for anything
            return
        try:
            self._response.received(nbytes)
        except ResponseError as error:
            self._finish(error)
        else:
            if self._response.done:
                self._finish(None)

    def eof_received(self) -> None:
        """See asyncio; the transport closes itself."""
        self.usable = False
        if self._response:
            try:
                self._response.ended()
            except ResponseError as error:
                self._finish(error)
            else:
                self._finish(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self.usable = False
        self._finish(exc or ConnectionResetError("the server closed the connection"))

    def _finish(self, error: Exception | None) -> None:
        answered, self._answered, self._response = self._answered, None, None
        if answered and not answered.done():
            if error:
                answered.set_exception(error)
            else:
                answered.set_result(None)


def _reason(error: OSError | ResponseError) -> str:
    """Return what happened, without the numbers and addresses that the operating system adds."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ConnectionResetError):
        return "the server reset the connection"
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
