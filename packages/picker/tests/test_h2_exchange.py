"""The same bytes mean the same however they are cut, and the h2 library as client gets back what it sent."""

import itertools

import h2.config
import h2.connection
import h2.events
import h2.settings
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.picker.testing_h2 import (
    ANSWER,
    FIELDS,
    HELLO,
    TERMS,
    TRAILERS,
    Data,
    Recorded,
    Request,
    Trailers,
    continuation,
    data,
    frame,
    request,
    setting,
    window,
)
from shunter.picker.transport import frames
from shunter.picker.transport.frames import MAX_FRAME_BYTES, MAX_WINDOW_BYTES, Code, Flag, Kind, Setting

odd = st.integers(0, 4).map(lambda at: 2 * at + 1)
payloads = st.binary(max_size=30)
frames_sent = st.one_of(
    st.builds(lambda at, end: request(at, end=end), odd, st.booleans()),
    st.builds(lambda at, payload, end: data(at, payload, end=end), odd, payloads, st.booleans()),
    st.builds(lambda at: request(at) + frames.reset(at, Code.CANCEL), odd),
    st.builds(window, odd | st.just(0), st.integers(0, MAX_WINDOW_BYTES)),
    st.builds(lambda at: request(at, flags=0) + continuation(at, b"", end=True), odd),
    st.builds(lambda size: setting(Setting.INITIAL_WINDOW_SIZE, size), st.integers(0, 100)),
    st.builds(lambda at: frame(Kind.HEADERS, Flag.END_HEADERS | Flag.END_STREAM, at, TRAILERS), odd),
    st.builds(frame, st.integers(0, 12), st.integers(0, 255), st.integers(0, 9), payloads),
    st.just(frame(Kind.PING, 0, 0, bytes(8))),
    payloads,
)


def echo(connection, event):
    """Answer as a responder that says what it hears."""
    if isinstance(event, Request):
        connection.say_headers(event.stream_id, ANSWER)
    elif isinstance(event, Data):
        connection.say_data(event.stream_id, event.data)
    if isinstance(event, Trailers) or getattr(event, "end_stream", False):
        connection.say_trailers(event.stream_id, TRAILERS)


def respond(connection, pieces):
    """Return what happened and what was written."""
    events, out = [], b""
    for piece in pieces:
        events += connection.hear(piece)
        out += connection.take()
    return events, out, connection.fault


@given(st.lists(frames_sent, max_size=12).map(b"".join), st.lists(st.integers(0, 400), max_size=6))
@settings(max_examples=300)
def test_bytes_mean_the_same_however_they_are_cut(sent, cuts):
    sent = HELLO + sent
    edges = sorted({0, len(sent), *(at for at in cuts if at < len(sent))})
    pieces = [sent[begin:end] for begin, end in itertools.pairwise(edges)]
    whole = respond(Recorded(TERMS, echo), [sent])
    assert respond(Recorded(TERMS, echo), pieces) == whole
    assert respond(Recorded(TERMS, echo), [sent[at : at + 1] for at in range(len(sent))]) == whole


class Client:
    """The library, wired to a connection of ours whose application echoes."""

    def __init__(self, terms=TERMS):
        self.machine = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.machine.initiate_connection()
        self.server = Recorded(terms, echo)
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
