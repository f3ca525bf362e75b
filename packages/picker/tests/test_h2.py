"""The HTTP/2 connection: what RFC 9113 wants, row by row."""

import pytest

from shunter.picker.testing_h2 import (
    ANSWER,
    BLOCK,
    FIELDS,
    TERMS,
    TRAILERS,
    Data,
    Recorded,
    Request,
    Reset,
    Trailers,
    continuation,
    data,
    feed,
    frame,
    number,
    opened,
    request,
    setting,
    split,
    verdict,
    window,
    without,
)
from shunter.picker.transport import frames
from shunter.picker.transport.frames import MAX_FRAME_BYTES, MAX_WINDOW_BYTES, Code, Flag, Kind, Setting
from shunter.picker.transport.h2 import Terms

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
        connection.say_trailers(1, ANSWER)  # makes room for one more
        assert [type(event) for event in feed(connection, request(101))] == [Request]


@pytest.mark.parametrize(
    "hello", [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nXX", frames.PREFACE + frame(Kind.PING, 0, 0, bytes(8))]
)
def test_who_does_not_say_hello_is_sent_away(hello):
    connection = Recorded()
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
    connection.say_headers(1, ANSWER)
    connection.say_data(1, b"abc")
    connection.say_trailers(1, TRAILERS)
    connection.say_data(1, b"too late")
    head, content, end = split(connection.take())
    # The first block begins with a table of size 0 (RFC 7541 section 4.2).
    assert head == (Kind.HEADERS, Flag.END_HEADERS, 1, b"\x20" + ANSWER)
    assert content == (Kind.DATA, 0, 1, b"abc")
    assert end == (Kind.HEADERS, Flag.END_HEADERS | Flag.END_STREAM, 1, TRAILERS)


def test_a_peer_that_is_not_ready_when_we_are_is_asked_to_stop_and_may_still_be_sending():
    connection = opened(request(1))
    connection.take()
    connection.say_trailers(1, ANSWER)
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
    connection.say_headers(1, ANSWER)
    connection.say_data(1, b"x")
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
    connection.say_headers(1, ANSWER)
    connection.say_data(1, bytes(30))
    connection.say_trailers(1, TRAILERS)
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
        connection.say_headers(at, ANSWER)
        connection.say_data(at, bytes(40_000), end_stream=True)
    assert sum(sizes(connection)) == 65_536
    feed(connection, window(0, 30_000))
    streams = [stream_id for kind, _, stream_id, _ in split(connection.take()) if kind == Kind.DATA]
    assert streams[0] == 3
    assert set(streams) == {3, 5}


def test_data_without_end_ends_with_the_last_frame():
    connection = opened(window(0, 1 << 20), window(0, 1 << 20), setting(Setting.INITIAL_WINDOW_SIZE, 1 << 20))
    feed(connection, request(1, end=True))
    connection.say_headers(1, ANSWER)
    connection.say_data(1, bytes(3 * MAX_FRAME_BYTES), end_stream=True)
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
    connection.say_data(1, bytes(300_000))  # it waits, so the window is not opened again
    connection.take()
    feed(connection, data(1, bytes(16_000)), data(1, bytes(16_000)))
    assert verdict(connection) == (1, Code.FLOW_CONTROL_ERROR)


def test_who_does_not_take_answers_gets_no_more_to_send_until_it_does():
    connection = opened(setting(Setting.INITIAL_WINDOW_SIZE, 0), request(1))
    connection.say_headers(1, ANSWER)
    connection.say_data(1, bytes(290_000))
    connection.take()
    feed(connection, *[data(1, bytes(16_000))] * 6)
    assert [stream for kind, _, stream, _ in split(connection.take()) if kind == Kind.WINDOW_UPDATE and stream] == []
    feed(connection, window(1, 65_000))
    assert [stream for kind, _, stream, _ in split(connection.take()) if kind == Kind.WINDOW_UPDATE] == [1]


def test_when_the_connections_window_opens_a_held_stream_may_send_again():
    connection = opened(setting(Setting.INITIAL_WINDOW_SIZE, 1 << 20), request(1))
    connection.say_headers(1, ANSWER)
    connection.say_data(1, bytes(65_535))
    connection.say_data(1, bytes(290_000))
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
        connection.say_trailers(stream_id, ANSWER)
    assert connection.done
    assert not connection.closed
