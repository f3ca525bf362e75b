"""The collector over real sockets: what it is told it has learnt, also after its death; who lies or floods costs little."""

import asyncio
import contextlib
import json
import random
import socket
import time

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from shunter.envoyconf import EnvoyMissingError, Intent, Listener, Picker, Pool, bootstrap
from shunter.envoyconf.shell import envoy
from shunter.envoyconf.testing import running_envoy
from shunter.picker import config
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask
from shunter.picker.errors import ConfigError, PickerError
from shunter.picker.shell import collector as module
from shunter.picker.shell.collector import Collector, LearnedReader, Settings
from shunter.picker.shell.memory import Memory, Seat, new_life
from shunter.snapshot import RingError, SnapshotReader

SEATS = 3
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
END = {"type": "DownstreamEnd", "status": 200, "id": "1", "host": "127.0.0.1:7001", "pick": "127.0.0.1:7001"}


def message(*records):
    return msgspec.msgpack.encode(["shunter", [[1795631453, record] for record in records]])


@pytest.fixture
def collecting(tmp_path, publish):
    """Run a collector of the one runtime directory there is; ``stays=False``: the test sees to its end."""
    publish(7001, 7002)

    @contextlib.asynccontextmanager
    async def run(*, stays=True):
        collector = Collector(Settings(snapshot=tmp_path, port=0), Seat(tmp_path, SEATS - 1, SEATS, new_life(tmp_path)))
        collector.port = await collector.start()
        try:
            yield collector
        finally:
            if stays:
                await collector.drain(0.1)

    return run


@pytest.fixture
def learned(tmp_path, eventually):
    """Await what was learnt once it is as wanted."""
    reader = LearnedReader(tmp_path)

    async def learned(wanted):
        async def ask():
            newest = reader.read(time.monotonic_ns())
            return newest if newest is not None and wanted(newest) else None

        return await eventually(ask)

    yield learned
    reader.close()


@contextlib.asynccontextmanager
async def connected(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_what_is_told_is_learnt(collecting, learned):
    async with collecting() as collector, connected(collector.port) as (_, writer):
        writer.write(message(END, END | {"host": "127.0.0.1:7002"}) + message(END)[:20])
        writer.write(message(END)[20:])
        found = await learned(lambda each: each.records == 3)
    assert {row.endpoint: row.requests for row in found.rows.values()} == {"127.0.0.1:7001": 2, "127.0.0.1:7002": 1}
    assert found.fallbacks == 1


async def test_a_successor_goes_on_from_what_was_learnt(collecting, learned):
    for total in (2, 4):
        async with collecting() as collector, connected(collector.port) as (_, writer):
            writer.write(message(END, END))
            await learned(lambda each, total=total: each.records == total)


async def test_going_it_takes_what_is_still_sent(collecting, learned):
    async with collecting(stays=False) as collector:
        async with connected(collector.port) as (reader, writer):
            writer.write(message(END))
            await learned(lambda each: each.records == 1)
            going = asyncio.create_task(collector.drain(30))
            assert await reader.read() == b""  # it hangs up, and Envoy sends the rest
            writer.write(message(END, END))
        await going
    assert (await learned(lambda each: each.records == 3)).unread == 0


async def test_a_foreign_peer_is_refused_by_name_and_costs_the_others_nothing(collecting, learned, caplog):
    async with collecting() as collector, connected(collector.port) as (_, writer):
        async with connected(collector.port) as (reader, foreign):
            stranger = foreign.get_extra_info("sockname")
            foreign.write(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        speaker = writer.get_extra_info("sockname")
        for total in (1, 2):
            writer.write(message(END, {"type": "TcpConnectionEnd"}))
            found = await learned(lambda each, total=total: each.records == total)
    assert (found.refused_peers, found.unread) == (1, 2)
    assert caplog.text.count(f"the connection of {stranger} for records is refused") == 1
    assert caplog.text.count(f"{speaker} sends entries that are no records") == 1, "once, however many"


async def test_who_is_silent_for_the_longest_makes_room_for_who_comes(collecting, learned, monkeypatch):
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    async with collecting() as collector, connected(collector.port) as (lost, _), connected(collector.port) as (_, writer):
        writer.write(message(END))
        await learned(lambda each: each.records == 1)
        async with connected(collector.port) as (_, newcomer):
            with contextlib.suppress(ConnectionError):
                assert await lost.read() == b""
            newcomer.write(message(END))
            writer.write(message(END))
            found = await learned(lambda each: each.records == 3)
    assert found.refused_peers == 1


def test_a_ring_that_is_none_is_named(tmp_path):
    (tmp_path / "learned").write_text("something else")
    with pytest.raises(PickerError, match=r"learned: not a Shunter ring.*remove it"):
        Collector(Settings(snapshot=tmp_path), Seat(tmp_path, 0, 1, new_life(tmp_path)))


async def test_want_of_memory_delays_what_is_learnt_and_stops_nothing(collecting, learned, eventually, monkeypatch, caplog):
    full = True
    refused = 0
    publish = module.RingWriter.publish

    def publish_if_it_fits(ring, payload, now_ns):
        nonlocal refused
        if full:
            refused += 1
            raise RingError("learned: No space left on device")
        return publish(ring, payload, now_ns)

    async with collecting() as collector, connected(collector.port) as (_, writer):
        monkeypatch.setattr(module.RingWriter, "publish", publish_if_it_fits)
        writer.write(message(END))

        async def twice():
            return refused > 1

        await eventually(twice)
        full = False
        await learned(lambda each: each.records == 1)
    assert caplog.text.count("No space left") == 1


async def test_a_port_that_is_taken_is_named(tmp_path, publish):
    publish(7001)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        settings = Settings(snapshot=tmp_path, port=held.getsockname()[1])
        collector = Collector(settings, Seat(tmp_path, 0, 1, new_life(tmp_path)))
        with pytest.raises(ConfigError, match="choose another with --collector-port"):
            await collector.start()
        await collector.drain(0)


async def test_the_dead_workers_request_is_in_every_account_until_it_ends(collecting, learned, tmp_path):
    snapshot = SnapshotReader(tmp_path)

    def sit(index):
        memory = Memory(Seat(tmp_path, index, SEATS, new_life(tmp_path)))
        life, journal, peers = memory.counters.life, memory.journal, memory.peers
        judge = FleetJudge(
            *(config.load().policy, snapshot.view, random.Random(1)),
            life=life,
            counters=memory.counters,
            journal=journal,
            peers=peers,
        )
        return judge, memory

    def in_flight(judge):
        return len(judge.ledger) if judge.catch_up(time.monotonic()) is None else None

    async with collecting() as collector, connected(collector.port) as (_, writer):
        dead, its_memory = sit(0)
        other, others_memory = sit(1)
        pick = dead.decide(Ask({":path": "/v1/chat/completions"}, BODY), time.monotonic())
        assert in_flight(other) == 1
        live = {"type": "DownstreamPeriodic", "id": str(pick.ticket), "host": pick.endpoints[0], "duration_ms": 1000}
        writer.write(message(live, END))
        await learned(lambda each: each.records == 1)
        assert in_flight(other) == 1  # the worker lives: the request is its own
        its_memory.close()
        successor, its_memory = sit(0)
        assert in_flight(other) == in_flight(successor) == 0
        writer.write(message(live | {"duration_ms": 2000}))
        await learned(lambda each: each.adopting == 1)
        assert in_flight(other) == in_flight(successor) == 1
        writer.write(message(live | {"type": "DownstreamEnd"}))
        await learned(lambda each: each.adopting == 0 and each.adopted == 1)
        assert in_flight(other) == in_flight(successor) == 0
        its_memory.close()
        others_memory.close()
    snapshot.close()


@pytest.mark.envoy
async def test_a_handover_under_load_loses_no_record_of_a_real_envoy(tmp_path, publish, learned):
    publish(7001)
    try:
        binary = await asyncio.to_thread(envoy.ensure)
    except EnvoyMissingError as error:
        pytest.skip(f"no Envoy: {str(error).splitlines()[0]}")

    async def answer(request):
        return web.Response(body=await request.read())

    async def run(port):
        collector = Collector(Settings(snapshot=tmp_path, port=port), Seat(tmp_path, SEATS - 1, SEATS, new_life(tmp_path)))
        collector.port = await collector.start()
        return collector

    app = web.Application()
    app.router.add_post("/", answer)
    first = await run(0)
    async with TestServer(app, host="127.0.0.1") as server, aiohttp.ClientSession() as client:
        asked = Picker(addresses=("127.0.0.1:1",), collector=f"127.0.0.1:{first.port}")
        pool = Pool(name="p", endpoints=(f"127.0.0.1:{server.port}",), picker=asked)
        resource = bootstrap(Intent(pools=(pool,), listeners=(Listener(port=0),)))
        async with running_envoy(resource, binary) as gateway:
            over, sent = asyncio.Event(), 0

            async def ask():
                nonlocal sent
                while not over.is_set():
                    async with client.post(gateway.url, data=b"x") as response:
                        assert response.status == 200
                        sent += 1

            asking = [asyncio.create_task(ask()) for _ in range(4)]
            collector = first
            for _ in range(5):
                before = sent
                await learned(lambda each, before=before: each.records > before)
                await collector.drain(30)
                collector = await run(first.port)
            over.set()
            await asyncio.gather(*asking)
            assert (await learned(lambda each: each.records >= sent)).records == sent
            await collector.drain(30)
