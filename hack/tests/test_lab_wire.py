"""The two worlds disagree only where both see a clear difference, and see it the other way round."""

import pytest
from hack.lab_wire import reversals


@pytest.mark.parametrize(
    ("wire", "virtual", "found"),
    [
        ({"a": 1.0, "b": 2.0}, {"a": 10.0, "b": 30.0}, []),
        ({"a": 1.0, "b": 2.0}, {"a": 30.0, "b": 10.0}, [("a", "b")]),
        ({"a": 1.0, "b": 1.05}, {"a": 30.0, "b": 10.0}, []),  # alike on the wire
        ({"a": 1.0, "b": 2.0}, {"a": 1.05, "b": 1.0}, []),  # alike in virtual time
        ({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 1.0, "b": 3.0, "c": 2.0}, [("b", "c")]),
    ],
)
def test_a_reversal_is_clear_in_both_worlds(wire, virtual, found):
    assert reversals(wire, virtual) == found
