from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.tenants import Tenants


def test_a_new_owner_of_a_slot_has_nothing_and_takes_the_place():
    tenants = Tenants()
    tenants.put((1, 1), "old")
    assert tenants.get((1, 2)) is None
    tenants.put((1, 2), "new")
    assert (tenants.get((1, 1)), tenants.get((1, 2)), len(tenants)) == (None, "new", 1)


def test_news_of_who_is_gone_come_too_late():
    tenants = Tenants()
    tenants.put((1, 2), "new")
    tenants.put((1, 1), "old")
    assert tenants.get((1, 2)) == "new"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9))))
def test_there_are_never_more_than_slots(keys):
    tenants = Tenants()
    for key in keys:
        tenants.put(key, key)
    assert len(tenants) == len({slot for slot, _ in keys})
    assert all(tenants.get(key) in (None, key) for key in keys)
