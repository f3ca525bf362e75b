import json
import os
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker import config
from shunter.picker.core.journal import Journal, Peers
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, Outcome
from shunter.picker.core.tables import fold
from shunter.picker.errors import PickerError
from shunter.picker.shell.memory import Memory, Seat, new_life, watch
from shunter.snapshot import Endpoint, Health, Load, LoadRow, LogReader, LogWriter, Topology, View

NOW_S = 100.0
POLICY = config.load().policy
DONE = Outcome(complete=True, status=200)


def ask(text):
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    return Ask({":path": "/v1/chat/completions"}, body)


@pytest.fixture
def sit(tmp_path, make_view):
    """A worker's judge in a seat; ``judge.memory.close()`` is what its death does to the seat."""
    view = make_view({"waiting": 0.0}, {"waiting": 0.0}, {"waiting": 0.0})
    open_ones = []

    def make(index, seats=3):
        memory = Memory(Seat(tmp_path, index, seats, new_life(tmp_path)))
        open_ones.append(memory)
        judge = FleetJudge(
            POLICY,
            lambda _now_ns: view,
            random.Random(1),
            life=memory.counters.life,
            counters=memory.counters,
            journal=memory.journal,
            peers=memory.peers,
        )
        judge.memory = memory
        return judge

    yield make
    for memory in open_ones:
        memory.close()


def test_workers_spread_a_burst_as_one_would(sit):
    judges = [sit(0), sit(1)]
    picks = [judges[at % 2].decide(ask(str(at)), NOW_S).endpoints[0] for at in range(12)]
    assert sorted(picks.count(f"10.0.0.{at}:8000") for at in (1, 2, 3)) == [4, 4, 4]


def test_a_prompt_that_another_worker_sent_is_found(sit):
    first, second = sit(0), sit(1)
    sent = first.decide(ask("word " * 1000), NOW_S)
    assert second.decide(ask("word " * 1000), NOW_S).endpoints[0] == sent.endpoints[0]
    assert sum(account.prefix_hits for account in second.counters.tally().by_endpoint.values()) > 0


def test_a_successor_knows_what_the_dead_one_sent_where(sit):
    dead = sit(0)
    sent = dead.decide(ask("word " * 1000), NOW_S)
    dead.memory.close()
    successor = sit(0)
    assert successor.fleet(NOW_S).in_flight == [0, 0, 0]
    assert successor.decide(ask("word " * 1000), NOW_S).endpoints[0] == sent.endpoints[0]
    assert successor.counters.tally().picks == 2


def test_an_end_that_somebody_else_learnt_of_is_an_end(sit):
    """The collector does, of requests whose stream ended long before them."""
    worker, collector = sit(0), sit(1)
    ticket = worker.decide(ask("hello"), NOW_S).ticket
    collector.memory.journal.ended(ticket, complete=True)
    for _ in range(2):
        assert worker.fleet(NOW_S).in_flight == [0, 0, 0]
        tally = worker.counters.tally()
        assert (tally.released, sum(account.in_flight for account in tally.by_endpoint.values())) == (1, 0)
        worker.release(ticket, DONE, NOW_S)
    assert collector.fleet(NOW_S).in_flight == [0, 0, 0]


def test_who_watches_sees_all_seats(sit, tmp_path):
    judges = [sit(0), sit(1)]
    tickets = [judge.decide(ask("hello"), NOW_S).ticket for judge in judges]
    judges[0].release(tickets[0], DONE, NOW_S)
    seen = watch(tmp_path, 3)
    total = fold([counters.tally() for counters in seen])
    assert (total.picks, total.released, sum(account.in_flight for account in total.by_endpoint.values())) == (2, 1, 1)
    assert [counters.life for counters in seen] == [1, 2, 0]
    assert seen[0].pid == os.getpid()


def test_a_seat_has_one_occupant(sit):
    sit(0)
    with pytest.raises(PickerError, match="sits in seat 0"):
        sit(0)


def test_lives_go_on_whatever_the_file_holds(tmp_path):
    assert [new_life(tmp_path) for _ in range(3)] == [1, 2, 3]
    (tmp_path / "lives").write_text("nonsense")
    assert new_life(tmp_path) == 1


def test_files_of_another_release_are_swept(sit, tmp_path):
    (tmp_path / "journal-0").write_bytes(b"foreign" * 1000)
    (tmp_path / "counters-0").write_bytes(b"foreign" * 1000)
    judge, other = sit(0), sit(1)
    judge.decide(ask("hello"), NOW_S)
    assert judge.counters.tally().picks == 1
    assert sum(other.fleet(NOW_S).in_flight) == 1


def test_a_directory_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PickerError, match=r"seat-0\.lock: No such file or directory; the directory must exist"):
        Memory(Seat(tmp_path / "none", 0, 1, 1))


def view_of(count):
    endpoints = tuple(Endpoint(slot=at, incarnation=1, name="p", address=f"10.0.0.{at + 1}", port=8000) for at in range(count))
    rows = [LoadRow(slot=at, incarnation=1, health=Health.FRESH, sampled_ns=1, waiting=0.0) for at in range(count)]
    return View(Topology(epoch=1, generation=1, endpoints=endpoints), Load.of(rows, epoch=1, topology_generation=1))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_judges_that_share_see_the_same_fleet_and_the_same_prefixes(steps):
    view = view_of(3)
    logs = [bytearray(1 << 17) for _ in range(3)]
    journals = [Journal(LogWriter(log), life) for life, log in enumerate(logs, 1)]
    for journal in journals:
        journal.begun()
    judges = [
        FleetJudge(
            POLICY,
            lambda _now_ns: view,
            random.Random(life),
            life=life,
            journal=journal,
            peers=Peers([LogReader(log) for log in logs], life),
        )
        for life, journal in enumerate(journals, 1)
    ]
    tickets = []
    for which, what, prompt in steps:
        if what or not tickets:
            pick = judges[which].decide(ask(f"{prompt} says " * 100), 1e-9)
            tickets.append((judges[which], pick))
        else:
            judge, pick = tickets.pop(which % len(tickets))
            served = pick.endpoints[prompt % 3]
            judge.release(pick.ticket, msgspec.structs.replace(DONE, served=served), 1e-9)
    fleets = [judge.fleet(1e-9) for judge in judges]
    for name in ("in_flight", "tokens_in_flight", "waiting", "running"):
        assert len({tuple(getattr(fleet, name)) for fleet in fleets}) == 1, name
    assert sum(fleets[0].in_flight) == len(tickets)
    hashes = [booking.hashes for judge, pick in tickets if (booking := judge.ledger.get(pick.ticket))]
    for each in hashes:
        assert len({tuple(sorted(judge._prefix.match(each).blocks.items())) for judge in judges}) == 1
    for judge, pick in tickets:
        judge.release(pick.ticket, DONE, 1e-9)
    assert all(judge.fleet(1e-9).in_flight == [0, 0, 0] and not len(judge.ledger) for judge in judges)
