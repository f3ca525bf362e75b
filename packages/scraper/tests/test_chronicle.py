"""The log that forgets nothing which still holds: whoever begins to read it anywhere ends up knowing the same."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.scraper.core.chronicle import Chronicle
from shunter.snapshot import Begun, Cleared, Dropped, Held, LogReader, LogWriter, decode_statement
from shunter.snapshot.log import LEAST_BYTES

SIZE = LEAST_BYTES  # 64 KiB: a quarter holds 1,644 names


class World:
    """What a reader believes."""

    def __init__(self, buffer):
        self.reader = LogReader(buffer)
        self.held = set()

    def look(self):
        batch = self.reader.read()
        if batch is None:
            return self.held
        if batch.lost:
            self.held.clear()
        for record in batch.records:
            match decode_statement(record):
                case Begun():
                    self.held.clear()
                case Held() as held:
                    self.held |= {(held.slot, held.tier, name) for name in held.names}
                case Dropped() as dropped:
                    self.held -= {(dropped.slot, dropped.tier, name) for name in dropped.names}
                case Cleared() as cleared:
                    self.held = {each for each in self.held if each[0] != cleared.slot}
        return self.held


@pytest.fixture
def buffer():
    return bytearray(SIZE)


def test_who_comes_late_knows_what_was_said_long_ago(buffer):
    chronicle = Chronicle(LogWriter(buffer), SIZE)
    chronicle.tell([Held(0, 1, "gpu", 16, "lora-a", tuple(range(100)))])
    for at in range(20_000):  # overwrites the log ten times
        chronicle.tell([Held(1, 1, "gpu", 16, None, (at,)), Dropped(1, 1, "gpu", (at,))])
    assert World(buffer).look() == {(0, "gpu", name) for name in range(100)}


def test_beyond_its_size_the_oldest_are_given_up(buffer):
    chronicle = Chronicle(LogWriter(buffer), SIZE)
    follower = World(buffer)
    for at in range(20_000):
        chronicle.tell([Held(0, 1, "gpu", 16, None, (at,))])
        follower.look()
    late = World(buffer).look()
    assert len(late) >= 800
    assert (0, "gpu", 19_999) in late
    assert follower.look() == late
    assert chronicle.names == len(late)


def test_of_an_endpoint_that_holds_nothing_nothing_is_kept(buffer):
    """Whoever has dropped all it held is not cleared when it goes."""
    chronicle = Chronicle(LogWriter(buffer), SIZE)
    for incarnation in range(100):
        chronicle.tell([Held(0, incarnation, "gpu", 16, None, (1, 2)), Dropped(0, incarnation, "gpu", (2, 1))])
    assert not chronicle._current


def test_a_new_writer_voids_the_old_ones_word(buffer):
    Chronicle(LogWriter(buffer), SIZE).tell([Held(0, 1, "gpu", 16, None, (1,))])
    follower = World(buffer)
    assert follower.look()
    Chronicle(LogWriter(buffer), SIZE)
    assert not follower.look()


NAMES = st.lists(st.integers(0, 40), min_size=1, max_size=30, unique=True).map(tuple)
SLOTS = st.integers(0, 2)
TIERS = st.sampled_from(["gpu", "cpu"])
STATEMENTS = st.one_of(
    st.builds(lambda slot, tier, names: Held(slot, 1, tier, 16, None, names), SLOTS, TIERS, NAMES),
    st.builds(lambda slot, tier, names: Dropped(slot, 1, tier, names), SLOTS, TIERS, NAMES),
    st.builds(lambda slot: Cleared(slot, 1), SLOTS),
)


@settings(max_examples=30)
@given(st.lists(STATEMENTS, min_size=1, max_size=30), st.integers(1, 120), st.integers(1, 50))
def test_early_late_and_slow_readers_know_the_same(statements, times, pause):
    buffer = bytearray(SIZE)
    chronicle = Chronicle(LogWriter(buffer), SIZE)
    early, slow = World(buffer), World(buffer)
    for turn in range(times):
        chronicle.tell(statements)
        early.look()
        if turn % pause == 0:
            slow.look()
    expected = early.look()
    assert World(buffer).look() == expected
    assert slow.look() == expected or slow.reader.read() is None
    assert chronicle.names == len(expected)
