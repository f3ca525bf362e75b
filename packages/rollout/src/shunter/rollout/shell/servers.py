"""Talks to model servers: lists their adapters, and loads and unloads them."""

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec

from shunter.rollout.core.desired import Adapter
from shunter.rollout.core.dialects import Call, Dialect
from shunter.rollout.errors import ConfigError, ServerError

__all__ = ["Access", "Server", "open_session", "read_answer"]

# A list of a thousand adapters has a tenth of it.
MAX_ANSWER_BYTES = 4 << 20
# What is told of an answer that refuses.
SAID_CHARACTERS = 200
# A list comes at once, or the server hangs; loading may have to fetch a gigabyte first.
LIST_S = 5.0
CALL_S = 120.0

TOKEN_VARIABLE = "SHUNTER_ROLLOUT_TOKEN"  # noqa: S105  the variable's name
FAILURES = (aiohttp.ClientError, OSError, TimeoutError, ValueError)


class Access(msgspec.Struct, frozen=True):
    """How model servers are reached: whose certificates count, which token is shown, how long a load may take.

    The token is read anew for each call, from ``token_file`` (a projected one is renewed) or else from the environment.
    """

    ca_file: Path | None = None
    token_file: Path | None = None
    call_s: float = CALL_S

    def headers(self) -> dict[str, str]:
        """Return what a call shows; raises ServerError if the token's file cannot be read."""
        try:
            token = self.token_file.read_text().strip() if self.token_file else os.environ.get(TOKEN_VARIABLE, "")
        except (OSError, UnicodeError) as error:
            raise ServerError(f"{self.token_file}: {getattr(error, 'strerror', None) or error}") from None
        return {"Authorization": f"Bearer {token}"} if token else {}

    @property
    def scheme(self) -> str:
        """How endpoints are reached of which only the address is known."""
        return "https" if self.ca_file else "http"

    def trust(self) -> ssl.SSLContext | bool:
        """Return whose certificates count; raises ConfigError."""
        try:
            return ssl.create_default_context(cafile=self.ca_file) if self.ca_file else True
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{self.ca_file}: no certificates in it: {error}") from None


@asynccontextmanager
async def open_session(access: Access) -> AsyncGenerator[aiohttp.ClientSession]:
    """Open connections that trust whom ``access`` says; raises ConfigError."""
    # Before CPython 3.12.8 a TLS connection that is hung up waits for ever for a peer that does not hang up too.
    connector = aiohttp.TCPConnector(ssl=access.trust(), enable_cleanup_closed=sys.version_info < (3, 12, 8))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


class Server:
    """One model server; its methods raise ServerError, whose words do not repeat the server's URL."""

    def __init__(self, session: aiohttp.ClientSession, url: str, dialect: Dialect, access: Access) -> None:
        self.url = url.rstrip("/")
        self._session = session
        self._dialect = dialect
        self._access = access

    async def adapters(self) -> Mapping[str, str | None]:
        """Return what it lists: each adapter, and where it came from if that is told."""
        return self._dialect.read(await self._ask(self._dialect.listing, LIST_S))

    async def load(self, adapter: Adapter) -> None:
        """Have it load an adapter."""
        await self._ask(self._dialect.load(adapter), self._access.call_s)

    async def unload(self, adapter: str) -> None:
        """Have it let go of an adapter."""
        await self._ask(self._dialect.unload(adapter), self._access.call_s)

    async def _ask(self, call: Call, limit_s: float) -> bytes:
        try:
            async with (
                asyncio.timeout(limit_s),
                self._session.request(
                    call.method, self.url + call.path, json=call.body, headers=self._access.headers(), allow_redirects=False
                ) as response,
            ):
                answer = await read_answer(response, MAX_ANSWER_BYTES)
        except TimeoutError:
            raise ServerError(f"{call.path}: no answer within {limit_s:g} s") from None
        except FAILURES as error:
            raise ServerError(f"{call.path}: {_why(error)}") from None
        if response.status != 200:
            said = _said(answer)
            raise ServerError(f"{call.path}: HTTP {response.status}{said and f': {said}'}")
        return answer


async def read_answer(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """Return the body of an answer, of a longer one the beginning."""
    answer = bytearray()
    async for piece in response.content.iter_any():
        answer += piece
        if len(answer) >= most_bytes:
            break
    return bytes(answer[:most_bytes])


def _why(error: Exception) -> str:
    """Return what a connection died of; the client's own words repeat where to, and tell of TLS where there is none."""
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError):
        number = error.os_error.errno or 0
        return os.strerror(number).lower() if number > 0 else error.os_error.strerror or str(error)
    return str(error) or type(error).__name__


def _said(answer: bytes) -> str:
    """Return an error's message, where it is in one of the forms that engines give it, else the answer's first words."""
    try:
        body = msgspec.json.decode(answer)
        body = body.get("error", body)
        text = str(body.get("message", body) if isinstance(body, dict) else body)  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]  any JSON
    except (ValueError, AttributeError, RecursionError):
        text = answer.decode(errors="replace")
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())[:SAID_CHARACTERS]
