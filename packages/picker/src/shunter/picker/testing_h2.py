"""HTTP/2 as a peer of ours has it, frame by frame, right or wrong, for tests of the connection."""

from collections.abc import Callable, Iterable

import msgspec

from shunter.picker.transport import frames, hpack
from shunter.picker.transport.frames import Code, Flag, Kind
from shunter.picker.transport.h2 import Connection, Terms
from shunter.picker.transport.streams import Stream

__all__ = [
    "ANSWER",
    "BLOCK",
    "FIELDS",
    "HELLO",
    "TERMS",
    "TRAILERS",
    "Data",
    "Event",
    "Recorded",
    "Request",
    "Reset",
    "Trailers",
    "continuation",
    "data",
    "feed",
    "frame",
    "number",
    "opened",
    "request",
    "setting",
    "split",
    "verdict",
    "window",
    "without",
]

FIELDS = [(":method", "POST"), (":scheme", "http"), (":path", "/a"), (":authority", "b")]
BLOCK = hpack.encode(FIELDS)
ANSWER = hpack.encode([(":status", "200")])
TRAILERS = hpack.encode([("grpc-status", "0")])
HELLO = frames.PREFACE + frames.settings({})
TERMS = Terms(streams=10, stream_window_bytes=100_000, window_bytes=200_000, waiting_bytes=300_000)
"""Small enough to be reached."""


class Request(msgspec.Struct, frozen=True):
    """A stream was opened."""

    stream_id: int
    fields: dict[str, str]
    end_stream: bool


class Data(msgspec.Struct, frozen=True):
    """A piece of the request's content."""

    stream_id: int
    data: bytes
    end_stream: bool


class Trailers(msgspec.Struct, frozen=True):
    """The trailers of the request, which end it."""

    stream_id: int
    fields: dict[str, str]


class Reset(msgspec.Struct, frozen=True):
    """A stream is gone, by the peer's will or by its fault."""

    stream_id: int
    code: int


Event = Request | Data | Trailers | Reset


class Recorded(Connection):
    """A connection all of whose streams one test listens to; it may ``answer`` each event, and speaks of streams by number."""

    def __init__(self, terms: Terms | None = None, answer: Callable[["Recorded", Event], None] = lambda _, __: None) -> None:
        """Nothing was heard."""
        super().__init__(self._begin, terms)
        self._answer = answer
        self._opened: dict[int, Stream] = {}
        self._heard: list[Event] = []

    def hear(self, piece: bytes) -> list[Event]:
        """Take what was read; return what happens."""
        self.receive(piece)
        heard, self._heard = self._heard, []
        return heard

    def note(self, event: Event) -> None:
        """Take what happens."""
        self._heard.append(event)
        self._answer(self, event)

    def say_headers(self, stream_id: int, block: bytes) -> None:
        """Begin the answer."""
        self.send_headers(self._of(stream_id), block)

    def say_data(self, stream_id: int, piece: bytes, *, end_stream: bool = False) -> None:
        """Go on with it."""
        self.send_data(self._of(stream_id), (piece,), end_stream=end_stream)

    def say_trailers(self, stream_id: int, block: bytes) -> None:
        """End it."""
        self.send_trailers(self._of(stream_id), block)

    def give_up(self, stream_id: int, code: Code) -> None:
        """Reset a stream."""
        self.reset(self._of(stream_id), code)

    def _of(self, stream_id: int) -> Stream:
        """Return a stream; one that was never opened is as one that is over."""
        return self._opened.get(stream_id) or Stream(stream_id, 0, ending=b"")

    def _begin(self, stream: Stream, fields: dict[str, str], end_stream: bool) -> None:
        self._opened[stream.id] = stream
        stream.listener = _Ear(self, stream.id)
        self.note(Request(stream.id, fields, end_stream))


class _Ear:
    def __init__(self, connection: Recorded, stream_id: int) -> None:
        self._connection = connection
        self._stream_id = stream_id

    def receive(self, data: bytes, end_stream: bool) -> None:
        self._connection.note(Data(self._stream_id, data, end_stream))

    def finish(self, trailers: dict[str, str]) -> None:
        self._connection.note(Trailers(self._stream_id, trailers))

    def lose(self, code: int) -> None:
        self._connection.note(Reset(self._stream_id, code))


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return any frame."""
    return frames.head(kind, flags, stream_id, len(payload)) + payload


def request(
    stream_id: int,
    *,
    end: bool = False,
    fields: Iterable[tuple[str, str]] = FIELDS,
    flags: int = Flag.END_HEADERS,
) -> bytes:
    """Return a request's headers."""
    return frame(Kind.HEADERS, flags | end, stream_id, hpack.encode([*fields]))


def data(stream_id: int, payload: bytes = b"x", *, end: bool = False) -> bytes:
    """Return a piece of a body."""
    return frame(Kind.DATA, int(end), stream_id, payload)


def continuation(stream_id: int, payload: bytes = b"", *, end: bool = False) -> bytes:
    """Return more of a header block."""
    return frame(Kind.CONTINUATION, Flag.END_HEADERS if end else 0, stream_id, payload)


def number(value: int, size: int = 4) -> bytes:
    """Return a number as frames have it."""
    return value.to_bytes(size, "big")


def window(stream_id: int, increment: int) -> bytes:
    """Return a window's update; 0: the connection's."""
    return frames.update_window(stream_id, increment)


def setting(key: int, value: int) -> bytes:
    """Return SETTINGS of one."""
    return frame(Kind.SETTINGS, 0, 0, number(key, 2) + number(value))


def split(out: bytes) -> list[tuple[int, int, int, bytes]]:
    """Cut what a server wrote into (kind, flags, stream, payload)."""
    at, found = 0, list[tuple[int, int, int, bytes]]()
    while at < len(out):
        high, low, kind, flags, stream_id = frames.read_head(out, at)
        end = at + 9 + (high << 8 | low)
        found.append((kind, flags, stream_id, out[at + 9 : end]))
        at = end
    return found


def opened(*more: bytes, terms: Terms = TERMS) -> Recorded:
    """Return a connection after the greetings, and after ``more``."""
    connection = Recorded(terms)
    assert connection.hear(HELLO + frame(Kind.SETTINGS, Flag.ACK, 0)) == []  # noqa: S101  a test's
    connection.take()
    for piece in more:
        assert not connection.closed  # noqa: S101  as above
        connection.hear(piece)
    return connection


def feed(connection: Recorded, *pieces: bytes) -> list[Event]:
    """Return what pieces of bytes mean."""
    return [event for piece in pieces for event in connection.hear(piece)]


def verdict(connection: Connection) -> tuple[str | int, Code] | None:
    """Return what the last frames of the server were: ("connection" | stream, code), or None."""
    for kind, _, stream_id, payload in reversed(split(connection.take())):
        if kind == Kind.GOAWAY:
            return "connection", Code(int.from_bytes(payload[4:8], "big"))
        if kind == Kind.RST_STREAM:
            return stream_id, Code(int.from_bytes(payload, "big"))
    return None


def without(name: str) -> list[tuple[str, str]]:
    """Return FIELDS but one."""
    return [pair for pair in FIELDS if pair[0] != name]
