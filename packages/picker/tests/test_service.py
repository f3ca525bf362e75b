"""What runs in a child answers for itself as long as it can, and says what is the matter when it cannot."""

import asyncio
import socket

import pytest

from shunter.picker.shell import service as module
from shunter.picker.shell import telemetry
from shunter.picker.shell.control import (
    Caller,
    Decided,
    Decisions,
    Drain,
    Hello,
    Ping,
    Recall,
    Recalled,
    Stacks,
    Status,
    connect,
)
from shunter.picker.shell.service import LAST_WORDS_S, end_tasks, serve
from shunter.picker.transport import server


class Double:
    """A service whose decisions nobody can explain."""

    def __init__(self):
        self.drained = False
        self.streams = 3
        self.tasks = [asyncio.create_task(self._go_on())]
        self.broken = asyncio.Event()
        self.breaks_while_draining = False

    async def _go_on(self):
        await self.broken.wait()
        raise ZeroDivisionError("a task")

    async def start(self):
        return 7

    def status(self):
        return Status(streams=self.streams)

    def explain(self, last, request_id, before_s):
        raise ZeroDivisionError(last)

    def recall(self, most, before_s):
        raise ZeroDivisionError(most)

    async def drain(self, deadline_s):
        if self.breaks_while_draining:
            self.broken.set()
            await asyncio.wait(self.tasks)
        await end_tasks(self.tasks)
        self.drained = True


@pytest.fixture
async def service():
    return Double()


@pytest.fixture
async def caller(service):
    """Asks a service that runs in this process, whose exit code ``caller.serving`` will be, and ends it."""
    ours, theirs = socket.socketpair()
    caller = Caller(await connect(ours))
    caller.serving = asyncio.create_task(serve(theirs, lambda: service, 1.0))
    assert await caller.first() == Hello(7)
    listening = asyncio.create_task(caller.listen())
    yield caller
    caller.tell(Drain())
    await caller.serving
    await listening
    await caller.close()
    assert service.drained


async def test_who_is_told_to_go_ends_with_0(caller):
    caller.tell(Drain())
    assert await caller.serving == 0


async def test_a_question_that_breaks_is_logged_and_the_service_goes_on(caller, service, caplog):
    assert await caller.ask(Decisions(5)) == Decided()
    assert await caller.ask(Recall(5)) == Recalled()
    service.streams = object()  # which nobody can write down
    assert await caller.ask(Ping()) == Status()
    service.streams = 3
    assert "ZeroDivisionError" in caplog.text
    assert (await caller.ask(Ping())).streams == 3


@pytest.mark.parametrize(("which", "name"), [("its own", "Double._go_on"), ("the one that answers", "_answer")])
async def test_a_task_that_breaks_is_logged_by_name_and_ends_the_process_as_a_failure(
    which, name, caller, service, caplog, monkeypatch
):
    if which == "its own":
        service.broken.set()
    else:
        monkeypatch.setattr(module, "trace", lambda: 1 // 0)
        caller.ask(Stacks())
    assert await caller.serving == 1
    assert f"a task of this process has ended, {name}, and so does the process" in caplog.text
    assert "Traceback" in caplog.text


async def test_a_task_that_somebody_cancels_is_a_failure_too(caller, service, caplog):
    service.tasks[0].cancel()
    assert await caller.serving == 1
    assert "a task of this process has ended, Double._go_on" in caplog.text


async def test_a_task_that_breaks_while_it_drains_is_logged_by_name(caller, service, caplog):
    service.breaks_while_draining = True
    caller.tell(Drain())
    assert await caller.serving == 0
    (told,) = [record for record in caplog.records if "while draining" in record.message]
    assert told.message == "a task has ended while draining: Double._go_on"
    assert told.exc_info[0] is ZeroDivisionError


def test_all_that_is_said_after_the_deadline_has_the_time_for_it():
    assert server.LAST_WORDS_S + telemetry.LAST_WORDS_S < LAST_WORDS_S
