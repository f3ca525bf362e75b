import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.ledger import Booking
from shunter.picker.core.tables import COUNTERS_BYTES, REFUSALS, SLOTS, Account, Counters, Tally, fold


@pytest.fixture
def buffer():
    return bytearray(COUNTERS_BYTES)


@pytest.fixture
def counters(buffer):
    counters = Counters(buffer)
    counters.begin(7, pid=123, now_ns=5)
    return counters


def test_everything_is_counted(counters):
    counters.picked(Booking(3, 1, 5, 50, (), 40, 256), 10, 4)
    counters.picked(Booking(3, 1, 5, 25, (), 20, 16), 10, 10)
    counters.unbooked(Booking(3, 1, 5, 50, (), 40, 256))
    counters.released(complete=True)
    counters.released(complete=False)
    counters.rewrote()
    counters.broke()
    counters.lapped()
    counters.left_over()
    counters.turn_away()
    counters.refused("BadRequest")
    counters.refused("BadRequest")
    counters.refused("rejected-saturated")
    assert counters.tally() == Tally(
        picks=2,
        released=2,
        incomplete=1,
        rewrites=1,
        plugin_errors=1,
        unscheduled=1,
        turned_away=1,
        laps=1,
        refusals={"BadRequest": 2, "rejected-saturated": 1},
        by_endpoint={
            (3, 1): Account(
                2, 20, 14, in_flight=1, tokens_in_flight=25, prefill_tokens_in_flight=20, decode_tokens_in_flight=16
            )
        },
    )


def test_the_head_tells_who_sits_there(counters, buffer):
    counters.ready, counters.beat_ns = 1, 9
    seen = Counters(buffer)
    assert (seen.life, seen.pid, seen.started_ns, seen.ready, seen.beat_ns) == (7, 123, 5, 1, 9)


def test_the_next_life_goes_on_with_the_totals_and_has_nothing_in_flight(counters, buffer):
    counters.picked(Booking(3, 1, 5, 50), 0, 0)
    counters.refused("BadRequest")
    successor = Counters(buffer)
    successor.begin(8, pid=124, now_ns=6)
    successor.refused("BadRequest")
    tally = successor.tally()
    assert (tally.picks, tally.refusals, tally.by_endpoint) == (1, {"BadRequest": 2}, {(3, 1): Account(picks=1)})
    assert (successor.life, successor.ready) == (8, 0)


def test_a_slots_new_owner_begins_at_zero_and_the_old_ones_requests_are_not_its(counters):
    counters.picked(Booking(3, 1, 5, 50), 5, 5)
    counters.picked(Booking(3, 2, 5, 7), 0, 0)
    counters.unbooked(Booking(3, 1, 5, 50))
    assert counters.tally().by_endpoint == {(3, 2): Account(picks=1, in_flight=1, tokens_in_flight=7)}


def test_an_owner_that_comes_back_has_what_it_was_given_since(counters):
    """As where a scraper that has lost its memory begins to count incarnations anew."""
    old, other, new = Booking(3, 1, 5, 50), Booking(3, 2, 5, 7), Booking(3, 1, 9, 7)
    for booking in (old, other, new):
        counters.booked(booking)
    for booking in (old, other, new):
        counters.unbooked(booking)
    assert not counters.tally().by_endpoint


def test_a_slot_beyond_the_table_counts_in_the_totals_only(counters):
    counters.picked(Booking(SLOTS, 1, 5, 5), 0, 0)
    counters.unbooked(Booking(SLOTS, 1, 5, 5))
    assert (counters.tally().picks, counters.tally().by_endpoint) == (1, {})
    counters.booked(Booking(SLOTS - 1, 1, 5, 5))
    assert (SLOTS - 1, 1) in counters.tally().by_endpoint


def test_too_many_reasons_are_counted_together(counters):
    for at in range(REFUSALS + 5):
        counters.refused(f"reason-{at}")
    refusals = counters.tally().refusals
    assert (len(refusals), refusals["other"], sum(refusals.values())) == (REFUSALS, 6, REFUSALS + 5)


def test_before_anybody_began_nothing_is_counted(buffer):
    assert Counters(buffer).tally() == Tally()


def test_a_buffer_too_small_is_refused():
    with pytest.raises(ValueError, match="they need"):
        Counters(bytearray(COUNTERS_BYTES - 1))


@given(st.binary(min_size=200, max_size=2000))
def test_foreign_bytes_are_tallied_as_something_and_swept_by_the_next_life(noise):
    buffer = bytearray(COUNTERS_BYTES)
    Counters(buffer).begin(1, 1, 1)
    buffer[48 : 48 + len(noise)] = noise
    Counters(buffer).tally()
    Counters(buffer).begin(2, 2, 2)
    buffer[: len(noise)] = noise
    counters = Counters(buffer)
    counters.begin(3, 3, 3)
    if noise[:8] != b"SHUNTCN\x04":
        assert counters.tally() == Tally()


def test_spans_are_counted_by_what_became_of_them(counters):
    for result, count in (("exported", 3), ("failed", 2), ("full", 1), ("exported", 3)):
        counters.spans(result, count)
    tally = counters.tally()
    assert (tally.spans_exported, tally.spans_failed, tally.spans_full) == (6, 2, 1)


def test_tallies_add_up(counters):
    other = Counters(bytearray(COUNTERS_BYTES))
    other.begin(8, pid=1, now_ns=1)
    for each in (counters, other):
        each.picked(Booking(1, 1, 5, 5), 4, 2)
        each.refused("BadRequest")
    other.picked(Booking(2, 1, 5), 0, 0)
    assert fold([counters.tally(), other.tally()]) == Tally(
        picks=3,
        refusals={"BadRequest": 2},
        by_endpoint={(1, 1): Account(2, 8, 4, 2, 10), (2, 1): Account(1, in_flight=1)},
    )
    assert fold([]) == Tally()


def test_the_account_changes_with_every_event_and_with_nothing_else(counters):
    accounts = [counters.account()]
    for event in (
        lambda: counters.picked(Booking(3, 1, 5), 0, 0),
        lambda: counters.released(complete=True),
        lambda: counters.refused("BadRequest"),
        lambda: counters.refused("BadRequest"),
    ):
        event()
        accounts.append(counters.account())
    assert len(set(accounts)) == 5
    counters.beat_ns += 1
    assert counters.account() == accounts[-1]
