"""gRPC without a socket: how calls begin, go wrong and end; the h2 library is the client."""

import struct
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.limits import Budget
from shunter.picker.transport.grpc import GrpcConnection, StatusCode, StatusError
from shunter.picker.transport.h2 import Terms

LIMIT_BYTES = 100_000
REQUEST = [
    *[(":method", "POST"), (":scheme", "http"), (":path", "/echo"), (":authority", "test")],
    *[("te", "trailers"), ("content-type", "application/grpc")],
]


class Echo:
    """Answers each message with itself, twice; some messages have a meaning."""

    def __init__(self, exchange):
        self.exchange, self.ended, self.closed = exchange, False, 0

    def receive(self, message, now_s):
        if message == b"fail":
            raise StatusError(StatusCode.INTERNAL, "100 % wrong: ä\n")
        self.ended = message == b"enough"
        return [message, message] if message != b"silence" else []

    def finish(self, now_s):
        self.ended = True
        return [b"bye"]

    def close(self, now_s):
        self.closed += 1


def frame(message, compressed=0):
    return struct.pack(">BL", compressed, len(message)) + message


class Wire:
    """A client and a server, and what came back by stream."""

    def __init__(self, terms=None, budget_bytes=1 << 20):
        self.calls = []
        self.terms = terms
        self.acknowledging = True
        self.budget = Budget(budget_bytes)
        self.server = self.connect()
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.client.initiate_connection()
        self.fields, self.content, self.ended = {}, {}, set()
        self.now_s = 100.0

    def connect(self):
        def echo(exchange):
            self.calls.append(Echo(exchange))
            return self.calls[-1]

        return GrpcConnection({"/echo": echo}, self.budget, max_message_bytes=LIMIT_BYTES, terms=self.terms)

    def carry(self):
        while True:
            there = self.client.data_to_send()
            self.server.receive(there, self.now_s)
            back = self.server.http.take()
            if not there and not back:
                return
            for event in self.client.receive_data(back):
                match event:
                    case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                        self.fields.setdefault(event.stream_id, {}).update(event.headers)
                    case h2.events.DataReceived():
                        self.content[event.stream_id] = self.content.get(event.stream_id, b"") + event.data
                        if self.acknowledging:
                            self.client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    case h2.events.StreamEnded():
                        self.ended.add(event.stream_id)

    def open(self, *more, end=False, without=()):
        stream_id = self.client.get_next_available_stream_id()
        fields = [pair for pair in REQUEST if pair[0] not in {*without, *(name for name, _ in more)}]
        fields = [pair for pair in (*more, *fields) if pair[0][0] == ":"] + [p for p in (*fields, *more) if p[0][0] != ":"]
        self.client.send_headers(stream_id, fields, end_stream=end)
        self.carry()
        return stream_id

    def send(self, stream_id, data, *, end=False):
        for at in range(0, len(data), 16_384):
            self.client.send_data(stream_id, data[at : at + 16_384])
        if end:
            self.client.end_stream(stream_id)
        self.carry()

    def status(self, stream_id):
        assert stream_id in self.ended
        fields = self.fields[stream_id]
        return int(fields[b"grpc-status"]), unquote(fields.get(b"grpc-message", b"").decode())


def test_a_conversation():
    wire = Wire()
    stream = wire.open()
    wire.send(stream, frame(b"one") + frame(b"two"))
    wire.send(stream, frame(b""), end=True)
    assert wire.content[stream] == frame(b"one") * 2 + frame(b"two") * 2 + frame(b"") * 2 + frame(b"bye")
    assert wire.status(stream) == (0, "")
    assert wire.fields[stream][b"content-type"] == b"application/grpc"
    assert [call.closed for call in wire.calls] == [1]


def test_a_call_that_has_said_enough_ends_before_the_client_does():
    wire = Wire()
    stream = wire.open()
    wire.send(stream, frame(b"enough") + frame(b"more"))
    assert wire.content[stream] == frame(b"enough") * 2
    assert wire.status(stream) == (0, "")
    assert wire.calls[0].closed == 1


@pytest.mark.parametrize("begun", [False, True])
def test_an_error_has_its_code_and_its_words(begun):
    wire = Wire()
    stream = wire.open()
    if begun:
        wire.send(stream, frame(b"hello"))
    wire.send(stream, frame(b"fail") + frame(b"more"))
    assert wire.fields[stream][b"grpc-message"] == b"100 %25 wrong: %C3%A4%0A"
    assert wire.status(stream) == (13, "100 % wrong: ä\n")
    assert wire.calls[0].closed == 1


def test_an_unknown_method_is_unimplemented():
    wire = Wire()
    assert wire.status(wire.open((":path", "/other"))) == (12, "no method /other")


def test_what_is_no_grpc_is_told_in_http():
    wire = Wire()
    streams = [
        wire.open((":method", "GET"), end=True),
        wire.open(("content-type", "text/html"), end=True),
        wire.open(without=["content-type"]),
    ]
    assert streams[2] not in wire.ended  # it may still be sending
    wire.send(streams[2], b"hello", end=True)
    assert [wire.fields[stream][b":status"] for stream in streams] == [b"405", b"415", b"415"]
    assert all(wire.content[stream].startswith(b"This is a gRPC server") for stream in streams)
    assert wire.ended == {*streams}
    assert wire.calls == []


@pytest.mark.parametrize(
    ("content_type", "passes"), [("grpc+proto", True), ("grpc;v=1", True), ("grpc-web", False), ("grpcs", False)]
)
def test_grpc_has_relatives_that_are_another_protocol(content_type, passes):
    wire = Wire()
    wire.open(("content-type", f"application/{content_type}"))
    assert len(wire.calls) == passes


def test_a_compressed_message_is_unimplemented_and_the_encodings_are_named():
    wire = Wire()
    stream = wire.open(("grpc-encoding", "gzip"))
    wire.send(stream, frame(b"plain") + frame(b"packed", compressed=1))
    assert wire.content[stream] == frame(b"plain") * 2
    assert wire.status(stream)[0] == 12
    assert wire.fields[stream][b"grpc-accept-encoding"] == b"identity"


def test_a_message_at_the_limit_passes_and_one_above_is_refused_at_its_announcement():
    wire = Wire()
    stream = wire.open()
    wire.send(stream, frame(bytes(LIMIT_BYTES)))
    assert len(wire.content[stream]) == 2 * (LIMIT_BYTES + 5)
    wire.send(stream, struct.pack(">BL", 0, LIMIT_BYTES + 1))
    assert wire.status(stream) == (8, f"a message of {LIMIT_BYTES + 1} bytes; the limit is {LIMIT_BYTES}")


def test_unfinished_messages_of_all_connections_share_a_budget_and_give_it_back():
    wire = Wire(budget_bytes=50_000)
    first, second = wire.open(), wire.open()
    wire.send(first, frame(bytes(60_000))[:40_000])
    wire.send(second, frame(bytes(60_000))[:20_000])
    assert wire.status(second)[0] == 8
    assert wire.budget.taken_bytes == 40_000
    wire.client.reset_stream(first)
    wire.carry()
    assert wire.budget.taken_bytes == 0
    third = wire.open()
    wire.send(third, frame(bytes(49_000)))
    assert len(wire.content[third]) == 2 * 49_005
    assert wire.budget.taken_bytes == 0


def test_a_message_that_is_cut_off_is_an_invalid_argument():
    wire = Wire()
    stream = wire.open()
    wire.send(stream, frame(b"whole")[:-1], end=True)
    assert wire.status(stream) == (3, "the last message is cut off")
    assert wire.budget.taken_bytes == 0


def test_a_lost_connection_closes_every_call():
    wire = Wire()
    for stream in (wire.open(), wire.open()):
        wire.send(stream, frame(b"unfinished")[:-1])
    wire.server.close(wire.now_s)
    wire.server.close(wire.now_s)
    assert [call.closed for call in wire.calls] == [1, 1]
    assert wire.budget.taken_bytes == 0


def test_a_client_that_takes_no_answers_loses_the_call_that_is_too_much():
    wire = Wire(Terms(waiting_bytes=100_000))
    wire.acknowledging = False
    small, large = wire.open(), wire.open()
    for _ in range(6):
        if wire.calls[1].closed == 0:
            wire.send(large, frame(bytes(20_000)))
    assert [call.closed for call in wire.calls] == [0, 1]
    wire.send(small, frame(b"enough"))
    assert wire.calls[0].closed == 1


def test_a_client_that_breaks_http_closes_every_call():
    wire = Wire()
    wire.open()
    wire.server.receive(b"\0\0\1\0\0\0\0\0\0\0", wire.now_s)  # DATA of stream 0
    assert [call.closed for call in wire.calls] == [1]
    assert wire.server.http.done


@pytest.mark.parametrize(("timeout", "seconds"), [("2S", 2), ("2000m", 2), ("1M", 60), ("1H", 3600), ("5u", 5e-6)])
def test_a_deadline_ends_the_call(timeout, seconds):
    wire = Wire()
    stream, other = wire.open(("grpc-timeout", timeout)), wire.open()
    assert wire.server.agenda[0][0] == pytest.approx(wire.now_s + seconds)
    wire.server.expire(wire.now_s + seconds * 0.99)
    assert wire.calls[0].closed == 0
    wire.server.expire(wire.now_s + seconds * 1.01)
    wire.carry()
    assert wire.status(stream)[0] == 4
    assert [call.closed for call in wire.calls] == [1, 0]
    assert not wire.server.agenda
    assert other not in wire.ended


def test_deadlines_of_calls_that_are_over_are_forgotten():
    wire = Wire()
    last = wire.open(("grpc-timeout", "2H"))
    for _ in range(200):
        wire.send(wire.open(("grpc-timeout", "1H")), b"", end=True)
    assert len(wire.server.agenda) <= 70
    wire.server.expire(wire.now_s + 7201)
    wire.carry()
    assert wire.status(last)[0] == 4


@pytest.mark.parametrize("timeout", ["", "5", "S", "123456789S", "-1S", "1s"])
def test_a_deadline_that_is_none_is_an_invalid_argument(timeout):
    wire = Wire()
    assert wire.status(wire.open(("grpc-timeout", timeout)))[0] == 3


def test_a_call_may_speak_and_end_without_being_asked():
    wire = Wire()
    stream = wire.open()
    wire.calls[0].exchange.send([b"news"])
    wire.carry()
    wire.calls[0].exchange.end(wire.now_s)
    wire.carry()
    assert wire.content[stream] == frame(b"news")
    assert wire.status(stream) == (0, "")


@given(st.lists(st.binary(max_size=300), max_size=6), st.lists(st.integers(1, 200), min_size=1, max_size=20))
def test_messages_are_the_same_however_they_are_cut(messages, sizes):
    wire = Wire()
    stream = wire.open()
    sent = b"".join(map(frame, messages))
    at = 0
    for size in sizes:
        wire.send(stream, sent[at : at + size])
        at += size
    wire.send(stream, sent[at:], end=True)
    expected = [part for message in messages for part in (message, message)]
    for special in (b"fail", b"enough", b"silence"):
        assert special not in messages
    assert wire.content[stream] == b"".join(map(frame, [*expected, b"bye"]))
    assert wire.budget.taken_bytes == 0
