"""What a supervisor makes of its posts when children die, drain or do not serve just then; children are doubles."""

import asyncio
from functools import partial

import pytest

from shunter.picker.core.shadow import Account
from shunter.picker.errors import SilenceError
from shunter.picker.shell import supervisor as module
from shunter.picker.shell.control import Decided, Recall, Recalled, Status
from shunter.picker.shell.layout import Settings
from shunter.picker.shell.memory import Seat
from shunter.picker.shell.process import Fate
from shunter.picker.shell.report import report_on
from shunter.picker.shell.supervisor import Supervisor
from shunter.picker.shell.worker import Settings as WorkerSettings

OLD, NEW = "", "# another one\n"
WORKERS = 3


class Double:
    """A child that serves unless the test wants otherwise."""

    def __init__(self, pid, seat, text, *, serves):
        self.pid, self.seat, self.text = pid, seat, text
        self.end = asyncio.get_running_loop().create_future()
        self.status = Status(streams=2, shadow=Account(decided=100)) if serves else None
        self.hindrances = ()
        self.leaving = asyncio.Event()
        self.goes = asyncio.Event()
        self.goes.set()
        if not serves:
            self.kill()

    def kill(self):
        if not self.end.done():
            self.end.set_result(Fate(-9, "", None, 61.0, 60.0))

    async def leave(self, deadline_s):
        self.leaving.set()
        await self.goes.wait()
        self.kill()
        return await self.end


@pytest.fixture
async def supervisor(tmp_path, monkeypatch):
    """A supervisor whose children are in ``supervisor.hired``; the ``unable`` workers do not serve NEW."""
    settings = Settings(worker=WorkerSettings(snapshot=tmp_path, shadow="x"), runtime=tmp_path, workers=WORKERS)
    supervisor = Supervisor(settings, lambda: NEW)
    supervisor.hired, supervisor.unable = [], set()

    async def spawn(name, _level, _form, _target, seat, _settings, text, _levels, **_):
        serves = text == OLD or name not in supervisor.unable
        supervisor.hired.append(Double(len(supervisor.hired) + 1, seat, text, serves=serves))
        return supervisor.hired[-1]

    lives = iter(range(1, 100))
    monkeypatch.setattr(module, "spawn", spawn)
    monkeypatch.setattr(module, "lay_out", lambda *_, **__: [supervisor._settings.worker] * WORKERS)
    monkeypatch.setattr(supervisor._seating, "take", lambda: Seat(tmp_path, 0, 1, next(lives)))
    monkeypatch.setattr(supervisor._seating, "clear", lambda _: None)
    monkeypatch.setattr(supervisor, "_try", lambda _: asyncio.sleep(0, result=True))
    monkeypatch.setattr(module.Supervisor, "_validated", lambda _, text: text)
    supervisor._make_posts()
    manning = [asyncio.create_task(post.man()) for post in supervisor._posts]
    for post in supervisor._posts:
        await post.tried.wait()
    yield supervisor
    for post in supervisor._posts:
        await post.close(0)
    await asyncio.gather(*manning)


async def test_after_a_reload_that_fails_nobody_has_the_new_configuration_whoever_died_meanwhile(supervisor, eventually):
    supervisor.unable = {"worker-1"}
    first, *_, last = [post.child for post in supervisor._posts]
    first.goes.clear()
    reloading = asyncio.create_task(supervisor._reload())
    await first.leaving.wait()
    last.kill()

    async def succeeded():
        return supervisor._posts[-1].child is not last

    await eventually(succeeded)
    assert supervisor._posts[-1].child.text == NEW
    first.goes.set()
    assert await reloading == "failed"
    assert [post.child.text for post in supervisor._posts] == [OLD] * WORKERS


async def test_streams_of_who_drains_are_counted(supervisor):
    post = supervisor._posts[0]
    post.child.goes.clear()
    drained = post.child
    relieving = asyncio.create_task(post.relieve(1))
    await drained.leaving.wait()
    assert report_on(post).streams == 4
    drained.goes.set()
    await relieving
    assert report_on(post).streams == 2


async def test_what_a_shadow_decided_goes_on_when_a_worker_ends_and_begins_anew_with_another_configuration(
    supervisor, eventually
):
    assert supervisor.shadow().decided == 300
    dead = supervisor._posts[0].child
    dead.kill()

    async def succeeded():
        return supervisor._posts[0].child is not dead

    await eventually(succeeded)
    assert supervisor.shadow().decided == 400
    assert await supervisor._reload() == "done"

    async def anew():
        return supervisor.shadow().decided == 300

    await eventually(anew)  # the last one is buried


async def test_what_a_shadow_decided_never_falls_while_a_reload_is_tried_and_when_it_fails(supervisor, eventually):
    supervisor.unable = {"worker-1"}
    told = []
    relieve = module.Post.relieve

    async def watched(post, drain_s):
        done = await relieve(post, drain_s)
        await asyncio.sleep(0)  # who was relieved is buried
        told.append(supervisor.shadow().decided)
        return done

    for post in supervisor._posts:
        post.relieve = partial(watched, post)
    assert supervisor.shadow().decided == 300
    assert await supervisor._reload() == "failed"
    # One of the old ones ends and counts on; its successor decided beside another configuration, which nobody compares.
    assert told == [300, 300, 400]
    assert supervisor.shadow().decided == 400


@pytest.mark.parametrize("last", [0, 10])
async def test_one_worker_that_answers_is_enough_even_if_it_has_decided_nothing(supervisor, last):
    async def silent(*_):
        return None

    async def idle(question, _):
        return Recalled() if isinstance(question, Recall) else Decided()

    for post in supervisor._posts:
        post.child.ask = silent
    for ask in (supervisor.precedents, supervisor.decisions):
        with pytest.raises(SilenceError, match="no worker has answered within 1 s"):
            await ask(last)
    supervisor._posts[1].child.ask = idle
    assert (await supervisor.precedents(last), await supervisor.decisions(last)) == ([], [])


async def test_a_reload_has_more_patience_with_busy_workers_than_a_page(supervisor, monkeypatch):
    class Tried(Exception):
        pass

    async def slowly(question, deadline_s):
        return Recalled((b"line",)) if deadline_s > 2 else None

    def hold(lines, *_):
        raise Tried(*lines)

    for post in supervisor._posts:
        post.child.ask = slowly
    monkeypatch.setattr(module, "_hold_trial", hold)
    with pytest.raises(SilenceError):
        await supervisor.precedents(WORKERS)
    logged = []
    monkeypatch.setattr(module.log, "warning", lambda _words, _kind, error: logged.append(error.args))
    assert await Supervisor._try(supervisor, NEW)
    assert logged == [(b"line",) * WORKERS]
