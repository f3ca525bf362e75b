import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shunter.picker.core.fleet import Roster
from shunter.picker.core.journal import Journal, News, Peers
from shunter.picker.core.judgement import Outcome
from shunter.picker.core.ledger import Booking, Ledger, first_ticket
from shunter.picker.core.prefix import PrefixIndex, PrefixSettings
from shunter.snapshot import LogReader, LogWriter

LOG_BYTES = 1 << 17
NOW_NS = 100_000_000_000


class Reader:
    """One worker's accounts, fed by journals."""

    def __init__(self, buffers, fleet, life=0):
        self.ledger = Ledger()
        self.fleet = fleet
        self.prefix = PrefixIndex(PrefixSettings())
        self.peers = Peers([LogReader(buffer) for buffer in buffers], life)

    def catch_up(self, live=None):
        return self.peers.catch_up(self.ledger, self.fleet, self.prefix.insert, live or {0: 1, 1: 1})


@pytest.fixture
def buffer():
    return bytearray(LOG_BYTES)


@pytest.fixture
def make_reader(make_fleet):
    return lambda *buffers, **kwargs: Reader(buffers, make_fleet({}, {}), **kwargs)


def begin(buffer, life):
    journal = Journal(LogWriter(buffer), life)
    journal.begun()
    return journal


def test_anothers_booking_counts_like_an_own_one(buffer, make_reader):
    journal, reader = begin(buffer, 1), make_reader(buffer)
    ticket = first_ticket(1) + 1
    journal.booked(ticket, Booking(0, 1, NOW_NS + 5, 70, [11, 12]))
    reader.catch_up()
    fleet = reader.fleet
    assert (fleet.in_flight, fleet.tokens_in_flight, fleet.waiting) == ([1, 0], [70, 0], [1, 0])
    assert reader.prefix.match([11, 12, 13]).blocks == {0: 2}
    journal.released(ticket)
    reader.catch_up()
    assert (fleet.in_flight, fleet.tokens_in_flight, len(reader.ledger)) == ([0, 0], [0, 0], 0)
    assert reader.prefix.match([11, 12, 13]).blocks == {0: 2}


def test_a_request_that_went_elsewhere_is_in_flight_there_only(buffer, make_reader):
    journal, reader = begin(buffer, 1), make_reader(buffer)
    ticket = first_ticket(1) + 1
    journal.booked(ticket, Booking(0, 1, NOW_NS, 70))
    journal.booked(ticket, Booking(1, 1, NOW_NS, 70))
    reader.catch_up()
    assert (reader.fleet.in_flight, len(reader.ledger)) == ([0, 1], 1)


def test_what_a_dead_worker_had_in_flight_is_void_and_what_it_learnt_is_not(buffer, make_reader):
    reader = make_reader(buffer)
    begin(buffer, 1).booked(first_ticket(1) + 1, Booking(0, 1, NOW_NS, 70, [11]))
    reader.catch_up()
    assert len(reader.ledger) == 1
    begin(buffer, 2).booked(first_ticket(2) + 1, Booking(1, 1, NOW_NS, 5))
    reader.catch_up()
    assert (reader.fleet.in_flight, reader.fleet.tokens_in_flight) == ([0, 1], [0, 5])
    assert reader.prefix.match([11]).blocks == {0: 1}


def test_a_successor_learns_from_its_predecessor_and_does_not_read_itself(buffer, make_reader):
    begin(buffer, 1).booked(first_ticket(1) + 1, Booking(0, 1, NOW_NS, 70, [11]))
    successor = make_reader(buffer, life=2)
    journal = begin(buffer, 2)
    assert successor.catch_up() == News()
    journal.booked(first_ticket(2) + 1, Booking(0, 1, NOW_NS, 70, [12]))
    assert successor.catch_up() == News()
    assert len(successor.ledger) == 0
    assert successor.prefix.match([11]).blocks == {0: 1}
    assert successor.prefix.match([12]).blocks == {}


def test_who_was_lapped_drops_what_it_cannot_follow_and_goes_on(buffer, make_reader):
    journal, reader = begin(buffer, 1), make_reader(buffer)
    journal.booked(first_ticket(1) + 1, Booking(0, 1, NOW_NS, 70))
    reader.catch_up()
    for at in range(2, 5000):
        journal.booked(first_ticket(1) + at, Booking(0, 1, NOW_NS, 70))
        journal.released(first_ticket(1) + at)
    journal.booked(first_ticket(1) + 5000, Booking(1, 1, NOW_NS, 5))
    assert reader.catch_up().laps == 1
    assert (reader.fleet.in_flight, reader.fleet.tokens_in_flight) == ([0, 1], [0, 5])
    assert reader.catch_up() == News()


def test_prefixes_of_endpoints_that_are_gone_are_not_learnt(buffer, make_reader):
    journal, reader = begin(buffer, 1), make_reader(buffer)
    journal.booked(first_ticket(1) + 1, Booking(0, 1, NOW_NS, 70, [11]))
    journal.booked(first_ticket(1) + 2, Booking(1 << 31, 1, NOW_NS, 70, [11]))
    reader.catch_up(live={0: 2})
    assert reader.prefix.match([11]).blocks == {}


def test_more_blocks_than_this_configuration_makes_do_no_harm(buffer, make_reader):
    journal, reader = begin(buffer, 1), make_reader(buffer)
    journal.booked(first_ticket(1) + 1, Booking(0, 1, NOW_NS, 70, list(range(1000))))
    reader.catch_up()
    assert reader.prefix.match([0, 1]).blocks == {0: 2}


numbers = st.integers(-(2**63), 2**64 - 1)
events = st.tuples(st.integers(0, 6), numbers) | st.tuples(
    st.just(1), numbers, st.tuples(numbers, numbers, numbers, numbers, st.lists(numbers, max_size=3))
)


@given(st.lists(st.binary(min_size=1, max_size=100) | events.map(msgspec.msgpack.encode)))
def test_records_of_any_bytes_never_raise(records):
    buffer = bytearray(LOG_BYTES)
    log = LogWriter(buffer)
    fleet = Roster(Ledger()).current
    reader = Reader([buffer], fleet)
    for record in records:
        log.append(record)
    reader.catch_up()


class Workers(RuleBasedStateMachine):
    """However picks, ends, deaths and looks interleave: once all have caught up, all agree with one ledger."""

    COUNT = 3

    def __init__(self):
        super().__init__()
        self.lives = 0
        self.now_ns = 0
        self.buffers = [bytearray(LOG_BYTES) for _ in range(self.COUNT)]
        self.open = {}
        self.readers, self.journals, self.sequence = [None] * self.COUNT, [None] * self.COUNT, [0] * self.COUNT
        for seat in range(self.COUNT):
            self.start(seat)

    def start(self, seat):
        self.lives += 1
        self.readers[seat] = Reader(self.buffers, Roster(Ledger()).current, self.lives)
        self.journals[seat] = begin(self.buffers[seat], self.lives)
        self.sequence[seat] = first_ticket(self.lives)
        self.readers[seat].catch_up()
        self.open = {ticket: kept for ticket, kept in self.open.items() if kept[0] != seat}

    @rule(seat=st.integers(0, COUNT - 1), slot=st.integers(0, 2), tokens=st.integers(0, 9))
    def book(self, seat, slot, tokens):
        self.sequence[seat] += 1
        self.now_ns += 1
        booking = Booking(slot, 1, self.now_ns, tokens)
        self.readers[seat].ledger.book(self.sequence[seat], booking)
        self.journals[seat].booked(self.sequence[seat], booking)
        self.open[self.sequence[seat]] = (seat, booking)

    @rule(at=st.integers(0, 1 << 30))
    def release(self, at):
        if self.open:
            ticket = sorted(self.open)[at % len(self.open)]
            seat, booking = self.open.pop(ticket)
            assert self.readers[seat].ledger.release(ticket) == booking
            self.journals[seat].released(ticket)

    @rule(seat=st.integers(0, COUNT - 1))
    def catch_up(self, seat):
        self.readers[seat].catch_up()

    @rule(seat=st.integers(0, COUNT - 1))
    def die(self, seat):
        self.start(seat)

    @invariant()
    def all_agree(self):
        for reader in self.readers:
            reader.catch_up()
            for slot in range(3):
                times = sorted(booking.booked_ns for _, booking in self.open.values() if booking.slot == slot)
                tokens = sum(booking.tokens for _, booking in self.open.values() if booking.slot == slot)
                assert reader.ledger.in_flight((slot, 1)) == len(times)
                assert reader.ledger.tokens_in_flight((slot, 1)) == tokens
                for sampled_ns in times[:3]:
                    later = sum(at >= sampled_ns for at in times)
                    assert reader.ledger.unreported((slot, 1), sampled_ns) == later


TestWorkers = Workers.TestCase


def test_what_a_plugin_says_and_how_a_request_went_reach_whom_they_concern(buffer, make_reader):
    journal, reader = begin(buffer, 1), make_reader(buffer, life=2)
    outcome = Outcome(complete=True, status=200, first_token_s=0.5, duration_s=2.0)
    journal.told("lru", b"words")
    journal.measured(first_ticket(2) + 1, outcome)
    journal.measured(first_ticket(3) + 1, outcome)
    news = reader.catch_up()
    assert (news.told, news.measured) == ([("lru", b"words")], [(first_ticket(2) + 1, outcome)])
    assert reader.catch_up() == News()


def test_what_becomes_of_a_request_whose_stream_is_over_concerns_its_worker_alone(buffer, make_reader):
    journal, own, other = begin(buffer, 1), make_reader(buffer, life=2), make_reader(buffer, life=3)
    ticket = first_ticket(2) + 1
    for reader in (own, other):
        reader.ledger.book(ticket, Booking(0, 1, NOW_NS, 70))
    journal.lasts(ticket, "10.0.0.1:8000")
    journal.ended(ticket, complete=False)
    news = own.catch_up()
    assert (news.lasting, news.ended) == ([(ticket, "10.0.0.1:8000")], [(ticket, False)])
    assert other.catch_up() == News()
    assert len(own.ledger) == len(other.ledger) == 1
