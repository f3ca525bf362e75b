"""The deeds of a server: what is done when a path is asked that its dialect knows."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from aiohttp import web

from shunter.lab.core.asks import Ask, parse_json, read_chat, read_completion
from shunter.lab.core.models import Models
from shunter.lab.core.params import EngineParams
from shunter.lab.dialects import Dialect, View
from shunter.lab.errors import ApiError
from shunter.lab.shell.defects import Defects
from shunter.lab.shell.generation import Generation
from shunter.lab.shell.wire import json_response

__all__ = ["MAX_BODY_BYTES", "Page", "Paths"]

# How late a probe is that dawdles: later than any kubelet waits unless told to.
DAWDLE_S = 3.0
# What a probe generates that should not.
PROBE = b'{"prompt": "ok", "max_tokens": 8}'
# vLLM has no limit of its own. A 10 MB prompt must pass; one client must not fill the machine's memory.
MAX_BODY_BYTES = 256 * 1024 * 1024


class _LoadBody(msgspec.Struct):
    lora_name: str
    lora_path: str


class _UnloadBody(msgspec.Struct):
    lora_name: str


class Page(Protocol):
    """What makes the metrics page."""

    def render(self) -> bytes:
        """The page as of now."""
        ...


class Paths:
    """The handlers of one server. `draining`: it is about to end, and takes nothing new. `dead`: its engine is no more."""

    def __init__(
        self,
        dialect: Dialect,
        models: Models,
        page: Page,
        look: Callable[[], View],
        generation: Generation,
        defects: Defects,
    ) -> None:
        self.draining = self.dead = False
        self._dialect = dialect
        self._models = models
        self._page = page
        self._look = look
        self._generation = generation
        self._defects = defects
        self._created = int(time.time())

    def routes(self) -> tuple[list[web.RouteDef], list[web.RouteDef]]:
        """Which handler answers which path, and which one where the metrics are apart."""
        deeds: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
            "alive": self._alive,
            "health": self._health,
            "load": self._load,
            "metrics": self._metrics,
            "models": self._list_models,
            "repository": self._repository,
            "model ready": self._model_ready,
            "tokenize": self._tokenize,
            "complete": self._complete,
            "chat": self._chat,
            "generate": self._generate,
            "generate stream": self._generate,
            "load adapter": self._load_adapter,
            "unload adapter": self._unload_adapter,
        }
        dialect = self._dialect
        paths = {**dialect.paths, **(dialect.adapter_paths if self._models.lora else {})}
        here: list[web.RouteDef] = []
        apart: list[web.RouteDef] = []
        for asked, deed in paths.items():
            method, _, path = asked.partition(" ")
            where = apart if deed == "metrics" and dialect.metrics_port is not None else here
            plain = {"allow_head": False} if method == "GET" else {}
            where.append(web.route(method, path, deeds[deed], **plain))
        here += [web.get(path, self._fact(tell), allow_head=False) for path, tell in dialect.facts.items()]
        return here, apart

    def _fact(self, tell: Callable[[View], Any]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(_: web.Request) -> web.StreamResponse:
            return json_response(msgspec.json.encode(tell(self._look())))

        return handle

    async def _alive(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _health(self, request: web.Request) -> web.Response:
        ready = not (self.draining or self.dead) or self._defects.ends("ready" if self.draining else "unhurt")
        if ready:
            await asyncio.sleep(DAWDLE_S if self._defects.probe("dawdles") else self._dialect.health_s)
            if self._defects.probe("generates"):
                ask = read_completion(PROBE, self._models, self._params.context_tokens)
                await self._generation.answer(request, ask, "probe")
            if self._defects.probe("waits"):
                await self._generation.idle()
        said = self._dialect.well if ready else b""
        return json_response(said) if said else web.Response(status=200 if ready else 503)

    async def _load(self, _: web.Request) -> web.Response:
        return json_response(msgspec.json.encode({"server_load": self._generation.live}))

    async def _metrics(self, _: web.Request) -> web.Response:
        while self._defects.starved(self._generation.live):
            await self._generation.left()
        self._defects.pages += 1
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=self._page.render(), headers=headers)

    async def _list_models(self, _: web.Request) -> web.Response:
        cards = self._models.cards(self._created, self._params.context_tokens, self._dialect.owned_by)
        if self._dialect.card is not None:
            cards = [{name: card[name] for name in self._dialect.card} for card in cards]
        return json_response(msgspec.json.encode({"object": "list", "data": cards}))

    async def _repository(self, _: web.Request) -> web.Response:
        entries = [{"name": name, "version": "1", "state": "READY"} for name in self._models.names]
        return json_response(msgspec.json.encode(entries))

    async def _model_ready(self, request: web.Request) -> web.Response:
        known = request.match_info["model"] in self._models.names
        return web.Response() if known else web.Response(status=400)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = self._dialect.read(await self._asked(request))
        named = {"model": request.match_info["model"]} if "model" in request.match_info else {}
        streamed = {"stream": True} if request.path.endswith("_stream") else {}
        asked = msgspec.json.encode({**body, **named, **streamed})
        ask = read_completion(asked, self._models, self._params.context_tokens)
        return await self._generation.answer(request, ask, "cmpl", self._dialect.shapes["generate"])

    async def _load_adapter(self, request: web.Request) -> web.Response:
        body = parse_json(await request.read(), _LoadBody)
        self._models.load(body.lora_name, body.lora_path)
        return web.Response(text=f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    async def _unload_adapter(self, request: web.Request) -> web.Response:
        body = parse_json(await request.read(), _UnloadBody)
        self._models.unload(body.lora_name)
        return web.Response(text=f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    async def _tokenize(self, request: web.Request) -> web.Response:
        """The tokens that a completion or a chat of this body would be computed from."""
        body = await request.read()
        chat = "messages" in parse_json(body, dict[str, msgspec.Raw])
        ask = self._read_chat(body, MAX_BODY_BYTES) if chat else read_completion(body, self._models, MAX_BODY_BYTES)
        tokens = ask.prompts[0]
        answer: dict[str, Any] = {"count": len(tokens), "max_model_len": self._params.context_tokens}
        return json_response(msgspec.json.encode({**answer, "tokens": tokens, "token_strs": None}))

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        ask = read_completion(await self._asked(request), self._models, self._params.context_tokens)
        return await self._generation.answer(request, ask, self._prefix("cmpl"), self._dialect.shapes.get("complete"))

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        ask = self._read_chat(await self._asked(request), self._params.context_tokens)
        return await self._generation.answer(request, ask, self._prefix("chatcmpl"), self._dialect.shapes.get("chat"))

    def _read_chat(self, body: bytes, context_tokens: int) -> Ask:
        return read_chat(body, self._models, context_tokens, self._params.media_tokens)

    def _prefix(self, prefix: str) -> str:
        """What an id begins with that may be the client's; nothing if it may not."""
        return "" if self._dialect.own_ids else prefix

    @property
    def _params(self) -> EngineParams:
        return self._generation.params

    async def _asked(self, request: web.Request) -> bytes:
        if self.dead:
            raise ApiError(500, "EngineCore encountered an issue.", kind="InternalServerError")
        if self.draining:
            if self._defects.ends("error"):
                raise ApiError(500, "cannot schedule new futures after shutdown", kind="InternalServerError")
            raise ApiError(503, "The server is shutting down.", kind="ServiceUnavailableError")
        body = await self._defects.whole(request)
        await self._defects.hang(body)
        if status := await self._defects.crowded(self._generation.live):
            raise ApiError(status, "There is too much to do.", kind="InternalServerError")
        return self._defects.misread(body, self._models.adapters, self._generation.adapters)
