"""Promise: whatever a peer sends is answered or ends the connection, however it is cut, and all that was taken is given back.

An input is what follows the greeting. Behind the connection runs gRPC with a session, as in the picker.
"""

import logging
from collections.abc import Iterator

from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.testing import StubJudge
from shunter.picker.transport import frames, hpack
from shunter.picker.transport.frames import Code, Flag, Kind, Setting
from shunter.picker.transport.grpc import GrpcConnection
from shunter.picker.transport.h2 import Terms
from shunter.picker.transport.health import Health
from shunter.picker.transport.server import PROCESS
from shunter.picker.transport.services import Process, Unary

HELLO = frames.PREFACE + frames.settings({Setting.INITIAL_WINDOW_SIZE: 1000})
LIMITS = Limits(body_bytes=1 << 12, buffered_bytes=1 << 13)
TERMS = Terms(streams=20, stream_window_bytes=1 << 14, window_bytes=1 << 17, waiting_bytes=1 << 14)
CHECK = "/grpc.health.v1.Health/Check"


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return frames.head(kind, flags, stream_id, len(payload)) + payload


def request(stream_id: int, path: str, *more: tuple[str, str], flags: int = Flag.END_HEADERS) -> bytes:
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc"), *more]
    return frame(Kind.HEADERS, flags, stream_id, hpack.encode(fields))


def message(data: bytes) -> bytes:
    return b"\0" + len(data).to_bytes(4, "big") + data


ASKED = message(b"\x12\x00\x5a\x02\x08\x02") + message(b"\x22\x06\x0a\x02{}\x10\x01")  # headers in mode BUFFERED, then the body
HUFFMAN = bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff")

CORPUS = [
    # a whole exchange, ended as Envoy ends it, and one that the client ends
    request(1, PROCESS) + frame(Kind.DATA, 0, 1, ASKED) + frames.reset(1, Code.CANCEL),
    request(1, PROCESS) + frame(Kind.DATA, Flag.END_STREAM, 1, ASKED),
    # two streams, their messages cut across frames, with padding
    request(1, PROCESS)
    + request(3, CHECK)
    + frame(Kind.DATA, 0, 1, ASKED[:7])
    + frame(Kind.DATA, Flag.PADDED | Flag.END_STREAM, 3, b"\x02" + message(b"") + b"\0\0")
    + frame(Kind.DATA, 0, 1, ASKED[7:]),
    # a block in pieces, with a priority; a deadline; trailers
    frame(Kind.HEADERS, Flag.PRIORITY, 1, bytes(5) + b"\x83\x86")
    + frame(Kind.CONTINUATION, 0, 1, b"\x04\x02/a")
    + frame(Kind.CONTINUATION, Flag.END_HEADERS, 1, b""),
    request(1, PROCESS, ("grpc-timeout", "5S")) + frame(Kind.HEADERS, 5, 1, hpack.encode([("x-end", "1")])),
    # the table, Huffman code, size updates
    frame(Kind.HEADERS, 5, 1, HUFFMAN) + frame(Kind.HEADERS, 5, 3, b"\x20\x3f\xe1\x1f\x82\x86\x84\x40\x01a\x01b"),
    frame(Kind.HEADERS, 5, 3, b"\x82\x86\x84\x40\x01a\x01b") + frame(Kind.HEADERS, 5, 5, b"\x82\x86\x84\xbe"),
    # everything about the connection
    frame(Kind.SETTINGS, Flag.ACK, 0)
    + frames.settings({Setting.INITIAL_WINDOW_SIZE: 0, Setting.HEADER_TABLE_SIZE: 100, Setting.MAX_FRAME_SIZE: 20_000})
    + frame(Kind.PING, 0, 0, b"12345678")
    + frame(Kind.PRIORITY, 0, 7, bytes(5))
    + frames.update_window(0, 1000)
    + frame(Kind.GOAWAY, 0, 0, bytes(8)),
    # answers that wait for a window
    frames.settings({Setting.INITIAL_WINDOW_SIZE: 0})
    + request(1, PROCESS)
    + frame(Kind.DATA, Flag.END_STREAM, 1, ASKED)
    + frames.update_window(1, 9)
    + frames.settings({Setting.INITIAL_WINDOW_SIZE: 500}),
    # no gRPC, no method, no message
    frame(Kind.HEADERS, 5, 1, HUFFMAN),
    request(1, "/other"),
    request(1, CHECK, flags=5),
    request(1, PROCESS) + frame(Kind.DATA, Flag.END_STREAM, 1, b"\1\0\0\0\0"),
]


def read_frames(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield kind, flags, stream and payload of each whole frame."""
    at = 0
    while at + frames.HEAD_BYTES <= len(data):
        high, low, kind, flags, stream_id = frames.read_head(data, at)
        at += frames.HEAD_BYTES + (high << 8 | low)
        if at <= len(data):
            yield kind, flags, stream_id & frames.MAX_WINDOW_BYTES, data[at - (high << 8 | low) : at]


def transcribe(data: bytes) -> dict[int, list[tuple[int, int, bytes]]]:
    """Return what each stream was told, in whatever frames it came: kind, flags and payload, content in one piece.

    Without what depends on how the peer's bytes were cut: when windows are opened and PING is answered, and which header block
    is the first of all and says that there is no table.
    """
    told: dict[int, list[tuple[int, int, bytes]]] = {}
    for kind, flags, stream_id, payload in read_frames(data):
        if kind == Kind.WINDOW_UPDATE or (kind == Kind.PING and flags & Flag.ACK):
            continue
        if kind == Kind.HEADERS:
            payload = payload.removeprefix(b"\x20")  # noqa: PLW2901  as below
        said = told.setdefault(stream_id, [])
        if kind == Kind.DATA and said and said[-1][0] == Kind.DATA:
            payload = said.pop()[2] + payload  # noqa: PLW2901  one piece of what came in several
        said.append((kind, flags, payload))
    return told


def agree(whole: bytes, split: bytes, sent: bytes) -> bool:
    """Say whether a peer was told the same, however what it sent was cut.

    Answers to one read go out at its end. So a stream that was reset within that read, or whose connection broke, may have
    been told less than if it had come in pieces, never anything else.
    """
    short, long = transcribe(whole), transcribe(split)
    resets = {stream_id for kind, _, stream_id, _ in [*read_frames(sent), *read_frames(whole)] if kind == Kind.RST_STREAM}
    broken = any(kind == Kind.GOAWAY for kind, *_ in short.get(0, ()))
    for stream_id, told in long.items():
        heard = short.pop(stream_id, [])
        if heard != told and not ((broken or stream_id in resets) and is_part(heard, told)):
            return False
    return not short


def is_part(heard: list[tuple[int, int, bytes]], told: list[tuple[int, int, bytes]]) -> bool:
    """Say whether all that was heard was told in this order, leaving out content or its end."""
    content = [b"".join(payload for kind, _, payload in said if kind == Kind.DATA) for said in (heard, told)]
    others = iter([each for each in told if each[0] != Kind.DATA])
    return content[1].startswith(content[0]) and all(each in others for each in heard if each[0] != Kind.DATA)


def run(pieces: list[bytes]) -> tuple[bytes, str, list[int]]:
    """Serve a peer that sends these pieces and hangs up; return all that can be seen of it."""
    judge, budget, unfinished, health = StubJudge(), Budget(LIMITS.buffered_bytes), Budget(LIMITS.buffered_bytes), Health()
    running: set[Process] = set()

    def process(exchange):
        running.add(call := Process(Session(judge, LIMITS, budget), exchange, "fuzz", running.discard))
        return call

    services = {PROCESS: process, CHECK: lambda _: Unary(health.check)}
    connection = GrpcConnection(services, unfinished, max_message_bytes=1 << 13, terms=TERMS)
    out = b""
    for piece in pieces:
        connection.receive(piece, 0.0)
        out += connection.http.take()
        assert connection.http._outbox._waiting.taken_bytes <= TERMS.waiting_bytes
        assert len(connection.http._streams) <= TERMS.streams
    connection.expire(10.0)
    connection.close(11.0)
    assert not running, "a call was not closed"
    assert budget.taken_bytes == unfinished.taken_bytes == 0, "bytes of a budget are lost"
    assert len(judge.released) == len(judge.picked), "a pick is not released exactly once"
    return out, connection.http.fault, judge.picked


def target(data: bytes) -> None:
    sent = HELLO + data
    middle = len(sent) // 2
    logging.disable(logging.CRITICAL)  # of each protocol error
    try:
        whole = run([sent])
        cuts = [[sent[:middle], sent[middle:]]]
        if len(sent) < 500:
            cuts.append([sent[at : at + 1] for at in range(len(sent))])
        for pieces in cuts:
            split = run(pieces)
            assert split[1:] == whole[1:]
            assert agree(whole[0], split[0], sent[len(frames.PREFACE) :])
    finally:
        logging.disable(logging.NOTSET)
    assert b"grpc-status\x0213" not in whole[0], "a bug was caught at the boundary"
