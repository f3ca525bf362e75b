"""gRPC over a sans-IO HTTP/2 connection: requests become calls, content becomes messages, ends become status.

A service is a function from an Exchange to a Call; the call gets messages and returns messages, synchronously. What goes wrong:

======================================= =====================================================
no POST, or no gRPC                     HTTP 405, 415
unknown method                          UNIMPLEMENTED
a compressed message                    UNIMPLEMENTED; we announce nothing but ``identity``
a message above the limit               RESOURCE_EXHAUSTED
too many bytes of unfinished messages   RESOURCE_EXHAUSTED; all connections of a worker share a budget
the client ends inside a message        INVALID_ARGUMENT
``grpc-timeout`` is over                DEADLINE_EXCEEDED
``StatusError`` of the call             what it says
======================================= =====================================================

The protocol is that of grpc/grpc, doc/PROTOCOL-HTTP2.md.
"""

import heapq
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Protocol
from urllib.parse import quote

from shunter.picker.core.limits import Budget
from shunter.picker.transport import hpack
from shunter.picker.transport.frames import MAX_FRAME_BYTES
from shunter.picker.transport.h2 import Connection, Data, Request, Reset, Terms

__all__ = ["Call", "Exchange", "GrpcConnection", "Message", "Service", "StatusCode", "StatusError"]

# Compressed or not, and the length.
_PREFIX = struct.Struct(">BL")
_PREFIX_BYTES = _PREFIX.size

# A message in a status is for people and travels in a header.
_DETAILS_CHARS = 512

# What needs no percent encoding in grpc-message: printable ASCII but the percent sign.
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")

_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

# Calls that are over and still on the agenda, however few there are: a lone call must not tidy up after itself each time.
_OVER = 64

_HEAD_FIELDS = ((":status", "200"), ("content-type", "application/grpc"))
_HEAD = hpack.encode(_HEAD_FIELDS)
_OK = hpack.encode([("grpc-status", "0")])
_OK_ALONE = hpack.encode([*_HEAD_FIELDS, ("grpc-status", "0")])
_NO_POST = hpack.encode([(":status", "405"), ("allow", "POST"), ("content-type", "text/plain")])
_NO_GRPC = hpack.encode([(":status", "415"), ("content-type", "text/plain")])
_EXPLANATION = b"This is a gRPC server: it wants POST with content-type application/grpc.\n"


class StatusCode(IntEnum):
    """The status codes we have a use for."""

    OK = 0
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13


class StatusError(Exception):
    """Ends a call with a status that is not OK."""

    def __init__(self, code: StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


Message = bytes | list[bytes | bytearray | memoryview]
"""A message to send; a large one in pieces, the first of which is small."""


class Call(Protocol):
    """One running call, from the service's side."""

    ended: bool
    """Asked after each message and after the client's end: whether the call is over, with status OK."""

    def receive(self, message: bytes, now_s: float) -> Sequence[Message]:
        """Take a message; return the messages to send. May raise StatusError, nothing else."""
        ...

    def finish(self, now_s: float) -> Sequence[Message]:
        """Note that the client sends no more; return the messages to send. May raise StatusError, nothing else."""
        ...

    def close(self, now_s: float) -> None:
        """Note that the call is over, however that came; called once. Must not raise."""
        ...


class Exchange:
    """One running call, from the wire's side: what a call may send at any time."""

    __slots__ = ("_begun", "_connection", "_unsent", "call", "metadata", "needed_bytes", "stream_id", "unfinished")

    call: Call
    metadata: Mapping[str, str]
    """What the client said when it opened the stream: for the service, which is about to make the call of it."""

    def __init__(self, connection: "GrpcConnection", stream_id: int) -> None:
        self.stream_id = stream_id
        self.unfinished = bytearray()  # of a message
        self.needed_bytes = 0  # of it, to go on
        self._connection = connection
        self._begun = False
        self._unsent: list[Message] = []

    def send(self, messages: Sequence[Message]) -> None:
        """Send messages; what answers one read goes out in one piece."""
        if self._connection.reading:
            if not self._unsent:
                self._connection.unsent.append(self)
            self._unsent += messages
        else:
            self._unsent += messages
            self.flush()

    def flush(self) -> None:
        """Hand over what was said."""
        messages = self._unsent
        if messages:
            http, stream_id = self._connection.http, self.stream_id
            if not self._begun:
                self._begun = True
                http.send_headers(stream_id, _HEAD)
            self._unsent = []
            pieces: list[bytes | bytearray | memoryview] = []
            for message in messages:
                if isinstance(message, bytes):
                    pieces += (_PREFIX.pack(0, len(message)), message)
                else:
                    pieces += (b"".join((_PREFIX.pack(0, sum(map(len, message))), message[0])), *message[1:])
            if sum(map(len, pieces)) <= MAX_FRAME_BYTES * len(messages):
                http.send_data(stream_id, b"".join(pieces))
            else:  # large ones: a frame more for each is cheaper than its bytes once more
                for piece in pieces:
                    http.send_data(stream_id, piece)

    def end(self, now_s: float, code: StatusCode = StatusCode.OK, details: str = "") -> None:
        """End the call with a status."""
        self.flush()
        http = self._connection.http
        if code is StatusCode.OK:
            block = _OK if self._begun else _OK_ALONE
        else:
            block = hpack.encode(
                [
                    *(() if self._begun else _HEAD_FIELDS),
                    ("grpc-status", str(int(code))),
                    ("grpc-message", quote(details[:_DETAILS_CHARS], safe=_PLAIN)),
                    ("grpc-accept-encoding", "identity"),
                ]
            )
        if self._begun:
            http.send_trailers(self.stream_id, block)
        else:
            http.send_headers(self.stream_id, block, end_stream=True)
        self._connection.forget(self, now_s)


Service = Callable[[Exchange], Call]


@lru_cache(maxsize=16)  # a gateway always says the same
def _read_timeout_s(text: str) -> float | None:
    match = _TIMEOUT.fullmatch(text)
    return int(match[1]) * _UNITS_S[match[2]] if match else None


class GrpcConnection:
    """One connection with its calls. ``http`` has the bytes to write; ``now_s`` is monotonic everywhere."""

    def __init__(
        self, services: Mapping[str, Service], budget: Budget, *, max_message_bytes: int, terms: Terms | None = None
    ) -> None:
        """``services`` by path; ``budget`` for unfinished messages, shared by all connections."""
        self.http = Connection(terms)
        self.reading = False  # more to say may follow at once
        self.unsent: list[Exchange] = []  # who has said something since
        self._services = services
        self._budget = budget
        self._max_message_bytes = max_message_bytes
        self._exchanges: dict[int, Exchange] = {}
        self._deadlines_s: dict[int, float] = {}  # by stream
        self._agenda: list[tuple[float, int]] = []  # a heap of them, some of calls that are over
        self._strangers: dict[int, bytes] = {}  # streams that are no gRPC → how their answer begins

    @property
    def next_deadline_s(self) -> float | None:
        """When ``expire`` has something to do, at the earliest."""
        return self._agenda[0][0] if self._agenda else None

    def receive(self, data: bytes, now_s: float) -> None:
        """Take what was read: run the calls it concerns."""
        exchanges = self._exchanges
        self.reading = True
        for event in self.http.receive(data):
            exchange = exchanges.get(event.stream_id)
            if exchange is None:
                if isinstance(event, Request):
                    self._open(event, now_s)
                elif not isinstance(event, Data) or event.end_stream:
                    self._explain(event.stream_id)
            elif isinstance(event, Reset):
                self.forget(exchange, now_s)
            else:
                try:
                    if isinstance(event, Data):
                        self._read(exchange, event.data, now_s)
                        if not event.end_stream:
                            continue
                    self._finish(exchange, now_s)
                except StatusError as status:
                    exchange.end(now_s, status.code, status.details)
        self.reading = False
        if self.unsent:
            for exchange in self.unsent:
                exchange.flush()
            self.unsent.clear()
            if self.http.untold:
                for reset in self.http.untold:
                    if exchange := exchanges.get(reset.stream_id):
                        self.forget(exchange, now_s)
                self.http.untold.clear()

    def expire(self, now_s: float) -> None:
        """End the calls whose time is over."""
        while self._agenda and self._agenda[0][0] <= now_s:
            _, stream_id = heapq.heappop(self._agenda)
            if stream_id in self._deadlines_s:
                self._exchanges[stream_id].end(now_s, StatusCode.DEADLINE_EXCEEDED, "the time that the client gave is over")

    def close(self, now_s: float) -> None:
        """Note that the connection is lost."""
        for exchange in [*self._exchanges.values()]:
            self.forget(exchange, now_s)

    def forget(self, exchange: Exchange, now_s: float) -> None:
        """Close a call whose stream is over."""
        if self._exchanges.pop(exchange.stream_id, None) is not None:
            if self._deadlines_s.pop(exchange.stream_id, None) is not None:
                self._tidy_agenda()
            if exchange.unfinished:
                self._budget.give(len(exchange.unfinished))
            exchange.call.close(now_s)
            del exchange.call  # each knows the other: what nobody needs any more should go without the garbage collector

    def _open(self, request: Request, now_s: float) -> None:
        stream_id, fields = request.stream_id, request.fields
        post = fields[":method"] == "POST"
        if not post or not fields.get("content-type", "").startswith("application/grpc"):
            self._strangers[stream_id] = _NO_GRPC if post else _NO_POST
            if request.end_stream:
                self._explain(stream_id)
            return
        exchange = Exchange(self, stream_id)
        service = self._services.get(fields[":path"])
        if service is None:
            exchange.end(now_s, StatusCode.UNIMPLEMENTED, f"no method {fields[':path']}")
            return
        timeout = fields.get("grpc-timeout")
        if timeout is not None:
            timeout_s = _read_timeout_s(timeout)
            if timeout_s is None:
                exchange.end(now_s, StatusCode.INVALID_ARGUMENT, f"grpc-timeout {timeout!r}")
                return
            at_s = self._deadlines_s[stream_id] = now_s + timeout_s
            heapq.heappush(self._agenda, (at_s, stream_id))
        exchange.metadata = fields
        exchange.call = service(exchange)
        del exchange.metadata
        self._exchanges[stream_id] = exchange
        if request.end_stream:
            try:
                self._finish(exchange, now_s)
            except StatusError as status:
                exchange.end(now_s, status.code, status.details)

    def _tidy_agenda(self) -> None:
        """Throw out what is over as soon as that is the larger part."""
        if len(self._agenda) > 2 * len(self._deadlines_s) + _OVER:
            self._agenda = [(at_s, stream_id) for stream_id, at_s in self._deadlines_s.items()]
            heapq.heapify(self._agenda)

    def _explain(self, stream_id: int) -> None:
        """Answer a stranger whose request has ended; if it was reset, this goes nowhere."""
        block = self._strangers.pop(stream_id, None)
        if block is not None:
            self.http.send_headers(stream_id, block)
            self.http.send_data(stream_id, _EXPLANATION, end_stream=True)

    def _read(self, exchange: Exchange, data: bytes, now_s: float) -> None:
        """Cut content into messages."""
        unfinished = exchange.unfinished
        if unfinished:
            self._keep(exchange, data)
            if len(unfinished) < exchange.needed_bytes:
                return
            data = bytes(unfinished)
            self._budget.give(len(unfinished))
            unfinished.clear()
        at, size, call = 0, len(data), exchange.call
        needed_bytes = _PREFIX_BYTES
        while size - at >= _PREFIX_BYTES:
            compressed, length = _PREFIX.unpack_from(data, at)
            if compressed:
                raise StatusError(StatusCode.UNIMPLEMENTED, "compressed messages are not understood here")
            if length > self._max_message_bytes:
                raise StatusError(
                    StatusCode.RESOURCE_EXHAUSTED, f"a message of {length} bytes; the limit is {self._max_message_bytes}"
                )
            begin = at + _PREFIX_BYTES
            end = begin + length
            if end > size:
                needed_bytes += length
                break
            at = end
            replies = call.receive(data[begin:at], now_s)
            if replies:
                exchange.send(replies)
            if call.ended:
                exchange.end(now_s)
                return
        if at < size:
            exchange.needed_bytes = needed_bytes
            self._keep(exchange, data[at:] if at else data)

    def _keep(self, exchange: Exchange, data: bytes) -> None:
        if not self._budget.take(len(data)):
            raise StatusError(StatusCode.RESOURCE_EXHAUSTED, "the picker holds as much of unfinished messages as it may")
        exchange.unfinished += data

    def _finish(self, exchange: Exchange, now_s: float) -> None:
        if exchange.stream_id not in self._exchanges:
            return  # it ended with the last message
        if exchange.unfinished:
            raise StatusError(StatusCode.INVALID_ARGUMENT, "the last message is cut off")
        call = exchange.call
        exchange.send(call.finish(now_s))
        if call.ended:
            exchange.end(now_s)
