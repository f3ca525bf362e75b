"""The chaos drill sees what it is there to see."""

import asyncio
import time

import pytest
from hack.chaos import report
from hack.chaos.__main__ import PROFILES, keep, plan
from hack.chaos.engines import CHUNK, Connection, Engine, whole
from hack.chaos.load import STREAMED_EVERY, Clients, Toll
from hack.chaos.trial import Row
from hack.chaos.witness import Witness, until

from shunter.picker.core.ledger import Booking
from shunter.picker.shell.memory import Memory, Seat

PATIENCE_S = 30.0  # with a server that answers


class Sound(Connection):
    """Streams without a pause, to save time."""

    def speak(self, left):
        for _ in range(left):
            self.transport.write(CHUNK)
        super().speak(0)


class Refusing(Sound):
    def answer(self, path, body):
        self.transport.write(whole("text/plain", "no").replace(b"200 OK", b"503 Service Unavailable"))


class Cutting(Sound):
    def speak(self, left):
        self.transport.write(CHUNK)
        self.transport.close()


class Forgetful(Sound):
    """Ends its streams in the best order, but early."""

    def speak(self, left):
        super().speak(left - 1)


class Unfinished(Sound):
    """Ends its streams in the best order, but for the last event."""

    def speak(self, left):
        self.transport.write(CHUNK * (left + 1) + b"0\r\n\r\n")


class Slow(Sound):
    def answer(self, path, body):
        if b'"stream": true' not in body:
            super().answer(path, body)


class HangingUp(Sound):
    def answer(self, path, body):
        self.transport.close()


async def ask(connection, requests=24, patience_s=PATIENCE_S):
    server = await asyncio.get_running_loop().create_server(lambda: connection(Engine()), "127.0.0.1", 0)
    toll, over = Toll(), asyncio.Event()
    clients = Clients(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", 1000, patience_s=patience_s)

    async def end():
        await until(lambda: toll.requests >= requests)
        over.set()

    async with server, asyncio.TaskGroup() as tasks:
        tasks.create_task(clients.ask_until(over, toll, "test-"))
        tasks.create_task(end())
    return toll


async def test_clients_that_get_what_they_want_do_not_complain():
    toll = await ask(Sound)
    assert toll.requests >= 24
    assert toll.failures == 0
    assert len(toll.heads_s) == toll.requests


@pytest.mark.parametrize(
    ("connection", "kind", "streams_alone"),
    [
        (Refusing, "status 503", False),
        (HangingUp, "ServerDisconnectedError", False),
        (Cutting, "cut", True),
        (Forgetful, "incomplete", True),
        (Unfinished, "incomplete", True),
        (Slow, "timeout", True),
    ],
)
async def test_clients_notice(connection, kind, streams_alone):
    toll = await ask(connection, patience_s=2.0 if connection is Slow else PATIENCE_S)
    expected = -(-toll.requests // STREAMED_EVERY) if streams_alone else toll.requests
    assert toll.failed == {kind: expected}
    assert {kind for _, _, kind in toll.losses} == {kind}


class Seats:
    """Two workers, a spare seat and the collector's, and who watches them."""

    def __init__(self, directory):
        self.memories = [Memory(Seat(directory, index, 4, life=index + 1)) for index in range(4)]
        self.sit(0, 1000)
        self.sit(1, 1001)
        self.witness = Witness(directory, 2)

    def sit(self, seat, pid):
        self.memories[seat].counters.pid = pid
        self.pick(seat)

    def pick(self, seat):
        self.memories[seat].counters.picked(Booking(0, 1, 0), 0, 0)

    def felt(self):
        self.witness.look(time.monotonic())
        return not self.witness.all_over


@pytest.fixture
def seats(tmp_path):
    seats = Seats(tmp_path)
    yield seats
    for memory in seats.memories:
        memory.close()


def test_a_strike_is_felt_until_the_successor_picks_wherever_it_sits(seats):
    seats.witness.struck_workers({1000})
    assert seats.felt()
    seats.pick(1)
    seats.pick(0)  # the last thing the victim did
    assert seats.felt(), "the survivor alone is not enough"
    seats.memories[0].counters.pid = 1002
    assert seats.felt(), "it sits, but has not picked"
    seats.sit(2, 1003)
    assert seats.felt(), "it has only just been seen"
    seats.pick(2)
    assert not seats.felt()
    (strike,) = seats.witness.strikes
    assert strike.felt_s > 0


def test_a_strike_on_all_is_felt_until_all_have_successors(seats):
    seats.witness.struck_workers({1000, 1001})
    for seat, pid in ((0, 1002), (2, 1003)):
        seats.sit(seat, pid)
        assert seats.felt()
        seats.pick(seat)
    assert not seats.felt()


def test_silence_is_the_longest_time_without_a_pick(seats):
    seats.witness.look(1)
    seats.witness.look(9)  # nobody has asked yet
    for now_s in (10, 11, 14):
        seats.pick(now_s % 2)
        seats.witness.look(now_s)
    seats.witness.look(15)
    assert seats.witness.silence_s == 3


def test_what_anybody_has_booked_is_seen_until_it_is_released(seats):
    bookings = Booking(3, 1, 0), Booking(0, 1, 0)
    before = seats.witness.booked
    for memory, booking in zip(seats.memories[-2:], bookings, strict=True):  # a spare seat, and the collector
        memory.counters.booked(booking)
    assert seats.witness.booked == before + 2
    for memory, booking in zip(seats.memories[-2:], bookings, strict=True):
        memory.counters.unbooked(booking)
    assert seats.witness.booked == before


def row(**changes):
    values = {
        "profile": "lean",
        "default": True,
        "fault": "SIGKILL a worker",
        "kills": 200,
        "requests": 51_234,
        "failures": 0,
        "fallbacks": 17,
        "recovery_ms": 310.0,
        "recovery_max_ms": 812.5,
        "silence_ms": 40.0,
        "p99_ms": 12.0,
        "booked": 0,
        "kinds": {},
    }
    return Row(**values | changes)


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True),
        ({"failures": 1, "kinds": {"cut": 1}}, False),
        ({"silence_ms": 1001.0}, False),
        ({"booked": 1}, False),
        ({"recovery_max_ms": None}, False),
        ({"kills": 0, "recovery_ms": None, "recovery_max_ms": None}, True),
    ],
)
def test_the_target_is_no_failure_and_picks_within_a_second(changes, holds):
    assert report.holds(row(**changes)) == holds


def test_the_page_says_what_was_counted():
    header = report.Header(seed=7, rate_per_s=320, workers=2, cores=2, python="3.11", envoy="1.40.0", kernel="6")
    rows = [row(), row(fault="SIGKILL all workers", kills=12, requests=1_000, failures=3, kinds={"cut": 2, "status 503": 1})]
    others = [row(profile=name, default=False, recovery_max_ms=None) for name in ("usage", "strict", "headers", "full")]
    page = report.page(header, rows + others)
    assert "**3 of 52,234 requests failed, over 212 strikes.**" in page
    assert "| SIGKILL all workers | 12 | 1,000 | **3** (2 cut, 1 status 503) | 17 | 310 (812) ms | 40 ms | 12 ms | 0 |" in page
    assert "310 (never) ms" in page
    assert "seed 7" in page


def test_every_profile_that_is_struck_has_a_place_on_the_page():
    header = report.Header(seed=7, rate_per_s=320, workers=2, cores=2, python="3.11", envoy="1.40.0", kernel="6")
    rows = [row(profile=name, requests=1_000 + at) for at, name in enumerate(PROFILES)]
    page = report.page(header, rows)
    assert all(f"of {each.requests:,} requests failed" in page for each in rows)
    with pytest.raises(ValueError, match="no place for native"):
        report.page(header, [*rows, row(profile="native")])


def test_what_leaves_something_out_keeps_away_from_the_figures_of_a_complete_run(tmp_path):
    header = report.Header(seed=7, rate_per_s=320, workers=2, cores=2, python="3.11", envoy="1.40.0", kernel="6")
    (tmp_path / "docs").mkdir()
    keep(tmp_path, header, [row(profile=name) for name in PROFILES], whole=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert {path.name for path in before} == {"chaos.json", "chaos.md"}
    part = keep(tmp_path, header, [row()], whole=False)
    assert part not in before
    assert {path: path.read_bytes() for path in before} == before


def test_a_complete_run_kills_200_workers_in_the_default_profile_and_a_quick_one_leaves_out_no_profile():
    assert {fault.name: times for fault, times in plan("lean", quick=False)}["SIGKILL a worker"] >= 200
    assert all(times >= 1 for profile in PROFILES for _, times in plan(profile, quick=True))
