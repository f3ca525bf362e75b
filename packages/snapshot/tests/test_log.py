import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from shunter.snapshot.log import DATA_AT, HEAD, LEAST_BYTES, MAX_RECORD_BYTES, RESERVED, Batch, LogReader, LogWriter

SIZE = LEAST_BYTES
LARGE = b"x" * (MAX_RECORD_BYTES // 4)  # nine of them are more than a log of SIZE holds


@pytest.fixture
def buffer():
    return bytearray(SIZE)


def test_what_is_written_is_read_once_and_in_order(buffer):
    writer, reader = LogWriter(buffer), LogReader(buffer)
    assert reader.read() is None
    writer.append(b"a")
    writer.append(b"bb")
    writer.append(b"c" * 9)
    assert reader.read() == Batch([b"a", b"bb", b"c" * 9])
    assert reader.read() is None


def test_a_reader_may_come_before_the_writer(buffer):
    reader = LogReader(buffer)
    LogWriter(buffer).append(b"a")
    assert reader.read() == Batch([b"a"])


def test_a_reader_may_begin_with_the_next_record(buffer):
    writer = LogWriter(buffer)
    writer.append(b"a")
    reader = LogReader(buffer, from_start=False)
    writer.append(b"b")
    assert reader.read() == Batch([b"b"])


def test_who_is_lapped_is_told_and_gets_what_is_left(buffer):
    writer, reader = LogWriter(buffer), LogReader(buffer)
    for at in range(20):
        writer.append(bytes([at]) + LARGE)
    batch = reader.read()
    assert batch.lost
    assert [record[0] for record in batch.records] == list(range(20))[-len(batch.records) :]
    assert len(batch.records) >= 6
    writer.append(b"next")
    assert reader.read() == Batch([b"next"])


def test_whoever_begins_late_has_lost_nothing(buffer):
    writer = LogWriter(buffer)
    for at in range(20):
        writer.append(bytes([at]) + LARGE)
    batch = LogReader(buffer).read()
    assert not batch.lost
    assert batch.records[-1] == bytes([19]) + LARGE


def test_the_next_writer_goes_on(buffer):
    LogWriter(buffer).append(b"a")
    LogWriter(buffer).append(b"b")
    assert LogReader(buffer).read() == Batch([b"a", b"b"])


def test_what_a_killed_writer_did_not_finish_is_never_seen(buffer):
    writer = LogWriter(buffer)
    for _ in range(7):
        writer.append(LARGE)
    reader = LogReader(buffer)
    words = memoryview(buffer)[:DATA_AT].cast("Q")
    head = words[HEAD]
    writer.append(b"killed" * 1000)  # all of it is written, over the oldest records, but the head
    words[HEAD] = head
    successor = LogWriter(buffer)
    successor.append(b"next")
    batch = reader.read()
    assert set(batch.records) == {LARGE, b"next"}
    assert words[RESERVED] > words[HEAD]


def test_a_reader_that_is_overtaken_while_it_copies_uses_nothing_that_may_be_spoilt(buffer, monkeypatch):
    writer, reader = LogWriter(buffer), LogReader(buffer)
    for at in range(7):
        writer.append(bytes([at]) + LARGE)
    copy = reader._log.copy

    def interrupted(at, end):
        data = bytearray(copy(at, end))
        data[: len(data) // 2] = bytes(len(data) // 2)  # as if read after the writer was here
        for _ in range(4):
            writer.append(b"new" + LARGE)
        return bytes(data)

    monkeypatch.setattr(reader._log, "copy", interrupted)
    batch = reader.read()
    assert batch.lost
    assert {record[0] for record in batch.records} <= {4, 5, 6}
    monkeypatch.undo()
    assert reader.read() == Batch([b"new" + LARGE] * 4)


@pytest.mark.parametrize("record", [b"", bytes(MAX_RECORD_BYTES + 1)])
def test_an_empty_or_too_large_record_is_refused_and_nothing_written(buffer, record):
    writer = LogWriter(buffer)
    with pytest.raises(ValueError, match="it may have 1 to 32768"):
        writer.append(record)
    assert LogReader(buffer).read() is None


def test_the_largest_record_fits(buffer):
    writer, reader = LogWriter(buffer), LogReader(buffer)
    for _ in range(5):
        writer.append(bytes(MAX_RECORD_BYTES))
        assert reader.read() == Batch([bytes(MAX_RECORD_BYTES)])


@pytest.mark.parametrize("kind", [LogWriter, LogReader])
def test_a_buffer_too_small_is_refused(kind):
    with pytest.raises(ValueError, match="it needs"):
        kind(bytearray(SIZE - 1))


@given(st.integers(0, 60), st.integers(0, 7))
def test_a_flipped_bit_costs_records_but_yields_no_false_one(at, bit):
    buffer = bytearray(SIZE)
    for record in (b"first", b"second record", b"third"):
        LogWriter(buffer).append(record)
    buffer[DATA_AT + at] ^= 1 << bit
    batch = LogReader(buffer).read()
    assert set(batch.records) <= {b"first", b"second record", b"third"}
    # What is flipped may be padding.
    assert len(batch.records) == 3 or batch.lost


@given(st.binary(max_size=400), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.booleans())
def test_foreign_bytes_never_raise_and_the_next_writer_is_read(noise, head, reserved, from_start):
    buffer = bytearray(SIZE)
    LogWriter(buffer)
    buffer[DATA_AT : DATA_AT + len(noise)] = noise
    words = memoryview(buffer)[:DATA_AT].cast("Q")
    reader = LogReader(buffer, from_start=from_start)
    words[HEAD], words[RESERVED] = head, reserved
    reader.read()
    writer = LogWriter(buffer)
    reader.read()
    writer.append(b"good")
    assert reader.read().records[-1:] == [b"good"]


class Followers(RuleBasedStateMachine):
    """Readers at any pace: each sees a suffix of what it has not seen, and all of it unless it was lapped."""

    def __init__(self):
        super().__init__()
        self.buffer = bytearray(SIZE)
        self.writer = LogWriter(self.buffer)
        self.written = []
        self.readers = [[LogReader(self.buffer), 0] for _ in range(2)]

    @rule(lengths=st.lists(st.integers(8, MAX_RECORD_BYTES // 4 - 8), min_size=1, max_size=4))
    def append(self, lengths):
        records = [(len(self.written) + at).to_bytes(8, "little").ljust(length, b"x") for at, length in enumerate(lengths)]
        for record in records:
            self.writer.append(record)
        self.written += records

    @rule()
    def die(self):
        self.writer = LogWriter(self.buffer)

    @rule(which=st.integers(0, 1))
    def read(self, which):
        reader, seen = self.readers[which]
        batch = reader.read()
        expected = self.written[seen:]
        if not expected:
            assert batch is None
            return
        assert batch.records == expected[len(expected) - len(batch.records) :]
        assert batch.lost or len(batch.records) == len(expected)
        self.readers[which][1] = len(self.written)

    @rule(which=st.integers(0, 1))
    def begin_late(self, which):
        self.readers[which] = [LogReader(self.buffer), 0]
        batch = self.readers[which][0].read()
        if self.written:
            assert not batch.lost
            assert batch.records == self.written[-len(batch.records) :]
            self.readers[which][1] = len(self.written)


TestFollowers = Followers.TestCase
