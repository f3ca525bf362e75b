"""HTTP/2 as a peer of ours has it, frame by frame, right or wrong, for tests of the connection."""

from collections.abc import Iterable

from shunter.picker.transport import frames, hpack
from shunter.picker.transport.frames import Code, Flag, Kind
from shunter.picker.transport.h2 import Connection, Event, Terms

__all__ = [
    "ANSWER",
    "BLOCK",
    "FIELDS",
    "HELLO",
    "TERMS",
    "TRAILERS",
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


def opened(*more: bytes, terms: Terms = TERMS) -> Connection:
    """Return a connection after the greetings, and after ``more``."""
    connection = Connection(terms)
    assert [*connection.receive(HELLO + frame(Kind.SETTINGS, Flag.ACK, 0))] == []  # noqa: S101  a test's
    connection.take()
    for piece in more:
        assert not connection.closed  # noqa: S101  as above
        for _ in connection.receive(piece):
            pass
    return connection


def feed(connection: Connection, *pieces: bytes) -> list[Event]:
    """Return what pieces of bytes mean."""
    return [event for piece in pieces for event in connection.receive(piece)]


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
