"""The HTTP client of the exam: it records every exchange, and no answer can keep or fill it for ever."""

import asyncio
import json
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp

from shunter.conformance.core.exchange import Exchange
from shunter.conformance.errors import Unanswered, UsageError

__all__ = ["ANSWER_TIMEOUT_S", "MAX_BODY_BYTES", "Wire", "base_url", "check_url", "unreachable"]

# A slow CPU server needs seconds for the longest answer a case asks for; a minute says that it hangs.
ANSWER_TIMEOUT_S = 60.0

# Connecting is the kernel's work, not the server's.
CONNECT_TIMEOUT_S = 5.0

# The largest real metrics page seen was 90 KB; what is this much larger is a defect, and must not fill the memory.
MAX_BODY_BYTES = 8 << 20

READ_BYTES = 64 << 10


def check_url(url: str) -> str:
    """Return the URL if it is one that can be asked; raises UsageError."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"URL {url!r}: {error}") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f"URL {url!r}: want http://HOST:PORT")
    return url


def base_url(url: str) -> str:
    """Check the URL of a target and cut off what people paste along: a slash, or the `/v1` of an OpenAI base URL."""
    if "?" in url or "#" in url:
        raise UsageError(f"URL {url!r}: a target has no query and no fragment")
    return check_url(url).rstrip("/").removesuffix("/v1").rstrip("/")


class Wire:
    """One HTTP client; `transcript` holds the exchanges since it was last cleared."""

    def __init__(self, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self.transcript: list[Exchange] = []
        self._timeout_s = timeout_s
        # Identity and no decompression: evidence is what was on the wire. A connection for each exchange, as curl makes
        # it: llama.cpp closes a connection after a stream without saying so, and a client that uses it again would
        # blame the next request. No cookies, and no proxy from the environment.
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S),
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"accept-encoding": "identity", "user-agent": "shunter-conformance"},
            auto_decompress=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def exchange(
        self, method: str, url: str, body: bytes | dict[str, object] = b"", headers: Mapping[str, str] | None = None
    ) -> Exchange:
        """Send a request and read the whole answer; raises Unanswered unless all of it came."""
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = ({"content-type": "application/json"} if payload else {}) | dict(headers or {})
        clock = asyncio.get_running_loop().time
        start_s = clock()
        status, answer_headers, received, problem = 0, dict[str, str](), bytearray(), ""
        try:
            async with self._session.request(
                method, url, data=payload or None, headers=sent, allow_redirects=False
            ) as response:
                status = response.status
                answer_headers = {name.lower(): value for name, value in response.headers.items()}
                async for piece in response.content.iter_chunked(READ_BYTES):
                    received += piece
                    if len(received) > MAX_BODY_BYTES:
                        problem = f"the answer is larger than {MAX_BODY_BYTES >> 20} MiB"
                        break
        except TimeoutError:
            problem = f"no complete answer within {self._timeout_s:g} s ({len(received)} bytes of a body came)"
        except (aiohttp.ClientError, ConnectionError, ValueError) as error:
            problem = f"{type(error).__name__}: {error} ({len(received)} bytes of a body came)"
        exchange = Exchange(
            method=method,
            url=url,
            request_headers=sent,
            request_body=payload,
            status=status,
            headers=answer_headers,
            body=bytes(received),
            elapsed_s=clock() - start_s,
            problem=problem,
        )
        self.transcript.append(exchange)
        if problem:
            raise Unanswered(f"{method} {url}: {problem}")
        return exchange


async def unreachable(url: str) -> str | None:
    """Why nobody accepts connections at the URL, or None if somebody does."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except TimeoutError:
        return f"no connection to {parts.hostname} port {port} within {CONNECT_TIMEOUT_S:g} s"
    except OSError as error:
        # asyncio puts the address into strerror; a resolver's errors have numbers of their own, several errors have none.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
        return f"no connection to {parts.hostname} port {port}: {why}"
    writer.close()
    return None
