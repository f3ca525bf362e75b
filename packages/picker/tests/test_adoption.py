"""Requests of dead workers and of ended streams are in the account while they last, and are struck out once."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core import adoption as module
from shunter.picker.core.adoption import KEPT_S, LEASE_S, RENEW_S, Adoption, Leases
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
        self.living = {LIVING, OURS}
        self.booked = {}
        self.once = set()  # tickets of ours that were released

    def tell(self, life, sequence, *, over=False, at_ns=0, endpoint=KEY, **fields):
        kind = "DownstreamEnd" if over else "DownstreamPeriodic"
        record = Record(type=kind, id=str(first_ticket(life) + sequence), duration_ms=1000, **fields)
        self.adoption.take(record, endpoint, self.living, at_ns)
        self.follow()

    def look(self, at_ns):
        self.adoption.look(self.living, at_ns)
        self.follow()

    def follow(self):
        batch = self.reader.read()
        self.heard = [msgspec.msgpack.decode(each) for each in batch.records] if batch else []
        for kind, ticket, *booking in self.heard:
            if kind == 1:
                assert ticket >> 32 == OURS
                self.booked[ticket] = booking[0]
            elif kind == 2:
                assert ticket >> 32 == OURS
                assert ticket not in self.once
                self.once.add(ticket)
                del self.booked[ticket]
        counted = sum(each.in_flight for each in self.counters.tally().by_endpoint.values())
        assert len(self.booked) == self.learned.adopting == counted


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


LASTS, ENDED = 5, 6
TICKET = first_ticket(LIVING) + 1
HOST = "10.0.0.1:8000"


def test_a_request_whose_stream_is_over_stays_its_workers_who_is_told_now_and_then_that_it_lasts(account):
    heard = []
    for second in range(1, 60):
        account.tell(LIVING, 1, releases="yes", host=HOST, at_ns=second * 1_000_000_000)
        heard += [(second, *event) for event in account.heard]
    assert heard == [(second, LASTS, TICKET, HOST) for second in range(1, 60, int(RENEW_S))]
    assert account.learned.adopted == 0
    account.tell(LIVING, 1, releases="yes", host=HOST, over=True)
    assert account.heard == [[ENDED, TICKET, True]]
    assert account.counters.tally().released == 0  # the worker counts it


@pytest.mark.parametrize(("fields", "complete"), [({"status": 200}, True), ({"status": 503}, False), ({"flags": "DC"}, False)])
def test_the_end_of_a_short_request_whose_stream_is_over_is_told_to_its_worker(account, fields, complete):
    account.tell(LIVING, 1, releases="yes", over=True, **fields)
    assert account.heard == [[ENDED, TICKET, complete]]


def test_a_worker_is_told_at_once_that_its_request_is_elsewhere_now(account):
    account.tell(LIVING, 1, releases="yes", host=HOST, at_ns=1_000_000_000)
    account.tell(LIVING, 1, releases="yes", host="10.0.0.2:8000", endpoint=(3, 1), at_ns=2_000_000_000)
    assert account.heard == [[LASTS, TICKET, "10.0.0.2:8000"]]


def test_an_orphan_that_is_elsewhere_now_counts_there(account):
    account.tell(DEAD, 1)
    account.tell(DEAD, 1, endpoint=(3, 1))
    ((_, booking),) = account.booked.items()
    assert tuple(booking[:2]) == (3, 1)
    assert {key: each.in_flight for key, each in account.counters.tally().by_endpoint.items()} == {(3, 1): 1}


def test_a_request_whose_worker_dies_after_its_stream_is_adopted_without_a_record(account):
    account.tell(LIVING, 1, releases="yes", host=HOST, at_ns=1_000_000_000)
    account.look(1_200_000_000)
    assert account.booked == {}
    account.living = {OURS}
    account.look(1_400_000_000)
    assert len(account.booked) == 1
    account.tell(LIVING, 1, releases="yes", host=HOST, over=True)
    assert account.booked == {}
    assert account.counters.tally().released == 1


def test_a_worker_is_told_of_a_request_that_nobody_speaks_of_any_more(account):
    account.tell(LIVING, 1, releases="yes", host=HOST, at_ns=0)
    account.look(LEASE_NS)
    assert account.heard == [[ENDED, TICKET, False]]
    assert account.learned.expired == 1


def test_a_worker_keeps_for_a_while_what_nobody_tells_of_and_longer_what_is_told_to_last():
    leases = Leases()
    for ticket in (1, 2, 3):
        leases.begin(ticket, 0.0)
    leases.renew(2, 1.0)
    leases.end(3)
    leases.begin(2, 1.5)  # its stream was seen to end later than Envoy told
    assert leases.overdue(LEASE_S) == [1]
    assert leases.overdue(KEPT_S) == []
    leases.renew(2, KEPT_S)
    assert leases.overdue(KEPT_S + 1.0) == []
    assert leases.overdue(2 * KEPT_S) == [2]
    assert leases.overdue(9 * KEPT_S) == []


def test_an_adopted_request_that_is_spoken_of_never_expires(account):
    for second in range(100):
        account.tell(DEAD, 1, at_ns=second * 1_000_000_000)
        account.look(second * 1_000_000_000 + 500_000_000)
    assert len(account.booked) == 1


def test_one_that_is_not_spoken_of_any_more_is_given_up_and_counted(account):
    account.tell(DEAD, 1, at_ns=0)
    account.tell(DEAD, 2, at_ns=1)
    account.tell(DEAD, 1, at_ns=2)
    account.look(LEASE_NS + 1)
    assert (len(account.booked), account.learned.expired) == (1, 1)
    account.tell(DEAD, 2, over=True)  # the late record of the one that was given up
    account.look(LEASE_NS + 2)
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
    st.sampled_from([KEY, (3, 1), None]),
    st.integers(0, LEASE_NS),
)


@given(st.lists(steps, max_size=60))
def test_whatever_is_told_each_booking_is_released_once(told):
    account, now_ns = Account(), 0
    for life, sequence, over, releases, endpoint, passed_ns in told:
        now_ns += passed_ns
        account.tell(life, sequence, over=over, releases=releases, endpoint=endpoint, at_ns=now_ns)
        account.look(now_ns)
    account.look(now_ns + LEASE_NS)
    assert account.booked == {}
    assert len(account.once) == account.learned.adopted
