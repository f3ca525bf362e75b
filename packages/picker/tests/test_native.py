"""The native transport on real sockets: what only sockets and clocks can show."""

import asyncio
import os
import random
import socket
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.errors import ConfigError
from shunter.picker.testing import StubJudge
from shunter.picker.transport import frames, hpack, native
from shunter.picker.transport.frames import Kind
from shunter.picker.transport.health import Health
from shunter.picker.transport.native import NativeServer
from shunter.picker.transport.protobuf import field

DEADLINE_S = 20
HELLO = frames.PREFACE + frames.settings({})
CHECK = "/grpc.health.v1.Health/Check"
PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"


class Clock:
    now_s = 1000.0

    def __call__(self):
        return self.now_s


class Running:
    """A server whose clock stands still until somebody moves it."""

    def __init__(self, limits, **fields):
        self.writers = []
        self.judge, self.clock, self.health = StubJudge(), Clock(), Health()
        budget = Budget(limits.buffered_bytes)
        make_session = lambda: Session(self.judge, limits, budget)  # noqa: E731  one line is what it is
        self.server = NativeServer(make_session, self.health, limits, clock=self.clock, **fields)

    def pass_time(self, seconds):
        self.clock.now_s += seconds
        self.server._sweep()

    async def connect(self, hello=HELLO):
        already = len(self.server.connections)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        writer.write(hello)
        await until(lambda: len(self.server.connections) > already)
        return reader, writer

    async def hang_up(self):
        for writer in self.writers:
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def running(limits=None, **fields):
    running = Running(limits or Limits(), **fields)
    running.port = await running.server.start("127.0.0.1", 0)
    try:
        yield running
    finally:
        await running.hang_up()
        await running.server.stop()


async def until(condition):
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  nobody signals it
            await asyncio.sleep(0.001)


async def read_frame(reader):
    high, low, kind, flags, stream_id = frames.read_head(await reader.readexactly(9), 0)
    return kind, flags, stream_id, await reader.readexactly(high << 8 | low)


async def read_until(reader, kind):
    async with asyncio.timeout(DEADLINE_S):
        while (found := await read_frame(reader))[0] != kind:
            pass
    return found


def open_stream(stream_id, path=PROCESS):
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc")]
    block = hpack.encode(fields)
    return frames.head(Kind.HEADERS, frames.Flag.END_HEADERS, stream_id, len(block)) + block


async def test_all_replies_to_one_read_are_one_write(monkeypatch):
    written = []
    async with running() as server:
        reader, _ = await server.connect()
        await read_until(reader, Kind.SETTINGS)
        (connection,) = server.server.connections
        await until(lambda: connection._grpc.http.greeted)
        with monkeypatch.context() as patch:
            patch.setattr(connection, "_transport", SimpleNamespace(write=written.append, is_closing=lambda: False))
            calls = [open_stream(at, CHECK) + frames.head(Kind.DATA, 1, at, 5) + bytes(5) for at in (1, 3)]
            connection.data_received(b"".join(calls))
    assert len(written) == 1
    assert written[0].count(b"\x08\x02") == 2  # NOT_SERVING, twice


class Turns:
    """A transport that counts what is done between two turns of the loop."""

    def __init__(self):
        self.turns = [[]]  # sizes written
        self.written = bytearray()
        self.reading = True

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True

    def is_closing(self):
        return False

    def write(self, data):
        self.writelines([data])

    def writelines(self, pieces):
        written = b"".join(pieces)
        self.written += written
        self.turns[-1].append(len(written))

    async def pass_turn(self):
        self.turns.append([])
        await asyncio.sleep(0)


async def test_a_large_body_comes_and_goes_a_part_at_a_time(monkeypatch):
    body = os.urandom(10 << 20)
    pieces = [field(0x22, field(0x0A, body[at : at + 60_000])) for at in range(0, len(body), 60_000)]
    messages = [field(0x12, b""), *pieces, field(0x22, b"\x10\x01")]
    content = b"".join(len(each).to_bytes(5, "big") + each for each in messages)
    sent = frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 1 << 24}) + frames.update_window(0, 1 << 24) + open_stream(1)
    sent += b"".join(
        frames.head(Kind.DATA, 0, 1, len(piece)) + piece
        for piece in (content[at : at + frames.MAX_FRAME_BYTES] for at in range(0, len(content), frames.MAX_FRAME_BYTES))
    )
    async with running() as server:
        await server.connect()
        (connection,) = server.server.connections
        await until(lambda: connection._grpc.http.greeted)
        with monkeypatch.context() as patch:
            wire = Turns()
            patch.setattr(connection, "_transport", wire)
            for at in range(0, len(sent), 256 << 10):
                read = sent[at : at + (256 << 10)]
                connection.data_received(read)
                assert wire.reading == (len(read) < native.TURN_BYTES)
                await wire.pass_turn()
                assert wire.reading
            while not connection._grpc.http.drained:
                connection.flush()  # as for whoever else has something to say
                await wire.pass_turn()
    assert len(wire.written) > len(body)
    assert max(map(sum, wire.turns)) < 1 << 20
    assert body[-1000:] in wire.written


async def test_who_sends_nothing_is_cut_off():
    async with running() as server:
        reader, _ = await server.connect(hello=b"")
        server.pass_time(native.GREETING_S - 1)
        assert server.server.connections
        server.pass_time(2)
        async with asyncio.timeout(DEADLINE_S):
            assert await read_until_end(reader)


async def read_until_end(reader):
    """Read until the server hangs up, by whichever means."""
    try:
        while await reader.read(65_536):
            pass
    except ConnectionError:
        pass
    return True


async def test_who_falls_silent_is_pinged_and_stays_if_it_answers():
    async with running() as server:
        reader, writer = await server.connect()
        await read_until(reader, Kind.SETTINGS)
        await until(lambda: all(connection._grpc.http.greeted for connection in server.server.connections))
        for _ in range(3):
            server.pass_time(native.SILENCE_S + 1)
            _, _, _, payload = await read_until(reader, Kind.PING)
            heard = [connection._heard_s for connection in server.server.connections]
            writer.write(frames.head(Kind.PING, frames.Flag.ACK, 0, 8) + payload)
            await until(lambda heard=heard: [c._heard_s for c in server.server.connections] != heard)
        server.pass_time(native.SILENCE_S + 1)
        server.pass_time(native.SWEEP_S + 1)
        await read_until_end(reader)


async def stall(server):
    """Connect, and read nothing until the server has more to say than is taken; return both ends."""
    reader, _ = await server.connect()
    reader._transport.pause_reading()
    (connection,) = server.server.connections
    await until(lambda: connection._grpc.http.greeted)
    ping = frames.head(Kind.PING, 0, 0, 8) + bytes(8)
    while connection._stalled_s is None:
        connection._grpc.http.forgive()
        connection.data_received(ping * 1000)
    return reader, connection


async def test_who_does_not_read_is_no_longer_read_from_and_then_cut_off():
    async with running() as server:
        _reader, connection = await stall(server)
        assert not connection._transport.is_reading()
        server.pass_time(native.STALL_S - 1)
        assert server.server.connections
        server.pass_time(2)
        await until(lambda: not server.server.connections)


async def test_who_reads_again_is_read_from_again():
    async with running() as server:
        reader, connection = await stall(server)
        reader._transport.resume_reading()
        drained = asyncio.create_task(read_until_end(reader))
        await until(connection._transport.is_reading)
        drained.cancel()


async def test_who_breaks_the_protocol_gets_the_last_word_and_time_to_read_it():
    async with running() as server:
        reader, _ = await server.connect(b"GET / HTTP/1.1\r\n\r\n" * 1000)
        _, _, _, payload = await read_until(reader, Kind.GOAWAY)
        assert payload[4:].startswith(frames.Code.PROTOCOL_ERROR.to_bytes(4, "big"))
        assert await reader.read() == b""
        server.pass_time(native.SWEEP_S)
        await until(lambda: not server.server.connections)


async def test_a_lost_connection_releases_its_requests():
    async with running() as server:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
        calls = [channel.stream_stream(PROCESS)() for _ in range(3)]
        headers, body = b"\x12\x00", b"\x22\x06\x0a\x02{}\x10\x01"
        for call in calls:
            await call.write(headers)
            await call.write(body)
            await call.read()
        await channel.close()
        await until(lambda: len(server.judge.released) == 3)
        assert not any(connection.processes for connection in server.server.connections)


async def test_more_connections_than_allowed_are_cut_off(monkeypatch):
    monkeypatch.setattr(native, "CONNECTIONS", 1)
    async with running() as server:
        first, _ = await server.connect()
        await read_until(first, Kind.SETTINGS)
        second, other = await asyncio.open_connection("127.0.0.1", server.port)
        await read_until_end(second)
        assert len(server.server.connections) == 1
        other.close()
        with suppress(ConnectionError):
            await other.wait_closed()


async def test_connections_share_what_may_wait_for_peers_that_take_no_answers():
    size_bytes = 50_000
    deaf = frames.PREFACE + frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 0})
    body = field(0x22, field(0x0A, bytes(size_bytes)) + b"\x10\x01")
    said = message(1, b"\x12\x00") + b"".join(
        frames.head(Kind.DATA, 0, 1, len(part)) + part
        for content in [b"\0" + len(body).to_bytes(4, "big") + body]
        for part in (content[at : at + 16_384] for at in range(0, len(content), 16_384))
    )

    async def ask():
        reader, writer = await server.connect(deaf + open_stream(1))
        writer.write(said)
        found = await settle(reader, writer)
        return writer, [payload for kind, _, _, payload in found if kind == Kind.RST_STREAM]

    async with running(Limits(body_bytes=size_bytes, buffered_bytes=size_bytes * 3 // 2)) as server:
        first, resets = await ask()
        assert not resets
        _, resets = await ask()
        assert resets == [frames.Code.ENHANCE_YOUR_CALM.to_bytes(4, "big")]
        first.transport.abort()
        await until(lambda: len(server.server.connections) == 1)
        _, resets = await ask()
        assert not resets


# -- the age of a connection ---------------------------------------------------------------------------------------------------

AGE_S = 100.0
HEADERS = b"\x12\x00\x5a\x02\x08\x02"  # request_headers, and a protocol_config that says BUFFERED
BODY = b"\x22\x06\x0a\x02{}\x10\x01"


def message(stream_id, data):
    return frames.head(Kind.DATA, 0, stream_id, 5 + len(data)) + b"\0" + len(data).to_bytes(4, "big") + data


async def settle(reader, writer):
    """Wait until all that was written has been served; return the frames that came of it."""
    found = []
    for ping in (b"are you ", b"settled?"):  # twice: a PING may be answered ahead of what was sent before it
        writer.write(frames.head(Kind.PING, 0, 0, 8) + ping)
        async with asyncio.timeout(DEADLINE_S):
            while (frame := await read_frame(reader))[3] != ping:
                found.append(frame)
    return found


async def is_told_to_go(server, reader, writer):
    """Answer the PING behind the first GOAWAY as a client does that has seen it; return the last stream it may have opened."""
    _, _, _, payload = await read_until(reader, Kind.GOAWAY)
    assert payload[:8] == frames.MAX_WINDOW_BYTES.to_bytes(4, "big") + bytes(4)
    _, _, _, ping = await read_until(reader, Kind.PING)
    writer.write(frames.head(Kind.PING, frames.Flag.ACK, 0, 8) + ping)
    _, _, _, payload = await read_until(reader, Kind.GOAWAY)
    return int.from_bytes(payload[:4], "big")


async def test_a_connection_of_age_is_told_to_go_and_serves_what_runs():
    async with running(max_age_s=AGE_S) as server:
        reader, writer = await server.connect()
        writer.write(open_stream(1) + message(1, HEADERS) + message(1, BODY) + open_stream(3) + message(3, HEADERS))
        await settle(reader, writer)
        server.pass_time(AGE_S * (1 - native.JITTER) - 1)
        assert Kind.GOAWAY not in [kind for kind, *_ in await settle(reader, writer)]
        server.pass_time(AGE_S * 2 * native.JITTER + 2)
        writer.write(open_stream(5) + message(5, HEADERS))  # by a client that has not read yet
        assert await is_told_to_go(server, reader, writer) == 5
        writer.write(open_stream(7))
        refused = [payload for kind, _, at, payload in await settle(reader, writer) if (kind, at) == (Kind.RST_STREAM, 7)]
        assert refused == [frames.Code.REFUSED_STREAM.to_bytes(4, "big")]
        for stream_id in (3, 5):
            writer.write(message(stream_id, BODY))
        assert {at for kind, _, at, _ in await settle(reader, writer) if kind == Kind.DATA} == {3, 5}
        assert server.judge.picked == [1, 2, 3]
        assert not server.judge.released
        writer.write(b"".join(frames.reset(at, frames.Code.CANCEL) for at in (1, 3, 5)))
        assert await reader.read() == b""
        assert len(server.judge.released) == 3


async def test_after_as_much_time_again_only_idle_streams_end_and_they_end_well():
    async with running(max_age_s=AGE_S) as server:
        reader, writer = await server.connect()
        writer.write(open_stream(1) + message(1, HEADERS) + message(1, BODY) + open_stream(3) + message(3, HEADERS))
        await settle(reader, writer)
        server.pass_time(AGE_S * (1 + native.JITTER) + 1)
        await is_told_to_go(server, reader, writer)
        assert not await settle(reader, writer)
        server.pass_time(AGE_S * (1 + native.JITTER))
        ends = [
            (at, payload) for kind, flags, at, payload in await settle(reader, writer) if kind == Kind.HEADERS and flags & 1
        ]
        assert [at for at, _ in ends] == [1]
        assert b"grpc-status\x010" in ends[0][1]
        writer.write(message(3, BODY))
        answered = await read_until(reader, Kind.HEADERS)
        while not answered[1] & 1:
            answered = await read_until(reader, Kind.HEADERS)
        assert b"grpc-status\x010" in answered[3]
        await read_until_end(reader)


async def test_who_comes_through_the_door_while_it_closes_is_told_to_go():
    async with running() as server:
        server.server.draining = True
        reader, writer = await server.connect()
        assert await is_told_to_go(server, reader, writer) == 0
        await read_until_end(reader)


async def test_connections_do_not_all_go_at_once():
    async with running(max_age_s=AGE_S, dice=random.Random(1)) as server:
        ages_s = {server.server.draw_age_s() for _ in range(100)}
    assert len(ages_s) == 100
    assert AGE_S * (1 - native.JITTER) <= min(ages_s) < AGE_S < max(ages_s) <= AGE_S * (1 + native.JITTER)


async def test_a_connection_of_no_age_stays():
    async with running() as server:
        reader, writer = await server.connect()
        await settle(reader, writer)
        server.clock.now_s += 1e9
        (connection,) = server.server.connections
        connection._heard_s = server.clock.now_s
        server.server._sweep()
        assert not await settle(reader, writer)


async def test_a_client_with_a_deadline_is_told_in_time():
    limits = Limits()
    judge, health = StubJudge(), Health()
    server = NativeServer(lambda: Session(judge, limits, Budget(limits.buffered_bytes)), health, limits)
    port = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    fields = [(":method", "POST"), (":scheme", "http"), (":path", PROCESS), ("content-type", "application/grpc")]
    for stream_id, timeout in ((1, "1H"), (3, "20m")):
        block = hpack.encode([*fields, ("grpc-timeout", timeout)])
        writer.write(HELLO if stream_id == 1 else b"")
        writer.write(frames.head(Kind.HEADERS, frames.Flag.END_HEADERS, stream_id, len(block)) + block)
    _, _, stream_id, payload = await read_until(reader, Kind.HEADERS)
    assert stream_id == 3
    assert b"grpc-status\x014" in payload
    writer.close()
    await writer.wait_closed()
    await server.stop()


async def test_a_socket_by_name_is_the_users_own_and_replaces_a_dead_one(tmp_path):
    path = tmp_path / "picker.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    limits = Limits()
    server = NativeServer(lambda: None, Health(), limits)
    assert await server.start(f"unix:{path}", 9002, 9003) == 0
    assert path.stat().st_mode & 0o777 == 0o600
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        answer = await channel.unary_unary(CHECK)(health_pb2.HealthCheckRequest(service="liveness").SerializeToString())
    assert answer == b"\x08\x01"
    other = NativeServer(lambda: None, Health(), limits)
    with pytest.raises(ConfigError, match="somebody does already"):
        await other.start(f"unix:{path}", 0)
    await server.stop()
    assert not path.exists()


async def test_a_file_that_is_no_socket_is_never_replaced(tmp_path):
    path = tmp_path / "tls.key"
    path.write_text("precious")
    for shared in (False, True):
        with pytest.raises(ConfigError, match="is not a socket"):
            await NativeServer(lambda: None, Health(), Limits(), reuse_port=shared).start(f"unix:{path}", 0)
    assert path.read_text() == "precious"


async def test_a_socket_in_no_directory_is_a_clear_error(tmp_path):
    server = NativeServer(lambda: None, Health(), Limits())
    with pytest.raises(ConfigError, match=r"cannot listen on unix:.*there is no directory"):
        await server.start(f"unix:{tmp_path}/absent/picker.sock", 0)


async def test_a_drain_cuts_off_nobody_who_may_still_be_reading(monkeypatch):
    monkeypatch.setattr(native, "LAST_WORDS_S", 0)
    async with running() as picker:
        reader, writer = await picker.connect()
        draining = asyncio.create_task(picker.server.drain(DEADLINE_S))
        *_, payload = await read_until(reader, Kind.PING)
        writer.write(frames.head(Kind.PING, frames.Flag.ACK, 0, len(payload)) + payload)
        await reader.read()  # to the last word
        picker.pass_time(native.HANG_UP_S - 1)
        assert picker.server.connections
        assert not draining.done()
        picker.pass_time(1)
        await draining
        assert not picker.server.connections


async def test_a_drain_resets_nobody_whom_the_kernel_has_let_in_already():
    async with running() as picker:
        doors = [socket.create_connection(("127.0.0.1", picker.port)) for _ in range(20)]  # the loop has no turn meanwhile
        for door in doors:
            door.sendall(HELLO)
            door.setblocking(False)
        draining = asyncio.create_task(picker.server.drain(DEADLINE_S))
        loop = asyncio.get_running_loop()
        greetings = await asyncio.gather(*[loop.sock_recv(door, 9) for door in doors], return_exceptions=True)
        assert greetings == [greetings[0]] * 20
        assert frames.settings({})[3:5] == greetings[0][3:5]
        for door in doors:
            door.close()
        await draining
