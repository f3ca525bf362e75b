"""One has a file, and who only asks about it is in nobody's way."""

import fcntl

from shunter.snapshot.locks import is_taken, take


def test_one_has_it_until_he_closes_it(tmp_path):
    with (tmp_path / "lock").open("w") as asking:
        with (tmp_path / "lock").open("w") as first, (tmp_path / "lock").open("w") as second:
            assert not is_taken(asking)
            assert (take(first), take(second)) == (True, False)
            assert is_taken(asking)
        assert not is_taken(asking)
        assert take(asking)


def test_who_asks_in_the_same_instant_is_not_taken_for_him(tmp_path, monkeypatch):
    calls = []

    def flock(file, how):
        calls.append(how)
        if calls.count(fcntl.LOCK_EX | fcntl.LOCK_NB) == 2:
            real(asking, fcntl.LOCK_UN)
        return real(file, how)

    real = fcntl.flock
    with (tmp_path / "lock").open("w") as asking, (tmp_path / "lock").open("w") as file:
        real(asking, fcntl.LOCK_SH)
        monkeypatch.setattr(fcntl, "flock", flock)
        assert take(file)
    assert calls.count(fcntl.LOCK_EX | fcntl.LOCK_NB) == 2, "it had to try again"
