"""Fetches one page of one server again and again, over one kept-alive connection.

A Fetcher never raises for what a server does: it returns the page or a Failure that says what happened. One timeout
covers everything from connecting to the last byte, so neither a server that hangs nor one that drips holds it longer.

Answers are handed over from within the protocol's callback, by a function instead of a future: waking a task for each page
costs more than reading it. One timer watches over many pages, since hardly any ever runs out.

Plain text is asked for (``Accept-Encoding: identity``): compressing a page costs vLLM 1.5 ms on the thread that serves
requests.
"""

import asyncio
import errno
from collections.abc import Callable
from typing import cast

from msgspec import Struct

from shunter.scraper.core.exposition import MAX_PAGE_BYTES
from shunter.scraper.core.http import Response
from shunter.scraper.errors import ResponseError

__all__ = ["DEFAULT_TIMEOUT_S", "Failure", "Fetcher"]

# The reference's bound for a scrape. A starved vLLM has been seen to need 2.1 s; by then its numbers are history.
DEFAULT_TIMEOUT_S = 1.0
# What may be missing here for a connection: descriptors, ports of our own, memory. That says nothing about the server.
OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM})


class Failure(Struct, frozen=True):
    """Why there is no page, in words for people; ``refused`` tells that nobody accepted the connection."""

    reason: str
    refused: bool = False


Answer = Response | Failure
"""The response is done, and valid until whoever is told of it returns."""


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
        self._connecting: asyncio.Task[None] | None = None
        self._tell: Callable[[Answer], None] | None = None  # who waits
        self._deadline_s = 0.0  # until when
        self._timer: asyncio.TimerHandle | None = None  # rings at the deadline, or before, and looks
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: shunter-scraper\r\n"
            "Accept: text/plain;version=0.0.4\r\nAccept-Encoding: identity\r\n\r\n"
        ).encode()

    async def get(self) -> bytes | Failure:
        """Return the page as it is now. Only one call at a time."""
        answered: asyncio.Future[bytes | Failure] = asyncio.get_running_loop().create_future()

        def take(answer: Answer) -> None:
            if not answered.done():  # cancelled a moment ago
                answered.set_result(answer if isinstance(answer, Failure) else answer.body)

        self.ask(take)
        try:
            return await answered
        except asyncio.CancelledError:
            self.close()
            raise

    def ask(self, tell: Callable[[Answer], None]) -> None:
        """Call ``tell`` with the page as it is now, once; never if closed before. Only one call at a time."""
        loop = asyncio.get_running_loop()
        self._tell = tell
        self._deadline_s = loop.time() + self.timeout_s
        if self._timer is None:
            self._timer = loop.call_at(self._deadline_s, self._ring)
        if self._connection and self._connection.usable:
            self._connection.ask(self._request, Response(self._limit_bytes, self._spare), self._retry)
        else:
            self._connect()

    def close(self) -> None:
        """Close the connection, if there is one, and tell nobody anything."""
        self._tell = None
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._hang_up()

    def _hang_up(self) -> None:
        if self._connecting:
            self._connecting.cancel()
            self._connecting = None
        if self._connection:
            self._connection.abort()
            self._connection = None

    def _connect(self) -> None:
        self._hang_up()
        self._connecting = asyncio.get_running_loop().create_task(self._ask_anew())

    async def _ask_anew(self) -> None:
        try:
            _, self._connection = await asyncio.get_running_loop().create_connection(_Connection, *self._address)
        except OSError as error:
            self._connecting = None
            ours = error.errno in OURS
            self._finish(Failure(f"{_reason(error)} in the scraper" if ours else _reason(error), refused=not ours))
            return
        self._connecting = None
        self._connection.ask(self._request, Response(self._limit_bytes, self._spare), self._take)

    def _retry(self, response: Response, error: OSError | ResponseError | None) -> None:
        """Take the answer of a connection that had been idle.

        A server may close one at any time, also while our request is on its way; that is no failure. Anything it had begun to
        say is.
        """
        if error and not response.begun:
            self._connect()
        else:
            self._take(response, error)

    def _take(self, response: Response, error: OSError | ResponseError | None) -> None:
        if error or not response.reusable:
            self._hang_up()
        self._finish(Failure(_reason(error)) if error else response)
        response.release()

    def _finish(self, answer: Answer) -> None:
        tell, self._tell = self._tell, None
        if tell:
            tell(answer)

    def _ring(self) -> None:
        """Look whether somebody waits for too long."""
        self._timer = None
        if self._tell is None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._deadline_s:
            self._timer = loop.call_at(self._deadline_s, self._ring)
            return
        refused = self._connection is None
        self._hang_up()
        self._finish(Failure(f"no complete answer within {self.timeout_s:g} s", refused))


class _Connection(asyncio.BufferedProtocol):
    """Carries one request at a time; unusable as soon as anything is out of order."""

    def __init__(self) -> None:
        self.usable = False
        self._transport: asyncio.Transport | None = None
        self._response: Response | None = None
        self._tell: Callable[[Response, OSError | ResponseError | None], None] | None = None

    def ask(self, request: bytes, response: Response, tell: Callable[[Response, OSError | ResponseError | None], None]) -> None:
        """Send ``request``; ``tell`` is called when ``response`` is done, or with what went wrong; not after ``abort``."""
        self._response = response
        self._tell = tell
        if self._transport and self.usable:
            self._transport.write(request)
        else:  # lost between connecting and asking: nobody would ever call back
            self._finish(ConnectionResetError())

    def abort(self) -> None:
        """Close at once, whatever is on its way."""
        self.usable = False
        self._tell = self._response = None
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
        response = self._response
        if response is None:
            self.abort()  # nobody asked for anything
            return
        try:
            response.received(nbytes)
        except ResponseError as error:
            self._finish(error)
        else:
            if response.done:
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
        self._finish(exc if isinstance(exc, OSError) else ConnectionResetError("the server closed the connection"))

    def _finish(self, error: OSError | ResponseError | None) -> None:
        tell, response = self._tell, self._response
        self._tell = self._response = None
        if tell and response:
            tell(response, error)


def _reason(error: OSError | ResponseError) -> str:
    """Return what happened, without the numbers and addresses that the operating system adds."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ConnectionResetError):
        return "the server reset the connection"
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
