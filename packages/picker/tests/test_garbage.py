"""A worker with many open streams does not stop to look at all of them."""

import gc

import pytest

from shunter.picker.shell.garbage import FEW_STREAMS, OFTEN_S, SELDOM_S, Garbage, look_at_the_young_only


@pytest.mark.parametrize(("streams", "after_s"), [(FEW_STREAMS, OFTEN_S), (FEW_STREAMS + 1, SELDOM_S)])
def test_everything_is_looked_at_now_and_then_and_seldom_while_many_streams_are_open(streams, after_s):
    looks = []
    garbage = Garbage(100.0, lambda: looks.append(True))
    garbage.look(100.0 + after_s - 1, streams)
    assert not looks
    for _ in range(2):
        garbage.look(100.0 + after_s, streams)
    assert len(looks) == 1


def test_what_lasts_does_not_make_python_look_at_everything():
    before = gc.get_threshold()
    looks = gc.get_stats()[2]["collections"]
    try:
        look_at_the_young_only()
        streams = [[[]] for _ in range(300_000)]
        assert gc.get_stats()[2]["collections"] == looks
        del streams
    finally:
        gc.set_threshold(*before)
