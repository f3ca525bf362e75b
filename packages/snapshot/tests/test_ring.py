"""The ring's promises, one by one, and each kind of file it refuses."""

import errno
import os
import stat
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.snapshot import RingBusyError, RingError, RingReader, RingWriter
from shunter.snapshot import ring as ring_module

LATER = 10 * ring_module.LOOK_AGAIN_NS


@pytest.fixture
def path(tmp_path):
    return tmp_path / "test.ring"


@pytest.fixture
def writer(path):
    writer = RingWriter(path, capacity_bytes=64)
    yield writer
    writer.close()


@pytest.fixture
def reader(path):
    reader = RingReader(path)
    yield reader
    reader.close()


def test_a_reader_sees_the_newest_frame_once(writer, reader):
    assert reader.poll(0) is None
    writer.publish(b"one", 10)
    writer.publish(b"two", 20)
    assert reader.poll(0) == (2, 20, b"two")
    assert reader.poll(0) is None
    writer.publish(b"", 30)
    assert reader.poll(0) == (3, 30, b"")


def test_a_reader_may_come_before_the_ring(path, reader):
    with pytest.raises(RingError, match=r"test\.ring: does not exist; is the scraper running"):
        reader.poll(0)
    assert reader.poll(1) is None, "the complaint is not repeated at once"
    writer = RingWriter(path)
    writer.publish(b"x", 5)
    frame = reader.poll(LATER)
    writer.close()
    assert frame == (1, 5, b"x")


def test_the_sequence_goes_on_after_a_restart(path, reader):
    first = RingWriter(path)
    assert [first.publish(b"a", 1), first.publish(b"b", 2)] == [1, 2]
    first.close()
    assert reader.poll(0) == (2, 2, b"b")
    second = RingWriter(path)
    assert second.newest() == (2, 2, b"b")
    assert second.publish(b"c", 3) == 3
    second.close()
    assert reader.poll(0) == (3, 3, b"c")


def test_a_larger_payload_moves_the_ring_and_readers_follow(writer, reader):
    writer.publish(b"small", 1)
    assert reader.poll(0) == (1, 1, b"small")
    writer.publish(b"L" * 1000, 2)
    writer.publish(b"M" * 1500, 3)
    assert reader.poll(0) == (3, 3, b"M" * 1500)


def test_a_ring_that_moved_before_the_next_frame_still_holds_the_newest(path, writer):
    writer.publish(b"small", 1)
    writer._grow(500)
    late = RingReader(path)
    frame = late.poll(0)
    late.close()
    assert frame == (1, 1, b"small")


def test_readers_follow_a_writer_that_died_between_renaming_and_retiring(path, writer, reader):
    writer.publish(b"old", 1)
    assert reader.poll(0) == (1, 1, b"old")
    writer._mapping = writer._create(64)  # what the dying writer had done last; the old file is never retired
    writer.publish(b"new", 2)
    assert reader.poll(LATER) == (2, 2, b"new")


def test_readers_follow_when_the_ring_is_deleted_and_begun_anew(path, reader):
    first = RingWriter(path)
    for n in range(5):
        first.publish(b"first", n)
    assert reader.poll(0).sequence == 5
    first.close()
    path.unlink()
    assert reader.poll(LATER) is None, "what is mapped stays readable while there is no file"
    second = RingWriter(path)
    second.publish(b"second", 9)
    frame = reader.poll(2 * LATER)
    second.close()
    assert frame == (1, 9, b"second")


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_ring_begun_anew_is_followed_however_far_it_has_come(path, frames):
    """A topology ring often holds one frame: its successor's first has the same number and is news all the same."""
    reader = RingReader(path)
    for number, name in enumerate((b"first", b"second")):
        writer = RingWriter(path)
        for n in range(2 if number == 0 else frames):
            writer.publish(b"%s %d" % (name, n), 10 * number + n)
        writer.close()
        assert reader.poll(number * LATER).payload == b"%s %d" % (name, (2 if number == 0 else frames) - 1)
        path.unlink()
    reader.close()


def test_a_ring_that_moved_gives_no_frame_twice(writer, reader):
    writer.publish(b"small", 1)
    assert reader.poll(0) == (1, 1, b"small")
    writer._grow(500)
    assert reader.poll(LATER) is None


def test_a_reader_takes_up_a_ring_that_was_unreadable_for_a_while(path, reader):
    for number in range(2):
        writer = RingWriter(path)
        writer.publish(b"%d" % number, number)
        writer.close()
        assert reader.poll(2 * number * LATER).payload == b"%d" % number
        path.rename(path.with_name("elsewhere"))
        path.write_bytes(b"")
        with pytest.raises(RingError):
            reader.poll((2 * number + 1) * LATER)
        path.unlink()


def test_a_payload_beyond_the_limit_is_refused_and_the_ring_stays(writer, reader, monkeypatch):
    monkeypatch.setattr(ring_module, "MAX_PAYLOAD_BYTES", 100)
    writer.publish(b"fine", 1)
    with pytest.raises(RingError, match="a payload of 101 bytes; the limit is 100"):
        writer.publish(b"x" * 101, 2)
    assert reader.poll(0) == (1, 1, b"fine")


def test_a_second_writer_is_refused_and_the_first_is_named(path, writer):
    with pytest.raises(RingBusyError, match=f"process {os.getpid()} is its writer"):
        RingWriter(path)


def test_a_dead_writer_shows_by_its_age(writer, reader):
    assert reader.age_s(0) == float("inf")
    writer.publish(b"x", 1_000_000_000)
    reader.poll(0)
    assert reader.age_s(3_500_000_000) == 2.5
    assert reader.age_s(1) == float("inf"), "published in the future: another boot's clock"


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_permissions_are_what_was_asked_whatever_the_umask(path, mode):
    before = os.umask(0o000)
    try:
        RingWriter(path, mode=mode).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert {p.name for p in path.parent.iterdir()} == {
        "test.ring",
        "test.ring.lock",
    }


@given(data=st.data())
def test_a_damaged_slot_is_never_accepted(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("ring") / "r"
    writer, reader = RingWriter(path, capacity_bytes=64), RingReader(path)
    try:
        payload = data.draw(st.binary(min_size=1, max_size=64))
        writer.publish(payload, 7)
        slot = ring_module.SLOTS_AT + ring_module._stride(64)
        at = data.draw(st.integers(0, 31 + len(payload)))
        offset = slot + (at if at < 32 else ring_module.SLOT_HEADER_BYTES + at - 32)
        flipped = writer._mapping._map[offset] ^ data.draw(st.integers(1, 255))
        writer._mapping._map[offset] = flipped
        assert reader.poll(0) is None
        writer.publish(b"whole", 8)
        assert reader.poll(0) == (2, 8, b"whole")
    finally:
        writer.close()
        reader.close()


def spoil(path, kind):
    RingWriter(path, capacity_bytes=64).close()
    data = path.read_bytes()
    if kind == "magic":
        path.write_bytes(b"SQLite f" + data[8:])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "version":
        path.write_bytes(data[:8] + struct.pack("=I", 99) + data[12:])
    elif kind == "slots":
        path.write_bytes(data[:12] + struct.pack("=I", 2**31) + data[16:])
    elif kind == "capacity":
        path.write_bytes(data[:16] + struct.pack("=Q", 2**63) + data[24:])
    elif kind == "truncated":
        path.write_bytes(data[:-1])
    elif kind == "link":
        path.rename(path.with_name("elsewhere"))
        path.symlink_to(path.with_name("elsewhere"))
    elif kind == "directory":
        path.unlink()
        path.mkdir()
    elif kind == "writable":
        path.chmod(0o666)


READER_SAYS = {
    "magic": "not a Shunter ring",
    "empty": "not a Shunter ring",
    "version": "ring version 99, this program speaks 1",
    "slots": "truncated or damaged",
    "capacity": "truncated or damaged",
    "truncated": "truncated or damaged",
    "link": "symbolic links",
    "directory": "not a regular file",
    "writable": "mode 0666 lets others write it",
}


@pytest.mark.parametrize("kind", READER_SAYS)
def test_a_reader_refuses_a_foreign_file_by_name(path, reader, kind):
    spoil(path, kind)
    with pytest.raises(RingError, match=READER_SAYS[kind]) as refused:
        reader.poll(0)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("kind", sorted(set(READER_SAYS) - {"version", "writable"}))
def test_a_writer_refuses_a_foreign_file_and_leaves_it_alone(path, kind):
    spoil(path, kind)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(RingError, match=r"test\.ring"):
        RingWriter(path)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_writer_replaces_a_ring_of_another_release(path, reader):
    spoil(path, "version")
    writer = RingWriter(path)
    writer.publish(b"x", 1)
    writer.close()
    assert reader.poll(0) == (1, 1, b"x")


def test_a_file_of_another_user_is_refused_unless_trusted(path, writer, monkeypatch):
    writer.publish(b"x", 1)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    monkeypatch.setattr(ring_module, "ROOT", owner + 2)
    stranger = RingReader(path)
    with pytest.raises(RingError, match=f"belongs to user {owner}, who is not trusted"):
        stranger.poll(0)
    friend = RingReader(path, trusted_uid=owner)
    assert friend.poll(0) == (1, 1, b"x")
    friend.close()


def test_a_writer_refuses_another_users_file(path, monkeypatch):
    RingWriter(path).close()
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(RingError, match=f"belongs to user {owner}, not {owner + 1}"):
        RingWriter(path)


def test_a_full_file_system_is_an_error_not_a_bus_error(path, writer, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer.publish(b"fine", 1)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RingError, match=r"No space left on device; .* bytes"):
        writer.publish(b"x" * 1000, 2)
    reader = RingReader(path)
    frame = reader.poll(0)
    reader.close()
    assert frame == (1, 1, b"fine")
    assert sorted(p.name for p in path.parent.iterdir()) == ["test.ring", "test.ring.lock"]


def test_what_a_writer_killed_while_growing_left_is_replaced(path):
    path.with_name("test.ring.new").write_bytes(b"half")
    RingWriter(path).close()
    assert sorted(p.name for p in path.parent.iterdir()) == ["test.ring", "test.ring.lock"]


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(RingError, match="the directory must exist and be writable"):
        RingWriter(tmp_path / "nowhere" / "r")
