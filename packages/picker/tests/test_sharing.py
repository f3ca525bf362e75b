"""Replicas on several machines know of each other's requests as workers of one do, whatever slots and clocks they have."""

import contextlib
import json
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker import config
from shunter.picker.core.journal import Journal, Peers
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, Outcome
from shunter.picker.core.ledger import Booking, first_ticket
from shunter.picker.core.sharing import (
    MAX_EVENTS,
    SILENT_S,
    Hearer,
    Message,
    Over,
    Sent,
    Share,
    Teller,
    Withdrawn,
    decode,
    encode,
)
from shunter.picker.core.withdrawals import read_withdrawal
from shunter.picker.errors import SharingError
from shunter.snapshot import Batch, Endpoint, Health, Load, LoadRow, LogReader, LogWriter, Topology, View

NOW_NS = 10**12
POLICY = config.load().policy
DONE = Outcome(complete=True, status=200)
ADDRESSES = [f"10.0.0.{at}" for at in (1, 2, 3)]


class Machine:
    """One replica's worker and its sharer, over a clock and slots of its own."""

    def __init__(self, name, first_slot=0, ahead_ns=0):
        self.now_ns = NOW_NS + ahead_ns
        endpoints = tuple(
            Endpoint(slot=first_slot + at, incarnation=first_slot + 1, name=f"p{at}", address=address, port=8000)
            for at, address in enumerate(ADDRESSES)
        )
        rows = [
            LoadRow(slot=each.slot, incarnation=each.incarnation, health=Health.FRESH, sampled_ns=self.now_ns, waiting=0.0)
            for each in endpoints
        ]
        topology = Topology(epoch=1, generation=1, endpoints=endpoints)
        view = View(topology, Load.of(rows, epoch=1, topology_generation=1, published_ns=self.now_ns))
        self.authorities = {(each.slot, each.incarnation): each.authority for each in endpoints}
        self.keys = {authority: key for key, authority in self.authorities.items()}
        logs = [bytearray(1 << 18) for _ in range(2)]
        self.journal = Journal(LogWriter(logs[0]), 1)
        self.journal.begun()
        peers = Peers([LogReader(log) for log in logs], life=1)
        self.judge = FleetJudge(POLICY, lambda _: view, random.Random(1), life=1, journal=self.journal, peers=peers)
        ours = Journal(LogWriter(logs[1]), 2)
        ours.begun()
        self.teller, self.hearer, self._read = Teller(name), Hearer(name, 2, ours), LogReader(logs[0]).read

    def say(self):
        """Everything that is new, as bytes."""
        batch = self._read()
        return [encode(each) for each in self.teller.tell({0: batch} if batch else {}, self.authorities, self.now_ns)]

    def hear(self, messages, late_ms=0):
        for each in messages:
            self.hearer.hear(decode(each), self.keys, self.now_ns, late_ms)

    def pick(self, text="hello"):
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
        return self.judge.decide(Ask({":path": "/v1/chat/completions"}, body), self.now_ns / 1e9)

    def in_flight(self):
        self.judge.catch_up(self.now_ns / 1e9)
        return [self.judge.ledger.in_flight(key) for key in self.keys.values()]


@pytest.fixture
def machines():
    return Machine("east"), Machine("west", first_slot=40, ahead_ns=7 * 10**15)


def exchange(*machines):
    said = [each.say() for each in machines]
    for machine in machines:
        for messages in said:
            machine.hear(messages)


def test_replicas_spread_a_burst_as_one_would(machines):
    picks = []
    for number in range(12):
        picks.append(machines[number % 2].pick(str(number)).endpoints[0])
        exchange(*machines)
    assert sorted(picks.count(f"{address}:8000") for address in ADDRESSES) == [4, 4, 4]
    assert machines[0].in_flight() == machines[1].in_flight() == [4, 4, 4]


def test_a_prompt_goes_to_where_another_replica_sent_it(machines):
    east, west = machines
    long = "Once upon a time " * 400
    first = east.pick(long)
    east.judge.release(first.ticket, DONE, east.now_ns / 1e9)
    exchange(east, west)
    west.pick("something else")
    assert west.pick(long).endpoints[0] == first.endpoints[0]


def test_a_prompt_that_failed_elsewhere_is_not_expected_here(machines):
    east, west = machines
    (index,) = west.judge._prefixes.values()

    def known(outcome):
        ticket = east.pick("Once upon a time " * 400).ticket
        east.judge.release(ticket, outcome, east.now_ns / 1e9)
        exchange(east, west)
        west.in_flight()
        assert west.say() == []
        return len(index)

    assert known(Outcome(complete=True, status=500)) == 0
    assert known(DONE) > 0
    assert known(Outcome(complete=True, status=500)) > 0  # the one before was computed


def test_a_release_that_knows_of_no_withdrawals_reads_the_rest(machines):
    east, west = machines
    ticket = east.pick("Once upon a time " * 400).ticket
    east.judge.release(ticket, Outcome(complete=True, status=500), east.now_ns / 1e9)

    class Former(msgspec.Struct, array_like=True):
        replica: str
        number: int
        events: tuple[Sent | Over, ...] = ()

    messages = [msgspec.msgpack.decode(each, type=Former) for each in east.say()]
    assert [len(each.events) for each in messages] == [2, 0]
    del west.keys["10.0.0.1:8000"], west.keys["10.0.0.2:8000"], west.keys["10.0.0.3:8000"]
    exchange(east, west)  # nor does one that has not heard of the endpoint mind
    assert west.hearer.gaps == 0


def test_what_ends_there_ends_here(machines):
    east, west = machines
    ticket = east.pick().ticket
    exchange(east, west)
    assert sum(west.in_flight()) == 1
    east.judge.release(ticket, DONE, east.now_ns / 1e9)
    exchange(east, west)
    assert sum(west.in_flight()) == west.hearer.in_flight == 0


def test_what_a_replica_hears_it_does_not_tell_on(machines):
    east, west = machines
    east.pick()
    exchange(east, west)
    west.in_flight()
    assert west.say() == []


def test_a_worker_that_dies_ends_its_requests_everywhere(machines):
    east, west = machines
    east.pick()
    exchange(east, west)
    east.journal.begun()
    exchange(east, west)
    assert sum(west.in_flight()) == 0


def test_a_message_that_is_missing_ends_what_its_replica_had(machines):
    east, west = machines
    for _ in range(2):
        east.pick()
        exchange(east, west)
    east.pick()
    east.say()  # is lost
    east.pick()
    exchange(east, west)
    assert (sum(west.in_flight()), west.hearer.gaps) == (1, 1)


def test_a_message_that_is_read_twice_counts_once(machines):
    east, west = machines
    east.pick()
    messages = east.say()
    west.hear(messages)
    west.hear(messages)
    assert (sum(west.in_flight()), west.hearer.gaps) == (1, 0)


def test_who_falls_silent_has_nothing_in_flight(machines):
    east, west = machines
    east.pick()
    exchange(east, west)
    west.now_ns += int(SILENT_S * 0.9e9)
    west.hear([encode(east.teller.heartbeat())])
    west.now_ns += int(SILENT_S * 0.9e9)
    west.hearer.expire(west.now_ns)
    assert (west.hearer.replicas, west.hearer.in_flight) == (1, 1)
    west.now_ns += int(SILENT_S * 0.2e9)
    west.hearer.expire(west.now_ns)
    assert (west.hearer.replicas, sum(west.in_flight())) == (0, 0)


def test_age_is_told_and_not_the_time(machines):
    east, west = machines
    east.pick()
    east.now_ns += 3_000_000_000
    messages = east.say()
    (sent,) = decode(messages[0]).events
    assert sent.age_ms == 3000
    written = []
    west.hearer._journal.booked = lambda ticket, booking: written.append(booking)
    west.hear(messages, late_ms=50)
    assert written[0].booked_ns == west.now_ns - 3_050_000_000


def test_an_endpoint_that_only_others_know_is_left_out(machines):
    east, west = machines
    del west.keys["10.0.0.1:8000"]
    for number in range(3):
        east.pick(str(number))
    exchange(east, west)
    assert west.hearer.in_flight == 2


def test_many_events_are_several_messages(machines):
    east, _ = machines
    for ticket in range(1, 2 * MAX_EVENTS + 2):
        east.journal.booked(first_ticket(1) + ticket, Booking(0, 1, NOW_NS))
    assert [len(decode(each).events) for each in east.say()] == [MAX_EVENTS, MAX_EVENTS, 1]


def test_no_more_are_booked_than_there_is_room_for(machines, monkeypatch):
    monkeypatch.setattr("shunter.picker.core.sharing.MAX_HEARD", 3)
    east, west = machines
    for number in range(5):
        east.pick(str(number))
    exchange(east, west)
    assert (west.hearer.in_flight, west.hearer.refused) == (3, 2)


def test_no_more_replicas_are_known_than_there_is_room_for(machines, monkeypatch):
    monkeypatch.setattr("shunter.picker.core.sharing.MAX_REPLICAS", 2)
    _, west = machines
    event = Sent(1, 0, Share(f"{ADDRESSES[0]}:8000"))
    west.hear([encode(Message(f"made up {number}", 1, (event,))) for number in range(5)])
    assert (west.hearer.replicas, west.hearer.in_flight, west.hearer.refused) == (2, 2, 3)
    west.now_ns += int(SILENT_S * 1e9) + 1
    west.hearer.expire(west.now_ns)
    west.hear([encode(Message("another", 1, (event,)))])
    assert west.hearer.replicas == 1


def test_the_largest_booking_that_is_read_has_room_in_the_journal(machines):
    _, west = machines
    share = Share(f"{ADDRESSES[0]}:8000", *[1 << 40] * 3)
    for hashes in range(3400, 4097, 4):
        with contextlib.suppress(SharingError):
            west.hear([encode(Message("east", hashes, (Sent(hashes, 0, share, (2**64 - 1,) * hashes, (share,) * 8),)))])
    assert west.hearer.in_flight == 1


@given(st.binary(max_size=200))
def test_whatever_is_in_the_stream_it_is_a_message_or_an_error_of_ours(data):
    with contextlib.suppress(SharingError):
        assert isinstance(decode(data), Message)


SHARES = st.builds(Share, st.sampled_from([*(f"{address}:8000" for address in ADDRESSES), "?"]), st.integers(0, 1 << 40))
EVENTS = st.builds(Sent, st.integers(0, 5), st.integers(0, 1 << 40), SHARES, st.tuples(), st.tuples(SHARES)) | st.builds(
    Over, st.lists(st.integers(0, 6), max_size=4).map(tuple)
)
WITHDRAWN = st.builds(Withdrawn, st.sampled_from(["10.0.0.1:8000", "?"]), st.tuples(st.integers(0, 9)))
MESSAGES = st.builds(
    Message, st.sampled_from("abc"), st.integers(0, 20), st.lists(EVENTS, max_size=4).map(tuple), st.tuples(WITHDRAWN)
)


class Books:
    """A journal that knows what is open."""

    def __init__(self):
        self.open = {}

    def booked(self, ticket, booking):
        self.open[ticket] = booking

    def released(self, ticket):
        del self.open[ticket]

    def told(self, name, data):
        assert read_withdrawal(data) is not None


@given(st.lists(MESSAGES, max_size=30))
def test_whatever_others_say_what_is_open_is_known_and_ends(messages):
    books = Books()
    hearer = Hearer("us", 2, books)
    keys = {f"{address}:8000": (at, 1) for at, address in enumerate(ADDRESSES)}
    for each in messages:
        hearer.hear(decode(encode(each)), keys, NOW_NS)
        assert hearer.in_flight == len(books.open)
    hearer.expire(NOW_NS + int(2 * SILENT_S * 1e9))
    assert not books.open


def test_a_journal_that_was_lapped_ends_what_was_told_of_it():
    teller, authorities = Teller("us"), {(0, 1): "10.0.0.1:8000"}
    log = bytearray(1 << 18)
    journal = Journal(LogWriter(log), 1)
    journal.booked(first_ticket(1) + 1, Booking(0, 1, NOW_NS))
    batch = LogReader(log).read()
    (first,) = teller.tell({0: batch}, authorities, NOW_NS)
    assert isinstance(first.events[0], Sent)
    (second,) = teller.tell({0: Batch([b"?"], lost=True)}, authorities, NOW_NS)
    assert second.events == (Over((first_ticket(1) + 1,)),)
