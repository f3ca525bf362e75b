"""The paths of vLLM, and what each of them answers."""

import time
from typing import Any

import msgspec
from aiohttp import web

from shunter.lab.core.asks import parse_json, read_chat, read_completion
from shunter.lab.core.models import Models
from shunter.lab.errors import ApiError
from shunter.lab.shell.clockwork import Clockwork
from shunter.lab.shell.defects import Defects
from shunter.lab.shell.generation import Generation
from shunter.lab.shell.metrics import MetricsPage
from shunter.lab.shell.wire import json_response

__all__ = ["MAX_BODY_BYTES", "VLLM_VERSION", "Paths"]

# The release whose behaviour is reproduced.
VLLM_VERSION = "0.32.0"
# vLLM has no limit of its own. A 10 MB prompt must pass; one client must not fill the machine's memory.
MAX_BODY_BYTES = 256 * 1024 * 1024


class _LoadBody(msgspec.Struct):
    lora_name: str
    lora_path: str


class _UnloadBody(msgspec.Struct):
    lora_name: str


class Paths:
    """The handlers of one server. `draining`: it is about to end, and takes nothing new. `dead`: its engine is no more."""

    def __init__(
        self, models: Models, clockwork: Clockwork, page: MetricsPage, generation: Generation, defects: Defects
    ) -> None:
        self.draining = self.dead = False
        self._models = models
        self._page = page
        self._params = clockwork.engine.params
        self._generation = generation
        self._defects = defects
        self._created = int(time.time())

    def routes(self) -> list[web.RouteDef]:
        """Which handler answers which path."""
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
        if self._models.lora:
            routes += [
                web.post("/v1/load_lora_adapter", self._load_adapter),
                web.post("/v1/unload_lora_adapter", self._unload_adapter),
            ]
        return routes

    async def _health(self, _: web.Request) -> web.Response:
        ready = not (self.draining or self.dead) or self._defects.ends("ready" if self.draining else "unhurt")
        return web.Response(status=200 if ready else 503)

    async def _version(self, _: web.Request) -> web.Response:
        return json_response(msgspec.json.encode({"version": VLLM_VERSION}))

    async def _load(self, _: web.Request) -> web.Response:
        return json_response(msgspec.json.encode({"server_load": self._generation.live}))

    async def _metrics(self, _: web.Request) -> web.Response:
        self._defects.pages += 1
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=self._page.render(), headers=headers)

    async def _list_models(self, _: web.Request) -> web.Response:
        cards = self._models.cards(self._created, self._params.context_tokens)
        return json_response(msgspec.json.encode({"object": "list", "data": cards}))

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
        ask = (read_chat if chat else read_completion)(body, self._models, MAX_BODY_BYTES)
        tokens = ask.prompts[0]
        answer: dict[str, Any] = {"count": len(tokens), "max_model_len": self._params.context_tokens}
        return json_response(msgspec.json.encode({**answer, "tokens": tokens, "token_strs": None}))

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        ask = read_completion(await self._asked(request), self._models, self._params.context_tokens)
        return await self._generation.answer(request, ask, "cmpl")

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        ask = read_chat(await self._asked(request), self._models, self._params.context_tokens)
        return await self._generation.answer(request, ask, "chatcmpl")

    async def _asked(self, request: web.Request) -> bytes:
        if self.dead:
            raise ApiError(500, "EngineCore encountered an issue.", kind="InternalServerError")
        if self.draining:
            if self._defects.ends("error"):
                raise ApiError(500, "cannot schedule new futures after shutdown", kind="InternalServerError")
            raise ApiError(503, "The server is shutting down.", kind="ServiceUnavailableError")
        return self._defects.misread(await request.read())
