"""One child process as the supervisor has it: spawned, greeted, asked how it is, waited for. Its own side is ``shell.service``.

::

    spawn ──> Hello ──> Ping, Status, Ping, Status … ──> Drain ──> ended
       │        └ dead, or silent for START_S: "never served"
       └ Failure: why it cannot serve

Processes are spawned by aiomultiprocess, and share nothing through multiprocessing. So neither of the two processes that come
with it has anything to do, and neither is started: the manager, without which no child could be started again if somebody
killed it, and the resource tracker.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from multiprocessing import resource_tracker
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import aiomultiprocess.core
import msgspec
import uvloop

from shunter.picker.shell.control import (
    Caller,
    Decisions,
    Drain,
    Failure,
    Hello,
    Link,
    Ping,
    Recall,
    Reply,
    Stacks,
    Status,
    Verbosity,
    connect,
)
from shunter.picker.shell.memory import Seat
from shunter.picker.shell.service import LAST_WORDS_S, ORPHAN_S, enter
from shunter.snapshot.stderr import Form, Level

__all__ = ["BEAT_S", "HUNG_S", "REASONS", "START_S", "Child", "Fate", "Patience", "spawn"]

# An import on two busy cores takes seconds; whoever has not served after this never will.
START_S = 30.0

BEAT_S = 0.5
# Two busy cores may keep an event loop from its turn for a second; a worker that says nothing for three, and counts nothing
# either, takes requests and does not answer them.
HUNG_S = 3.0
# A life in which one served for less is short. Not more: workers that something strikes at random twice in a few seconds must
# be there again at once, and who breaks at the first request does so within this time if there is any load.
SHORT_S = 1.0

# For the kernel to write a stack into the log.
LAST_LOOK_S = 0.2

log = logging.getLogger(__name__)


REASONS = ("signal", "exit", "failure", "hung", "late")
"""Why a child may have ended, in a word."""


class Fate(msgspec.Struct, frozen=True):
    """How a child ended."""

    code: int  # of its exit; negative: the signal that ended it
    killed: str  # by the supervisor, and why: "hung", "late", "slow", or "" if it was not
    words: str | None  # its own: why it could not serve
    lived_s: float
    served_s: float | None  # since it said Hello; None: it never did

    @property
    def reason(self) -> str:
        """In a word, for a metric's label."""
        return self.killed or ("signal" if self.code < 0 else "failure" if self.code or self.served_s is None else "exit")

    @property
    def is_short(self) -> bool:
        """Whether it lived for so little that the next one may well live no longer. Who breaks drains first."""
        return self.served_s is None or self.served_s < SHORT_S + (ORPHAN_S + LAST_WORDS_S if self.code > 0 else 0.0)

    def __str__(self) -> str:
        if self.words is not None:
            return self.words
        if self.killed == "hung":
            how = f"killed: it had not answered for {HUNG_S:g} s"
        elif self.killed == "late":
            how = "killed: it took too long to start"
        elif self.killed == "slow":
            how = "killed: it had not ended by the deadline"
        elif self.code < 0:
            names = {each.value: each.name for each in signal.Signals}  # most of the real-time ones have none
            how = f"ended by {names.get(-self.code, f'signal {-self.code}')}"
        else:
            how = f"ended with exit code {self.code}"
        return f"{how}; it lived {self.lived_s:.1f} s" + ("" if self.served_s is not None else " and never served")


class Patience:
    """When to give a child up for hung.

    One that does not answer in time but goes on counting has more to do than the machine can bear: its event loop reads
    requests by the megabyte before it comes to anything else. To kill it would cost its streams, and half a second of CPU.
    """

    def __init__(self) -> None:
        self._missed = 0
        self._account = b""

    def is_over(self, *, answered: bool, account: bytes) -> bool:
        """Tell, once a beat, by whether it has answered and by what it has counted so far."""
        self._missed = 0 if answered or account != self._account else self._missed + 1
        self._account = account
        return self._missed * BEAT_S >= HUNG_S


class Child:
    """The supervisor's view of one process, from its start to its end. ``account`` is what its seat has counted so far."""

    def __init__(self, process: aiomultiprocess.core.Process, seat: Seat, link: Link, account: Callable[[], bytes]) -> None:
        self.seat = seat
        self.status: Status | None = None  # None: not heard of yet
        self.draining = False
        self._started_s = time.monotonic()
        self._served_s: float | None = None  # since when
        self._process = process
        self._account = account
        self._caller = Caller(link)
        self.words: str | None = None  # why it cannot serve
        self._killed = ""
        self._ended = asyncio.Event()
        sentinel = cast("int", process.aio_process.sentinel)  # pyright: ignore[reportUnknownMemberType]  untyped
        loop = asyncio.get_running_loop()
        loop.add_reader(sentinel, lambda: (loop.remove_reader(sentinel), self._ended.set()))
        self.greeted = asyncio.Event()  # has said Hello, or never will
        self.end = asyncio.create_task(self._attend())

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid or 0

    @property
    def served(self) -> bool:
        """Whether it has said Hello."""
        return self._served_s is not None

    @property
    def hindrances(self) -> tuple[str, ...]:
        """Why it should get no requests."""
        if self.end.done():
            return ("dead",)
        if self.draining:
            return ("draining",)
        return self.status.hindrances if self.status is not None else ("starting",)

    async def ask(self, question: Ping | Decisions | Recall | Stacks, deadline_s: float) -> Reply | None:
        """Ask it; None if it does not answer in time."""
        if not self.served or self.end.done():
            return None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                return await self._caller.ask(question)
        return None

    def speak(self, level: Level) -> None:
        """Let it log what is of this level at least."""
        self._caller.tell(Verbosity(level))

    async def leave(self, deadline_s: float) -> Fate:
        """Tell it to end well, kill it at the deadline, and return how it ended."""
        self.draining = True
        if self.served:
            self._caller.tell(Drain())
            await asyncio.wait({self.end}, timeout=deadline_s)
        if not self.end.done():
            self._killed = "slow" if self.served else ""
            self.kill()
            await asyncio.wait({self.end})  # unlike awaiting it, this can be left off without leaving it off
        return self.end.result()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    async def _attend(self) -> Fate:
        """Accompany it to its end."""
        ended = asyncio.create_task(self._ended.wait())
        listening = None
        try:
            await self._greet(ended)
            self.greeted.set()
            if self.served:
                listening = asyncio.create_task(self._caller.listen())
                await self._beat(ended)
            await ended
            await self._process.join()  # the sentinel ends a moment before there is an exit code
        finally:
            for task in (ended, listening):
                if task is not None:
                    task.cancel()
            await self._caller.close()
        now_s = time.monotonic()
        served_s = None if self._served_s is None else now_s - self._served_s
        return Fate(self._process.exitcode or 0, self._killed, self.words, now_s - self._started_s, served_s)

    async def _greet(self, ended: "asyncio.Task[Any]") -> None:
        first = asyncio.create_task(self._caller.first())
        await asyncio.wait({first, ended}, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        if not first.done() and not ended.done():
            self._killed = "late"
            self.kill()
            await ended
        match await first:
            case Hello():
                self._served_s = time.monotonic()
            case Failure(words):
                self.words = words
            case _:
                pass

    async def _beat(self, ended: "asyncio.Task[Any]") -> None:
        """Ask how it is until it ends, or kill it for silence.

        Beats are counted, not seconds: a supervisor that was stopped itself must not take everybody else for dead.
        """
        patience = Patience()
        ping = self._ping()
        while not ended.done():
            await asyncio.wait({ended}, timeout=BEAT_S)
            if patience.is_over(answered=ping.done(), account=self._account()):
                self._killed = "hung"
                with contextlib.suppress(ProcessLookupError):  # it has died meanwhile, and whoever starts another one reaps all
                    os.kill(self.pid, signal.SIGUSR1)  # its stack goes to the log
                await asyncio.wait({ended}, timeout=LAST_LOOK_S)
                self.kill()
                return
            if ping.done():
                ping = self._ping()

    def _ping(self) -> "asyncio.Future[Reply | None]":
        ping = self._caller.ask(Ping())
        ping.add_done_callback(self._note_status)
        return ping

    def _note_status(self, ping: "asyncio.Future[Reply | None]") -> None:
        if not ping.cancelled() and isinstance(status := ping.result(), Status):
            self.status = status


async def spawn(
    name: str,
    log_level: Level,
    log_format: Form,
    target: Callable[..., Awaitable[int]],
    seat: Seat,
    *args: object,
    account: Callable[[], bytes],
) -> Child:
    """Start ``target(socket, seat, *args)`` in a process of its own; what it returns is the exit code."""
    _do_without_helpers()
    ours, theirs = socket.socketpair()
    link = await connect(ours)
    process = aiomultiprocess.core.Process(
        target=target,
        args=(theirs, seat, *args),
        name=name,
        daemon=True,
        initializer=enter,
        initargs=(name, log_level, log_format),
        loop_initializer=uvloop.new_event_loop,
        process_target=_run,
    )
    try:
        with _deaf_to_the_group():
            process.start()
    except BaseException:
        await link.close()
        raise
    finally:
        theirs.close()
    return Child(process, seat, link, account)


def _run(unit: aiomultiprocess.core.Unit) -> NoReturn:
    sys.exit(aiomultiprocess.core.Process.run_async(unit))


@contextlib.contextmanager
def _deaf_to_the_group() -> Generator[None]:
    """Let who is started inherit that what is sent to all processes is for the supervisor alone.

    Ctrl-C and the end of a terminal are, and what service managers send to a whole unit: it ends or relieves its children in
    order.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _do_without_helpers() -> None:
    # Both libraries leave no other way than their private names.
    aiomultiprocess.core._manager = SimpleNamespace(Namespace=SimpleNamespace)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    tracker: Any = resource_tracker._resource_tracker  # noqa: SLF001  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    if tracker._fd is None:  # noqa: SLF001
        tracker._fd = os.open(os.devnull, os.O_WRONLY)  # noqa: SLF001
