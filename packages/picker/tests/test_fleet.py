import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shunter.picker.core.fleet import COLUMNS, MOST_KEEPERS, REFUSED_TIMES, STALE_AFTER_NS, Roster
from shunter.picker.core.ledger import Booking, Ledger
from shunter.snapshot import NEVER, Health, Load, LoadRow, Pool, View

NOW_NS = 100_000_000_000
BUSY = {"waiting": 7.0, "running": 9.0, "kv_usage": 0.9}
IDLE = {"waiting": 0.0, "running": 1.0, "kv_usage": 0.1}
GONE = IDLE | {"health": Health.UNREACHABLE, "failures": REFUSED_TIMES}


def test_known_load_is_taken_as_it_is(make_fleet):
    fleet = make_fleet(BUSY, IDLE)
    assert (fleet.waiting, fleet.running, fleet.kv_usage, fleet.fresh) == ([7, 0], [9, 1], [0.9, 0.1], [True, True])


@pytest.mark.parametrize(
    "row",
    [
        None,
        {},
        IDLE | {"health": Health.UNSCRAPED},
        IDLE | {"health": Health.FAILED},
        IDLE | {"sampled_ns": NEVER},
        IDLE | {"sampled_ns": NOW_NS - STALE_AFTER_NS - 1},
        IDLE | {"sampled_ns": NOW_NS + 60 * 10**9},
        {"waiting": float("nan"), "running": float("inf"), "kv_usage": -1.0},
    ],
    ids=["no row", "not exported", "unscraped", "failed", "never", "stale", "another boot's clock", "nonsense"],
)
def test_unknown_load_is_the_worst_known_one(make_fleet, row):
    fleet = make_fleet(BUSY, row, IDLE)
    assert (fleet.waiting[1], fleet.running[1], fleet.kv_usage[1]) == (7, 9, 0.9)


def test_a_sample_taken_just_after_the_clock_was_read_counts(make_fleet):
    assert make_fleet(IDLE | {"sampled_ns": NOW_NS + 10**6}).fresh == [True]


def test_where_nobody_is_known_all_are_equal(make_fleet):
    fleet = make_fleet(None, None)
    assert (fleet.waiting, fleet.kv_usage) == ([0, 0], [0, 0])


def test_load_grows_stale_without_a_new_snapshot(make_view):
    roster, view = Roster(Ledger()), make_view(BUSY, IDLE)
    first = roster.fleet(view, NOW_NS)
    assert roster.fleet(view, NOW_NS + STALE_AFTER_NS) is first
    assert roster.fleet(view, NOW_NS + STALE_AFTER_NS + 1).fresh == [False, False]


@pytest.mark.parametrize("rows", [[BUSY, IDLE], [GONE, IDLE]])
def test_a_silent_scraper_does_not_make_every_pick_build_the_fleet_anew(make_view, rows):
    roster, view = Roster(Ledger()), make_view(*rows)
    late_ns = NOW_NS + 2 * STALE_AFTER_NS
    roster.fleet(view, NOW_NS)
    assert roster.fleet(view, late_ns) is roster.fleet(view, late_ns + 1)


def test_a_new_topology_repeats_the_endpoints_it_shares_with_the_last(make_view):
    roster = Roster(Ledger())
    first = roster.fleet(make_view(IDLE, IDLE), NOW_NS)
    second = roster.fleet(make_view(IDLE, IDLE, endpoints=[{}, {"labels": {"a": "b"}}]), NOW_NS)
    assert second.endpoints[0] is first.endpoints[0]
    assert second.endpoints[1].labels == {"a": "b"}


def test_the_same_view_gives_the_same_fleet(make_view):
    roster, view = Roster(Ledger()), make_view(IDLE)
    assert roster.fleet(view, NOW_NS) is roster.fleet(view, NOW_NS + 1)
    assert roster.fleet(make_view(IDLE), NOW_NS) is not roster.fleet(view, NOW_NS)


def test_who_cannot_be_reached_is_no_candidate_while_others_can(make_fleet):
    assert make_fleet(GONE, IDLE).authorities == ("10.0.0.2:8000",)
    assert make_fleet(GONE, GONE).authorities == ("10.0.0.1:8000", "10.0.0.2:8000")


def test_one_refusal_is_not_enough(make_fleet):
    assert len(make_fleet(GONE | {"failures": REFUSED_TIMES - 1}, IDLE)) == 2


def test_who_was_unreachable_comes_back_with_an_answer_or_when_the_scraper_falls_silent(make_view):
    roster = Roster(Ledger())
    view = make_view(GONE, IDLE)
    assert len(roster.fleet(view, NOW_NS)) == 1
    assert len(roster.fleet(view, NOW_NS + STALE_AFTER_NS + 1)) == 2
    assert len(roster.fleet(make_view(IDLE, IDLE), NOW_NS)) == 2


def test_before_the_first_snapshot_there_is_nobody():
    assert len(Roster(Ledger()).fleet(None, NOW_NS)) == 0


def test_who_is_not_ready_is_no_candidate(make_fleet):
    fleet = make_fleet(IDLE, IDLE, endpoints=[{"ready": False}, {}])
    assert fleet.authorities == ("10.0.0.2:8000",)


@pytest.mark.parametrize(
    ("pool", "slots"),
    [(None, [0, 1, 2]), ("a", [0, 1]), ("y/a", [1]), ("x/a", [0]), ("b", [1]), ("nobody", [])],
)
def test_a_pool_is_chosen_by_name(make_fleet, pool, slots):
    pools = (Pool(name="a", namespace="x"), Pool(name="a", namespace="y"), Pool(name="b"))
    endpoints = [{"pools": (0,)}, {"pools": (1, 2)}, {}]
    fleet = make_fleet(IDLE, IDLE, IDLE, endpoints=endpoints, pools=pools, pool=pool)
    assert [endpoint.slot for endpoint in fleet.endpoints] == slots


def rows_of(view, *rows):
    """The view with these rows of load instead of its own."""
    load = Load.of([LoadRow(health=Health.FRESH, sampled_ns=NOW_NS, **row) for row in rows], epoch=1, topology_generation=1)
    return View(view.topology, load)


def test_a_row_of_a_former_owner_is_not_believed(make_view):
    rows = [{"slot": 0, "incarnation": 9, "waiting": 0.0}, {"slot": 1, "incarnation": 1, "waiting": 7.0}]
    fleet = Roster(Ledger()).fleet(rows_of(make_view({}, {}), *rows), NOW_NS)
    assert (fleet.fresh, fleet.waiting) == ([False, True], [7, 7])


def test_rows_are_found_whatever_their_order(make_view):
    view, roster = make_view({}, {}, {}), Roster(Ledger())
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 5, 0], [0, 1, 2]):
        rows = [{"slot": slot, "incarnation": 1, "waiting": float(slot), "num_blocks": slot, "block_size": 2} for slot in order]
        fleet = roster.fleet(rows_of(view, *rows), NOW_NS)
        assert (fleet.waiting, fleet.cache_tokens) == ([0, 1, 2], [None, 2, 4])


def test_columns_of_an_older_writer_may_be_missing(make_view):
    view = make_view(IDLE, IDLE)
    load = msgspec.structs.replace(view.load, kv_usage=(), running_adapters=(), num_blocks=())
    fleet = Roster(Ledger()).fleet(View(view.topology, load), NOW_NS)
    assert (fleet.kv_usage, fleet.running_adapters, fleet.cache_tokens) == ([0, 0], [(), ()], [None, None])


def test_a_fresh_booking_counts_and_a_reported_one_does_not(make_fleet):
    ledger = Ledger()
    ledger.book(1, Booking(0, 1, NOW_NS - 1))
    ledger.book(2, Booking(0, 1, NOW_NS + 1))
    fleet = make_fleet(IDLE, ledger=ledger)
    assert (fleet.waiting, fleet.running, fleet.in_flight, fleet.reported_waiting) == ([1], [2], [2], [0])


@pytest.mark.parametrize(
    ("subset", "positions"),
    [
        (["10.0.0.2:8000"], [1]),
        (["10.0.0.2"], [1]),
        ([" 10.0.0.1 ", "10.0.0.2:8000"], [0, 1]),
        (["10.0.0.2:8001"], []),
        (["::1"], [2]),
        (["[::1]"], [2]),
        (["[::1]:8000"], [2]),
        (["[::1]:1"], []),
        ([], []),
        (["", "nonsense"], []),
    ],
)
def test_a_hint_names_addresses_with_or_without_port(make_fleet, subset, positions):
    fleet = make_fleet(IDLE, IDLE, IDLE, endpoints=[{}, {}, {"address": "::1"}])
    assert fleet.among(subset) == positions


@pytest.mark.parametrize("kept", [[], [1], [2, 0]])
def test_narrowing_keeps_the_columns_aligned(make_fleet, kept):
    rows = [IDLE | {"waiting": float(at)} for at in range(3)]
    whole = make_fleet(*rows)
    fleet = whole.narrow(kept)
    assert [endpoint.slot for endpoint in fleet.endpoints] == list(fleet.waiting) == kept
    assert fleet.index == {slot: at for at, slot in enumerate(kept)}
    assert (whole.lasting, fleet.lasting) == (True, False)
    assert whole.narrow([0, 1, 2]) is whole


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # it only builds
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True).map(tuple),
    st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), max_size=20),
)
def test_a_part_that_is_asked_for_again_follows_the_bookings_of_the_whole(make_fleet, kept, bookings):
    ledger = Ledger()
    whole = make_fleet(*[IDLE] * 4, ledger=ledger)
    part = whole.narrow(kept)
    standing = part.keepers["it"] = Touched()
    for ticket, (slot, ends, looks) in enumerate(bookings):
        whole.add(ledger.book(ticket, Booking(slot, 1, NOW_NS + ticket, 100, (), 70)), +1)
        if ends:
            whole.add(ledger.release(ticket), -1)
        if looks:
            assert whole.narrow(kept) is part
    assert whole.narrow(kept) is part
    anew = whole.narrow(list(kept))
    assert [[*getattr(part, name)] for name in COLUMNS] == [[*getattr(anew, name)] for name in COLUMNS]
    assert standing.touched == {kept.index(slot) for slot, *_ in bookings if slot in kept}


class Touched:
    def __init__(self):
        self.touched = set()


def test_parts_of_a_fleet_are_not_kept_without_end(make_fleet):
    whole = make_fleet(*[IDLE] * 3)
    parts = [whole.narrow((at % 3,)) for at in range(2 * MOST_KEEPERS)]
    assert len(whole.keepers) == MOST_KEEPERS
    assert [each.endpoints[0].slot for each in parts] == [at % 3 for at in range(2 * MOST_KEEPERS)]
