import random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shunter.picker.core.fleet import COLUMNS, Roster
from shunter.picker.core.ledger import Booking, Ledger, attended, unattended
from shunter.snapshot import Endpoint, Health, Load, LoadRow, Topology, View


def test_a_booking_counts_at_once():
    ledger = Ledger()
    ledger.book(1, Booking(slot=0, incarnation=1, booked_ns=10, tokens=5))
    assert (ledger.in_flight((0, 1)), ledger.tokens_in_flight((0, 1)), len(ledger)) == (1, 5, 1)


def test_a_ticket_is_released_once():
    ledger = Ledger()
    booking = ledger.book(1, Booking(slot=0, incarnation=1, booked_ns=10))
    assert ledger.release(1) == booking
    assert ledger.release(1) is None
    assert (ledger.in_flight((0, 1)), len(ledger)) == (0, 0)


def test_an_unknown_ticket_releases_nothing():
    assert Ledger().release(7) is None


def test_what_was_booked_before_the_sample_is_in_it():
    ledger = Ledger()
    for ticket, now_ns in enumerate((10, 20, 30)):
        ledger.book(ticket, Booking(slot=0, incarnation=1, booked_ns=now_ns))
    assert [ledger.unreported((0, 1), sampled_ns) for sampled_ns in (0, 10, 11, 30, 31)] == [3, 3, 2, 1, 0]


def test_bookings_heard_of_late_are_counted_by_when_they_were_made():
    ledger = Ledger()
    for ticket, booked_ns in enumerate((30, 10, 20)):
        ledger.book(ticket, Booking(slot=0, incarnation=1, booked_ns=booked_ns))
    assert [ledger.unreported((0, 1), sampled_ns) for sampled_ns in (10, 11, 21, 31)] == [3, 2, 1, 0]


def test_prefill_is_worked_off_at_the_engines_rate():
    ledger = Ledger(prefill_per_s=1e9)  # a token per ns
    ledger.book(1, Booking(0, 1, booked_ns=100, prefill_tokens=50))
    assert [ledger.prefill_backlog((0, 1), now_ns) for now_ns in (100, 120)] == [50, 30]
    ledger.book(2, Booking(0, 1, booked_ns=130, prefill_tokens=40))
    assert [ledger.prefill_backlog((0, 1), now_ns) for now_ns in (130, 190, 1000)] == [60, 0, 0]
    ledger.book(3, Booking(0, 1, booked_ns=1000, prefill_tokens=40))
    ledger.book(4, Booking(0, 1, booked_ns=990, prefill_tokens=40))  # another worker's, heard of late
    assert ledger.prefill_backlog((0, 1), 1010) == 70
    assert ledger.prefill_backlog((1, 1), 1010) == 0


def test_a_token_takes_the_longer_the_more_come_before_it():
    assert attended(1_000, 1_000) == pytest.approx(1_000, rel=0.02)
    assert (attended(64_000, 64_000), unattended(128_000)) == (128_000, pytest.approx(64_000))
    assert attended(32_000, 64_000) + attended(32_000, 32_000) == attended(64_000, 64_000)
    ledger = Ledger(prefill_per_s=1e9)
    ledger.book(1, Booking(0, 1, booked_ns=100, tokens=64_000, prefill_tokens=64_000))
    assert (ledger.busy_until_ns((0, 1)), ledger.prefill_backlog((0, 1), 100)) == (128_100, 64_000)
    ledger.book(2, Booking(0, 1, booked_ns=100, tokens=64_000, prefill_tokens=32_000))
    ledger.release(1)
    assert ledger.busy_until_ns((0, 1)) == 80_100


def test_what_has_ended_is_no_backlog():
    ledger = Ledger(prefill_per_s=1.0)
    ledger.book(1, Booking(0, 1, booked_ns=100, prefill_tokens=50))
    ledger.book(2, Booking(0, 1, booked_ns=100, prefill_tokens=30))
    ledger.release(1)
    assert ledger.prefill_backlog((0, 1), 100) == 30
    ledger.release(2)
    assert ledger.prefill_backlog((0, 1), 100) == 0


def test_a_life_that_ended_has_nothing_in_flight():
    ledger = Ledger()
    bookings = {life << 32 | at: Booking(life, 1, 10, at) for life in (1, 2) for at in range(3)}
    for ticket, booking in bookings.items():
        ledger.book(ticket, booking)
    assert ledger.void(1) == [booking for booking in bookings.values() if booking.slot == 1]
    assert (ledger.in_flight((1, 1)), ledger.in_flight((2, 1)), len(ledger)) == (0, 3, 3)
    assert ledger.void(1) == []


def test_a_new_incarnation_starts_with_nobody():
    ledger = Ledger()
    ledger.book(1, Booking(slot=0, incarnation=1, booked_ns=10))
    assert ledger.in_flight((0, 2)) == 0


class Accounts(RuleBasedStateMachine):
    """The fleet that followed every booking equals one made anew from ledger and snapshot, whatever happens in which order."""

    def __init__(self):
        super().__init__()
        self.now_ns = 10**9
        self.ticket = 0
        self.open = {}
        self.ledger = Ledger()
        self.roster = Roster(self.ledger)
        self.incarnations = {0: 1, 1: 1, 2: 1}
        self.rows = {}
        self.generation = 0
        self.look()

    def look(self):
        self.generation += 1
        endpoints = tuple(
            Endpoint(slot=slot, incarnation=incarnation, name="p", address="10.0.0.1", port=slot)
            for slot, incarnation in self.incarnations.items()
        )
        topology = Topology(epoch=1, generation=self.generation, endpoints=endpoints)
        rows = [row for slot, row in self.rows.items() if row.incarnation == self.incarnations[slot]]
        self.view = View(topology, Load.of(rows, epoch=1, topology_generation=self.generation))
        self.fleet = self.roster.fleet(self.view, self.now_ns)

    @rule(slot=st.integers(0, 2), tokens=st.integers(0, 100), step_ns=st.integers(0, 3), late_ns=st.integers(0, 3))
    def book(self, slot, tokens, step_ns, late_ns):
        self.now_ns += step_ns
        booked_ns = self.now_ns - late_ns  # another worker's booking is heard of later
        self.ticket += 1
        incarnation = self.incarnations[slot]
        self.fleet.add(self.ledger.book(self.ticket, Booking(slot, incarnation, booked_ns, tokens)), +1)
        self.open[self.ticket] = (slot, incarnation, tokens)

    @rule(seed=st.integers())
    def release(self, seed):
        if self.open:
            ticket = random.Random(seed).choice(sorted(self.open))
            del self.open[ticket]
            self.fleet.add(self.ledger.release(ticket), -1)
            assert self.ledger.release(ticket) is None

    @rule(slot=st.integers(0, 2), waiting=st.integers(0, 9), back_ns=st.integers(0, 4), health=st.sampled_from(Health))
    def scrape(self, slot, waiting, back_ns, health):
        self.rows[slot] = LoadRow(
            slot=slot,
            incarnation=self.incarnations[slot],
            health=health,
            sampled_ns=self.now_ns - back_ns,
            waiting=float(waiting),
            running=1.0,
        )
        self.look()

    @rule(slot=st.integers(0, 2))
    def replace(self, slot):
        self.incarnations[slot] += 1
        self.look()

    @invariant()
    def nothing_is_lost_or_counted_twice(self):
        assert len(self.ledger) == len(self.open)
        for slot, incarnation in self.incarnations.items():
            tokens = [each[2] for each in self.open.values() if each[:2] == (slot, incarnation)]
            assert self.ledger.in_flight((slot, incarnation)) == len(tokens)
            assert self.ledger.tokens_in_flight((slot, incarnation)) == sum(tokens)

    @invariant()
    def following_equals_making_anew(self):
        anew = Roster(self.ledger).fleet(self.view, self.now_ns)
        for name in COLUMNS:
            assert list(getattr(self.fleet, name)) == list(getattr(anew, name)), name


TestAccounts = Accounts.TestCase


def test_backlogs_of_many_are_those_of_each():
    ledger = Ledger(prefill_per_s=1e9)
    for ticket, slot in enumerate((0, 2, 2)):
        ledger.book(ticket, Booking(slot, 1, 100 + ticket, prefill_tokens=50))
    keys = [(0, 1), (1, 1), (2, 1)]
    for now_ns in (90, 102, 130, 10**6):
        assert ledger.prefill_backlogs(keys, now_ns) == [ledger.prefill_backlog(key, now_ns) for key in keys]
    assert ledger.prefill_backlogs(keys, 130) == [20, 0, 71]
