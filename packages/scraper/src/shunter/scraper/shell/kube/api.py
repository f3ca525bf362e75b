"""A connection to a Kubernetes API server.

The official client reads kubeconfigs and service accounts, runs credential plugins and does TLS. Bytes are ours.

Tokens expire, and certificates are renewed, while we run. When the server no longer takes what we show, or shows what we do not
take, everything is read anew that says who we are, plugins included, and the question is asked once more.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import aiohttp
import msgspec
from kubernetes.aio import config as credentials
from kubernetes.aio.client import ApiClient, Configuration

from shunter.scraper.core.excerpt import printable
from shunter.scraper.core.reflection import VersionGoneError
from shunter.scraper.errors import ApiError, ConfigError

__all__ = ["Api", "RefusedError", "connect"]

# For the head of an answer, and for all of a page of a list.
ANSWER_S = 30.0
# The kernel probes a connection that was silent for so long, three times: one to a dead machine ends after half a minute.
# (The kernel of a server that hangs still answers.)
IDLE_S, PROBE_S, PROBES = 15, 5, 3
# A watch without a word for so long hangs: an idle one has a bookmark about every minute.
SILENCE_S = 150.0
# etcd takes objects of a megabyte and a half; an event has one of them.
MAX_LINE_BYTES = 4 << 20
# A page of 500 pods with 20 kilobytes each.
MAX_PAGE_BYTES = 64 << 20
# What is told of an answer that is none.
SAID_BYTES = 512
# While credentials are refused, they are not read more often: a plugin takes a second of CPU.
RENEW_S = 10.0
# Each watch has a connection of its own, and there are nine for each namespace.
NO_LIMIT = 0

APPLY = "application/apply-patch+yaml"
MANAGER = "shunter"
OK, CREATED, UNAUTHORIZED, GONE = 200, 201, 401, 410
# What connections die of; an exception of the client's own is a file with an account's token that is empty for a moment.
FAILURES = (aiohttp.ClientError, OSError, TimeoutError, ValueError, credentials.ConfigException)
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

log = logging.getLogger(__name__)


class RefusedError(ApiError):
    """The server answers, and not with 200."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"HTTP {status}: {words}")
        self.status = status


class Login(NamedTuple):
    """Who we are, as it was read from files. ``tls`` is where the server is, and by which certificates."""

    client: Any
    namespace: str
    tls: tuple[object, ...]


class Api:
    """One API server. ``title`` names it for people, ``namespace`` is where whoever connects is at home."""

    def __init__(self, login: Login, log_in: Callable[[], Awaitable[Login]]) -> None:
        """``log_in`` reads everything anew; raises ConfigError."""
        self.client = login.client
        self.title = str(login.client.configuration.host)
        self.namespace = login.namespace or "default"
        self._log_in = log_in
        self._tls: tuple[object, ...] = login.tls
        self._renewing = asyncio.Lock()
        self._renewed_s = float("-inf")
        self._renewals = 0
        self._former: list[Any] = []  # clients whose watches may last for minutes

    async def close(self) -> None:
        """Close all connections."""
        for client in (*self._former, self.client):
            await client.close()

    async def page(self, path: str, **query: object) -> bytes:
        """GET the whole of an answer; raises ApiError."""
        async with self._ask("GET", path, query, total_s=ANSWER_S) as response:
            try:
                body = await response.content.read(MAX_PAGE_BYTES + 1)
                while len(body) <= MAX_PAGE_BYTES and (more := await response.content.read(MAX_PAGE_BYTES)):
                    body += more
            except FAILURES as error:
                raise _lost(error) from None
        if len(body) > MAX_PAGE_BYTES:
            raise ApiError(f"{path}: a page of more than {MAX_PAGE_BYTES >> 20} MiB")
        return body

    async def lines(self, path: str, **query: object) -> AsyncIterator[bytes]:
        """GET an answer line by line, as long as it lasts, after an empty line when it begins; raises ApiError."""
        async with self._ask("GET", path, query, total_s=None) as response:
            yield b""
            rest = b""
            try:
                async for piece in response.content.iter_any():
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        yield line
                    if len(rest) > MAX_LINE_BYTES:
                        raise ApiError(f"{path}: an event of more than {MAX_LINE_BYTES >> 20} MiB")
            except FAILURES as error:
                raise _lost(error) from None

    async def get(self, path: str) -> tuple[bytes, Mapping[str, str]]:
        """GET a short answer with its headers; raises ApiError."""
        async with self._ask("GET", path, {}, total_s=ANSWER_S) as response:
            try:
                return await response.read(), response.headers
            except FAILURES as error:
                raise _lost(error) from None

    async def post(self, path: str, body: dict[str, Any]) -> bytes:
        """Create something, a review say, and return what became of it; raises ApiError."""
        async with self._ask("POST", path, {}, total_s=ANSWER_S, body=body, kind="application/json") as response:
            try:
                return await response.read()
            except FAILURES as error:
                raise _lost(error) from None

    async def apply_status(self, path: str, body: dict[str, Any]) -> None:
        """Have an object's status say this, by server-side apply: what others say there stays; raises ApiError."""
        query: dict[str, object] = {"fieldManager": MANAGER, "force": "true"}
        async with self._ask("PATCH", f"{path}/status", query, total_s=ANSWER_S, body=body):
            pass

    @asynccontextmanager
    async def _ask(
        self,
        method: str,
        path: str,
        query: dict[str, object],
        *,
        total_s: float | None,
        body: dict[str, Any] | None = None,
        kind: str = APPLY,
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        headers: dict[str, str] = {"Accept": "application/json"} | ({"Content-Type": kind} if body else {})
        timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=ANSWER_S, sock_read=SILENCE_S)

        async def send() -> Any:
            shown = dict(headers)
            await self.client.update_params_for_auth(shown, [], ["BearerToken"], path, method, body)
            url = f"{self.client.configuration.host}{path}?{urlencode(query)}"
            return await self.client.rest_client.request(method, url, headers=shown, body=body, _request_timeout=timeout)

        renewals = self._renewals
        try:
            try:
                answer = await send()
            except aiohttp.ClientSSLError:
                if not await self._renew(renewals):
                    raise
                answer = await send()
            else:
                if answer.response.status == UNAUTHORIZED and await self._renew(renewals):
                    answer.response.close()
                    answer = await send()
        except FAILURES as error:
            raise _lost(error) from None
        async with answer.response as response:
            _probe(response)
            if response.status not in (OK, CREATED):
                try:
                    words = _words(await response.content.read(SAID_BYTES))
                except FAILURES as error:
                    raise _lost(error) from None
                raise VersionGoneError(words) if response.status == GONE else RefusedError(response.status, words)
            yield response

    async def _renew(self, renewals: int) -> bool:
        """Read anew who we are, unless that was done after so many ``renewals``; tell whether it has changed anything."""
        async with self._renewing:
            now_s = asyncio.get_running_loop().time()
            if self._renewals != renewals or now_s - self._renewed_s < RENEW_S:
                return self._renewals != renewals
            self._renewed_s = now_s
            try:
                login = await self._log_in()
            except ConfigError as error:
                log.warning("credentials cannot be read anew: %s", error)
                return False
            ours, read = self.client.configuration, login.client.configuration
            if login.tls != self._tls:
                self._former.append(self.client)
                self.client, self._tls = login.client, login.tls
            elif read.api_key != ours.api_key:
                ours.api_key, ours.refresh_api_key_hook = read.api_key, read.refresh_api_key_hook
            else:
                return False
            log.info("%s: credentials were read anew", self.title)
            self._renewals += 1
            return True


@asynccontextmanager
async def connect(kubeconfig: Path | None = None, context: str | None = None) -> AsyncGenerator[Api]:
    """Connect by a kubeconfig file, or as the service account of the pod this runs in; raises ConfigError.

    Without a file it is the pod's account if there is one, then ``$KUBECONFIG``, then ``~/.kube/config``.
    """
    api = Api(await _log_in(kubeconfig, context), lambda: _log_in(kubeconfig, context))
    try:
        yield api
    finally:
        await api.close()


async def _log_in(kubeconfig: Path | None, context: str | None) -> Login:
    """Read who we are, and how the server is reached; raises ConfigError."""
    try:
        return await _read(kubeconfig, context)
    except ConfigError:
        raise
    except credentials.ConfigException as error:
        raise ConfigError(f"kubeconfig: {error}") from None
    except OSError as error:
        raise ConfigError(f"{error.filename or 'kubeconfig'}: {error.strerror}") from None
    except Exception as error:  # noqa: BLE001  the client lets through whatever it stumbles over in a file
        raise ConfigError(f"kubeconfig: it is not such as kubectl writes: {printable(' '.join(str(error).split()))}") from None


async def _read(kubeconfig: Path | None, context: str | None) -> Login:
    configuration: Any = Configuration()
    configuration.connection_pool_maxsize = NO_LIMIT
    library: Any = credentials
    if kubeconfig is None and context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
        library.load_incluster_config(client_configuration=configuration)
        namespace = _account_namespace()
    else:
        files = _files(kubeconfig)
        loader: Any = await library.load_kube_config(config_file=files, context=context, client_configuration=configuration)
        if not _is_url(configuration.host):
            raise ConfigError(f"{files}: {configuration.host!r} is no server; write a URL like https://10.0.0.1:6443")
        namespace = loader.current_context["context"].get("namespace") or ""
    client: Any = ApiClient(configuration)
    return Login(client, namespace, (*_certificates(configuration), configuration.host, configuration.verify_ssl))


def _certificates(configuration: Any) -> Iterator[bytes]:
    """Yield what the files say that are read for a connection, once it is made."""
    for path in (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file):
        yield Path(path).read_bytes() if path else b""


def _account_namespace() -> str:
    return NAMESPACE_FILE.read_text(encoding="utf-8").strip() if NAMESPACE_FILE.exists() else ""


def _is_url(server: object) -> bool:
    try:
        parts = urlsplit(str(server))
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _files(kubeconfig: Path | None) -> str:
    """Return the kubeconfig files to merge, as the client wants them; raises ConfigError if there are none."""
    named = str(kubeconfig or os.environ.get("KUBECONFIG") or Path("~/.kube/config").expanduser())
    if not any(Path(part).expanduser().is_file() for part in named.split(os.pathsep) if part):
        raise ConfigError(f"there is no kubeconfig {named}; name one by --kubeconfig")
    return named


def _probe(response: aiohttp.ClientResponse) -> None:
    """Have the kernel see now and then whether the other end of a response's connection is still there."""
    transport = response.connection.transport if response.connection else None
    opened: socket.socket | None = transport.get_extra_info("socket") if transport else None
    if opened and opened.family in (socket.AF_INET, socket.AF_INET6):
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", IDLE_S), ("TCP_KEEPINTVL", PROBE_S), ("TCP_KEEPCNT", PROBES)):
            if number := getattr(socket, option, None):  # not on every system
                opened.setsockopt(socket.IPPROTO_TCP, number, value)


class _Status(msgspec.Struct):
    message: str


def _words(body: bytes) -> str:
    """Return what an answer says that is none: API servers send a Status, what stands in front of them anything."""
    try:
        return printable(msgspec.json.decode(body, type=_Status).message)
    except (msgspec.DecodeError, RecursionError):
        return printable(body.decode("utf-8", "replace"))


def _lost(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, aiohttp.ClientPayloadError):
        return ApiError("the connection was cut")
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError):
        number = (
            error.os_error.errno or 0
        )  # the library's words say the place thrice; of a name that is not known it is negative
        why = os.strerror(number) if number > 0 else error.os_error.strerror  # the library's words say the place thrice
        return ApiError(f"{error.host}:{error.port}: {why}")
    return ApiError(printable(str(error)) or "no answer in time")
