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
the worker has all the streams it takes UNAVAILABLE, which makes Envoy ask another one, if it may ask again
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
from shunter.picker.transport.h2 import Connection, Terms
from shunter.picker.transport.outbox import Piece
from shunter.picker.transport.streams import NOBODY, Stream

__all__ = ["Call", "Exchange", "GrpcConnection", "Message", "Service", "StatusCode", "StatusError"]

# Compressed or not, and the length.
_PREFIX = struct.Struct(">BL")
_PREFIX_BYTES = _PREFIX.size
_read_prefix = _PREFIX.unpack_from
_write_prefix = _PREFIX.pack

# A message in a status is for people and travels in a header.
_DETAILS_CHARS = 512

# What needs no percent encoding in grpc-message: printable ASCII but the percent sign.
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")

_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

# Calls that are over and still on the agenda, however few there are: a lone call must not tidy up after itself each time.
_OVER = 64

# With what messages are encoded by, or parameters. ``application/grpc-web`` is another protocol.
_GRPC = "application/grpc"
_GRPC_AS = (f"{_GRPC}+", f"{_GRPC};")

_HEAD_FIELDS = ((":status", "200"), ("content-type", _GRPC))
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
    UNAVAILABLE = 14


class StatusError(Exception):
    """Ends a call with a status that is not OK."""

    def __init__(self, code: StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


Message = bytes | list[Piece]
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
    """One running call, from the wire's side: it listens to a stream and lets the call answer."""

    __slots__ = (
        *("_begun", "_connection", "_needed_bytes", "_over", "_stream", "_unfinished", "_unsent"),
        *("call", "metadata"),
    )

    call: Call
    metadata: Mapping[str, str]
    """What the client said when it opened the stream: for the service, which is about to make the call of it."""

    def __init__(self, connection: "GrpcConnection", stream: Stream) -> None:
        self._connection = connection
        self._stream = stream
        self._begun = False
        self._over = False
        self._unfinished = bytearray()  # of a message
        self._needed_bytes = 0  # of it, to go on
        self._unsent: list[Message] = []

    def receive(self, data: bytes, end_stream: bool) -> None:
        """Cut content into messages, each of which the call answers."""
        connection, call = self._connection, self.call
        now_s, limit_bytes = connection.now_s, connection.max_message_bytes
        try:
            if self._unfinished:
                data = self._complete(data)
            at, size = 0, len(data)
            needed_bytes = _PREFIX_BYTES
            while size - at >= _PREFIX_BYTES:
                compressed, length = _read_prefix(data, at)
                if compressed or length > limit_bytes:
                    raise _refuse(length, limit_bytes, compressed=compressed)
                begin = at + _PREFIX_BYTES
                end = begin + length
                if end > size:
                    needed_bytes += length
                    break
                at = end
                replies = call.receive(data[begin:end], now_s)
                if replies:
                    self._unsent += replies
                if call.ended:
                    self.end(now_s)
                    return
            if self._unsent:
                connection.unsent.append(self)
            if at < size:
                self._needed_bytes = needed_bytes
                self._keep(data[at:])
            if end_stream:
                self._finish()
        except StatusError as status:
            self.end(now_s, status.code, status.details)

    def finish(self, trailers: dict[str, str]) -> None:
        """The client sends no more; what it says at its end is nobody's business."""
        del trailers
        try:
            self._finish()
        except StatusError as status:
            self.end(self._connection.now_s, status.code, status.details)

    def lose(self, code: int) -> None:
        """The stream is gone."""
        del code
        self._close(self._connection.now_s)

    def send(self, messages: Sequence[Message]) -> None:
        """Send messages; what answers one read goes out in one piece."""
        self._unsent += messages
        if self._connection.reading:
            self._connection.unsent.append(self)
        else:
            self.flush()

    def flush(self) -> None:
        """Hand over what was said."""
        messages = self._unsent
        if messages:
            self._unsent = []
            http = self._connection.http
            if not self._begun:
                self._begun = True
                http.send_headers(self._stream, _HEAD)
            pieces: list[Piece] = []
            for message in messages:
                if isinstance(message, bytes):
                    pieces += (_write_prefix(0, len(message)), message)
                else:
                    pieces += (b"".join((_write_prefix(0, sum(map(len, message))), message[0])), *message[1:])
            http.send_data(self._stream, pieces)

    def end(self, now_s: float, code: StatusCode = StatusCode.OK, details: str = "") -> None:
        """End the call with a status."""
        self.flush()
        self._connection.http.send_trailers(self._stream, _say_end(code, details, begun=self._begun))
        self._close(now_s)

    def _close(self, now_s: float) -> None:
        if self._over:
            return
        self._over = True
        self._stream.listener = NOBODY
        self._connection.drop_deadline(self._stream.id)
        if self._unfinished:
            self._connection.budget.give(len(self._unfinished))
        self.call.close(now_s)
        del self.call  # each knows the other: what nobody needs any more should go without the garbage collector

    def _complete(self, data: bytes) -> bytes:
        """Return what was unfinished and what follows it now; nothing if that is not enough to go on."""
        self._keep(data)
        unfinished = self._unfinished
        if len(unfinished) < self._needed_bytes:
            return b""
        data = bytes(unfinished)
        self._connection.budget.give(len(data))
        unfinished.clear()
        return data

    def _keep(self, data: bytes) -> None:
        if not self._connection.budget.take(len(data)):
            raise StatusError(StatusCode.RESOURCE_EXHAUSTED, "the picker holds as much of unfinished messages as it may")
        self._unfinished += data

    def _finish(self) -> None:
        if self._unfinished:
            raise StatusError(StatusCode.INVALID_ARGUMENT, "the last message is cut off")
        now_s, call = self._connection.now_s, self.call
        self.send(call.finish(now_s))
        if call.ended:
            self.end(now_s)


class _Stranger:
    """Listens to a stream that is no gRPC: when its request has ended, that is said."""

    def __init__(self, http: Connection, stream: Stream, head: bytes) -> None:
        self._http = http
        self._stream = stream
        self._head = head

    def receive(self, data: bytes, end_stream: bool) -> None:
        del data
        if end_stream:
            self.finish({})

    def finish(self, trailers: dict[str, str]) -> None:
        del trailers
        self._http.send_headers(self._stream, self._head)
        self._http.send_data(self._stream, (_EXPLANATION,), end_stream=True)

    def lose(self, code: int) -> None:
        pass


Service = Callable[[Exchange], Call]
"""Begins a call. May raise StatusError, nothing else."""


@lru_cache(maxsize=16)  # a gateway always says the same
def _read_timeout_s(text: str) -> float | None:
    match = _TIMEOUT.fullmatch(text)
    return int(match[1]) * _UNITS_S[match[2]] if match else None


def _refuse(length: int, limit_bytes: int, *, compressed: bool) -> StatusError:
    if compressed:
        return StatusError(StatusCode.UNIMPLEMENTED, "compressed messages are not understood here")
    return StatusError(StatusCode.RESOURCE_EXHAUSTED, f"a message of {length} bytes; the limit is {limit_bytes}")


def _say_end(code: StatusCode, details: str, *, begun: bool) -> bytes:
    """Write the trailers; where nothing was said they are all there is, and begin as an answer does."""
    if code is StatusCode.OK:
        return _OK if begun else _OK_ALONE
    return hpack.encode(
        [
            *(() if begun else _HEAD_FIELDS),
            ("grpc-status", str(int(code))),
            ("grpc-message", quote(details[:_DETAILS_CHARS], safe=_PLAIN)),
            ("grpc-accept-encoding", "identity"),
        ]
    )


class GrpcConnection:
    """One connection with its calls. ``http`` has the bytes to write; ``now_s`` is monotonic everywhere."""

    def __init__(
        self,
        services: Mapping[str, Service],
        budget: Budget,
        *,
        max_message_bytes: int,
        terms: Terms | None = None,
        waiting: Budget | None = None,
    ) -> None:
        """``services`` by path; ``budget`` for unfinished messages, ``waiting`` for answers, both shared by all connections."""
        self.http = Connection(self._open, terms, waiting)
        self.now_s = 0.0  # of what is read, or of the end
        self.reading = False  # more to say may follow at once
        self.unsent: list[Exchange] = []  # who has said something since, each perhaps more than once
        self.budget = budget
        self.max_message_bytes = max_message_bytes
        self._services = services
        self._deadlines: dict[int, tuple[float, Exchange]] = {}  # by stream
        self.agenda: list[tuple[float, int]] = []
        """A heap of when whose call will be over, some of calls that are: ``expire`` has nothing to do before the first."""

    def receive(self, data: bytes, now_s: float) -> None:
        """Take what was read: run the calls it concerns."""
        self.now_s = now_s
        self.reading = True
        self.http.receive(data)
        self.reading = False
        if self.unsent:
            for exchange in self.unsent:
                exchange.flush()
            self.unsent.clear()
            if self.http.untold:
                self.http.tell()

    def expire(self, now_s: float) -> None:
        """End the calls whose time is over."""
        while self.agenda and self.agenda[0][0] <= now_s:
            _, stream_id = heapq.heappop(self.agenda)
            if stream_id in self._deadlines:
                _, exchange = self._deadlines[stream_id]
                exchange.end(now_s, StatusCode.DEADLINE_EXCEEDED, "the time that the client gave is over")

    def close(self, now_s: float) -> None:
        """Note that the connection is lost."""
        self.now_s = now_s
        self.http.lose()

    def drop_deadline(self, stream_id: int) -> None:
        """Forget when a call would be over; throw out others that are over as soon as they are the larger part."""
        if self._deadlines.pop(stream_id, None) is not None and len(self.agenda) > 2 * len(self._deadlines) + _OVER:
            self.agenda = [(at_s, stream_id) for stream_id, (at_s, _) in self._deadlines.items()]
            heapq.heapify(self.agenda)

    def _open(self, stream: Stream, fields: dict[str, str], end_stream: bool) -> None:
        post = fields[":method"] == "POST"
        content_type = fields.get("content-type", "")
        if not post or not (content_type == _GRPC or content_type.startswith(_GRPC_AS)):
            stream.listener = stranger = _Stranger(self.http, stream, _NO_GRPC if post else _NO_POST)
            if end_stream:
                stranger.finish({})
            return
        service = self._services.get(fields[":path"])
        if service is None:
            self._turn_away(stream, StatusCode.UNIMPLEMENTED, f"no method {fields[':path']}")
            return
        exchange = Exchange(self, stream)
        timeout = fields.get("grpc-timeout")
        if timeout is not None:
            timeout_s = _read_timeout_s(timeout)
            if timeout_s is None:
                self._turn_away(stream, StatusCode.INVALID_ARGUMENT, f"grpc-timeout {timeout!r}")
                return
            at_s = self.now_s + timeout_s
            self._deadlines[stream.id] = at_s, exchange
            heapq.heappush(self.agenda, (at_s, stream.id))
        exchange.metadata = fields
        try:
            exchange.call = service(exchange)
        except StatusError as status:
            self.drop_deadline(stream.id)
            self._turn_away(stream, status.code, status.details)
            return
        del exchange.metadata
        stream.listener = exchange
        if end_stream:
            exchange.finish({})

    def _turn_away(self, stream: Stream, code: StatusCode, details: str) -> None:
        self.http.send_trailers(stream, _say_end(code, details, begun=False))
