"""Bytes on the wire: answers, event streams, and the faults that break a connection."""

import asyncio
import socket
import struct
from collections.abc import Iterable
from typing import NoReturn

import msgspec
from aiohttp import web

from shunter.lab.core.answers import DONE
from shunter.lab.dialects.dialect import Shape
from shunter.lab.faults import Fault

__all__ = ["EventWriter", "drip", "json_response", "reset"]

# The `drip` fault's pace: a page of 40 KB takes more than an hour.
DRIP_S = 0.1
# Events of a stream before the `cut` fault cuts it.
EVENTS_BEFORE_CUT = 2


def json_response(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


def reset(request: web.Request) -> NoReturn:
    """End the connection with RST; the client gets no answer."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    # Nobody is left to answer: the handler ends the way it would if the client had gone.
    raise asyncio.CancelledError


async def drip(request: web.Request, response: web.Response) -> NoReturn:
    """Send an honest head and then one byte at a time, until the client has had enough."""
    body = response.body if isinstance(response.body, bytes) else b""
    slow = web.StreamResponse(status=response.status, headers={"Content-Type": response.headers["Content-Type"]})
    slow.content_length = len(body)
    await slow.prepare(request)
    for index in range(len(body)):
        await slow.write(body[index : index + 1])
        await asyncio.sleep(DRIP_S)
    raise asyncio.CancelledError


class EventWriter:
    """A stream of server-sent events in the shape of a dialect, and through the faults."""

    def __init__(self, request: web.Request, faults: Iterable[Fault], shape: Shape | None) -> None:
        self.response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        self._request = request
        self._faults = tuple(faults)
        self._shape = shape
        self._sent = 0
        self._kept = b""

    async def begin(self) -> None:
        await self.response.prepare(self._request)

    async def write(self, event: bytes) -> None:
        if self._shape is not None:
            event = _reshape(event, self._shape)
        for fault in self._faults:
            if fault.wire == "cut" and self._sent == EVENTS_BEFORE_CUT:
                reset(self._request)
            if fault.event_s:
                await asyncio.sleep(fault.event_s)
            if fault.event is not None:
                event = fault.event(self._sent, event)
        self._sent += 1
        if any(fault.wire == "hoard" for fault in self._faults):
            self._kept += event
            event = self._kept if event.startswith(DONE) else b""
        if event:
            await self.response.write(event)


def _reshape(event: bytes, shape: Shape) -> bytes:
    if event == DONE:
        return shape.done
    body = shape.event(msgspec.json.decode(event.removeprefix(b"data: ")))
    return b"" if body is None else shape.frame(body)
