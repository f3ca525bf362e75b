"""The runtime directory is private, or it is not used."""

import errno
import os
import stat

import pytest

from shunter.snapshot import SnapshotError, place, runtime_directory


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    monkeypatch.setattr(place, "SHM", tmp_path)
    return tmp_path


def test_it_is_private_and_stays_the_same():
    directory = runtime_directory("x")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert runtime_directory("x") == directory


def test_looking_creates_nothing(base):
    directory = runtime_directory("x", create=False)
    assert not list(base.iterdir())
    assert runtime_directory("x") == directory


def test_without_tmpfs_the_temporary_directory_serves(base, monkeypatch, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("tmp")
    monkeypatch.setattr(place, "SHM", base / "absent")
    monkeypatch.setattr(place.tempfile, "gettempdir", lambda: str(elsewhere))
    assert runtime_directory("x").is_relative_to(elsewhere)


def test_a_directory_others_may_write_is_refused(base):
    directory = base / f"shunter-{os.geteuid()}"
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(SnapshotError, match="others may write it"):
        runtime_directory("x")


def test_what_is_in_the_way_is_told(base):
    (base / f"shunter-{os.geteuid()}").touch(mode=0o600)
    with pytest.raises(SnapshotError, match=rf"shunter-{os.geteuid()}(/x)?: no directory can be made: .*remove what is there"):
        runtime_directory("x")


def test_of_a_directory_that_cannot_be_made_only_the_reason_is_told(monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(place.Path, "mkdir", refuse)
    with pytest.raises(SnapshotError, match=r": no directory can be made: No space left on device$"):
        runtime_directory("x")
