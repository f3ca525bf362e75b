"""A post is manned again at once, with patience only where nobody ever serves, and handed over only to who is ready."""

import asyncio

import pytest

from shunter.picker.shell import post as posts
from shunter.picker.shell.control import Ping, Status
from shunter.picker.shell.memory import Seat
from shunter.picker.shell.post import Post
from shunter.picker.shell.process import Child, Fate, spawn


class Double:
    """A child that lives as long as the test wants."""

    def __init__(self, pid):
        self.pid = pid
        self.status = None
        self.hindrances = ("starting",)
        self.lasts = False  # whatever it is told
        self.end = asyncio.get_running_loop().create_future()

    def serve(self, *hindrances):
        self.status, self.hindrances = Status(hindrances), hindrances

    def die(self, *, served_s=60.0, code=-9):
        if not self.end.done():
            self.end.set_result(Fate(code, "", None, 61.0, served_s))

    def kill(self):
        self.die()

    async def leave(self, deadline_s):
        if not self.lasts:
            self.die(code=0)
        return await self.end


@pytest.fixture
async def post():
    """A post whose children are in ``post.hired``, and the buried ones in ``post.buried``."""
    hired, buried = [], []

    async def hire():
        hired.append(Double(len(hired)))
        return hired[-1]

    post = Post("worker-0", "127.0.0.1:9002", hire, buried.append)
    post.hired, post.buried = hired, buried
    manning = asyncio.create_task(post.man())
    await post.tried.wait()
    yield post
    await post.close(0)
    manning.cancel()
    await asyncio.gather(manning, return_exceptions=True)
    assert set(buried) == set(hired)


@pytest.fixture
def delays(monkeypatch):
    """What the post would wait, without the waiting."""
    delays = []
    sleep = asyncio.sleep

    async def note(delay_s):
        delays.append(delay_s)
        await sleep(0)

    monkeypatch.setattr(posts.asyncio, "sleep", note)
    return delays


async def until(condition):
    for _ in range(1000):
        if condition():
            return
        await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=0.001)
    raise AssertionError


async def test_who_had_served_is_replaced_at_once(post, delays):
    for number in range(9):
        post.hired[number].serve()
        post.hired[number].die()
        await until(lambda: len(post.hired) == number + 2)  # noqa: B023  awaited here
    assert set(delays) == {0.0}
    assert post.restarts == {"signal": 9}


@pytest.mark.parametrize(
    ("served_s", "code", "reason"),
    [(None, 1, "failure"), (0.9, -11, "signal"), (3 + 0.5 + 2 + 0.9, 1, "failure")],
    ids=["never served", "killed at once", "broke at once, drained, cut off the rest, and waited for a collector"],
)
async def test_short_lives_in_a_row_are_followed_more_and_more_slowly(post, delays, served_s, code, reason):
    for number in range(12):
        post.hired[number].die(served_s=served_s, code=code)
        await until(lambda: len(post.hired) == number + 2)  # noqa: B023  awaited here
    assert delays == [0, 0, 0, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0]
    assert post.restarts == {reason: 12}
    post.hired[-1].die()
    await until(lambda: len(post.hired) == 14)
    post.hired[-1].die(served_s=served_s, code=code)
    await until(lambda: len(post.hired) == 15)
    assert delays[-2:] == [0.0, 0.0], "one that served for a while is a new beginning"


async def test_however_long_it_goes_on_the_delay_stays_the_longest(delays):
    async def hire():
        child = Double(1)
        child.die(served_s=None, code=1)
        return child

    post = Post("worker-0", "127.0.0.1:9002", hire, lambda _: None)
    manning = asyncio.create_task(post.man())
    await until(lambda: len(delays) > 1100)
    assert delays[-1] == 10.0
    await post.close(0)
    await manning


async def test_who_dies_while_a_relieved_one_still_drains_is_followed_at_once(post):
    (old,) = post.hired
    old.serve()
    old.lasts = True
    relief = asyncio.create_task(post.relieve(600))
    await until(lambda: len(post.hired) == 2)
    post.hired[1].serve()
    await until(lambda: post.child is post.hired[1])
    post.hired[1].die()
    await until(lambda: len(post.hired) == 3)
    assert (post.child, old.end.done()) == (post.hired[2], False)
    old.die(code=0)
    assert await relief
    assert post.child is post.hired[2]


async def test_a_relieved_one_that_had_to_be_killed_is_told_of(post, caplog):
    (old,) = post.hired
    old.serve()
    old.lasts = True
    relief = asyncio.create_task(post.relieve(1))
    await until(lambda: len(post.hired) == 2)
    post.hired[1].serve()
    await until(lambda: post.child is post.hired[1])
    old.die(code=-9)
    assert await relief
    assert "worker-0, process 0, which was relieved: ended by SIGKILL" in caplog.text


async def test_a_post_is_handed_over_when_the_successor_is_ready_and_not_before(post):
    (old,) = post.hired
    old.serve()
    relief = asyncio.create_task(post.relieve(1))
    await until(lambda: len(post.hired) == 2)
    new = post.hired[1]
    new.serve("no snapshot yet")
    await until(lambda: new.status is not None)
    assert post.child is old
    new.serve()
    assert await relief
    assert post.child is new
    assert old.end.done()


async def test_a_successor_need_not_be_readier_than_its_predecessor(post):
    post.hired[0].serve("no snapshot yet")
    relief = asyncio.create_task(post.relieve(1))
    await until(lambda: len(post.hired) == 2)
    post.hired[1].serve("no snapshot yet")
    assert await relief


async def test_a_successor_that_dies_leaves_everything_as_it_was(post):
    (old,) = post.hired
    old.serve()
    relief = asyncio.create_task(post.relieve(1))
    await until(lambda: len(post.hired) == 2)
    post.hired[1].die(served_s=None)
    assert not await relief
    assert post.child is old
    assert not old.end.done()


async def test_a_worker_that_dies_while_it_is_relieved_is_told_of_once_and_followed_by_its_successor_alone(post, caplog):
    (old,) = post.hired
    old.serve()
    relief = asyncio.create_task(post.relieve(1))
    await until(lambda: len(post.hired) == 2)
    old.die()
    post.hired[1].serve()
    assert await relief
    await until(lambda: post.child is post.hired[1])
    assert len(post.hired) == 2
    (told,) = [record.message for record in caplog.records if "SIGKILL" in record.message]
    assert told.startswith("worker-0, process 0: ended by SIGKILL")


async def test_a_relief_that_is_called_off_takes_its_successor_along(post):
    post.hired[0].serve()
    relief = asyncio.create_task(post.relieve(1))
    await until(lambda: len(post.hired) == 2)
    relief.cancel()
    await asyncio.gather(relief, return_exceptions=True)
    assert post.hired[1].end.done()
    assert not post.hired[0].end.done()


async def test_without_processes_to_be_had_it_is_tried_again_and_counted(delays):
    tries = []

    async def hire():
        tries.append(len(tries))
        if len(tries) == 1:
            raise OSError("no more processes")
        return Double(1)

    post = Post("worker-0", "127.0.0.1:9002", hire, lambda _: None)
    manning = asyncio.create_task(post.man())
    await until(lambda: post.child is not None)
    assert delays == [10.0]
    assert post.restarts == {"failure": 1}
    await post.close(0)
    await manning


@pytest.fixture
async def child(tmp_path):
    """A real process with a program that cannot know what is wanted of it: it dies at once, and never served."""
    child = await spawn("nobody", "info", "text", asyncio.sleep, Seat(tmp_path, 0, 1, 1), account=bytes)
    yield child
    child.kill()
    await asyncio.wait({child.end})


async def test_a_process_that_dies_before_it_serves_is_known_for_that(child: Child):
    fate = await child.end
    assert (fate.code, fate.served_s, fate.reason) == (1, None, "failure")
    assert "exit code 1" in str(fate)
    assert "never served" in str(fate)
    assert child.greeted.is_set()
    assert await child.ask(Ping(), 1) is None, "nobody is asked who is not there"
