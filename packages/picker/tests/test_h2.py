"""The HTTP/2 connection: what RFC 9113 wants, row by row; what an attacker gets; and the h2 library as its client."""

import itertools

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.picker.transport import blocks, frames, hpack, patience
from shunter.picker.transport.frames import MAX_FRAME_BYTES, MAX_WINDOW_BYTES, Code, Flag, Kind, Setting
from shunter.picker.transport.h2 import Connection, Data, Request, Reset, Terms, Trailers

FIELDS = [(":method", "POST"), (":scheme", "http"), (":path", "/a"), (":authority", "b")]
BLOCK = hpack.encode(FIELDS)
ANSWER = hpack.encode([(":status", "200")])
TRAILERS = hpack.encode([("grpc-status", "0")])
HELLO = frames.PREFACE + frames.settings({})
TERMS = Terms(streams=10, stream_window_bytes=100_000, window_bytes=200_000, waiting_bytes=300_000)


def frame(kind, flags, stream_id, payload=b""):
    return frames.head(kind, flags, stream_id, len(payload)) + payload


def request(stream_id, *, end=False, fields=FIELDS, flags=Flag.END_HEADERS):
    return frame(Kind.HEADERS, flags | end, stream_id, hpack.encode(fields))


def data(stream_id, payload=b"x", *, end=False):
    return frame(Kind.DATA, int(end), stream_id, payload)


def continuation(stream_id, payload=b"", *, end=False):
    return frame(Kind.CONTINUATION, Flag.END_HEADERS if end else 0, stream_id, payload)


def number(value, size=4):
    return value.to_bytes(size, "big")


def window(stream_id, increment):
    return frames.update_window(stream_id, increment)


def setting(key, value):
    return frame(Kind.SETTINGS, 0, 0, number(key, 2) + number(value))


def split(out):
    """Cut what a server wrote into (kind, flags, stream, payload)."""
    at, found = 0, []
    while at < len(out):
        high, low, kind, flags, stream_id = frames.read_head(out, at)
        end = at + 9 + (high << 8 | low)
        found.append((kind, flags, stream_id, out[at + 9 : end]))
        at = end
    return found


def opened(*more, terms=TERMS):
    """A connection after the greetings, and after ``more``."""
    connection = Connection(terms)
    assert [*connection.receive(HELLO + frame(Kind.SETTINGS, Flag.ACK, 0))] == []
    connection.take()
    for piece in more:
        assert not connection.closed
        for _ in connection.receive(piece):
            pass
    return connection


def feed(connection, *pieces):
    return [event for piece in pieces for event in connection.receive(piece)]


def verdict(connection):
    """What the last frames of the server were: ("connection" | stream, code), or None."""
    for kind, _, stream_id, payload in reversed(split(connection.take())):
        if kind == Kind.GOAWAY:
            return "connection", Code(int.from_bytes(payload[4:8], "big"))
        if kind == Kind.RST_STREAM:
            return stream_id, Code(int.from_bytes(payload, "big"))
    return None


def without(name):
    return [pair for pair in FIELDS if pair[0] != name]


WRONG = {
    # 3.4 preface
    "3.4: a second preface": (frames.PREFACE, "connection", Code.FRAME_SIZE_ERROR),
    # 4.1 to 4.3 frames and field blocks
    "4.2: a frame that is too long": (frames.head(Kind.DATA, 0, 1, MAX_FRAME_BYTES + 1), "connection", Code.FRAME_SIZE_ERROR),
    "4.3: another frame inside a block": (request(1, flags=0) + data(1), "connection", Code.PROTOCOL_ERROR),
    "4.3: an unknown frame inside a block": (request(1, flags=0) + frame(77, 0, 1), "connection", Code.PROTOCOL_ERROR),
    "4.3: not HPACK": (frame(Kind.HEADERS, Flag.END_HEADERS, 1, b"\x80"), "connection", Code.COMPRESSION_ERROR),
    # 5.1 states
    "5.1: DATA on an idle stream": (data(1), "connection", Code.PROTOCOL_ERROR),
    "5.1: RST_STREAM on an idle stream": (frames.reset(1, Code.CANCEL), "connection", Code.PROTOCOL_ERROR),
    "5.1: WINDOW_UPDATE on an idle stream": (window(1, 1), "connection", Code.PROTOCOL_ERROR),
    "5.1: DATA after the end": (request(1, end=True) + data(1), 1, Code.STREAM_CLOSED),
    "5.1: HEADERS after the end": (request(1, end=True) + request(1, end=True), 1, Code.STREAM_CLOSED),
    "5.1: DATA after a reset": (request(1) + frames.reset(1, Code.CANCEL) + data(1), "connection", Code.STREAM_CLOSED),
    "5.1: HEADERS after a reset": (
        request(1) + frames.reset(1, Code.CANCEL) + request(1),
        "connection",
        Code.STREAM_CLOSED,
    ),
    "5.1.1: an even stream": (request(2), "connection", Code.PROTOCOL_ERROR),
    "5.1.1: a stream passed over": (request(5) + request(3), "connection", Code.PROTOCOL_ERROR),
    "5.1.2: too many streams": (b"".join(request(2 * at + 1) for at in range(11)), 21, Code.REFUSED_STREAM),
    # 6.1 DATA
    "6.1: DATA of the connection": (data(0), "connection", Code.PROTOCOL_ERROR),
    "6.1: more padding than frame": (
        request(1) + frame(Kind.DATA, Flag.PADDED, 1, b"\x02a"),
        "connection",
        Code.PROTOCOL_ERROR,
    ),
    "6.1: padding of nothing": (request(1) + frame(Kind.DATA, Flag.PADDED, 1), "connection", Code.PROTOCOL_ERROR),
    # 6.2 HEADERS
    "6.2: HEADERS of the connection": (request(0), "connection", Code.PROTOCOL_ERROR),
    "6.2: HEADERS too short for a priority": (
        frame(Kind.HEADERS, Flag.END_HEADERS | Flag.PRIORITY, 1, b"\0\0"),
        "connection",
        Code.FRAME_SIZE_ERROR,
    ),
    "6.2: HEADERS padded beyond the end": (
        frame(Kind.HEADERS, Flag.END_HEADERS | Flag.PADDED, 1, b"\x7f" + BLOCK),
        "connection",
        Code.PROTOCOL_ERROR,
    ),
    # 6.3 PRIORITY
    "6.3: PRIORITY of the connection": (frame(Kind.PRIORITY, 0, 0, bytes(5)), "connection", Code.PROTOCOL_ERROR),
    "6.3: PRIORITY of a wrong size": (request(1) + frame(Kind.PRIORITY, 0, 1, bytes(4)), 1, Code.FRAME_SIZE_ERROR),
    "6.3: a stream that depends on itself": (frame(Kind.PRIORITY, 0, 1, number(1) + b"\0"), 1, Code.PROTOCOL_ERROR),
    "6.3: a request that depends on itself": (
        frame(Kind.HEADERS, Flag.END_HEADERS | Flag.PRIORITY, 1, number(1) + b"\0" + BLOCK),
        1,
        Code.PROTOCOL_ERROR,
    ),
    # 6.4 RST_STREAM
    "6.4: RST_STREAM of the connection": (frames.reset(0, Code.CANCEL), "connection", Code.PROTOCOL_ERROR),
    "6.4: RST_STREAM of a wrong size": (
        request(1) + frame(Kind.RST_STREAM, 0, 1, b"abc"),
        "connection",
        Code.FRAME_SIZE_ERROR,
    ),
    # 6.5 SETTINGS
    "6.5: SETTINGS of a stream": (frame(Kind.SETTINGS, 0, 1), "connection", Code.PROTOCOL_ERROR),
    "6.5: SETTINGS of a wrong size": (frame(Kind.SETTINGS, 0, 0, bytes(5)), "connection", Code.FRAME_SIZE_ERROR),
    "6.5: an ACK with content": (frame(Kind.SETTINGS, Flag.ACK, 0, bytes(6)), "connection", Code.FRAME_SIZE_ERROR),
    "6.5.2: ENABLE_PUSH 2": (setting(Setting.ENABLE_PUSH, 2), "connection", Code.PROTOCOL_ERROR),
    "6.5.2: a window too large": (setting(Setting.INITIAL_WINDOW_SIZE, 1 << 31), "connection", Code.FLOW_CONTROL_ERROR),
    "6.5.2: a frame size too small": (setting(Setting.MAX_FRAME_SIZE, 16_383), "connection", Code.PROTOCOL_ERROR),
    "6.5.2: a frame size too large": (setting(Setting.MAX_FRAME_SIZE, 1 << 24), "connection", Code.PROTOCOL_ERROR),
    # 6.6 PUSH_PROMISE
    "6.6: PUSH_PROMISE": (frame(Kind.PUSH_PROMISE, 0, 1, bytes(4)), "connection", Code.PROTOCOL_ERROR),
    # 6.7 PING
    "6.7: PING of a stream": (frame(Kind.PING, 0, 1, bytes(8)), "connection", Code.PROTOCOL_ERROR),
    "6.7: PING of a wrong size": (frame(Kind.PING, 0, 0, bytes(7)), "connection", Code.FRAME_SIZE_ERROR),
    # 6.8 GOAWAY
    "6.8: GOAWAY of a stream": (frame(Kind.GOAWAY, 0, 1, bytes(8)), "connection", Code.PROTOCOL_ERROR),
    "6.8: GOAWAY of a wrong size": (frame(Kind.GOAWAY, 0, 0, bytes(7)), "connection", Code.FRAME_SIZE_ERROR),
    # 6.9 WINDOW_UPDATE
    "6.9: the connection's window grows by 0": (window(0, 0), "connection", Code.PROTOCOL_ERROR),
    "6.9: a stream's window grows by 0": (request(1) + window(1, 0), 1, Code.PROTOCOL_ERROR),
    "6.9: WINDOW_UPDATE of a wrong size": (
        frame(Kind.WINDOW_UPDATE, 0, 0, b"abc"),
        "connection",
        Code.FRAME_SIZE_ERROR,
    ),
    "6.9.1: the connection's window too large": (window(0, MAX_WINDOW_BYTES), "connection", Code.FLOW_CONTROL_ERROR),
    "6.9.1: a stream's window too large": (request(1) + window(1, MAX_WINDOW_BYTES), 1, Code.FLOW_CONTROL_ERROR),
    "6.9.2: a stream's window made too large": (
        request(1) + window(1, 1) + setting(Setting.INITIAL_WINDOW_SIZE, MAX_WINDOW_BYTES),
        "connection",
        Code.FLOW_CONTROL_ERROR,
    ),
    # 6.10 CONTINUATION
    "6.10: CONTINUATION of nothing": (continuation(1), "connection", Code.PROTOCOL_ERROR),
    "6.10: CONTINUATION of another stream": (request(1, flags=0) + continuation(3), "connection", Code.PROTOCOL_ERROR),
    # 8 messages
    "8.1: a second HEADERS without end": (request(1) + request(1, fields=[("a", "b")]), 1, Code.PROTOCOL_ERROR),
    "8.1: pseudo-header fields in trailers": (request(1) + request(1, end=True), 1, Code.PROTOCOL_ERROR),
    "8.1.1: less content than said": (
        request(1, fields=[*FIELDS, ("content-length", "2")]) + data(1, b"x", end=True),
        1,
        Code.PROTOCOL_ERROR,
    ),
    "8.1.1: more content than said": (
        request(1, fields=[*FIELDS, ("content-length", "2")]) + data(1, b"xxx"),
        1,
        Code.PROTOCOL_ERROR,
    ),
    "8.1.1: no content but a length": (
        request(1, end=True, fields=[*FIELDS, ("content-length", "2")]),
        1,
        Code.PROTOCOL_ERROR,
    ),
    "8.1.1: a length of no number": (request(1, fields=[*FIELDS, ("content-length", "-1")]), 1, Code.PROTOCOL_ERROR),
    "8.2: an upper-case name": (request(1, fields=[*FIELDS, ("Te", "trailers")]), 1, Code.PROTOCOL_ERROR),
    "8.2.1: a line break in a value": (request(1, fields=[*FIELDS, ("a", "b\r\nc: d")]), 1, Code.PROTOCOL_ERROR),
    "8.2.1: a space in a name": (request(1, fields=[*FIELDS, ("a b", "c")]), 1, Code.PROTOCOL_ERROR),
    "8.2.1: a space before a value": (request(1, fields=[*FIELDS, ("a", " b")]), 1, Code.PROTOCOL_ERROR),
    "8.2.1: an empty name": (request(1, fields=[*FIELDS, ("", "c")]), 1, Code.PROTOCOL_ERROR),
    "8.2.2: connection": (request(1, fields=[*FIELDS, ("connection", "close")]), 1, Code.PROTOCOL_ERROR),
    "8.2.2: te": (request(1, fields=[*FIELDS, ("te", "gzip")]), 1, Code.PROTOCOL_ERROR),
    "8.3: a pseudo-header field at the end": (request(1, fields=[("a", "b"), *FIELDS]), 1, Code.PROTOCOL_ERROR),
    "8.3: an unknown pseudo-header field": (request(1, fields=[(":protocol", "x"), *FIELDS]), 1, Code.PROTOCOL_ERROR),
    "8.3: a pseudo-header field of answers": (request(1, fields=[(":status", "200"), *FIELDS]), 1, Code.PROTOCOL_ERROR),
    "8.3.1: no method": (request(1, fields=without(":method")), 1, Code.PROTOCOL_ERROR),
    "8.3.1: no scheme": (request(1, fields=without(":scheme")), 1, Code.PROTOCOL_ERROR),
    "8.3.1: no path": (request(1, fields=without(":path")), 1, Code.PROTOCOL_ERROR),
    "8.3.1: an empty path": (request(1, fields=[*without(":path"), (":path", "")]), 1, Code.PROTOCOL_ERROR),
    "8.3.1: two paths": (request(1, fields=[*FIELDS, (":path", "/")]), 1, Code.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("row", WRONG)
def test_what_may_not_be_ends_with_the_right_code(row):
    sent, scope, code = WRONG[row]
    connection = opened(sent)
    assert verdict(connection) == (scope, code)
    assert connection.closed == (scope == "connection")


@pytest.mark.parametrize("row", WRONG)
def test_after_a_fault_of_a_stream_the_others_go_on(row):
    sent, scope, _ = WRONG[row]
    if scope != "connection":
        connection = opened(sent)
        connection.send_headers(1, ANSWER, end_stream=True)  # makes room for one more
        assert [type(event) for event in feed(connection, request(101))] == [Request]


@pytest.mark.parametrize(
    "hello", [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nXX", frames.PREFACE + frame(Kind.PING, 0, 0, bytes(8))]
)
def test_who_does_not_say_hello_is_sent_away(hello):
    connection = Connection()
    assert feed(connection, hello) == []
    assert connection.closed
    assert not connection.greeted
    assert verdict(connection) == ("connection", Code.PROTOCOL_ERROR)


def test_what_is_unknown_or_harmless_is_ignored():
    connection = opened(
        frame(77, 0xFF, 5, b"what"),
        setting(99, 7),
        frame(Kind.PRIORITY, 0, 9, bytes(5)),
        frame(Kind.PING, Flag.ACK, 0, bytes(8)),
        frame(Kind.GOAWAY, 0, 0, bytes(12)),
    )
    assert split(connection.take()) == [(Kind.SETTINGS, Flag.ACK, 0, b"")]
    assert feed(connection, frames.head(Kind.HEADERS, Flag.END_HEADERS, 1 | 1 << 31, len(BLOCK)) + BLOCK) == [
        Request(1, dict(FIELDS), end_stream=False)
    ]


def test_a_ping_is_answered():
    connection = opened(frame(Kind.PING, 0, 0, b"12345678"))
    assert split(connection.take()) == [(Kind.PING, Flag.ACK, 0, b"12345678")]


def test_a_request_with_content_and_trailers():
    connection = opened()
    trailers = frame(Kind.HEADERS, Flag.END_HEADERS | Flag.END_STREAM, 1, TRAILERS)
    padded = frame(Kind.DATA, Flag.PADDED, 1, b"\x03abc\0\0\0")
    assert feed(connection, request(1), padded, data(1, b"d"), trailers) == [
        Request(1, dict(FIELDS), end_stream=False),
        Data(1, b"abc", end_stream=False),
        Data(1, b"d", end_stream=False),
        Trailers(1, {"grpc-status": "0"}),
    ]


def test_a_block_in_pieces_with_padding_and_priority():
    connection = opened()
    begin = b"\x02" + number(3) + b"\x10" + BLOCK[:3] + b"\0\0"
    flags = Flag.PADDED | Flag.PRIORITY | Flag.END_STREAM
    pieces = [frame(Kind.HEADERS, flags, 1, begin), continuation(1, BLOCK[3:4]), continuation(1, BLOCK[4:], end=True)]
    assert feed(connection, *pieces) == [Request(1, dict(FIELDS), end_stream=True)]


def test_repeated_fields_are_joined():
    connection = opened()
    many = [*FIELDS, ("a", "1"), ("cookie", "b=1"), ("a", "2"), ("cookie", "c=2")]
    (event,) = feed(connection, request(1, fields=many))
    assert (event.fields["a"], event.fields["cookie"]) == ("1, 2", "b=1; c=2")


def test_an_answer_and_its_end():
    connection = opened(request(1, end=True))
    connection.take()
    connection.send_headers(1, ANSWER)
    connection.send_data(1, b"abc")
    connection.send_trailers(1, TRAILERS)
    connection.send_data(1, b"too late")
    head, content, end = split(connection.take())
    # The first block begins with a table of size 0 (RFC 7541 section 4.2).
    assert head == (Kind.HEADERS, Flag.END_HEADERS, 1, b"\x20" + ANSWER)
    assert content == (Kind.DATA, 0, 1, b"abc")
    assert end == (Kind.HEADERS, Flag.END_HEADERS | Flag.END_STREAM, 1, TRAILERS)


def test_a_peer_that_is_not_ready_when_we_are_is_asked_to_stop_and_may_still_be_sending():
    connection = opened(request(1))
    connection.take()
    connection.send_headers(1, ANSWER, end_stream=True)
    assert split(connection.take())[-1] == (Kind.RST_STREAM, 0, 1, number(Code.NO_ERROR))
    late = data(1, b"x") + window(1, 5) + request(1, end=True) + frames.reset(1, Code.CANCEL)
    assert feed(connection, late) == []
    assert not connection.closed
    feed(connection, data(1))  # but now it knew
    assert verdict(connection) == ("connection", Code.STREAM_CLOSED)


def test_a_reset_of_the_peer_is_told_and_nothing_is_sent_any_more():
    connection = opened(request(1))
    connection.take()
    assert feed(connection, frames.reset(1, Code.CANCEL)) == [Reset(1, Code.CANCEL)]
    connection.send_headers(1, ANSWER)
    connection.send_data(1, b"x")
    assert connection.take() == b""


def test_a_fault_of_the_connection_resets_every_stream():
    connection = opened(request(1), request(3))
    assert feed(connection, data(0)) == [Reset(1, Code.PROTOCOL_ERROR), Reset(3, Code.PROTOCOL_ERROR)]
    assert feed(connection, request(5)) == []


# -- flow control ---------------------------------------------------------------------------------------------------------


def sizes(connection):
    return [len(payload) for kind, _, _, payload in split(connection.take()) if kind == Kind.DATA]


def test_an_answer_waits_for_the_windows_and_its_end_waits_for_it():
    connection = opened(setting(Setting.INITIAL_WINDOW_SIZE, 10), request(1))
    connection.send_headers(1, ANSWER)
    connection.send_data(1, bytes(30))
    connection.send_trailers(1, TRAILERS)
    assert sizes(connection) == [10]
    feed(connection, window(1, 5))
    assert sizes(connection) == [5]
    feed(connection, setting(Setting.INITIAL_WINDOW_SIZE, 0))  # now the window is -10
    feed(connection, window(1, 10))
    assert sizes(connection) == []
    feed(connection, setting(Setting.INITIAL_WINDOW_SIZE, 14))
    assert sizes(connection) == [14]
    feed(connection, window(1, 1))
    assert [kind for kind, *_ in split(connection.take())] == [Kind.DATA, Kind.HEADERS, Kind.RST_STREAM]


def test_the_connections_window_is_given_to_who_waited_longest():
    connection = opened(window(0, 1), *(request(at) for at in (1, 3, 5)))
    connection.take()
    for at in (1, 3, 5):
        connection.send_headers(at, ANSWER)
        connection.send_data(at, bytes(40_000), end_stream=True)
    assert sum(sizes(connection)) == 65_536
    feed(connection, window(0, 30_000))
    streams = [stream_id for kind, _, stream_id, _ in split(connection.take()) if kind == Kind.DATA]
    assert streams[0] == 3
    assert set(streams) == {3, 5}


def test_data_without_end_ends_with_the_last_frame():
    connection = opened(window(0, 1 << 20), window(0, 1 << 20), setting(Setting.INITIAL_WINDOW_SIZE, 1 << 20))
    for _ in connection.receive(request(1, end=True)):
        connection.send_headers(1, ANSWER)
        connection.send_data(1, bytes(3 * MAX_FRAME_BYTES), end_stream=True)
    ends = [flags for kind, flags, _, _ in split(connection.take()) if kind == Kind.DATA]
    assert ends == [0, 0, Flag.END_STREAM]


def test_the_windows_of_the_peer_are_kept_open():
    connection = opened(request(1))
    connection.take()
    sent, granted = {0: 0, 1: 0}, {0: 0, 1: 0}
    for _ in range(50):
        feed(connection, data(1, bytes(16_000)))
        for stream_id in sent:
            sent[stream_id] += 16_000
        for kind, _, stream_id, payload in split(connection.take()):
            assert kind == Kind.WINDOW_UPDATE
            granted[stream_id] += int.from_bytes(payload, "big")
    assert not connection.closed
    assert 0 <= sent[0] - granted[0] <= TERMS.window_bytes // 2
    assert 0 <= sent[1] - granted[1] <= TERMS.stream_window_bytes // 2


def test_more_than_a_window_is_a_flow_control_error():
    terms = Terms(stream_window_bytes=20_000, window_bytes=100_000)
    connection = opened(setting(Setting.INITIAL_WINDOW_SIZE, 0), request(1), terms=terms)
    connection.send_data(1, bytes(300_000))  # it waits, so the window is not opened again
    connection.take()
    feed(connection, data(1, bytes(16_000)), data(1, bytes(16_000)))
    assert verdict(connection) == (1, Code.FLOW_CONTROL_ERROR)


def test_who_does_not_take_answers_gets_no_more_to_send_until_it_does():
    connection = opened(setting(Setting.INITIAL_WINDOW_SIZE, 0), request(1))
    connection.send_headers(1, ANSWER)
    connection.send_data(1, bytes(290_000))
    connection.take()
    feed(connection, *[data(1, bytes(16_000))] * 6)
    assert [stream for kind, _, stream, _ in split(connection.take()) if kind == Kind.WINDOW_UPDATE and stream] == []
    feed(connection, window(1, 65_000))
    assert [stream for kind, _, stream, _ in split(connection.take()) if kind == Kind.WINDOW_UPDATE] == [1]


def test_when_the_connections_window_opens_a_held_stream_may_send_again():
    connection = opened(setting(Setting.INITIAL_WINDOW_SIZE, 1 << 20), request(1))
    connection.send_headers(1, ANSWER)
    connection.send_data(1, bytes(65_535))
    connection.send_data(1, bytes(290_000))
    connection.take()
    feed(connection, *[data(1, bytes(16_000))] * 6)
    connection.take()
    feed(connection, window(0, 1 << 20))
    assert (Kind.WINDOW_UPDATE, 1) in [(kind, stream) for kind, _, stream, _ in split(connection.take())]


# -- leaving --------------------------------------------------------------------------------------------------------------


def test_leaving_is_announced_and_what_runs_runs_on():
    connection = opened(request(1))
    connection.take()
    connection.leave()
    (kind, _, _, payload), ping = split(connection.take())
    assert (kind, int.from_bytes(payload[:4], "big")) == (Kind.GOAWAY, MAX_WINDOW_BYTES)
    assert len(feed(connection, request(3))) == 1  # it did not know yet
    feed(connection, frame(Kind.PING, Flag.ACK, 0, ping[3]))
    ((kind, _, _, payload),) = split(connection.take())
    assert (kind, int.from_bytes(payload[:4], "big")) == (Kind.GOAWAY, 3)
    assert feed(connection, request(5)) == []
    assert verdict(connection) == (5, Code.REFUSED_STREAM)
    assert not connection.done
    for stream_id in (1, 3):
        connection.send_headers(stream_id, ANSWER, end_stream=True)
    assert connection.done
    assert not connection.closed


# -- attacks --------------------------------------------------------------------------------------------------------------

CALM = ("connection", Code.ENHANCE_YOUR_CALM)
FLOODS = {
    "ping": frame(Kind.PING, 0, 0, bytes(8)),
    "settings": frames.settings({}),
    "empty data": data(1, b""),
    "padding only": frame(Kind.DATA, Flag.PADDED, 1, b"\x01\0"),
    "priority": frame(Kind.PRIORITY, 0, 1, bytes(5)),
    "window updates": window(1, 1),
    "unknown frames": frame(77, 0, 0),
    "resets of nothing": frames.reset(1, Code.CANCEL),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_ends_the_connection(flood):
    connection = opened(request(1))
    connection.take()
    sent = written = 0
    while not connection.closed:
        feed(connection, FLOODS[flood])
        sent += len(FLOODS[flood])
        written += len(connection.take())
        assert sent <= 2 * patience.CONTROL_BYTES
    assert connection.fault.startswith("ENHANCE_YOUR_CALM")
    assert written <= 2 * sent


@pytest.mark.parametrize("flood", FLOODS)
def test_the_same_amid_work_or_over_time_is_no_flood(flood):
    connection = opened(request(1))
    for at in range(20_000):
        feed(connection, FLOODS[flood], request(2 * at + 3, end=True))
        connection.send_headers(2 * at + 3, ANSWER)
        connection.send_data(2 * at + 3, b"work", end_stream=True)
        connection.take()
    for _ in range(20):
        feed(connection, FLOODS[flood] * 1000)
        connection.take()
        connection.forgive()
    assert not connection.closed


def test_windows_of_many_streams_are_not_changed_often():
    connection = opened(*(request(2 * at + 1) for at in range(40_000)), terms=Terms())
    connection.forgive()
    changes = 0
    while not connection.closed:
        feed(connection, setting(Setting.INITIAL_WINDOW_SIZE, changes % 7))
        changes += 1
    assert 1 < changes < 20


def rapid_reset(at):
    return request(at) + frames.reset(at, Code.CANCEL)


def made_reset(at):
    """The client makes the server reset (CVE-2025-8671)."""
    return request(at) + window(at, 0)


def malformed(at):
    return request(at, fields=without(":path"))


@pytest.mark.parametrize("attack", [rapid_reset, made_reset, malformed])
def test_requests_that_nobody_waits_for_end_the_connection(attack):
    connection = opened()
    at = 1
    while not connection.closed:
        feed(connection, attack(at))
        at += 2
        assert at < 3 * patience.RESETS
    assert verdict(connection) == CALM


def test_streams_that_were_answered_and_then_reset_are_normal():
    connection = opened()
    for at in range(1, 8 * patience.RESETS, 2):
        for event in connection.receive(request(at) + data(at, b"ask") + frames.reset(at, Code.CANCEL)):
            if isinstance(event, Data):
                connection.send_headers(at, ANSWER)
                connection.send_data(at, b"answer")
        connection.take()
    assert not connection.closed


def test_a_refused_stream_costs_nothing_but_its_number():
    connection = opened(*(request(2 * at + 1) for at in range(10)))
    for at in range(10, 500):
        feed(connection, request(2 * at + 1))
    assert len(connection._streams) == 10
    assert not connection.closed


@pytest.mark.parametrize("piece", [b"", b"x", bytes(MAX_FRAME_BYTES)])
def test_a_header_block_without_end_ends_the_connection(piece):
    connection = opened(request(1, flags=0))
    for _ in range(blocks.CONTINUATIONS + 1):
        if not connection.closed:
            feed(connection, continuation(1, piece))
    assert verdict(connection) == CALM


def test_a_block_that_means_more_than_it_may_ends_the_connection():
    connection = opened()
    literal = b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000  # into the table
    assert len(feed(connection, frame(Kind.HEADERS, Flag.END_HEADERS, 1, BLOCK + literal))) == 1
    feed(connection, frame(Kind.HEADERS, Flag.END_HEADERS, 3, BLOCK + b"\xbe" * 100))
    assert verdict(connection) == CALM


def test_answers_that_are_not_taken_are_bounded():
    connection = opened(setting(Setting.INITIAL_WINDOW_SIZE, 0), request(1), request(3))
    connection.take()
    connection.send_data(1, bytes(200_000))
    connection.send_data(3, bytes(200_000))
    assert verdict(connection) == (3, Code.ENHANCE_YOUR_CALM)
    assert connection._outbox.waiting_bytes == 200_000
    ping = frame(Kind.PING, 0, 0, bytes(8))
    assert feed(connection, ping, ping) == [Reset(3, Code.ENHANCE_YOUR_CALM)]


def test_the_memory_of_ended_streams_is_bounded():
    connection = opened()
    for at in range(20_000):
        feed(connection, request(2 * at + 1, end=True))
        connection.send_headers(2 * at + 1, ANSWER, end_stream=True)
        connection.take()
    assert len(connection._past._by_us) <= 8_001
    assert not connection._streams


# -- the same bytes, cut anywhere -----------------------------------------------------------------------------------------

odd = st.integers(0, 4).map(lambda at: 2 * at + 1)
payloads = st.binary(max_size=30)
frames_sent = st.one_of(
    st.builds(lambda at, end: request(at, end=end), odd, st.booleans()),
    st.builds(lambda at, payload, end: data(at, payload, end=end), odd, payloads, st.booleans()),
    st.builds(rapid_reset, odd),
    st.builds(window, odd | st.just(0), st.integers(0, MAX_WINDOW_BYTES)),
    st.builds(lambda at: request(at, flags=0) + continuation(at, b"", end=True), odd),
    st.builds(lambda size: setting(Setting.INITIAL_WINDOW_SIZE, size), st.integers(0, 100)),
    st.builds(lambda at: frame(Kind.HEADERS, Flag.END_HEADERS | Flag.END_STREAM, at, TRAILERS), odd),
    st.builds(frame, st.integers(0, 12), st.integers(0, 255), st.integers(0, 9), payloads),
    st.just(frame(Kind.PING, 0, 0, bytes(8))),
    payloads,
)


def respond(connection, pieces):
    """Run a responder that echoes; return what happened and what it wrote."""
    events, out = [], b""
    for piece in pieces:
        for event in connection.receive(piece):
            events.append(event)
            if isinstance(event, Request):
                connection.send_headers(event.stream_id, ANSWER)
            elif isinstance(event, Data):
                connection.send_data(event.stream_id, event.data)
            if isinstance(event, Trailers) or getattr(event, "end_stream", False):
                connection.send_trailers(event.stream_id, TRAILERS)
        out += connection.take()
    return events, out, connection.fault


@given(st.lists(frames_sent, max_size=12).map(b"".join), st.lists(st.integers(0, 400), max_size=6))
@settings(max_examples=300)
def test_bytes_mean_the_same_however_they_are_cut(sent, cuts):
    sent = HELLO + sent
    edges = sorted({0, len(sent), *(at for at in cuts if at < len(sent))})
    pieces = [sent[begin:end] for begin, end in itertools.pairwise(edges)]
    whole = respond(Connection(TERMS), [sent])
    assert respond(Connection(TERMS), pieces) == whole
    assert respond(Connection(TERMS), [sent[at : at + 1] for at in range(len(sent))]) == whole


# -- the h2 library as client ---------------------------------------------------------------------------------------------


class Client:
    """The library, wired to a connection of ours whose application echoes."""

    def __init__(self, terms=TERMS):
        self.machine = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.machine.initiate_connection()
        self.server = Connection(terms)
        self.got = {}
        self.ended = set()

    def exchange(self):
        """Carry bytes until nobody has any."""
        while True:
            there = self.machine.data_to_send()
            _, back, _ = respond(self.server, [there])
            if not there and not back:
                return
            for event in self.machine.receive_data(back):
                if isinstance(event, h2.events.DataReceived):
                    self.got[event.stream_id] = self.got.get(event.stream_id, b"") + event.data
                    self.machine.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                    self.ended.add(event.stream_id)
                assert not isinstance(event, h2.events.ConnectionTerminated), event


@given(
    st.lists(st.tuples(st.lists(st.binary(max_size=40_000), max_size=4), st.booleans()), min_size=1, max_size=5),
    st.integers(0, 100_000),
    st.sampled_from([0, 100, 4096]),
)
@settings(max_examples=60)
def test_the_library_gets_back_what_it_sent(streams, window_bytes, table_bytes):
    client = Client()
    client.machine.update_settings(
        {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window_bytes, h2.settings.SettingCodes.HEADER_TABLE_SIZE: table_bytes}
    )
    client.exchange()
    for at, (pieces, trailers) in enumerate(streams):
        stream_id = 2 * at + 1
        client.machine.send_headers(stream_id, [*FIELDS, ("x-number", str(at))])
        for piece in pieces:
            for begin in range(0, len(piece), MAX_FRAME_BYTES):
                client.machine.send_data(stream_id, piece[begin : begin + MAX_FRAME_BYTES], pad_length=at or None)
                client.exchange()
        if trailers:
            client.machine.send_headers(stream_id, [("x-end", "1")], end_stream=True)
        else:
            client.machine.end_stream(stream_id)
        client.exchange()
        if stream_id not in client.ended:
            client.machine.increment_flow_control_window(200_000, stream_id)
            client.exchange()
    for at, (pieces, _) in enumerate(streams):
        assert client.got.get(2 * at + 1, b"") == b"".join(pieces)
        assert 2 * at + 1 in client.ended
