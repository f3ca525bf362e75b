"""A sharer at a server that is not there, or full of what is not ours: it says so, and goes on."""

import asyncio
import time

import pytest

from shunter.picker.core.journal import Booked, read_event
from shunter.picker.core.ledger import Booking, first_ticket
from shunter.picker.core.sharing import Message, Sent, Share, encode
from shunter.picker.errors import ConfigError
from shunter.picker.shell import sharer as module
from shunter.picker.shell.memory import Memory, Seat, new_life
from shunter.picker.shell.sharer import Settings, Sharer

pytest.importorskip("redis", reason="pip install 'shunter-picker[sharing]'")


class Server:
    """A Redis that has one stream, in memory, and may be away."""

    def __init__(self):
        self.entries = []
        self.away = self.read_only = False
        self.clock_s = self.looks = 0
        self._news = asyncio.Event()

    def put(self, data, field=b"m"):
        self.entries.append((b"%d-0" % (len(self.entries) + 1), {field: data}))
        self._news.set()

    def _answer(self):
        if self.away:
            raise ConnectionError("nobody there")

    async def time(self):
        self._answer()
        self.looks += 1
        return self.clock_s, 1000

    async def xadd(self, stream, fields, *, maxlen, approximate):
        self._answer()
        if self.read_only:
            raise ConnectionError("you cannot write against a read only replica")
        self.put(fields[b"m"])

    async def xrevrange(self, stream, count):
        self._answer()
        return self.entries[::-1]

    async def xread(self, streams, *, count, block):
        self._answer()
        (after,) = streams.values()
        new = [each for each in self.entries if int(each[0].split(b"-")[0]) > int(after.split(b"-")[0])]
        if not new:
            self._news.clear()
            await asyncio.wait([asyncio.ensure_future(self._news.wait())], timeout=0.02)
        return [(b"stream", new)] if new else None

    async def aclose(self):
        pass


@pytest.fixture
async def server(monkeypatch):
    server = Server()
    monkeypatch.setattr(module, "_client", lambda _url: server)
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)
    return server


@pytest.fixture
async def replica(tmp_path, publish, server):
    """A sharer in the second seat of a picker with one endpoint; the worker's memory of the first."""
    publish(8000)
    worker = Memory(Seat(tmp_path, 0, 2, new_life(tmp_path)))
    sharer = Sharer(
        Settings(url="redis://user:secret@h/1", group="g", snapshot=tmp_path), Seat(tmp_path, 1, 2, new_life(tmp_path))
    )
    await sharer.start()
    yield sharer, worker
    await sharer.drain(1.0)
    worker.close()


def message(number, *events, replica="other"):
    return encode(Message(replica, number, events))


def sent(ticket, authority="127.0.0.1:8000"):
    return Sent(ticket, 0, Share(authority, 10))


async def heard(sharer):
    return sharer.hearer.in_flight


async def test_what_others_say_is_booked_and_what_is_not_ours_is_left_out(replica, server, eventually):
    sharer, worker = replica
    news = worker.others()[1]
    server.put(b"\xc1")
    server.put(b"hello", field=b"else")
    server.put(message(1, sent(7), sent(8, "10.9.9.9:1")))
    assert await eventually(lambda: heard(sharer)) == 1
    booked = [event for record in news.read().records if isinstance(event := read_event(record), Booked)]
    assert [each.booking.tokens for each in booked] == [10]
    assert sharer.status().reports == {"sharing": "1 other replicas, 1 of their requests in flight"}


async def test_what_workers_do_is_told(replica, server, eventually):
    _, worker = replica
    worker.journal.booked(first_ticket(1) + 1, Booking(0, 1, time.monotonic_ns(), 10))

    async def told():
        return any(b"127.0.0.1:8000" in fields[b"m"] for _, fields in server.entries)

    await eventually(told)


async def test_a_servers_clock_that_is_set_is_noticed(replica, server, eventually, monkeypatch):
    """What it stores has the first clock's time; by the second one's it was written too long ago to go by."""
    sharer, _ = replica
    server.put(message(1, sent(7)))
    await eventually(lambda: heard(sharer))
    monkeypatch.setattr(module, "CLOCK_S", 0.01)
    server.clock_s = 3600

    async def forgotten():
        server.put(message(len(server.entries) + 1, sent(8)))
        return not await heard(sharer)

    await eventually(forgotten)


async def test_a_server_that_is_away_is_told_once_and_heard_of_again(replica, server, eventually, caplog):
    caplog.set_level("INFO")
    sharer, _ = replica
    server.put(message(1, sent(7)))
    await eventually(lambda: heard(sharer))
    server.away = True

    async def away():
        words = "redis://h/1 does not answer"
        status = sharer.status()
        assert (status.hindrances == (words,)) == (words in status.reports["sharing"])
        return bool(status.hindrances)

    async def back():
        return not await away()

    await eventually(away)
    server.away = False
    server.put(message(2, sent(8)))
    await eventually(back)
    assert caplog.text.count("redis://h/1: nobody there; replicas know nothing of each other until it answers") == 1
    assert "secret" not in caplog.text


@pytest.mark.parametrize("url", ["http://h", "redis://h:port", ""])
def test_an_address_that_is_none_is_refused(tmp_path, url):
    with pytest.raises(ConfigError, match="--share: "):
        Sharer(Settings(url=url, group="g", snapshot=tmp_path), Seat(tmp_path, 0, 1, 1))


async def test_a_half_that_breaks_is_not_left_for_well(replica, server, monkeypatch):

    async def broken(*_, **__):
        raise ValueError("what nobody thought of")

    monkeypatch.setattr(server, "xread", broken)
    (ended,), _ = await asyncio.wait(replica[0].tasks, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    assert str(ended.exception()) == "what nobody thought of"


async def test_a_server_that_may_only_be_read_is_told_once_and_as_long_as_it_is_so(
    replica, server, eventually, monkeypatch, caplog
):
    monkeypatch.setattr(module, "CLOCK_S", 0.01)
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.01)
    sharer, _ = replica
    server.read_only = True

    async def hindered():
        return sharer.status().hindrances

    await eventually(hindered)
    for number in range(1, 4):
        looks = server.looks

        async def looked_again(looks=looks):
            assert await hindered()
            return server.looks > looks + 1

        server.put(message(number))
        await eventually(looked_again)
    assert caplog.text.count("read only replica; replicas know nothing of each other") == 1
    server.read_only = False

    async def well():
        return not await hindered()

    await eventually(well)
