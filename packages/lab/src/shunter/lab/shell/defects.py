"""The faults that a server has at the moment, at the seams where a request and its answer pass."""

import asyncio
import contextlib
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec
from aiohttp import web

from shunter.lab.dialects import Dialect, vllm_paths
from shunter.lab.faults import Fault, Reply
from shunter.lab.faults.seams import COMPLETIONS, METRICS
from shunter.lab.shell.wire import drip, reset

__all__ = ["Defects"]

# What paths end in by which servers without the OpenAI API generate.
GENERATING = ("/generate", "/generate_stream")

# What is no JSON object, or one that nobody can look into.
UNREADABLE = msgspec.DecodeError, RecursionError

# Whoever scrapes more often than each of these drags all the time; the reference picker does it twice as often.
DRAG_S = 0.1


class Defects:
    """`faults` may be exchanged while the server runs; `pages` counts the metrics pages that it has rendered.

    The quirks of the dialect are always there, and what it calls differently is known to faults by vLLM's name. `pace` sets
    the speed of the engine, as a share of what it can, and `crash` ends the process; without it a crashed server is one that
    resets every connection.
    """

    def __init__(self, faults: tuple[Fault, ...], dialect: Dialect) -> None:
        self.faults = faults
        self.pages = 0
        self._refused = self._torn = self._events = 0
        self._dialect = dialect
        self._paths = vllm_paths(dialect)
        self.pace: Callable[[float], None] | None = None
        self.crash: Callable[[], None] | None = None
        self._page = -math.inf, b""
        self._relief: asyncio.TimerHandle | None = None

    @property
    def present(self) -> tuple[Fault, ...]:
        """What is wrong with it, and what its dialect is known for."""
        return (*self._dialect.quirks, *self.faults)

    def _path(self, request: web.Request) -> str:
        """The path as vLLM calls it, and with it the faults."""
        return self._paths.get(request.path, request.path)

    async def meet(self, request: web.Request, age_s: float) -> web.Response | None:
        """What a request meets before it is handled: an answer, nothing, or a wait."""
        if any(fault.wire == "crash" for fault in self.present) and self.crash is not None:
            self.crash()
        if any(fault.wire in {"reset", "crash"} for fault in self.present):
            reset(request)
        path = self._path(request)
        if path not in self._paths.values() and path.endswith(GENERATING):
            path = COMPLETIONS
        for fault in self.present:
            if fault.refuse and (status := fault.refuse(path, age_s)):
                return web.Response(status=status)
            delay_s = fault.stall_s.get(path, 0.0)
            if path == METRICS:
                delay_s += fault.late_s(self.pages) if fault.late_s else 0.0
                self._drag(fault.drag)
            if delay_s:
                await (asyncio.Future[None]() if math.isinf(delay_s) else asyncio.sleep(delay_s))
        return None

    def _drag(self, share: float) -> None:
        """Let the engine do no more than a share of what it can, for a moment."""
        if share == 1.0 or self.pace is None:
            return
        if self._relief is not None:
            self._relief.cancel()
        self.pace(share)
        self._relief = asyncio.get_running_loop().call_later(DRAG_S, self.pace, 1.0)

    async def hang(self, body: bytes) -> None:
        """Never return if a request of this body is one that is never answered."""
        for hangs in filter(None, (fault.hang for fault in self.present)):
            with contextlib.suppress(*UNREADABLE):
                if hangs(msgspec.json.decode(body, type=dict[str, Any])):
                    await asyncio.Future[None]()

    def misread(self, body: bytes, loaded: Collection[str], used: Collection[str]) -> bytes:
        """What becomes of the JSON of a completion or chat request before it is read; names of adapters beside it."""
        for fault in self.present:
            # A body that is not a JSON object is for the reader to refuse.
            with contextlib.suppress(*UNREADABLE):
                if fault.ask:
                    body = msgspec.json.encode(fault.ask(msgspec.json.decode(body, type=dict[str, Any])))
                if fault.model:
                    ask = msgspec.json.decode(body, type=dict[str, Any])
                    body = msgspec.json.encode(ask | {"model": fault.model(str(ask.get("model", "")), loaded, used)})
        return body

    def deaf(self, *, stream: bool, waits: bool) -> bool:
        """Whether a request goes on whose client has hung up."""
        kinds = {fault.deaf for fault in self.present}
        return ("streams" if stream else "whole") in kinds or ("waiting" in kinds and waits)

    async def whole(self, request: web.Request) -> bytes:
        """The body of a request, if all of it comes."""
        try:
            return await request.read()
        except BaseException:
            self._torn += 1
            raise

    def mixes(self) -> bool:
        """Whether a stream that is not alone says what another one says."""
        return any(fault.mixes for fault in self.present)

    def probe(self, kind: str) -> bool:
        """Whether the health path does this."""
        return any(fault.probe == kind for fault in self.present)

    async def crowded(self, live: int) -> int | None:
        """The status of a request that comes when so many others are there, if it is too much; it may take its time."""
        for crowd in (fault.crowd for fault in self.present if fault.crowd):
            if live >= crowd[0]:
                await asyncio.sleep(crowd[2])
                return crowd[1]
        return None

    def starved(self, live: int) -> bool:
        """Whether so many requests leave no thread for the metrics page."""
        return any(0 < fault.threads <= live for fault in self.present)

    def rank(self, asked: str | None, ranks: int) -> int | None:
        """The data-parallel rank that a header pins a request to; None if there is none."""
        rank = None
        with contextlib.suppress(ValueError):  # as vLLM, for which a header without a number is none
            rank = int(asked or "")
        for change in filter(None, (fault.rank for fault in self.present)):
            rank = None if rank is None else change(rank, ranks)
        return rank

    def published(self, payload: bytes) -> bytes:
        """What becomes of a batch of KV events."""
        for change in filter(None, (fault.batch for fault in self.present)):
            at_s, events, rank = msgspec.msgpack.decode(payload)
            for event in events:
                self._events += 1
                change(self._events, event)
            payload = msgspec.msgpack.encode([at_s, events, rank])
        return payload

    def numbered(self, sequence: int) -> int:
        """The number under which the message of this number is published."""
        for change in filter(None, (fault.number for fault in self.present)):
            sequence = change(sequence)
        return sequence

    def repeated(self, sequence: int, payload: bytes) -> bytes | None:
        """What a replay says instead of a message; None if it leaves it out."""
        for change in filter(None, (fault.repeat for fault in self.present)):
            payload = change(sequence, payload) or b""
        return payload or None

    def hits(self, kind: str) -> bool:
        """Whether hits in the prefix cache are wrong in this way."""
        return any(fault.hits == kind for fault in self.present)

    @property
    def leaks(self) -> bool:
        """Whether blocks of the cache are lost when a client hangs up."""
        return any(fault.leak for fault in self.present)

    def ends(self, kind: str) -> bool:
        """Whether it ends in this wrong way."""
        return any(fault.end == kind for fault in self.present)

    async def spoil(self, request: web.Request, response: web.Response) -> web.StreamResponse:
        """What becomes of a whole answer."""
        if not self.present:
            return response
        path = self._path(request)
        self._refused += response.status >= 400
        if any(fault.wire == "close" for fault in self.present):
            response.force_close()
        body = response.body if isinstance(response.body, bytes) else b""
        if path == METRICS and response.status == 200:
            body = self._kept(body)
        asked = {name.lower(): value for name, value in request.headers.items()}
        reply = Reply(
            path,
            response.status,
            body,
            self.pages,
            method=request.method,
            asked=asked,
            refused=self._refused,
            torn=self._torn,
        )
        for fault in self.present:
            reply = self._replied(fault, reply)
        response.set_status(reply.status)
        response.body = reply.body
        response.headers.update(reply.headers)
        if path == METRICS and any(fault.wire == "drip" for fault in self.present):
            await drip(request, response)
        return response

    def _replied(self, fault: Fault, reply: Reply) -> Reply:
        """What a fault makes of an answer. Faults know vLLM's families, unless they were told a name."""
        if fault.reply is None:
            return reply
        if reply.path != METRICS or fault.params or not self._dialect.families_of_vllm:
            return fault.reply(reply)
        theirs = self._dialect.families_of_vllm
        spoken = msgspec.structs.replace(reply, body=_rename(reply.body, theirs))
        return msgspec.structs.replace(
            changed := fault.reply(spoken), body=_rename(changed.body, {name: own for own, name in theirs.items()})
        )

    def _kept(self, page: bytes) -> bytes:
        """The page that is shown: the last one, while a fault keeps it."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._page[0] >= max((fault.stale_s for fault in self.present), default=0.0):
            self._page = now_s, page
        return self._page[1]


def _rename(page: bytes, names: Mapping[str, str]) -> bytes:
    """Call families of a metrics page by other names."""
    name = re.compile(rf"(?<![\w:])(?:{'|'.join(map(re.escape, names))})(?=[ {{])".encode())
    return name.sub(lambda found: names[found[0].decode()].encode(), page)
