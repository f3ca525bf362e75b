"""The h2 library as client of the HTTP/2 connection gets back what it sent."""

import h2.config
import h2.connection
import h2.events
import h2.settings
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.picker.testing_h2 import (
    FIELDS,
    TERMS,
)
from shunter.picker.transport.frames import MAX_FRAME_BYTES
from shunter.picker.transport.h2 import Connection


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
