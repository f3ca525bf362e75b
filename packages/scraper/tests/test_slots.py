from hypothesis import given
from hypothesis import strategies as st

from shunter.scraper.core.slots import QUARANTINE_NS, Identity, Slots
from shunter.snapshot import Endpoint, Topology


def identity(name, port=8000):
    return Identity("default", name, "10.0.0.1", port)


def slots_of(places):
    return [place.slot for place in places.values()]


def test_the_smallest_free_slot_is_given_and_kept():
    slots = Slots()
    first = slots.assign([identity("a"), identity("b")], generation=1, now_ns=0)
    assert slots_of(first) == [0, 1]
    second = slots.assign([identity("b"), identity("c"), identity("a")], generation=2, now_ns=1)
    assert [second[identity(name)] for name in "ab"] == [first[identity(name)] for name in "ab"]
    assert second[identity("c")] == (2, 2)


def test_a_slot_rests_before_it_is_given_again_and_the_incarnation_rises():
    slots = Slots()
    slots.assign([identity("a"), identity("b")], generation=1, now_ns=0)
    slots.assign([identity("b")], generation=2, now_ns=5)
    assert slots.assign([identity("b"), identity("c")], generation=3, now_ns=5 + QUARANTINE_NS - 1)[identity("c")] == (2, 3)
    places = slots.assign([identity("b"), identity("c"), identity("d")], generation=4, now_ns=5 + QUARANTINE_NS)
    assert places[identity("d")] == (0, 4)


def test_a_new_run_takes_over_the_places_of_the_former_one():
    old = Endpoint(slot=4, incarnation=9, name="a", address="10.0.0.1", port=8000)
    slots = Slots(Topology(epoch=1, generation=12, endpoints=(old,)))
    places = slots.assign([identity("b"), identity("a")], generation=13, now_ns=0)
    assert places == {identity("b"): (0, 13), identity("a"): (4, 9)}


def test_another_name_address_or_port_is_another_endpoint():
    slots = Slots()
    slots.assign([identity("a")], generation=1, now_ns=0)
    for changed in (
        identity("z"),
        identity("a", 8001),
        identity("a")._replace(address="::1"),
        identity("a")._replace(namespace="n"),
    ):
        assert slots.assign([identity("a"), changed], generation=2, now_ns=1)[changed] != (0, 1)


@given(st.lists(st.tuples(st.sets(st.sampled_from("abcdef")), st.integers(0, QUARANTINE_NS)), max_size=20))
def test_no_two_endpoints_share_a_slot_and_no_pair_ever_returns(history):
    slots, now_ns, owners, alive = Slots(), 0, {}, {}
    for generation, (names, passed_ns) in enumerate(history, 1):
        now_ns += passed_ns
        places = slots.assign(map(identity, sorted(names)), generation=generation, now_ns=now_ns)
        assert len(set(slots_of(places))) == len(places)
        for one, place in places.items():
            if alive.get(one) != place:
                assert place not in owners
                owners[place] = one
        alive = places
