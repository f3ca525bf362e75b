"""A log in a file: readers come sooner or later, see everything once, and are told when it is another one."""

import pytest

from shunter.snapshot import MappedLogReader, SnapshotError, map_log
from shunter.snapshot.log import LEAST_BYTES
from shunter.snapshot.mapped import LOOK_AGAIN_NS

SIZE = LEAST_BYTES


@pytest.fixture
def path(tmp_path):
    return tmp_path / "kv-blocks.log"


def test_a_reader_may_come_first(path):
    reader = MappedLogReader(path)
    assert reader.read(0) is None
    assert str(path) in reader.trouble
    map_log(path, SIZE).append(b"one")
    assert reader.read(1) is None  # not looked for again so soon
    assert list(reader.read(LOOK_AGAIN_NS).records) == [b"one"]
    assert reader.trouble is None
    assert reader.read(LOOK_AGAIN_NS) is None


def test_the_next_writer_goes_on_in_the_same_file(path):
    map_log(path, SIZE).append(b"one")
    reader = MappedLogReader(path)
    reader.read(0)
    map_log(path, SIZE).append(b"two")
    batch = reader.read(2 * LOOK_AGAIN_NS)
    assert (list(batch.records), batch.lost) == ([b"two"], False)


def test_another_file_is_a_loss(path):
    map_log(path, SIZE).append(b"one")
    reader = MappedLogReader(path)
    reader.read(0)
    map_log(path, 2 * SIZE).append(b"two")
    assert reader.read(1) is None  # the old one stays readable
    batch = reader.read(2 * LOOK_AGAIN_NS)
    assert (list(batch.records), batch.lost) == ([b"two"], True)


def test_who_was_too_slow_gets_all_there_is(path):
    writer = map_log(path, SIZE)
    reader = MappedLogReader(path)
    writer.append(b"first")
    reader.read(0)
    records = [b"%d" % at * 500 for at in range(300)]
    for record in records:
        writer.append(record)
    batch = reader.read(1)
    assert batch.lost
    assert list(batch.records) == records[-len(batch.records) :]
    assert len(batch.records) > 30
    assert reader.read(2) is None


def test_a_file_that_others_may_write_is_not_read(path):
    map_log(path, SIZE).append(b"one")
    path.chmod(0o622)
    reader = MappedLogReader(path)
    assert reader.read(0) is None
    assert "others may write" in reader.trouble


def test_a_link_is_replaced_and_never_followed(path, tmp_path):
    map_log(tmp_path / "elsewhere", SIZE).append(b"one")
    path.symlink_to(tmp_path / "elsewhere")
    assert MappedLogReader(path).read(0) is None
    map_log(path, SIZE)
    assert not path.is_symlink()
    assert len(MappedLogReader(tmp_path / "elsewhere").read(0).records) == 1


def test_a_directory_that_is_not_there_is_named(path):
    with pytest.raises(SnapshotError, match="nowhere"):
        map_log(path.parent / "nowhere" / "log", SIZE)
