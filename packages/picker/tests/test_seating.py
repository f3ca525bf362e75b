"""Seats are given out once, cleared after the dead, and those of orphans left alone until they are gone."""

import asyncio
import os

import pytest

from shunter.picker.core.ledger import Booking, Ledger, first_ticket
from shunter.picker.errors import ConfigError
from shunter.picker.shell import claim
from shunter.picker.shell import seating as seatings
from shunter.picker.shell.memory import Memory, Seat
from shunter.picker.shell.seating import Seating

BOOKING = Booking(0, 1, 1_000, 100)


@pytest.fixture
async def seating(tmp_path):
    seating = Seating(tmp_path, 2)
    await seating.open()
    return seating


async def test_no_two_have_one_seat_or_one_life_and_the_collector_has_the_last(seating):
    seats = [seating.take() for _ in range(6)] + [seating.take_sharers(), seating.take_last()]
    assert [seat.index for seat in seats] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert len({seat.life for seat in seats}) == 8
    seating.give_back(seats[3])
    assert seating.take().index == 3


async def test_what_the_dead_had_in_flight_is_struck_out_and_what_they_did_stays(seating):
    seat = seating.take()
    memory = Memory(seat)
    before = seating.account(seat)
    memory.counters.picked(BOOKING, 0, 0)
    assert seating.account(seat) != before
    memory.close()
    assert seating.tally().by_endpoint[0, 1].in_flight == 1
    seating.clear(seat)
    account = seating.tally().by_endpoint[0, 1]
    assert (account.picks, account.in_flight, account.tokens_in_flight) == (1, 0, 0)
    assert seating.take().index == seat.index


@pytest.mark.parametrize("at", [3, 6])
async def test_what_a_killed_picker_had_in_flight_is_struck_out_wherever_that_sat(seating, tmp_path, make_fleet, at):
    seats = [seating.take() for _ in range(6)] + [seating.take_last()]
    dead = Memory(seats[at])
    dead.counters.booked(BOOKING)
    dead.journal.booked(first_ticket(seats[at].life), BOOKING)
    dead.close()
    successor = Seating(tmp_path, 2)
    await successor.open()
    assert not successor.tally().by_endpoint
    worker, ledger = Memory(successor.take()), Ledger()
    worker.peers.catch_up(ledger, make_fleet({}), None, {0: 1})
    assert not len(ledger)
    worker.close()


async def test_orphans_keep_their_seats_until_they_are_gone(seating, tmp_path, monkeypatch):
    orphan = Memory(seating.take())
    orphan.counters.booked(BOOKING)
    asked = []

    def leave(pid, number):
        asked.append((pid, number))
        orphan.close()

    monkeypatch.setattr(os, "kill", leave)
    successor = Seating(tmp_path, 2)
    await successor.open()
    assert successor.orphaned
    assert successor.take().index == 1
    (tmp_path / "seat-5.lock").mkdir()  # who looks whether somebody sits there keeps others from sitting down
    async with asyncio.timeout(20):
        await successor.relieve_orphans()
    assert len(asked) == 1
    assert not successor.orphaned
    assert not successor.tally().by_endpoint
    assert successor.take().index == 0


async def test_a_reload_has_room_beside_as_many_orphans_as_there_may_be(seating, tmp_path):
    orphans = [Memory(seating.take()) for _ in range(3)]  # two, and one that drains
    successor = Seating(tmp_path, 2)
    await successor.open()
    assert [successor.take().index for _ in range(3)] == [3, 4, 5]
    for orphan in orphans:
        orphan.close()


async def test_orphans_of_a_larger_picker_are_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "SEATS_FREE_S", 0.05)
    orphan = Memory(Seat(tmp_path, 9, 10, 1))
    with pytest.raises(ConfigError, match=r"fuser .*seat-9\.lock"):
        await Seating(tmp_path, 1).open()
    orphan.close()
    await Seating(tmp_path, 1).open()


async def test_who_sits_down_at_this_moment_has_no_pid_yet_and_nobody_else_is_told_to_go(seating, tmp_path, monkeypatch):
    monkeypatch.setattr(seatings, "LAST_WORDS_S", 0.0)
    monkeypatch.setattr(seatings, "ORPHAN_S", 0.0)
    orphan = Memory(seating.take())
    orphan.counters.pid = 0
    asked = []
    monkeypatch.setattr(os, "kill", lambda *told: asked.append(told))
    successor = Seating(tmp_path, 2)
    await successor.open()
    await successor.relieve_orphans()
    assert not asked  # 0 would be all of our own process group
    orphan.close()


async def test_orphans_that_leave_no_room_are_an_error_that_names_one(seating, tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "SEATS_FREE_S", 0.05)
    orphans = [Memory(seating.take()) for _ in range(4)]
    with pytest.raises(ConfigError, match=r"fuser .*seat-0\.lock"):
        await Seating(tmp_path, 2).open()
    for orphan in orphans:
        orphan.close()
