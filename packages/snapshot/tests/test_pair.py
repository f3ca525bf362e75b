"""A reader uses Topology and Load only when they belong together."""

import errno
import os

import pytest

from shunter.snapshot import Endpoint, Load, LoadRow, RingBusyError, RingError, SnapshotReader, SnapshotWriter, Topology
from shunter.snapshot.pair import LOAD_RING

LATER = 10_000_000_000


def topology(generation, epoch=1):
    endpoint = Endpoint(slot=0, incarnation=generation, name="a", address="127.0.0.1", port=8000)
    return Topology(epoch=epoch, generation=generation, endpoints=(endpoint,))


def load(generation, epoch=1, waiting=0.0, published_ns=1):
    row = LoadRow(slot=0, incarnation=generation, waiting=waiting)
    return Load.of([row], epoch=epoch, topology_generation=generation, published_ns=published_ns)


@pytest.fixture
def writer(tmp_path):
    writer = SnapshotWriter(tmp_path)
    yield writer
    writer.close()


@pytest.fixture
def reader(tmp_path):
    reader = SnapshotReader(tmp_path)
    yield reader
    reader.close()


def test_no_view_before_both_halves(writer, reader):
    assert reader.view(0) is None
    writer.publish_topology(topology(1), 1)
    assert reader.view(0) is None
    writer.publish_load(load(1))
    assert reader.view(0).load == load(1)


def test_an_unchanged_view_is_the_same_object(writer, reader):
    writer.publish_topology(topology(1), 1)
    writer.publish_load(load(1))
    assert reader.view(0) is reader.view(0)


def test_a_pair_of_which_one_half_has_no_room_is_not_published_at_all(writer, reader, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer.publish(topology(1), load(1), 1)
    monkeypatch.setattr(os, "posix_fallocate", full)
    long = LoadRow(slot=0, incarnation=2, reason="x" * (1 << 17))
    with pytest.raises(RingError, match=r"load\.ring: No space left on device"):
        writer.publish(topology(2), Load.of([long], epoch=1, topology_generation=2, published_ns=2), 2)
    writer.publish_load(load(1, waiting=5.0, published_ns=3))
    view = reader.view(LATER)
    assert (view.topology, view.load.waiting) == (topology(1), (5.0,))


def test_a_new_topology_waits_for_its_load(writer, reader):
    writer.publish_topology(topology(1), 1)
    writer.publish_load(load(1))
    old = reader.view(0)
    writer.publish_topology(topology(2), 2)
    assert reader.view(0) is old
    writer.publish_load(load(2))
    assert reader.view(0).topology.generation == 2


@pytest.mark.parametrize("foreign", [load(2), load(1, epoch=9)])
def test_a_load_of_another_topology_is_not_used(writer, reader, foreign):
    writer.publish_topology(topology(1), 1)
    writer.publish_load(load(1))
    old = reader.view(0)
    writer.publish_load(foreign)
    assert reader.view(0) is old


def test_a_new_load_alone_makes_a_new_view(writer, reader):
    writer.publish_topology(topology(1), 1)
    writer.publish_load(load(1))
    reader.view(0)
    writer.publish_load(load(1, waiting=5.0))
    assert reader.view(0).load.waiting == (5.0,)


def test_trouble_is_told_and_the_last_pair_is_kept(writer, reader):
    writer.publish_topology(topology(1), 1)
    writer.publish_load(load(1))
    old = reader.view(0)
    writer._loads.publish(b"\x93\x07\x01\x01", 2)
    assert reader.view(0) is old
    assert "schema 7, this reader 1" in reader.trouble
    writer.publish_load(load(1, waiting=1.0))
    assert reader.view(0).load.waiting == (1.0,)
    assert reader.trouble is None


def test_a_missing_directory_is_trouble_not_an_exception(tmp_path):
    reader = SnapshotReader(tmp_path / "later")
    assert reader.view(0) is None
    assert "does not exist; is the scraper running" in reader.trouble


def test_the_next_writer_finds_the_last_topology(tmp_path):
    first = SnapshotWriter(tmp_path)
    assert first.last_topology() is None
    first.publish_topology(topology(4), 1)
    first.close()
    second = SnapshotWriter(tmp_path)
    last = second.last_topology()
    second.close()
    assert last == topology(4)


def test_half_a_writer_is_none(tmp_path, writer):
    """If the second ring cannot be had, the first is given back."""
    other = tmp_path / "other"
    other.mkdir()
    (other / LOAD_RING).mkdir()
    for _ in range(2):
        with pytest.raises(Exception, match=r"load\.ring"):
            SnapshotWriter(other)
    with pytest.raises(RingBusyError):
        SnapshotWriter(tmp_path)


def test_the_views_age_is_the_writers_last_sign_of_life(writer, reader):
    writer.publish_topology(topology(1), 1)
    writer.publish_load(load(1, published_ns=1_000_000_000))
    view = reader.view(0)
    assert view.age_s(1_500_000_000) == 0.5
    assert view.age_s(0) == float("inf")
