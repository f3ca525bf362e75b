"""The HTTP client of the exam: it records every exchange, and no answer can keep or fill it for ever."""

import asyncio
import io
import json
import os
import ssl
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace, TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp

from shunter.conformance.core.exchange import Exchange
from shunter.conformance.errors import Refused, Unanswered, UsageError
from shunter.conformance.shell.access import OPEN, REDACTED, Access

__all__ = ["ANSWER_TIMEOUT_S", "MAX_BODY_BYTES", "Wire", "base_url", "check_url", "speaks_tls", "unreachable"]

# A slow CPU server needs seconds for the longest answer a case asks for; a minute says that it hangs.
ANSWER_TIMEOUT_S = 60.0

# Connecting is the kernel's work, not the server's.
CONNECT_TIMEOUT_S = 5.0

# The largest real metrics page seen was 90 KB; what is this much larger is a defect, and must not fill the memory.
MAX_BODY_BYTES = 8 << 20

READ_BYTES = 64 << 10

# What OpenSSL says when an HTTP server answers its first message.
NO_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"}


def check_url(url: str) -> str:
    """Return the URL if it is one that can be asked; raises UsageError."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"URL {url!r}: {error}") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or any(map(str.isspace, url)):
        raise UsageError(f"URL {url!r}: want http://HOST:PORT")
    if "@" in parts.netloc:  # every report shows the URL
        raise UsageError(f"URL of {parts.hostname}: it has a user; say who asks with --header 'Authorization: Basic …'")
    return url


def base_url(url: str) -> str:
    """Check the URL of a target and cut off what people paste along: a slash, or the `/v1` of an OpenAI base URL."""
    if "?" in url or "#" in url:
        raise UsageError(f"URL {url!r}: a target has no query and no fragment")
    return check_url(url).rstrip("/").removesuffix("/v1").rstrip("/")


class Wire:
    """One HTTP client; `transcript` holds the exchanges since it was last cleared, without what is secret in them.

    `connections` counts those that were made.
    """

    def __init__(self, timeout_s: float = ANSWER_TIMEOUT_S, access: Access = OPEN, *, reuse: bool = False) -> None:
        self.transcript: list[Exchange] = []
        self.connections = 0
        self.access = access
        self._timeout_s = timeout_s
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_create_end.append(self._connected)
        # Identity and no decompression: evidence is what was on the wire. A connection for each exchange, as curl makes
        # it: llama.cpp closes a connection after a stream without saying so, and a client that uses it again would
        # blame the next request; `reuse` is for those who want to know. No cookies, and no proxy from the environment.
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S),
            connector=aiohttp.TCPConnector(
                limit=0,
                force_close=not reuse,
                ssl=access.tls or True,
                # Before CPython 3.12.8 a TLS connection that is hung up waits for ever for a peer that does not hang up too.
                enable_cleanup_closed=sys.version_info < (3, 12, 8),
            ),
            trace_configs=[tracing],
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

    async def _connected(
        self, _session: aiohttp.ClientSession, _context: SimpleNamespace, _end: aiohttp.TraceConnectionCreateEndParams
    ) -> None:
        self.connections += 1

    @asynccontextmanager
    async def reusing(self) -> AsyncGenerator["Wire"]:
        """A second client with the same transcript that keeps its connections."""
        async with Wire(self._timeout_s, self.access, reuse=True) as second:
            second.transcript = self.transcript
            yield second

    async def exchange(
        self, method: str, url: str, body: bytes | dict[str, object] = b"", headers: Mapping[str, str] | None = None
    ) -> Exchange:
        """Send a request and read the whole answer; raises Unanswered unless all of it came."""
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        own = ({"content-type": "application/json"} if payload else {}) | dict(headers or {})
        sent = self.access.headers | own
        clock = asyncio.get_running_loop().time
        start_s = clock()
        status, answer_headers, received, problem = 0, dict[str, str](), bytearray(), ""
        arrivals: list[tuple[float, int]] = []
        kind = Unanswered
        try:
            async with self._session.request(
                method, url, data=io.BytesIO(payload) if payload else None, headers=sent, allow_redirects=False
            ) as response:
                status = response.status
                answer_headers = {_legible(name.lower()): _legible(value) for name, value in response.headers.items()}
                async for piece in response.content.iter_chunked(READ_BYTES):
                    received += piece
                    arrivals.append((clock() - start_s, len(received)))
                    if len(received) > MAX_BODY_BYTES:
                        problem = f"the answer is larger than {MAX_BODY_BYTES >> 20} MiB"
                        break
        except aiohttp.ConnectionTimeoutError:
            problem = f"no connection within {CONNECT_TIMEOUT_S:g} s"
        except TimeoutError:
            problem = f"no complete answer within {self._timeout_s:g} s ({len(received)} bytes of a body came)"
        except (aiohttp.ClientError, ConnectionError, ValueError) as error:
            kind = Refused if isinstance(error, aiohttp.ClientConnectorError) else Unanswered
            # aiohttp puts a 400 of its own before what is wrong with an answer: the server has not said it.
            said = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
            problem = f"{type(error).__name__}: {_legible(' '.join(said.split()))} ({len(received)} bytes of a body came)"
        exchange = Exchange(
            method=method,
            url=url,
            request_headers=dict.fromkeys(self.access.headers, REDACTED) | own,
            request_body=payload,
            status=status,
            headers={name: self.access.redact(value) for name, value in answer_headers.items()},
            body=self.access.redact_bytes(bytes(received)),
            elapsed_s=clock() - start_s,
            arrivals=tuple(arrivals),
            problem=self.access.redact(problem),
        )
        self.transcript.append(exchange)
        if problem:
            raise kind(f"{method} {url}: {exchange.problem}")
        return exchange

    async def abandon(self, url: str, body: bytes, promised_bytes: int) -> None:
        """POST a head that promises so many bytes of JSON, a beginning of them, and hang up; raises Unanswered."""
        parts = urlsplit(url)
        head = {"content-type": "application/json", "content-length": str(promised_bytes)}
        lines = [f"POST {parts.path or '/'} HTTP/1.1", f"host: {parts.netloc}"]
        lines += [f"{name}: {value}" for name, value in (self.access.headers | head).items()]
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, writer = await _connect(url, self.access.tls)
                writer.write("\r\n".join([*lines, "", ""]).encode() + body)
                writer.close()
                await writer.wait_closed()
        except OSError as error:
            raise Unanswered(f"POST {url}: {type(error).__name__}: {error}") from None
        told = f"hung up on purpose, after {len(body)} of {promised_bytes} bytes of the body"
        redacted = dict.fromkeys(self.access.headers, REDACTED) | head
        self.transcript.append(Exchange(method="POST", url=url, request_headers=redacted, request_body=body, problem=told))


def _legible(text: str) -> str:
    """What aiohttp made of bytes that need not be UTF-8, with U+FFFD for those that are not: no report could hold them."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


async def _connect(url: str, tls: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    context = (tls or ssl.create_default_context()) if secure else None
    return await asyncio.open_connection(parts.hostname, parts.port or (443 if secure else 80), ssl=context)


async def unreachable(url: str, tls: ssl.SSLContext | None = None) -> str | None:
    """Why nobody accepts connections at the URL, or nobody to be trusted, or None if somebody does."""
    parts = urlsplit(url)
    at = f"{parts.hostname} port {parts.port or (443 if parts.scheme == 'https' else 80)}"
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await _connect(url, tls)
    except TimeoutError:
        secure = " (or it does not speak TLS)" * (parts.scheme == "https")
        return f"no connection to {at} within {CONNECT_TIMEOUT_S:g} s{secure}"
    except ssl.SSLCertVerificationError as error:
        remedy = "name who signed it with --ca-file, or take any with --insecure"
        return f"the certificate of {at} is not to be trusted: {error.verify_message}; {remedy}"
    except ssl.SSLError as error:
        return f"{at} does not speak TLS; try http://" if error.reason in NO_TLS else f"no TLS with {at}: {error.reason}"
    except OSError as error:
        # asyncio puts the address into strerror; a resolver's errors have numbers of their own, several errors have none.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
        return f"no connection to {at}: {why}"
    writer.transport.abort()  # TLS would wait for a farewell
    return None


async def speaks_tls(url: str) -> bool:
    """Whether somebody at an http URL would rather be asked by https."""
    anybody = ssl.create_default_context()
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await _connect(url.replace("http://", "https://", 1), anybody)
    except OSError:
        return False
    writer.transport.abort()
    return True
