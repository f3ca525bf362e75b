"""The sidecar of an engine that decodes: has prompts computed elsewhere first, where a header says by whom.

A reverse proxy in front of one model server. A request whose header `x-prefiller-host-port` names engines, best first, becomes
two (`core.legs`); any other, and every other path, goes through as it is. Whatever goes wrong with the prefillers, the request
is answered all the same: the next one is asked, and in the end the own engine does everything. That costs time and not an
answer; `shunter_sidecar_requests_total{outcome="fell_back"}` tells of it. Who has failed is asked less (`core.suspects`).

With an encoder connector the engines of `x-encoder-hosts-ports` are asked before that, in turn, for a picture each. One that
fails costs nothing more: whoever computes the prompt encodes what it does not find.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, Self

import aiohttp
import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from shunter.lab.core.answers import encode_error
from shunter.lab.core.legs import (
    LIMITS,
    Body,
    encoder_bodies,
    is_divisible,
    meeting_body,
    prefill_body,
    read_addresses,
    read_body,
    read_prefilled,
    tell_cached,
)
from shunter.lab.core.media import MOST_MEDIA
from shunter.lab.core.suspects import Attempt, Failure
from shunter.lab.errors import ApiError
from shunter.lab.shell.listening import listen
from shunter.lab.shell.roster import Failures
from shunter.lab.shell.wire import json_response, reset
from shunter.snapshot import SnapshotReader

__all__ = ["BOOTSTRAP_PORT", "PREFILL_S", "Connector", "EncoderConnector", "Sidecar", "endpoints_of"]

Connector = Literal["nixlv2", "sglang"]
EncoderConnector = Literal["ec-example"]

# The older name first: a picker that writes only that one may let a client's header of the newer name pass.
PREFILLER = ("x-prefiller-host-port", "x-llm-d-prefiller-host-port")
ENCODERS = ("x-encoder-hosts-ports", "x-llm-d-encoder-hosts-ports")
STAGES = frozenset(
    {
        *PREFILLER,
        *ENCODERS,
        "x-data-parallel-host-port",
        "x-kv-cache-source-host-port",
        "x-llm-d-kv-cache-source-host-port",
    }
)

# RFC 9110 section 7.6.1, and what a proxy writes anew.
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "proxy-connection", "host", "content-length"}
)

# An engine that is alive accepts a connection at once.
CONNECT_S = 2.0
# Long prompts behind a queue of long prompts take tens of seconds; beyond this the own engine would have been sooner.
PREFILL_S = 60.0
# Pictures of one prompt that encoders are asked for at once.
ENCODED_AT_ONCE = 32
# As the lab server: a 10 MB prompt must pass.
MAX_BODY_BYTES = 256 * 1024 * 1024
# The port at which prefilling SGLang engines wait for those that decode.
BOOTSTRAP_PORT = 8998

# Statuses 4xx are of the request, and say nothing of who answers; but these say "not now".
NOT_NOW = frozenset({408, 429})


class Sidecar:
    """`async with Sidecar(8200) as sidecar`, or `start` and `stop`; then `port` is the real one."""

    def __init__(
        self,
        model_server_port: int,
        *,
        model_server_host: str = "127.0.0.1",
        host: str = "127.0.0.1",
        port: int = 0,
        metrics_port: int | None = None,
        connector: Connector = "nixlv2",
        encoder_connector: EncoderConnector | None = None,
        bootstrap_port: int = BOOTSTRAP_PORT,
        prefill_timeout_s: float = PREFILL_S,
        allowed: Callable[[str], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`allowed` says whether an address may be asked; None: any, for networks that nobody else can reach.

        Without an `encoder_connector` nobody is asked to encode.
        """
        self.host = host
        self.port = port
        self.metrics_port = metrics_port
        self.server = f"http://{_bracket(model_server_host)}:{model_server_port}"
        self._connector = connector
        self._encoder_connector = encoder_connector
        self._bootstrap_port = bootstrap_port
        self._timeout = aiohttp.ClientTimeout(total=prefill_timeout_s, sock_connect=CONNECT_S)
        self._allowed = allowed or _anybody
        self.registry = CollectorRegistry()
        self._outcomes = Counter(
            "shunter_sidecar_requests_total",
            "Requests that may be divided, by outcome: local, disaggregated, fell_back, denied.",
            ["outcome"],
            registry=self.registry,
        )
        self._encodings = Counter(
            "shunter_sidecar_encodings_total",
            "Pictures and the like that might be encoded elsewhere, by outcome: encoded, failed, denied, left.",
            ["outcome"],
            registry=self.registry,
        )
        self._prefill_s = Histogram(
            "shunter_sidecar_prefill_seconds", "How long prefillers took, those that failed, too.", registry=self.registry
        )
        failures = Failures(self.registry, clock)
        self._prefillers, self._encoders = failures.roster("prefill"), failures.roster("encode")
        self._runners: list[web.AppRunner] = []

    @property
    def url(self) -> str:
        return f"http://{_bracket(self.host)}:{self.port}"

    # Life.

    async def start(self) -> None:
        """Listen. A taken port is a ParamsError."""
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
        self._client = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        try:
            self.port = await self._listen(self.port, web.get("/health", _healthy), web.route("*", "/{path:.*}", self._handle))
            if self.metrics_port is not None:
                self.metrics_port = await self._listen(self.metrics_port, web.get("/metrics", self._show_metrics))
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End at once, whatever is under way."""
        for runner in self._runners:
            await runner.cleanup()
        await self._client.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _listen(self, port: int, *routes: web.RouteDef) -> int:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.add_routes(routes)
        runner, port = await listen(app, self.host, port, "port")
        self._runners.append(runner)
        return port

    async def _show_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.registry), headers={"Content-Type": "text/plain; version=0.0.4"})

    # Requests.

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            if request.method != "POST" or request.path not in LIMITS:
                async with self._ask(request, request.content if request.can_read_body else None) as answer:
                    return await _pass_on(request, answer)
            return await self._serve(request)
        except ApiError as error:
            return json_response(encode_error(error), error.status)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a request that may be divided."""
        data = await request.read()
        prefillers = _named(request, PREFILLER)
        encoders = _named(request, ENCODERS) if self._encoder_connector else []
        body = read_body(data) if prefillers or encoders else None
        divided = body is not None and prefillers and is_divisible(body)
        if divided and not all(map(self._allowed, prefillers)):
            self._outcomes.labels("denied").inc()
            words = f"{', '.join(prefillers)}: no endpoint of the pool, so nothing is asked of it"
            raise ApiError(403, words, kind="PermissionDeniedError")
        if body is not None and encoders:
            await self._encode(request, body, encoders)
        if body is None or not divided:
            self._outcomes.labels("local").inc()
            return await self._decode(request, data)
        divide = self._meet if self._connector == "sglang" else self._hand_over
        left = list(dict.fromkeys(prefillers))
        while (attempt := self._prefillers.choose(left)) is not None:
            left.remove(attempt.address)
            try:
                response = await divide(request, body, attempt)
            finally:
                self._prefillers.leave(attempt)
            if response is not None:
                self._outcomes.labels("disaggregated").inc()
                return response
        self._outcomes.labels("fell_back").inc()
        return await self._decode(request, data)

    async def _decode(self, request: web.Request, data: bytes) -> web.StreamResponse:
        async with self._ask(request, data) as answer:
            return await _pass_on(request, answer)

    async def _encode(self, request: web.Request, body: Body, addresses: list[str]) -> None:
        """Have each picture encoded by one of them, in turn. Those that may not be asked are left out.

        Of more than engines take in a prompt none is, since that will be refused.
        """
        legs, allowed = encoder_bodies(request.path, body), list(filter(self._allowed, addresses))
        if not allowed or len(legs) > MOST_MEDIA:
            self._encodings.labels("left" if allowed else "denied").inc(len(legs))
            return
        places = asyncio.Semaphore(ENCODED_AT_ONCE)

        async def encode(leg: Body, turn: int) -> None:
            async with places:
                attempt = self._encoders.choose(allowed[turn:] + allowed[:turn])
                outcome = "left" if attempt is None else await self._have_encoded(request, leg, attempt)
            self._encodings.labels(outcome).inc()

        await asyncio.gather(*(encode(leg, number % len(allowed)) for number, leg in enumerate(legs)))

    async def _have_encoded(self, request: web.Request, leg: Body, attempt: Attempt) -> str:
        """Return what came of it."""
        try:
            answer = await self._leg(request, leg, attempt.address)
        finally:
            self._encoders.leave(attempt)
        if isinstance(answer, Failure):
            self._encoders.blame(attempt, answer)
            return "failed"
        self._encoders.clear(attempt)
        return "encoded"

    async def _hand_over(self, request: web.Request, body: Body, attempt: Attempt) -> web.StreamResponse | None:
        """Have the prompt computed, then decode; None if either does not work out."""
        data = await self._prefill(request, prefill_body(request.path, body), attempt)
        if data is None:
            return None
        prefilled = read_prefilled(data)
        if prefilled is None:
            self._prefillers.blame(attempt, Failure("nonsense", "it answered without kv_transfer_params"))
            return None
        leg = body | {"kv_transfer_params": prefilled.kv_transfer_params}
        async with self._ask(request, msgspec.json.encode(leg)) as decoded:
            if decoded.status >= 500:  # the blocks may be gone with the prefiller
                self._prefillers.blame(attempt, self._not_fetched(decoded))
                return None
            self._prefillers.clear(attempt)
            return await _pass_on(request, decoded, prefilled.cached_tokens)

    async def _meet(self, request: web.Request, body: Body, attempt: Attempt) -> web.StreamResponse | None:
        """Let both compute at once; None if the prefiller fails before the answer begins."""
        host = attempt.address.rpartition(":")[0].strip("[]")
        leg = meeting_body(body, host, self._bootstrap_port, secrets.randbits(63))
        async with asyncio.TaskGroup() as group:
            prefill = group.create_task(self._prefill(request, leg, attempt))
            decode = group.create_task(self._begin(request, leg))
            try:
                await asyncio.wait({prefill, decode}, return_when=asyncio.FIRST_COMPLETED)
                if prefill.done() and prefill.result() is None:
                    return None
                answer = await decode
                if answer is None:
                    return None
                if answer.status >= 500:
                    self._prefillers.blame(attempt, self._not_fetched(answer))
                    return None
                response = await _pass_on(request, answer)
                if not prefill.done() or prefill.result() is not None:
                    self._prefillers.clear(attempt)
                return response
            finally:
                for task in (prefill, decode):
                    task.cancel()
                if decode.done() and not decode.cancelled() and (begun := decode.result()) is not None:
                    begun.close()

    async def _prefill(self, request: web.Request, leg: Body, attempt: Attempt) -> bytes | None:
        """Return a prefiller's answer, after which the next may try it: what the answer is worth the decoder will tell."""
        with self._prefill_s.time():
            answer = await self._leg(request, leg, attempt.address)
        if isinstance(answer, Failure):
            self._prefillers.blame(attempt, answer)
            return None
        self._prefillers.leave(attempt)
        return answer

    def _not_fetched(self, decoded: aiohttp.ClientResponse) -> Failure:
        return Failure("blocks", f"{self.server} answered {decoded.status} to what it had computed")

    async def _leg(self, request: web.Request, leg: Body, address: str) -> bytes | Failure:
        """Return what another engine answers, or why it has no answer."""
        url, data, limits = f"http://{address}{request.path_qs}", msgspec.json.encode(leg), self._timeout
        try:
            async with self._client.post(
                url, data=data, headers=_forwarded(request), timeout=limits, allow_redirects=False
            ) as answer:
                if answer.status == 200:
                    return await answer.read()
                rejected = 400 <= answer.status < 500 and answer.status not in NOT_NOW
                return Failure("rejected" if rejected else "error", f"it answered {answer.status}")
        except aiohttp.ConnectionTimeoutError:
            return Failure("timeout", f"no connection within {limits.sock_connect:g} s")
        except TimeoutError:
            return Failure("timeout", f"no answer within {limits.total:g} s")
        except (aiohttp.ClientError, ValueError) as error:  # ValueError: of an address that is none
            return Failure("unreachable", f"{type(error).__name__}: {error}")

    async def _begin(self, request: web.Request, leg: Body) -> aiohttp.ClientResponse | None:
        try:
            return await self._client.post(
                self.server + request.path_qs, data=msgspec.json.encode(leg), headers=_forwarded(request)
            )
        except aiohttp.ClientError:
            return None

    @asynccontextmanager
    async def _ask(
        self, request: web.Request, data: bytes | aiohttp.StreamReader | None
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """Ask the own engine."""
        headers = _forwarded(request)
        try:
            answer = await self._client.request(
                request.method, self.server + request.path_qs, data=data, headers=headers, allow_redirects=False
            )
        except aiohttp.ClientError as error:
            words = f"the model server at {self.server} does not answer: {error}"
            raise ApiError(502, words, kind="BadGatewayError") from error
        async with answer:
            yield answer


def endpoints_of(directory: Path) -> Callable[[str], bool]:
    """Return whether an address is an endpoint of the newest snapshot; before the first nothing is."""
    reader = SnapshotReader(directory)

    def known(address: str) -> bool:
        view = reader.view(time.monotonic_ns())
        return view is not None and any(address == each.authority for each in view.topology.endpoints)

    return known


def _named(request: web.Request, names: Sequence[str]) -> list[str]:
    """Return the engines that a header names, by whichever of its names."""
    return read_addresses(next((value for name in names if (value := request.headers.get(name))), ""))


def _anybody(_: str) -> bool:
    return True


async def _healthy(_: web.Request) -> web.Response:
    return web.Response()


def _forwarded(request: web.Request) -> dict[str, str]:
    """Return a request's headers as an engine gets them; encodings are read here, and so only those that this proxy knows."""
    dropped = HOP_BY_HOP | STAGES
    return {name: value for name, value in request.headers.items() if name.lower() not in dropped}


async def _pass_on(request: web.Request, answer: aiohttp.ClientResponse, cached: int | None = None) -> web.StreamResponse:
    """Give the client an answer as it comes; with the number of ``cached`` tokens in place of the engine's own."""
    headers = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
    response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
    if cached is None or "content-encoding" in answer.headers:
        if answer.content_length is not None:
            response.content_length = answer.content_length
        await response.prepare(request)
        await _pump(request, response, answer.content.iter_any())
    elif answer.content_type == "text/event-stream":
        await response.prepare(request)
        await _pump(request, response, (tell_cached(line, cached) async for line in _lines(answer.content)))
    else:
        data = tell_cached(await answer.read(), cached)
        response.content_length = len(data)
        await response.prepare(request)
        await response.write(data)
    await response.write_eof()
    return response


async def _pump(request: web.Request, response: web.StreamResponse, pieces: AsyncIterable[bytes]) -> None:
    """Give the client what comes; an answer that breaks off breaks off for the client, too."""
    try:
        async for data in pieces:
            await response.write(data)
    except aiohttp.ClientError:
        reset(request)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield what comes, whole lines at a time; an event of the API has its JSON in one line, whatever that is long."""
    rest = b""
    async for data in content.iter_any():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host
