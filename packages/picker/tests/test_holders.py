"""Who holds which blocks: as the log says, weighted by tier, without gaps, bounded, and nothing of a slot's former owner."""

from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.holders import MAX_TIERS, Holders, HoldersSettings
from shunter.snapshot import Begun, Cleared, Dropped, Held, encode_statement


def told(*statements, **settings):
    holders = Holders(HoldersSettings(**settings))
    tell(holders, *statements)
    return holders


def tell(holders, *statements):
    holders.read(map(encode_statement, statements))


def held(slot, *names, tier="gpu", incarnation=1, size=16, adapter=None):
    return Held(slot, incarnation, tier, size, adapter, names)


def test_a_match_goes_from_the_beginning_without_a_gap():
    holders = told(held(0, 1, 2, 4), held(1, 2, 3), held(2, 1), held(300, 1, 2, 3, 4))
    assert holders.match([1, 2, 3, 4], 0) == {0: 2, 2: 1, 300: 4}
    assert holders.match([9], 0) == {}
    assert holders.match([], 0) == {}


def test_a_slower_tier_is_worth_less_and_the_best_tier_of_each_block_counts():
    holders = told(held(0, 1, 2), held(0, 2, 3, tier="cpu"), held(1, 1, 2, 3, tier="disk"))
    found = holders.match([1, 2, 3, 4], 0)
    assert found[0] == 1 + 1 + 0.8
    assert abs(found[1] - 3 * 0.8) < 1e-9  # not listed: the least weight


def test_what_is_dropped_from_one_tier_is_still_in_the_other():
    holders = told(held(0, 1), held(0, 1, tier="cpu"), Dropped(0, 1, "gpu", (1,)))
    assert holders.match([1], 0) == {0: 0.8}
    tell(holders, Dropped(0, 1, "cpu", (1,)))
    assert holders.match([1], 0) == {}
    assert holders.pairs == 0


def test_cleared_and_begun_void_what_was_said():
    holders = told(held(0, 1), held(1, 1), Cleared(0, 1))
    assert holders.match([1], 0) == {1: 1}
    tell(holders, Begun())
    assert holders.match([1], 0) == {}
    assert not holders.sizes


def test_an_endpoint_that_holds_nothing_is_still_known_to_announce():
    assert told(held(0, 1, size=32), Cleared(0, 1)).block_sizes == {0: 32}


def test_block_sizes_that_nobody_has_any_longer_are_not_looked_for():
    holders = told(held(0, 1, size=32), held(1, 1, size=16))
    holders.retain({1: 1})
    assert holders.sizes == {16}
    holders.forget_all()
    assert not holders.sizes


def test_an_engine_that_invents_tiers_does_not_make_matching_dear():
    holders = told(*(held(0, at, tier=f"tier-{at}") for at in range(100)), held(0, 1000, tier="tier-1"))
    assert len(holders._owners) == MAX_TIERS
    assert holders.match([1000], 0)
    assert holders.pairs == MAX_TIERS + 1


def test_what_was_expected_is_over_also_where_nobody_asks():
    holders = told(held(0, 1), expect_ns=10)
    for at in range(100):
        holders.expect(0, 1, [at], at * 10)
    assert holders.pairs == 2


def test_a_slots_new_owner_holds_nothing_of_the_former_one():
    holders = told(held(0, 1), held(0, 2, incarnation=2))
    assert holders.match([1], 0) == {}
    assert holders.match([2], 0) == {0: 1}
    tell(holders, held(0, 1), Dropped(0, 1, "gpu", (2,)), Cleared(0, 1))  # late words of the former one
    assert holders.match([1], 0) == {}
    assert holders.match([2], 0) == {0: 1}


def test_endpoints_that_are_gone_are_forgotten():
    holders = told(held(0, 1), held(1, 1), held(2, 1))
    holders.retain({0: 1, 1: 5})
    assert holders.match([1], 0) == {0: 1}
    assert holders.block_sizes == {0: 16}


def test_what_was_sent_is_expected_for_a_while():
    holders = told(held(0, 1), expect_ns=100)
    holders.expect(1, 1, (1, 2), 1000)
    assert holders.match([1, 2], 1099) == {0: 1, 1: 2}
    holders.expect(1, 1, (1,), 1050)  # sent again
    assert holders.match([1, 2], 1100) == {0: 1, 1: 1}
    assert holders.match([1, 2], 1150) == {0: 1}
    assert holders.pairs == 1


def test_nothing_is_expected_where_that_is_switched_off():
    holders = told(held(0, 1), expect_ns=0)
    holders.expect(1, 1, (1,), 0)
    assert holders.match([1], 0) == {0: 1}


def test_memory_is_bounded_and_the_largest_cache_pays_with_its_oldest():
    holders = told(held(0, *range(1000, 1010)), *[held(1, at) for at in range(200)], max_pairs=100)
    assert holders.pairs <= 100
    assert holders.match([1009], 0) == {0: 1}
    assert holders.match([199], 0) == {1: 1}
    assert holders.match([0], 0) == {}


def test_adapters_and_block_sizes_are_remembered():
    holders = told(held(0, 1, adapter="lora-a"), held(1, 1, size=32))
    assert holders.adapters == {"lora-a"}
    assert holders.sizes == {16, 32}


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_foreign_records_never_raise(records):
    holders = Holders(HoldersSettings())
    holders.read(records)
    holders.match([1, 2], 0)


NAMES = st.lists(st.integers(0, 8), max_size=6, unique=True).map(tuple)
SLOTS = st.integers(0, 3)
STATEMENTS = st.one_of(
    st.builds(lambda slot, tier, names: held(slot, *names, tier=tier), SLOTS, st.sampled_from(["gpu", "cpu"]), NAMES),
    st.builds(lambda slot, tier, names: Dropped(slot, 1, tier, names), SLOTS, st.sampled_from(["gpu", "cpu"]), NAMES),
    st.builds(lambda slot: Cleared(slot, 1), SLOTS),
)


@given(st.lists(STATEMENTS, max_size=30), NAMES)
def test_matches_are_those_of_plain_sets(statements, prompt):
    holders = told(*statements)
    plain = {}
    for statement in statements:
        match statement:
            case Held():
                plain.setdefault((statement.slot, statement.tier), set()).update(statement.names)
            case Dropped():
                plain.get((statement.slot, statement.tier), set()).difference_update(statement.names)
            case _:
                plain = {key: names for key, names in plain.items() if key[0] != statement.slot}
    expected = {}
    for slot in range(4):
        gpu, cpu = plain.get((slot, "gpu"), set()), plain.get((slot, "cpu"), set())
        for name in prompt:
            if name not in gpu | cpu:
                break
            expected[slot] = expected.get(slot, 0) + (1.0 if name in gpu else 0.8)
    found = holders.match(prompt, 0)
    assert found.keys() == expected.keys()
    assert all(abs(found[slot] - expected[slot]) < 1e-9 for slot in expected)
    assert holders.pairs == sum(map(len, plain.values()))
