"""A connection to a Kubernetes API server.

The official client reads kubeconfigs and service accounts, runs credential plugins, renews tokens and does TLS. Bytes are ours.
"""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
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
# A watch without a word for so long hangs: an idle one has a bookmark about every minute.
SILENCE_S = 150.0
# etcd takes objects of a megabyte and a half; an event has one of them.
MAX_LINE_BYTES = 4 << 20
# A page of 500 pods with 20 kilobytes each.
MAX_PAGE_BYTES = 64 << 20
# What is told of an answer that is none.
SAID_BYTES = 512
# How often a credential plugin is asked whether its token still holds.
RENEW_S = 60.0

APPLY = "application/apply-patch+yaml"
MANAGER = "shunter"
OK, CREATED, GONE = 200, 201, 410
# What connections die of.
FAILURES = (aiohttp.ClientError, OSError, TimeoutError, ValueError)
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

log = logging.getLogger(__name__)


class RefusedError(ApiError):
    """The server answers, and not with 200."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"HTTP {status}: {words}")
        self.status = status


class Api:
    """One API server. ``title`` names it for people, ``namespace`` is where whoever connects is at home."""

    def __init__(self, client: Any, namespace: str) -> None:
        self.client = client
        self.title = str(client.configuration.host)
        self.namespace = namespace

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
        try:
            await self.client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
            url = f"{self.client.configuration.host}{path}?{urlencode(query)}"
            answer = await self.client.rest_client.request(method, url, headers=headers, body=body, _request_timeout=timeout)
        except FAILURES as error:
            raise _lost(error) from None
        async with answer.response as response:
            if response.status not in (OK, CREATED):
                try:
                    words = _words(await response.content.read(SAID_BYTES))
                except FAILURES as error:
                    raise _lost(error) from None
                raise VersionGoneError(words) if response.status == GONE else RefusedError(response.status, words)
            yield response


@asynccontextmanager
async def connect(kubeconfig: Path | None = None, context: str | None = None) -> AsyncGenerator[Api]:
    """Connect by a kubeconfig file, or as the service account of the pod this runs in; raises ConfigError.

    Without a file it is the pod's account if there is one, then ``$KUBECONFIG``, then ``~/.kube/config``.
    """
    configuration: Any = Configuration()
    try:
        loader, namespace = await _log_in(configuration, kubeconfig, context)
        client: Any = ApiClient(configuration)
    except ConfigError:
        raise
    except credentials.ConfigException as error:
        raise ConfigError(f"kubeconfig: {error}") from None
    except OSError as error:
        raise ConfigError(f"{error.filename or 'kubeconfig'}: {error.strerror}") from None
    except Exception as error:  # noqa: BLE001  the client lets through whatever it stumbles over in a file
        raise ConfigError(f"kubeconfig: it is not such as kubectl writes: {printable(' '.join(str(error).split()))}") from None
    renewal = asyncio.ensure_future(_renewed(loader, configuration)) if loader else None
    try:
        yield Api(client, namespace or "default")
    finally:
        if renewal:
            renewal.cancel()
        await client.close()


async def _log_in(configuration: Any, kubeconfig: Path | None, context: str | None) -> tuple[Any, str | None]:
    """Fill in a configuration; returns what keeps it valid if that must be done, and the namespace where one is at home."""
    loaded: Any = credentials
    if kubeconfig is None and context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
        loaded.load_incluster_config(client_configuration=configuration)
        return None, _account_namespace()
    files = _files(kubeconfig)
    loader: Any = await loaded.load_kube_config(config_file=files, context=context, client_configuration=configuration)
    if not _is_url(configuration.host):
        raise ConfigError(f"{files}: {configuration.host!r} is no server; write a URL like https://10.0.0.1:6443")
    return loader, loader.current_context["context"].get("namespace")


def _is_url(server: object) -> bool:
    try:
        parts = urlsplit(str(server))
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _account_namespace() -> str:
    return NAMESPACE_FILE.read_text(encoding="utf-8").strip() if NAMESPACE_FILE.exists() else ""


def _files(kubeconfig: Path | None) -> str:
    """Return the kubeconfig files to merge, as the client wants them; raises ConfigError if there are none."""
    named = str(kubeconfig or os.environ.get("KUBECONFIG") or Path("~/.kube/config").expanduser())
    if not any(Path(part).expanduser().is_file() for part in named.split(os.pathsep) if part):
        raise ConfigError(f"there is no kubeconfig {named}; name one by --kubeconfig")
    return named


async def _renewed(loader: Any, configuration: Any) -> None:
    """Keep the token of a credential plugin valid."""
    client: Any = credentials
    while True:
        try:
            await client.refresh_token(loader, configuration, interval=RENEW_S)
        except Exception as error:  # noqa: BLE001  whatever a plugin does wrong, its next try may be better
            log.warning("the credential plugin failed: %s", error)
            await asyncio.sleep(RENEW_S)
        else:
            return  # this kubeconfig has no plugin


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
    return ApiError(printable(str(error)) or "no answer in time")
