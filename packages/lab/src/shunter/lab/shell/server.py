"""The HTTP server: vLLM's paths over one engine, with the faults it was asked to have."""

import asyncio
import contextlib
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Self

import msgspec
from aiohttp import web

from shunter.lab.core.answers import DONE, Answer, encode_error
from shunter.lab.core.asks import Ask, parse_json, read_chat, read_completion
from shunter.lab.core.engine import Engine
from shunter.lab.core.kvevents import Announcer
from shunter.lab.core.models import Models
from shunter.lab.core.params import EngineParams
from shunter.lab.core.progress import Progress
from shunter.lab.core.requests import Request
from shunter.lab.core.sequence import Token
from shunter.lab.core.tokens import Script
from shunter.lab.errors import ApiError, ParamsError, QueueFullError
from shunter.lab.faults import Fault, Reply, faults_named
from shunter.lab.shell.clockwork import Clockwork
from shunter.lab.shell.kvevents import KvPublisher
from shunter.lab.shell.metrics import MetricsPage
from shunter.lab.shell.wire import EventWriter, drip, json_response, reset

__all__ = ["VLLM_VERSION", "LabServer"]

# The release whose behaviour is reproduced.
VLLM_VERSION = "0.32.0"
# vLLM has no limit of its own. A 10 MB prompt must pass; one client must not fill the machine's memory.
MAX_BODY_BYTES = 256 * 1024 * 1024
# A stalled answer must not hold up the end of the server for longer.
CLEANUP_S = 0.5


class _LoadBody(msgspec.Struct):
    lora_name: str
    lora_path: str


class _UnloadBody(msgspec.Struct):
    lora_name: str


class LabServer:
    """A model server in this process: `async with LabServer(…) as server`, or `start` and `stop`.

    `faults` may be changed while it runs (`break_with`, `mend`). `engine` is the engine itself, for tests that want to
    see; like the clock that drives it, it exists once the server has started.
    """

    def __init__(
        self,
        params: EngineParams | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        models: Iterable[str] = ("lab/llama-3-8b",),
        loras: Iterable[str] = (),
        enable_lora: bool | None = None,
        prompt_tokens_details: bool = False,
        name: str | None = None,
        faults: Iterable[str] = (),
        kv_events_port: int | None = None,
        kv_replay_port: int | None = None,
    ) -> None:
        self.params = params or EngineParams()
        self.models = Models(models, loras, lora=enable_lora)
        if not host:
            raise ParamsError("host is empty; name an address to listen on (0.0.0.0 is every one)")
        self.host = host
        self.port = port
        self.name = name
        self.faults: tuple[Fault, ...] = faults_named(faults)
        self._prompt_tokens_details = prompt_tokens_details
        self._pages = 0
        self.kv_events: KvPublisher | None = None
        """Where it publishes what its cache holds, if it does."""
        self._announcer: Announcer | None = None
        if kv_events_port is not None:
            self._announcer = Announcer(self.params.block_size)
            topic = f"kv@{host}:{port}@{self.models.names[0]}"
            self.kv_events = KvPublisher(host, kv_events_port, kv_replay_port, topic, self._announcer.batch)
        elif kv_replay_port is not None:
            raise ParamsError("nothing is published that could be repeated: give --kv-events-port, too")
        self._streams: dict[str, asyncio.Queue[Token | None]] = {}

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def fingerprint(self) -> str:
        """What `system_fingerprint` says in every answer of this server."""
        return self.name or f"lab-{self.port}"

    def break_with(self, *names: str) -> None:
        """Have these faults, and no others, from now on."""
        self.faults = faults_named(names)

    def mend(self) -> None:
        """Have no fault from now on."""
        self.faults = ()

    # Life.

    async def start(self) -> None:
        """Listen; `port` is then the real one. A taken port is a ParamsError."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        self._started_s = now_s
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._created = int(time.time())
        self.engine = Engine(self.params, now_s)
        self._clockwork = Clockwork(self.engine, loop)
        self._page = MetricsPage(self._clockwork, self.models, time.time() - now_s, now_s)
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guard])
        app.add_routes(self._routes())
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=CLEANUP_S, handle_signals=False
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self.host, self.port).start()
        except (OSError, OverflowError) as error:
            await self._runner.cleanup()
            reason = getattr(error, "strerror", None) or str(error)
            raise ParamsError(
                f"cannot listen on {self.host}:{self.port}: {reason}; choose another --port (0 takes a free one)"
            ) from error
        self.port = self._runner.addresses[0][1]
        if self.kv_events is not None:
            if self.params.enable_prefix_caching:
                self.engine.cache.watch = self._announcer
            try:
                self.kv_events.start()
            except ParamsError:
                await self._runner.cleanup()
                raise

    async def stop(self, drain_s: float = 0.0) -> None:
        """End. New work is refused at once; what runs may finish for `drain_s`, then ends with finish_reason `abort`."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                await self._idle.wait()
        for stream in self._streams.values():
            stream.put_nowait(None)
        await self._runner.cleanup()
        self._clockwork.close()
        if self.kv_events is not None:
            await self.kv_events.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # Every request comes through here.

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Errors into vLLM's shapes, and the faults that need no more than an answer."""
        if any(fault.wire == "reset" for fault in self.faults):
            reset(request)
        age_s = asyncio.get_running_loop().time() - self._started_s
        for fault in self.faults:
            if fault.refuse and (status := fault.refuse(request.path, age_s)):
                return web.Response(status=status)
            delay_s = fault.stall_s.get(request.path)
            if delay_s is not None:
                await (asyncio.Future[None]() if math.isinf(delay_s) else asyncio.sleep(delay_s))
        try:
            response = await handler(request)
        except ApiError as error:
            response = json_response(encode_error(error), error.status)
        except web.RequestPayloadError:
            refusal = ApiError(400, "The body breaks its Content-Encoding or Transfer-Encoding.", kind="Bad Request")
            response = json_response(encode_error(refusal), refusal.status)
        except web.HTTPNotFound:
            response = json_response(b'{"detail":"Not Found"}', 404)
        except web.HTTPMethodNotAllowed as error:
            response = json_response(b'{"detail":"Method Not Allowed"}', 405)
            response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return await self._spoil(request, response) if isinstance(response, web.Response) else response

    async def _spoil(self, request: web.Request, response: web.Response) -> web.StreamResponse:
        """What the faults make of a whole answer."""
        if not self.faults:
            return response
        body = response.body if isinstance(response.body, bytes) else b""
        reply = Reply(request.path, response.status, body, self._pages)
        for fault in self.faults:
            reply = fault.reply(reply) if fault.reply else reply
        response.set_status(reply.status)
        response.body = reply.body
        if request.path == "/metrics" and any(fault.wire == "drip" for fault in self.faults):
            await drip(request, response)
        return response

    # Paths.

    def _routes(self) -> list[web.RouteDef]:
        routes = [
            web.get("/health", self._health, allow_head=False),
            web.get("/ping", self._health, allow_head=False),
            web.post("/ping", self._health),
            web.get("/version", self._version, allow_head=False),
            web.get("/load", self._load, allow_head=False),
            web.get("/metrics", self._metrics),
            web.get("/v1/models", self._list_models, allow_head=False),
            web.post("/tokenize", self._tokenize),
            web.post("/v1/completions", self._completion),
            web.post("/v1/chat/completions", self._chat),
        ]
        if self.models.lora:
            routes += [
                web.post("/v1/load_lora_adapter", self._load_adapter),
                web.post("/v1/unload_lora_adapter", self._unload_adapter),
            ]
        return routes

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=503 if self._draining else 200)

    async def _version(self, _: web.Request) -> web.Response:
        return json_response(msgspec.json.encode({"version": VLLM_VERSION}))

    async def _load(self, _: web.Request) -> web.Response:
        return json_response(msgspec.json.encode({"server_load": len(self._streams)}))

    async def _metrics(self, _: web.Request) -> web.Response:
        self._pages += 1
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=self._page.render(), headers=headers)

    async def _list_models(self, _: web.Request) -> web.Response:
        cards = self.models.cards(self._created, self.params.context_tokens)
        return json_response(msgspec.json.encode({"object": "list", "data": cards}))

    async def _load_adapter(self, request: web.Request) -> web.Response:
        body = parse_json(await request.read(), _LoadBody)
        self.models.load(body.lora_name, body.lora_path)
        return web.Response(text=f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    async def _unload_adapter(self, request: web.Request) -> web.Response:
        body = parse_json(await request.read(), _UnloadBody)
        self.models.unload(body.lora_name)
        return web.Response(text=f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    async def _tokenize(self, request: web.Request) -> web.Response:
        """The tokens that a completion or a chat of this body would be computed from."""
        body = await request.read()
        chat = "messages" in parse_json(body, dict[str, msgspec.Raw])
        ask = (read_chat if chat else read_completion)(body, self.models, MAX_BODY_BYTES)
        tokens = ask.prompts[0]
        answer = {"count": len(tokens), "max_model_len": self.params.context_tokens, "tokens": tokens, "token_strs": None}
        return json_response(msgspec.json.encode(answer))

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        ask = read_completion(await self._ask_body(request), self.models, self.params.context_tokens)
        return await self._answer(request, ask, "cmpl")

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        ask = read_chat(await self._ask_body(request), self.models, self.params.context_tokens)
        return await self._answer(request, ask, "chatcmpl")

    async def _ask_body(self, request: web.Request) -> bytes:
        if self._draining:
            raise ApiError(503, "The server is shutting down.", kind="ServiceUnavailableError")
        body = await request.read()
        for fault in self.faults:
            if fault.ask:
                # A body that is not a JSON object is for the reader to refuse.
                with contextlib.suppress(msgspec.DecodeError):
                    body = msgspec.json.encode(fault.ask(msgspec.json.decode(body, type=dict[str, Any])))
        return body

    async def _answer(self, request: web.Request, ask: Ask, prefix: str) -> web.StreamResponse:
        """Run every prompt of a request through the engine; whoever hangs up takes them all away."""
        serial = uuid.uuid4().hex
        request_id = f"{prefix}-{request.headers.get('X-Request-Id') or serial[:16]}"
        answer = Answer(ask, request_id, int(time.time()), self.fingerprint)
        scripts = ask.scripts(self.params.context_tokens, serial)
        tokens: asyncio.Queue[Token | None] = asyncio.Queue()
        # Clients may repeat an X-Request-Id, so the engine knows requests by a name of our own.
        names = [f"{serial}-{index}" for index in range(len(scripts))]
        self._streams[serial] = tokens
        self._idle.clear()
        progress = Progress(ask, names, scripts, tell_cached=self._prompt_tokens_details)
        try:
            for name, prompt, script in zip(names, ask.prompts, scripts, strict=True):
                self._submit(name, ask, prompt, script, tokens.put_nowait)
            if ask.stream:
                return await self._stream(request, answer, progress, tokens)
            while not progress.done:
                progress.take(await tokens.get())
            transfer = self._transfer(request_id, len(ask.prompts[0])) if ask.gives else None
            return json_response(answer.whole(progress.whole(), progress.usage(), transfer))
        finally:
            del self._streams[serial]
            if not self._streams:
                self._idle.set()
            for name in names:
                if not self._deaf(ask, name):
                    self._clockwork.abort(name)

    def _deaf(self, ask: Ask, name: str) -> bool:
        """Whether a fault keeps a request whose client has hung up."""
        kinds = {fault.deaf for fault in self.faults}
        return ("streams" if ask.stream else "whole") in kinds or ("waiting" in kinds and self.engine.waits(name))

    def _transfer(self, request_id: str, tokens: int) -> dict[str, Any]:
        """What vLLM's NixlConnector answers a prefill with.

        Nobody fetches anything: the decoder waits as long as it would take.
        """
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": [list(range(1, 1 + -(-tokens // self.params.block_size)))],
            "remote_engine_id": self.fingerprint,
            "remote_request_id": request_id,
            "remote_host": self.host,
            "remote_port": self.port,
            "tp_size": 1,
            "remote_num_tokens": tokens,
            "transfer_mode": "pull",
        }

    def _submit(self, name: str, ask: Ask, prompt: tuple[int, ...], script: Script, listener: Callable[[Token], None]) -> None:
        request = Request(
            id=name,
            prompt=prompt,
            output=script.tokens,
            finish=script.finish,
            adapter=ask.adapter,
            cache_salt=ask.cache_salt,
            max_tokens=ask.max_tokens,
            remote=ask.takes,
        )
        if self._announcer is not None:
            self._announcer.asked(request)
        try:
            self._clockwork.submit(request, listener)
        except QueueFullError as error:
            raise ApiError(503, f"Service Unavailable: {error}", kind="ServiceUnavailableError") from error

    async def _stream(
        self, request: web.Request, answer: Answer, progress: Progress, tokens: asyncio.Queue[Token | None]
    ) -> web.StreamResponse:
        ask = answer.ask
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        events = EventWriter(request, response, self.faults)
        with contextlib.suppress(ConnectionResetError):  # the client has hung up: nobody is there to be told
            opened: set[int] = set()
            while not progress.done:
                token = await tokens.get()
                for choice in progress.take(token):
                    usage = progress.usage_of(choice.index) if ask.continuous_usage else None
                    if ask.chat and choice.index not in opened:
                        opened.add(choice.index)
                        await events.write(answer.opening(choice.index, usage))
                    await events.write(answer.piece(choice, usage, last=progress.done and not ask.include_usage))
            if ask.include_usage:
                await events.write(answer.closing(progress.usage()))
            await events.write(DONE)
            await response.write_eof()
        return response
