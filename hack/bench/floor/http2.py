"""The least of HTTP/2 and gRPC that serves one method to a well-meaning client: no check, no limit, no header is read.

Flow control is kept in both directions, since a body of 500 KB needs it. What a stream is asked to do is a function from a
message to messages. Envoy ends every stream by RST_STREAM.
"""

import asyncio
import struct
from collections.abc import Callable, Sequence

__all__ = ["PREFACE", "Connection", "frame"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
ACK, END_STREAM, END_HEADERS = 1, 1, 4
FRAME_BYTES = 16_384
WINDOW_BYTES = 65_535  # at first, by RFC 9113
STREAM_WINDOW_BYTES = 1 << 24  # ours
REPLENISH_BYTES = 1 << 22  # taken, until the peer is told

_head = struct.Struct(">HBBBL")  # the length's three bytes as two numbers
_prefix = struct.Struct(">BL")
_u32 = struct.Struct(">L")

# :status 200 and content-type application/grpc, in HPACK without its table.
ANSWER = b"\x88\x0f\x10\x10application/grpc"

Receive = Callable[[bytes], Sequence[bytes]]


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    size = len(payload)
    return _head.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


class Stream:
    """One call."""

    __slots__ = ("answered", "id", "needed", "receive", "taken", "unfinished", "unsent", "window")

    def __init__(self, stream_id: int, receive: Receive, window: int) -> None:
        self.id = stream_id
        self.receive = receive
        self.answered = False
        self.unfinished = bytearray()  # of a message
        self.needed = 5  # of it, to go on
        self.unsent = b""  # what the peer's windows do not let through
        self.window = window
        self.taken = 0


class Connection(asyncio.Protocol):
    """A connection whose calls are all answered by what ``open_call`` returns."""

    def __init__(self, open_call: Callable[[], Receive]) -> None:
        self.open_call = open_call
        self.streams: dict[int, Stream] = {}
        self.buffer = b""
        self.greeted = False
        self.window = self.initial_window = WINDOW_BYTES
        self.taken = 0
        self.out: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = transport.write  # a socket's transport
        ours = struct.pack(">HLHL", 3, 0x7FFFFFFF, 4, STREAM_WINDOW_BYTES)
        self.write(frame(SETTINGS, 0, 0, ours) + frame(WINDOW_UPDATE, 0, 0, _u32.pack(0x7FFFFFFF - WINDOW_BYTES)))

    def data_received(self, data: bytes) -> None:
        if self.buffer:
            data = self.buffer + data
        at, size = 0, len(data)
        if not self.greeted:
            if size < len(PREFACE):
                self.buffer = data
                return
            self.greeted = True
            at = len(PREFACE)
        while size - at >= 9:
            high, low, kind, flags, stream_id = _head.unpack_from(data, at)
            begin = at + 9
            end = begin + (high << 8) + low
            if end > size:
                break
            at = end
            if kind == DATA:
                self.taken += end - begin
                stream = self.streams.get(stream_id)
                if stream is not None:
                    self.read(stream, data[begin:end])
            elif kind == HEADERS:
                self.streams[stream_id] = Stream(stream_id, self.open_call(), self.initial_window)
            elif kind == RST_STREAM:
                self.streams.pop(stream_id, None)
            else:
                self.control(kind, flags, stream_id, data[begin:end])
        self.buffer = data[at:]
        if self.taken > REPLENISH_BYTES:
            self.out.append(frame(WINDOW_UPDATE, 0, 0, _u32.pack(self.taken)))
            self.taken = 0
        if self.out:
            self.write(b"".join(self.out))
            self.out.clear()

    def control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            increment = _u32.unpack(payload)[0]
            if stream_id == 0:
                self.window += increment
                self.send_unsent()
            elif stream_id in self.streams:
                self.streams[stream_id].window += increment
                self.send_unsent()
        elif kind == SETTINGS and not flags & ACK:
            for name, value in struct.iter_unpack(">HL", payload):
                if name == 4:
                    for stream in self.streams.values():
                        stream.window += value - self.initial_window
                    self.initial_window = value
            self.out.append(frame(SETTINGS, ACK, 0, b""))
            self.send_unsent()
        elif kind == PING and not flags & ACK:
            self.out.append(frame(PING, ACK, 0, payload))

    def read(self, stream: Stream, data: bytes) -> None:
        """Cut content into messages and answer them."""
        stream.taken += len(data)
        if stream.taken > REPLENISH_BYTES:
            self.out.append(frame(WINDOW_UPDATE, 0, stream.id, _u32.pack(stream.taken)))
            stream.taken = 0
        unfinished = stream.unfinished
        if unfinished:
            unfinished += data
            if len(unfinished) < stream.needed:
                return
            data = bytes(unfinished)
            unfinished.clear()
        at, size = 0, len(data)
        stream.needed = 5
        while size - at >= 5:
            _, length = _prefix.unpack_from(data, at)
            end = at + 5 + length
            if end > size:
                stream.needed = 5 + length
                break
            for reply in stream.receive(data[at + 5 : end]):
                self.send(stream, reply)
            at = end
        if at < size:
            unfinished += data[at:]

    def send(self, stream: Stream, message: bytes) -> None:
        if not stream.answered:
            stream.answered = True
            self.out.append(frame(HEADERS, END_HEADERS, stream.id, ANSWER))
        size = len(message) + 5
        if size <= FRAME_BYTES and size <= self.window and size <= stream.window and not stream.unsent:
            self.window -= size
            stream.window -= size
            self.out.append(_head.pack(size >> 8, size & 0xFF, DATA, 0, stream.id) + _prefix.pack(0, size - 5))
            self.out.append(message)
        else:
            stream.unsent += _prefix.pack(0, size - 5) + message
            self.send_pieces(stream)

    def send_pieces(self, stream: Stream) -> None:
        """Send of what waits as much as frames and windows let through."""
        unsent, at = stream.unsent, 0
        while at < len(unsent):
            size = min(len(unsent) - at, FRAME_BYTES, self.window, stream.window)
            if size <= 0:
                break
            self.window -= size
            stream.window -= size
            self.out += (_head.pack(size >> 8, size & 0xFF, DATA, 0, stream.id), unsent[at : at + size])
            at += size
        stream.unsent = unsent[at:]

    def send_unsent(self) -> None:
        for stream in self.streams.values():
            if stream.unsent:
                self.send_pieces(stream)
