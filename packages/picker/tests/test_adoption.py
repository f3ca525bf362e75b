"""Requests of dead workers and of ended streams are in the account while they last, and are struck out once."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core import adoption as module
from shunter.picker.core.adoption import LEASE_S, Adoption
from shunter.picker.core.journal import Journal
from shunter.picker.core.learned import Learned
from shunter.picker.core.ledger import first_ticket
from shunter.picker.core.records import Record
from shunter.picker.core.tables import COUNTERS_BYTES, Counters
from shunter.snapshot import LogReader, LogWriter

OURS, LIVING, DEAD = 9, 5, 3
KEY = (2, 7)
LEASE_NS = int(LEASE_S * 1e9)


class Account:
    """An adoption, and what the others hear of it; they would release a ticket that is not booked without harm."""

    def __init__(self):
        log = bytearray(1 << 17)
        self.counters = Counters(bytearray(COUNTERS_BYTES))
        self.counters.begin(OURS, 1, 0)
        self.learned = Learned()
        self.adoption = Adoption(OURS, Journal(LogWriter(log), OURS), self.counters, self.learned)
        self.reader = LogReader(log)
        self.booked = {}
        self.once = set()  # tickets of ours that were released

    def tell(self, life, sequence, *, over=False, at_ns=0, endpoint=KEY, **fields):
        kind = "DownstreamEnd" if over else "DownstreamPeriodic"
        record = Record(type=kind, id=str(first_ticket(life) + sequence), duration_ms=1000, **fields)
        self.adoption.take(record, endpoint, {LIVING, OURS}, at_ns)
        self.follow()

    def follow(self):
        batch = self.reader.read()
        self.heard = [msgspec.msgpack.decode(each) for each in batch.records] if batch else []
        for kind, ticket, *booking in self.heard:
            if kind == 1:
                assert ticket not in self.booked
                self.booked[ticket] = booking[0]
            elif ticket >> 32 == OURS:
                assert ticket not in self.once
                self.once.add(ticket)
                del self.booked[ticket]
        counted = self.counters.tally().by_endpoint.get(KEY)
        assert len(self.booked) == self.learned.adopting == (counted.in_flight if counted else 0)


@pytest.fixture
def account():
    return Account()


def test_a_request_of_a_dead_worker_is_booked_until_its_end(account):
    account.tell(DEAD, 1, at_ns=5_000_000_000)
    ((ticket, booking),) = account.booked.items()
    assert ticket >> 32 == OURS
    assert tuple(booking[:3]) == (*KEY, 4_000_000_000)
    account.tell(DEAD, 1, at_ns=6_000_000_000)
    assert account.heard == []
    account.tell(DEAD, 1, over=True)
    assert account.booked == {}
    assert (account.counters.tally().released, account.counters.tally().incomplete) == (1, 0)


def test_a_request_of_a_living_worker_is_its_own_business(account):
    account.tell(LIVING, 1)
    account.tell(LIVING, 1, over=True)
    assert account.once == set()
    assert account.learned.adopted == 0


def test_a_request_whose_stream_is_over_changes_hands_without_a_gap(account):
    account.tell(LIVING, 1, releases="yes")
    assert [kind for kind, *_ in account.heard] == [1, 2]  # booked for ours, then the worker's released
    assert account.heard[1][1] == first_ticket(LIVING) + 1
    account.tell(LIVING, 1, releases="yes", over=True)
    assert account.booked == {}
    assert account.counters.tally().released == 0  # the worker has counted it


def test_a_short_request_whose_stream_is_over_is_released_for_its_worker(account):
    account.tell(LIVING, 1, releases="yes", over=True)
    assert account.heard == [[2, first_ticket(LIVING) + 1]]


def test_an_adopted_request_that_is_spoken_of_never_expires(account):
    for second in range(100):
        account.tell(DEAD, 1, at_ns=second * 1_000_000_000)
        account.adoption.expire(second * 1_000_000_000 + 500_000_000)
    assert len(account.booked) == 1


def test_one_that_is_not_spoken_of_any_more_is_given_up_and_counted(account):
    account.tell(DEAD, 1, at_ns=0)
    account.tell(DEAD, 2, at_ns=1)
    account.tell(DEAD, 1, at_ns=2)
    account.adoption.expire(LEASE_NS + 1)
    account.follow()
    assert (len(account.booked), account.learned.expired) == (1, 1)
    account.tell(DEAD, 2, over=True)  # the late record of the one that was given up
    account.adoption.expire(LEASE_NS + 2)
    account.follow()
    assert (account.booked, account.learned.expired) == ({}, 2)
    assert account.counters.tally().incomplete == 2


@pytest.mark.parametrize("fields", [{"endpoint": None}, {"id": None}])
def test_an_unknown_endpoint_or_ticket_is_not_adopted(fields, account):
    record = Record(type="DownstreamPeriodic", id=fields.get("id", str(first_ticket(DEAD))))
    account.adoption.take(record, fields.get("endpoint", KEY), {LIVING}, 0)
    assert account.learned.adopting == 0


def test_a_flood_of_tickets_is_bounded(account, monkeypatch):
    monkeypatch.setattr(module, "MAX_ADOPTED", 10)
    for sequence in range(50):
        account.tell(DEAD, sequence)
    assert len(account.booked) == 10
    account.tell(DEAD, 3, over=True)
    account.tell(DEAD, 49)
    assert len(account.booked) == 10


steps = st.tuples(
    st.sampled_from([DEAD, LIVING, OURS]),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from([None, "yes"]),
    st.sampled_from([KEY, None]),
    st.integers(0, LEASE_NS),
)


@given(st.lists(steps, max_size=60))
def test_whatever_is_told_each_booking_is_released_once(told):
    account, now_ns = Account(), 0
    for life, sequence, over, releases, endpoint, passed_ns in told:
        now_ns += passed_ns
        account.tell(life, sequence, over=over, releases=releases, endpoint=endpoint, at_ns=now_ns)
        account.adoption.expire(now_ns)
        account.follow()
    account.adoption.expire(now_ns + LEASE_NS)
    account.follow()
    assert account.booked == {}
    assert len(account.once) == account.learned.adopted
