"""An endpoint picker in process: as right as the exam demands, or wrong in exactly one way.

::

    examine(FakePicker())                      # passes everything
    examine(FakePicker("destination-missing"))  # fails ep.stream.destination, and nothing else

It starts by itself (`examine` takes it as a Launcher), scrapes the exam's model servers over HTTP, and answers on the gRPC
library. `testing.pickers.faults.FAULTS` lists what can be wrong with it. For tests of the exam, not for traffic.
"""

import asyncio
import json
import random
import re
import ssl
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec
from aiohttp import web

from shunter.conformance.sections.pickers.asking import DESTINATION, METADATA
from shunter.conformance.sections.pickers.messages import Message, Mode, Part, Reply, Set
from shunter.conformance.sections.pickers.target import Server
from shunter.conformance.shell.extproc import load
from shunter.conformance.shell.pickers.exam import Launched
from shunter.conformance.shell.pickers.tunnel import tunnel
from shunter.conformance.shell.ports import free_ports
from shunter.conformance.testing.pickers.codec import Codec
from shunter.conformance.testing.pickers.faults import FAULTS
from shunter.conformance.testing.pickers.seams import NO_FAULT, Fault, Illegal, Known, Talk

__all__ = ["FakePicker"]

SCRAPE_EVERY_S = 0.01
GRACE_S = 30.0
CHUNK_BYTES = 62_000
PREFIX_CHARS = 200
REMEMBERED = 1000

SERIES = re.compile(r"^(\w[\w:]*)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


class Refused(Exception):  # noqa: N818 – a word of the domain
    """The request is refused, with this status."""

    def __init__(self, status: int, why: str, *sets: Set) -> None:
        super().__init__(why)
        self.reply = Reply(part=Part.IMMEDIATE, status=status, body=why.encode(), sets=sets)


class FakePicker:
    """One picker, from entering to leaving; see `shell.pickers.exam.Launcher`."""

    def __init__(self, fault: str = "", *, lag_s: float = 5.0, tls: ssl.SSLContext | None = None) -> None:
        """Make one with this fault, behind TLS if that is given; `lag_s` is how late one that is late heeds metrics."""
        self._tls = tls
        self._opened = AsyncExitStack()
        self.lag_s = lag_s
        self.fault: Fault = FAULTS[fault] if fault else NO_FAULT
        self.known: dict[str, Known] = {}
        self.offered: list[str] = []
        self.gone: set[str] = set()
        self.open: set[Talk] = set()
        self.decided: deque[Talk] = deque(maxlen=REMEMBERED)
        self.requests = self.tokens = self.running = 0
        self.prefixes: dict[tuple[str, str], str] = {}
        self.dice = random.Random(7)  # noqa: S311 – lots, no secrets
        self.poisoned = False
        self._grpc, self._rpc, self._codec = load("grpc.aio"), load("grpc"), Codec()
        self._ports = free_ports(2)
        self._server: Any = None
        self._ending: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._page: web.ServerRunner | None = None

    def __call__(self, servers: Sequence[Server]) -> Self:
        self.offered = [each.address for each in servers]
        return self

    async def __aenter__(self) -> Launched:
        self._page = web.ServerRunner(web.Server(self._metrics, access_log=None), shutdown_timeout=0)
        await self._page.setup()
        await web.TCPSite(self._page, "127.0.0.1", self._ports[1]).start()
        self._tasks.append(asyncio.create_task(self._look()))
        await self._listen()
        address = f"127.0.0.1:{self._ports[0]}"
        if self._tls:
            if not self.fault.has("without-alpn"):
                self._tls.set_alpn_protocols(["h2"])
            address = await self._opened.enter_async_context(tunnel(address, outside=None, inside=self._tls))
        return Launched(
            address=address, health=address, metrics_url=f"http://127.0.0.1:{self._ports[1]}/metrics", profile="generic"
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.aclose()
        await self._end(0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._page:
            await self._page.cleanup()

    async def offer(self, servers: Sequence[Server]) -> None:
        before, self.offered = self.offered, [each.address for each in servers]
        self.gone |= {*before} - {*self.offered} if self.offered else set()

    async def terminate(self) -> None:
        if not self.fault.has("serves-on"):
            self._end(0 if self.fault.has("cuts-off") else GRACE_S)

    async def ended(self, within_s: float) -> bool:
        del within_s
        return not self.fault.has("stays")

    async def restart(self) -> None:
        await self._end(0)
        await self._listen()

    def _end(self, grace_s: float) -> "asyncio.Task[None]":
        """End the server once: the library dies of a second `stop` beside the first. Whoever listened has hung up by then."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._server.stop(grace_s))
        return self._ending

    async def _listen(self) -> None:
        self._server, self._ending = self._grpc.server(), None
        handler = self._rpc.method_handlers_generic_handler
        process = self._rpc.stream_stream_rpc_method_handler(self._process)
        check = self._rpc.unary_unary_rpc_method_handler(self._check)
        self._server.add_generic_rpc_handlers(
            (
                handler("envoy.service.ext_proc.v3.ExternalProcessor", {"Process": process}),
                handler("grpc.health.v1.Health", {"Check": check}),
            )
        )
        self._server.add_insecure_port(f"127.0.0.1:{self._ports[0]}")
        await self._server.start()

    async def _check(self, _: bytes, context: Any) -> bytes:
        if self.fault.has("knows-no-service"):
            await context.abort(self._rpc.StatusCode.NOT_FOUND, "no such service")
        return b"\x08\x01"

    async def _process(self, _: object, context: Any) -> None:
        """One stream, one request."""
        talk = Talk(self)
        self.open.add(talk)
        try:
            while (data := await context.read()) is not self._grpc.EOF:
                message = self._codec.decode(data, talk)
                if self.fault.waits(talk, message):
                    await asyncio.sleep(3600)  # until the stream is reset
                if (heard := self.fault.hear(talk, message)) is None:
                    continue
                replies = self._answer(talk, heard)
                if talk.endpoint and self._is_poisoned(talk):
                    self.poisoned = False
                    await context.abort(self._rpc.StatusCode.INTERNAL, "what an earlier stream has left")
                for reply in replies:
                    await context.write(self._codec.encode(reply))
                if talk.refused:
                    return
            if self.fault.waits(talk, None):
                await asyncio.sleep(3600)
        except Illegal as illegal:
            await context.abort(self._rpc.StatusCode.INVALID_ARGUMENT, str(illegal))
        except asyncio.CancelledError:
            self.poisoned |= not talk.endpoint
            raise
        finally:
            self.open.discard(talk)
            if talk.endpoint and not (self.fault.has("never-forgets") and not talk.over):
                self.running -= 1

    def _is_poisoned(self, talk: Talk) -> bool:
        """Whether a stream was reset before its pick; one that was and that nobody has told yet is still open."""
        left = self.poisoned or any(not other.endpoint for other in self.open - {talk})
        return self.fault.has("is-poisoned") and left

    def _answer(self, talk: Talk, message: Message) -> list[Reply]:
        try:
            replies = [*self._hear(talk, message)]
        except Refused as refused:
            talk.refused = True
            replies = [refused.reply]
        return self.fault.say(talk, replies)

    def _hear(self, talk: Talk, message: Message) -> Iterator[Reply]:
        """What a right picker answers."""
        part = message.part
        if part is Part.REQUEST_HEADERS and not talk.headers:
            talk.headers, talk.subset = {name.lower(): value for name, value in message.headers}, _subset(message)
            if message.end or talk.mode in {Mode.STREAMED, Mode.NONE}:
                yield self._decide(talk, blind=True)
            elif talk.mode is Mode.BUFFERED:
                yield Reply(part=part)
        elif part is Part.REQUEST_BODY and talk.headers and not talk.over_request:
            if talk.mode is Mode.STREAMED:
                yield Reply(part=part)
                return
            talk.pieces.append(message.body)
            talk.over_request = message.end
            if message.end:
                yield from self._hand_on(talk, trailers=False)
        elif part is Part.REQUEST_TRAILERS and talk.headers:
            yield from self._hand_on(talk, trailers=True)
            yield Reply(part=part)
        elif part is Part.RESPONSE_HEADERS and talk in self.decided:
            yield self._hear_response(talk, message)
        elif part is Part.RESPONSE_BODY:
            yield from self._chunk(part, self._read(talk, message), end=message.end)
        elif part is Part.RESPONSE_TRAILERS:
            talk.over = True
            yield Reply(part=part)
        else:
            raise Illegal(f"{part or 'nothing known'} here")

    def _hand_on(self, talk: Talk, *, trailers: bool) -> Iterator[Reply]:
        decided = self._decide(talk)
        if talk.mode is Mode.BUFFERED:
            yield msgspec.structs.replace(decided, part=Part.REQUEST_BODY)
            return
        length = Set("content-length", str(len(talk.body)))
        yield msgspec.structs.replace(decided, sets=(*decided.sets, length))
        yield from self._chunk(Part.REQUEST_BODY, talk.body, end=not trailers)

    def _chunk(self, part: Part, body: bytes, *, end: bool) -> Iterator[Reply]:
        pieces = [body[at : at + CHUNK_BYTES] for at in range(0, len(body), CHUNK_BYTES)] or [b""]
        for at, piece in enumerate(pieces, 1):
            yield Reply(part=part, form="streamed_response", body=piece, end=end and at == len(pieces))

    def _hear_response(self, talk: Talk, message: Message) -> Reply:
        talk.status = next(int(value) for name, value in message.headers if name == ":status")
        talk.content_type = next((value.decode() for name, value in message.headers if name == "content-type"), "")
        served = message.metadata.get(METADATA, {}).get(f"{DESTINATION}-served")
        return Reply(part=message.part, sets=(Set("x-conformance-test-served-endpoint", served),) if served else ())

    def _read(self, talk: Talk, message: Message) -> bytes:
        """Take the usage along; the body goes on as it is."""
        talk.over = talk.over or message.end
        found = re.search(rb'"completion_tokens":(\d+)', message.body)
        if found and self.fault.counts(talk):
            self.tokens += int(found[1])
        return message.body

    def _decide(self, talk: Talk, *, blind: bool = False) -> Reply:
        model, prompt = ("", "") if blind else self._parse(talk)
        endpoints = self._choose(talk, model, prompt)
        talk.endpoint = endpoints[0]
        self.decided.append(talk)
        self.requests += 1
        self.running += 1
        self.prefixes[model, prompt[:PREFIX_CHARS]] = endpoints[0]
        value = ",".join(endpoints)
        sets = [Set(DESTINATION, value)]
        sets += [] if "x-request-id" in talk.headers else [Set("x-request-id", f"fake-{self.requests}")]
        return Reply(part=Part.REQUEST_HEADERS, sets=tuple(sets), clears_route=True, metadata={METADATA: {DESTINATION: value}})

    def _parse(self, talk: Talk) -> tuple[str, str]:
        try:
            document = json.loads(talk.body)
        except (ValueError, RecursionError):
            if self.fault.has("takes-anything") or (self.fault.has("trusts-proxies") and "x-forwarded-proto" in talk.headers):
                return "", ""
            raise Refused(400, "inference error: BadRequest - not JSON") from None
        if not isinstance(document.get("model"), str):
            if self.fault.has("needs-no-model"):
                return "", ""
            raise Refused(400, "inference error: BadRequest - model not found in request body")
        return document["model"], json.dumps(document.get("messages"))

    def _choose(self, talk: Talk, model: str, prompt: str) -> list[str]:
        """The best first: adapter, then prefix, then the shortest queue, then the emptiest cache, then by lot."""
        candidates = self.fault.narrow(talk, self._pool())
        if not candidates:
            reason = Set("x-llm-d-request-dropped-reason", "rejected-no-endpoints")
            raise Refused(503, "inference error: ServiceUnavailable - nobody there", reason)
        home = self.prefixes.get((model, prompt[:PREFIX_CHARS]))

        def cost(address: str) -> tuple[Any, ...]:
            known = self.known.get(address, Known())
            return self.fault.weigh(model not in known.adapters, known.queue, known.kv_usage, address != home)

        lots = candidates if self.fault.has("takes-the-first") else self.dice.sample(candidates, len(candidates))
        return sorted(lots, key=cost)[:2]

    def _pool(self) -> list[str]:
        return self.fault.members(self)

    async def _look(self) -> None:
        """Scrape everybody, again and again."""
        async with aiohttp.ClientSession() as session:
            while True:
                for address in {*self.offered, *self.known}:
                    with suppress(aiohttp.ClientError):
                        async with session.get(f"http://{address}/metrics") as answer:
                            self._learn(address, _read_page(await answer.text()))
                await asyncio.sleep(SCRAPE_EVERY_S)

    def _learn(self, address: str, known: Known) -> None:
        late_s = self.lag_s if self.fault.has("lags") else 0.0
        asyncio.get_running_loop().call_later(late_s, self.known.__setitem__, address, known)

    async def _metrics(self, _: object) -> web.Response:
        pool = self._pool()
        queue = sum(self.known.get(each, Known()).queue for each in pool)
        lines = {
            'llm_d_epp_ready_endpoints{name="exam"}': len(pool),
            'llm_d_epp_average_queue_size{name="exam"}': queue / max(len(pool), 1),
            'llm_d_epp_average_kv_cache_utilization{name="exam"}': 0.1,
            'llm_d_epp_request_total{model_name="exam"}': self.requests,
            'llm_d_epp_request_running{model_name="exam"}': self.running,
            'llm_d_epp_request_output_tokens_sum{model_name="exam"}': self.tokens,
        }
        return web.Response(text=self.fault.page("".join(f"{name} {value}\n" for name, value in lines.items())))


def _subset(message: Message) -> list[str] | None:
    return message.metadata.get("envoy.lb.subset_hint", {}).get(f"{DESTINATION}-subset")


def _read_page(page: str) -> Known:
    found: dict[str, float] = {}
    adapters: Iterable[str] = ()
    for name, labels, value in SERIES.findall(page):
        found[name] = float(value)
        if name == "vllm:lora_requests_info":
            adapters = re.findall(r'running_lora_adapters="([^"]*)"', labels)[0].split(",")
    return Known(found["vllm:num_requests_waiting"], found["vllm:kv_cache_usage_perc"], tuple(adapters))
