"""Generating: every prompt of a request goes through the engine, and its tokens back to whoever asked."""

import asyncio
import contextlib
import math
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
from aiohttp import web

from shunter.lab.core.answers import DONE, Answer
from shunter.lab.core.asks import Ask
from shunter.lab.core.kvevents import Announcer
from shunter.lab.core.params import EngineParams
from shunter.lab.core.progress import Progress
from shunter.lab.core.requests import Request
from shunter.lab.core.sequence import Token
from shunter.lab.core.tokens import Script
from shunter.lab.dialects.dialect import Shape
from shunter.lab.errors import ApiError, QueueFullError
from shunter.lab.shell.clockwork import Clockwork
from shunter.lab.shell.defects import Defects
from shunter.lab.shell.wire import EventWriter, json_response

__all__ = ["Generation", "Identity"]


# The share of its cache that a server with such a fault loses at a time: it is noticed, and most of an exam has room enough.
LEAKED = 1 / 128

RANK_HEADER = "X-data-parallel-rank"


class Identity(Protocol):
    """Who a server says it is; its port is known once it listens."""

    host: str
    port: int

    @property
    def fingerprint(self) -> str:
        """Its name in every answer."""
        ...


class Generation:
    """What one server generates. `tell_cached`: usage says how much of the prompt was in the cache."""

    def __init__(
        self,
        clockworks: Sequence[Clockwork],
        defects: Defects,
        announcer: Announcer | None,
        identity: Identity,
        *,
        tell_cached: bool,
    ) -> None:
        self._clockworks = clockworks
        self._defects = defects
        self._announcer = announcer
        self._identity = identity
        self._tell_cached = tell_cached
        self._streams: dict[str, asyncio.Queue[Token | None]] = {}
        self._latest: list[Script] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._left = asyncio.Event()

    @property
    def live(self) -> int:
        """HTTP requests that are being answered."""
        return len(self._streams)

    async def idle(self) -> None:
        """Wait until nothing is being answered."""
        await self._idle.wait()

    async def left(self) -> None:
        """Wait until a request is over."""
        await self._left.wait()

    async def end(self, drain_s: float) -> None:
        """Let what runs finish for `drain_s`; then it ends with finish_reason `abort`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                await self._idle.wait()
        for stream in self._streams.values():
            stream.put_nowait(None)

    @property
    def params(self) -> EngineParams:
        """What its engine is like."""
        return self._clockworks[0].engine.params

    @property
    def adapters(self) -> tuple[str, ...]:
        """Those that requests run with, or wait for."""
        gauges = [clockwork.engine.gauges() for clockwork in self._clockworks]
        return tuple(name for each in gauges for name in (*each.running_adapters, *each.waiting_adapters))

    async def answer(self, request: web.Request, ask: Ask, prefix: str, shape: Shape | None = None) -> web.StreamResponse:
        """Run every prompt of a request through the engine; whoever hangs up takes them all away.

        An id without a prefix is not the client's X-Request-Id.
        """
        clockwork = self._of_rank(request)
        serial = uuid.uuid4().hex
        request_id = f"{prefix}-{request.headers.get('X-Request-Id') or serial[:16]}" if prefix else serial
        answer = Answer(ask, request_id, int(time.time()), self._identity.fingerprint)
        scripts = ask.scripts(self.params.context_tokens, serial)
        if ask.stream and self._streams and self._defects.mixes() and _lengths(scripts) == _lengths(self._latest):
            scripts = self._latest
        self._latest = scripts
        tokens: asyncio.Queue[Token | None] = asyncio.Queue()
        # Clients may repeat an X-Request-Id, so the engine knows requests by a name of our own.
        names = [f"{serial}-{index}" for index in range(len(scripts))]
        self._streams[serial] = tokens
        self._idle.clear()
        progress = Progress(ask, names, scripts, tell_cached=self._tell_cached)
        clockwork.engine.encoder.prepare(ask.media)
        try:
            for name, prompt, script in zip(names, ask.prompt_of_each, scripts, strict=True):
                listener = self._late(tokens) if self._defects.hits("late") else tokens.put_nowait
                self._submit(clockwork, name, ask, prompt, script, listener)
            if ask.stream:
                events = EventWriter(request, self._defects.present, shape)
                return await self._stream(events, answer, progress, tokens)
            while not progress.done:
                progress.take(await tokens.get())
            transfer = self._transfer(request_id, len(ask.prompts[0])) if ask.gives else None
            whole = answer.whole(progress.whole(), progress.usage(), transfer)
            return json_response(whole if shape is None else msgspec.json.encode(shape.whole(msgspec.json.decode(whole))))
        finally:
            del self._streams[serial]
            self._left.set()
            self._left = asyncio.Event()
            if not self._streams:
                self._idle.set()
            for name in names:
                if self._defects.deaf(stream=ask.stream, waits=clockwork.engine.waits(name)):
                    continue
                if clockwork.abort(name) and self._defects.leaks:
                    cache = clockwork.engine.cache
                    cache.take(min(math.ceil(LEAKED * cache.capacity), cache.free // 4))  # what runs goes on

    def _of_rank(self, request: web.Request) -> Clockwork:
        """The data-parallel engine that a request is pinned to, else the one that has least to do."""
        rank = self._defects.rank(request.headers.get(RANK_HEADER), len(self._clockworks))
        if rank is None:
            return min(self._clockworks, key=lambda clockwork: clockwork.live)
        if rank not in range(len(self._clockworks)):
            raise ApiError(
                400, f"data_parallel_rank {rank} is out of range [0, {len(self._clockworks)}).", param="data_parallel_rank"
            )
        return self._clockworks[rank]

    def _late(self, tokens: asyncio.Queue[Token | None]) -> Callable[[Token], None]:
        """Tell tokens as late as if the engine had computed what was cached."""
        call_later, params = asyncio.get_running_loop().call_later, self.params
        second = params.prefill_token_s / params.speed

        def tell(token: Token) -> None:
            call_later(token.cached_tokens * second, tokens.put_nowait, token)

        return tell

    def _transfer(self, request_id: str, tokens: int) -> dict[str, Any]:
        """What vLLM's NixlConnector answers a prefill with.

        Nobody fetches anything: the decoder waits as long as it would take.
        """
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": [list(range(1, 1 + -(-tokens // self.params.block_size)))],
            "remote_engine_id": self._identity.fingerprint,
            "remote_request_id": request_id,
            "remote_host": self._identity.host,
            "remote_port": self._identity.port,
            "tp_size": 1,
            "remote_num_tokens": tokens,
            "transfer_mode": "pull",
        }

    def _submit(
        self,
        clockwork: Clockwork,
        name: str,
        ask: Ask,
        prompt: tuple[int, ...],
        script: Script,
        listener: Callable[[Token], None],
    ) -> None:
        request = Request(
            id=name,
            prompt=prompt,
            output=script.tokens,
            finish=script.finish,
            adapter=ask.adapter,
            cache_salt=ask.cache_salt,
            max_tokens=ask.max_tokens,
            remote=ask.takes,
            media=ask.media,
            shared=self._defects.hits("shared"),
        )
        if self._announcer is not None:
            self._announcer.asked(request)
        try:
            clockwork.submit(request, listener)
        except QueueFullError as error:
            raise ApiError(503, f"Service Unavailable: {error}", kind="ServiceUnavailableError") from error

    async def _stream(
        self, events: EventWriter, answer: Answer, progress: Progress, tokens: asyncio.Queue[Token | None]
    ) -> web.StreamResponse:
        ask = answer.ask
        await events.begin()
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
            await events.response.write_eof()
        return events.response


def _lengths(scripts: list[Script]) -> list[int]:
    return [len(script.tokens) for script in scripts]
