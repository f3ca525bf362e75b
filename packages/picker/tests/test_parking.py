"""The timer of those who wait, and who is woken by it."""

import asyncio
from types import SimpleNamespace

from shunter.picker.core.judgement import Pick
from shunter.picker.transport.parking import Parking


class Judge:
    """Dispatches what is put into ``ready``."""

    def __init__(self):
        self.ready = []
        self.left = []
        self.asked = 0

    def dispatch(self, now_s):
        self.asked += 1
        ready, self.ready = self.ready, []
        return ready

    def leave(self, ticket, now_s):
        self.left.append(ticket)


def session(ticket, *, parked=True):
    return SimpleNamespace(ticket=ticket, parked=parked)


def pick(ticket):
    return ticket, Pick(("10.0.0.1:8000",), ticket, "id")


async def test_nobody_is_asked_while_nobody_waits():
    judge = Judge()
    parking = Parking(judge, asyncio.get_running_loop().time)
    parking.follow(session(1, parked=False), lambda *_: None)
    waiting = session(2)
    parking.follow(waiting, lambda *_: None)
    parking.leave(waiting)
    for _ in range(3):
        await asyncio.sleep(0.01)
    assert judge.asked == 0


async def test_who_is_gone_because_of_another_ones_verdict_is_given_back():
    judge = Judge()
    parking = Parking(judge, asyncio.get_running_loop().time)
    first, second = session(1), session(2)
    woken = asyncio.Event()

    def resume(*_):
        parking.leave(second)
        woken.set()

    parking.follow(first, resume)
    parking.follow(second, lambda *_: None)
    judge.ready = [pick(1), pick(2)]
    await woken.wait()
    assert judge.left == [2]
    assert len(parking) == 0


async def test_a_session_that_breaks_does_not_hold_up_the_others(caplog):
    judge = Judge()
    parking = Parking(judge, asyncio.get_running_loop().time)
    woken = asyncio.Event()
    parking.follow(session(1), lambda *_: 1 / 0)
    parking.follow(session(2), lambda *_: woken.set())
    judge.ready = [pick(1), pick(2)]
    await woken.wait()
    assert "a session that waited failed" in caplog.text
