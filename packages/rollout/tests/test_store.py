"""Where rollouts are kept: one process at a time, no wish is lost, and nobody goes on with another one's record."""

import errno

import pytest
from msgspec.structs import replace

from shunter.rollout.core.machine import Event, Phase, Wish, begin
from shunter.rollout.errors import ConfigError, StateError
from shunter.rollout.shell.service import take_up
from shunter.rollout.shell.store import FileStore, Record, kept_names, open_store


@pytest.fixture
def kept(tmp_path):
    return lambda: FileStore(tmp_path / "state", "review-v2")


@pytest.fixture
def under_way(make_rollout):
    return Record(make_rollout(), begin(make_rollout(), 1.5))


@pytest.fixture
def over(under_way):
    return Record(under_way.rollout, replace(under_way.state, phase=Phase.DONE))


def test_of_two_one_is_at_it(kept):
    with kept().at_it() as first, kept().at_it() as second:
        assert (first, second) == (True, False)
        assert kept().held()
    assert not kept().held()


@pytest.mark.parametrize("verb", ["pause", "resume", "rollback", "status"])
async def test_where_nothing_can_be_locked_that_is_told_with_its_remedy(kept, under_way, told, monkeypatch, tmp_path, verb):
    """As on a network's file system."""

    def refuse(_):
        raise OSError(errno.ENOLCK, "No locks available")

    kept().save(under_way)
    monkeypatch.setattr("shunter.rollout.shell.store.is_taken", refuse)
    code, output = await told(verb, "review-v2")
    lock = tmp_path / "state" / "review-v2.lock"
    words = f"Error: {lock}: cannot be locked: No locks available; keep rollouts elsewhere with --state\n"
    assert (code, output) == (2, words)


async def test_where_no_rollout_is_kept_that_is_said(told):
    assert await told("status") == (0, "there is no rollout; if they are kept elsewhere, say where with --state\n")


async def test_a_second_start_is_refused_and_people_are_told_whom_they_told(kept, under_way, file, told):
    kept().save(under_way)
    with kept().at_it():
        assert await told("start", "-f", file) == (2, "Error: another process is at review-v2\n")
        assert await told("pause", "review-v2") == (0, "review-v2: told whoever is at it: pause\n")
        assert await told("rollback", "review-v2") == (0, "review-v2: told whoever is at it: rollback\n")
    assert kept().wish() is Wish.ROLLBACK


async def test_who_is_to_go_back_is_not_told_to_go_on(kept, under_way, told):
    """Whoever was told to has died before he did it."""
    kept().save(under_way)
    kept().want(Wish.ROLLBACK)
    code, output = await told("status")
    assert (code, output.splitlines()[1]) == (
        0,
        "  nobody is at it; to go back, as somebody asked: shunter rollout rollback review-v2",
    )


async def test_what_happened_on_another_day_is_told_with_that(kept, under_way, told):
    days = tuple(Event(at_s, f"after {at_s} s") for at_s in (0, 3_600, 90_000, 93_600))
    kept().save(Record(under_way.rollout, replace(under_way.state, events=days)))
    _, output = await told("status")
    assert output.splitlines()[-5:] == [
        "  00:00:00  after 0 s",
        "  01:00:00  after 3600 s",
        "  1970-01-02",
        "  01:00:00  after 90000 s",
        "  02:00:00  after 93600 s",
    ]


async def test_what_is_over_takes_no_wishes(kept, over, told):
    kept().save(over)
    for verb in ("pause", "resume", "rollback"):
        code, output = await told(verb, "review-v2")
        assert (code, "review-v2 is over" in output) == (2, True)


def test_a_wish_is_forgotten_when_it_is_fulfilled_but_not_the_one_that_came_meanwhile(kept):
    kept().want(Wish.RESUME)
    kept().want(Wish.ROLLBACK)
    kept().fulfil(Wish.RESUME)
    assert kept().wish() is Wish.ROLLBACK
    kept().fulfil(Wish.ROLLBACK)
    assert kept().wish() is Wish.RUN


def test_what_is_under_way_goes_on_and_what_is_over_begins_anew_without_its_wish(kept, under_way, over):
    kept().save(under_way)
    kept().want(Wish.PAUSE)
    for asked in (None, under_way.rollout):
        assert take_up(kept(), asked) == (under_way.rollout, under_way.state)
    assert kept().wish() is Wish.PAUSE
    kept().save(over)
    assert take_up(kept(), over.rollout) == (over.rollout, None)
    assert kept().wish() is Wish.RUN


def test_nobody_goes_on_with_what_is_over_or_as_another_file_says(kept, under_way, over, make_rollout):
    kept().save(under_way)
    with pytest.raises(StateError, match="under way, and not as this file says"):
        take_up(kept(), make_rollout("pause: 1s", without=["pause"]))
    kept().save(over)
    with pytest.raises(StateError, match="review-v2 is over"):
        take_up(kept(), None)


@pytest.mark.parametrize("place", ["configmap:", "configmap:Some_Where", "configmap:a/b"])
def test_a_place_in_no_namespace_is_refused_with_an_example(place):
    for ask in (lambda: open_store(place, "review-v2"), lambda: kept_names(place)):
        with pytest.raises(ConfigError, match=f"--state {place}: .* give for example configmap:default"):
            ask()
