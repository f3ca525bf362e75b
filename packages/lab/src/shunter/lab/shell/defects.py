"""The faults that a server has at the moment, at the seams where a request and its answer pass."""

import asyncio
import contextlib
import math
from typing import Any

import msgspec
from aiohttp import web

from shunter.lab.faults import Fault, Reply
from shunter.lab.shell.wire import drip, reset

__all__ = ["Defects"]


class Defects:
    """`faults` may be exchanged while the server runs; `pages` counts the metrics pages that it has rendered."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        self.faults = faults
        self.pages = 0

    async def meet(self, request: web.Request, age_s: float) -> web.Response | None:
        """What a request meets before it is handled: an answer, nothing, or a wait."""
        if any(fault.wire == "reset" for fault in self.faults):
            reset(request)
        for fault in self.faults:
            if fault.refuse and (status := fault.refuse(request.path, age_s)):
                return web.Response(status=status)
            delay_s = fault.stall_s.get(request.path)
            if delay_s is not None:
                await (asyncio.Future[None]() if math.isinf(delay_s) else asyncio.sleep(delay_s))
        return None

    def misread(self, body: bytes) -> bytes:
        """What becomes of the JSON of a completion or chat request before it is read."""
        for fault in self.faults:
            if fault.ask:
                # A body that is not a JSON object is for the reader to refuse.
                with contextlib.suppress(msgspec.DecodeError):
                    body = msgspec.json.encode(fault.ask(msgspec.json.decode(body, type=dict[str, Any])))
        return body

    def deaf(self, *, stream: bool, waits: bool) -> bool:
        """Whether a request goes on whose client has hung up."""
        kinds = {fault.deaf for fault in self.faults}
        return ("streams" if stream else "whole") in kinds or ("waiting" in kinds and waits)

    def ends(self, kind: str) -> bool:
        """Whether it ends in this wrong way."""
        return any(fault.end == kind for fault in self.faults)

    async def spoil(self, request: web.Request, response: web.Response) -> web.StreamResponse:
        """What becomes of a whole answer."""
        if not self.faults:
            return response
        body = response.body if isinstance(response.body, bytes) else b""
        reply = Reply(request.path, response.status, body, self.pages)
        for fault in self.faults:
            reply = fault.reply(reply) if fault.reply else reply
        response.set_status(reply.status)
        response.body = reply.body
        if request.path == "/metrics" and any(fault.wire == "drip" for fault in self.faults):
            await drip(request, response)
        return response
