"""What runs in a child process of the supervisor: it serves, answers for itself, and ends well, also when it is left alone.

::

    SIGTERM, or Drain from the supervisor      → it drains and ends
    the end of the link: no supervisor is left → it goes on for a while, for somebody to relieve it, then as above
    a task of the service breaks               → it is logged by name, and the process drains and ends with exit code 1: half
                                                 a service looks well from outside; while it drains it is logged only
    the supervisor dies before it serves       → it ends at once
"""

import asyncio
import ctypes
import faulthandler
import io
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import parent_process
from typing import Any, Protocol

from shunter.picker.errors import PickerError
from shunter.picker.shell.control import (
    Decided,
    Decisions,
    Drain,
    Failure,
    Hello,
    Link,
    Ping,
    Recall,
    Recalled,
    Reply,
    Stacks,
    Status,
    Traced,
    Verbosity,
    connect,
)
from shunter.snapshot.stderr import Form, Level, log_to_stderr

__all__ = ["ALONE_S", "LAST_WORDS_S", "ORPHAN_S", "Service", "end_tasks", "enter", "serve", "trace"]

# A worker without supervisor goes on until the next one's workers are there; it takes two seconds on two busy cores.
ALONE_S = 5.0
# Then it ends, as does one that is broken: long enough for a choice to be made and an answer of ordinary length to end, short
# enough to wait for.
ORPHAN_S = 3.0
# After the deadline for draining: the transport cuts off what is left within 0.5 s, a collector that is dead has 2 s to take
# the last spans, and the interpreter ends.
LAST_WORDS_S = 4.0

# The exit code of a process that could not serve, or not go on.
BROKEN = 1

# <sys/prctl.h>
PR_SET_PDEATHSIG = 1

# Tasks shown in a trace: one is like the other when there are many.
TASKS = 50

log = logging.getLogger(__name__)


class Service(Protocol):
    """What runs in a child."""

    @property
    def tasks(self) -> Sequence[asyncio.Task[None]]:
        """What it does beside answering, from its start until it has drained; none ends by itself."""
        ...

    async def start(self) -> int:
        """Serve, and return the port; raise PickerError if that cannot be."""
        ...

    def status(self) -> Status:
        """Say how you are."""
        ...

    def explain(self, last: int, request_id: str | None, before_s: float | None) -> Decided:
        """Return decisions before a time, or of these one request's; at most so many, and as many as can be told at once."""
        ...

    def recall(self, most: int, before_s: float | None) -> Recalled:
        """Return decisions before a time; at most so many, and as many as can be told at once."""
        ...

    async def drain(self, deadline_s: float) -> None:
        """End well."""
        ...


async def serve(end: socket.socket, make: Callable[[], Service], drain_s: float, alone_s: float = 0.0) -> int:
    """Run a service in this process for the supervisor at the other ``end``, until it says so, or SIGTERM does.

    If the supervisor is gone, it goes on for ``alone_s``: whoever comes next may relieve it sooner, by SIGTERM. Return the exit
    code: 0 if it ended because it was to.
    """
    link = await connect(end)
    try:
        service = make()
        port = await service.start()
    except PickerError as error:
        link.send(Failure(str(error)))
        await link.close()
        return BROKEN
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    _end_with_parent(0)  # from now on the link tells
    link.send(Hello(port))
    answering, waiting = asyncio.create_task(_answer(link, service, over)), asyncio.create_task(over.wait())
    await asyncio.wait({answering, waiting, *service.tasks}, return_when=asyncio.FIRST_COMPLETED)
    ended = next((task for task in (*service.tasks, answering) if task.done()), None)
    broken = ended is not None and (ended is not answering or ended.exception() is not None)
    if ended is not None and broken:
        why = None if ended.cancelled() else ended.exception()
        log.error("a task of this process has ended, %s, and so does the process", _name(ended), exc_info=why)
    elif not waiting.done():
        log.warning("the supervisor is gone: going on for %g s, unless another one has somebody for this post", alone_s)
        await asyncio.wait({waiting}, timeout=alone_s)
    deadline_s = drain_s if ended is None else min(drain_s, ORPHAN_S)
    log.info("draining, at most %g s", deadline_s)
    alive = [task for task in service.tasks if not task.done()]
    await service.drain(deadline_s)
    for task in alive:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task has ended while draining: %s", _name(task), exc_info=error)
    await end_tasks((answering, waiting))
    await link.close()
    return BROKEN if broken else 0


async def end_tasks(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for their end, however they end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _name(task: asyncio.Task[Any]) -> str:
    return getattr(task.get_coro(), "__qualname__", task.get_name())


async def _answer(link: Link, service: Service, over: asyncio.Event) -> None:
    """Answer the supervisor until it is dead, or not in its right mind."""
    while True:
        match await link.receive():
            case Ping():
                _send(link, service.status, Status())
            case Decisions(last, request_id, before_s):
                _send(link, lambda: service.explain(last, request_id, before_s), Decided())
            case Recall(most, before_s):
                _send(link, lambda: service.recall(most, before_s), Recalled())
            case Stacks():
                link.send(Traced(trace()))
            case Verbosity(level):
                logging.getLogger().setLevel(level.upper())
                log.info("log level: %s", level)
            case Drain():
                over.set()
            case _:
                return


def _send(link: Link, tell: Callable[[], Reply], nothing: Reply) -> None:
    try:
        link.send(tell())
    except Exception:  # the boundary: scores and words come from plugins, and may be what nobody can write down
        log.exception("a question of the supervisor's cannot be answered")
        link.send(nothing)


def trace() -> str:
    """Return where every thread and the first tasks of this process are."""
    text = io.StringIO()
    frames = sys._current_frames()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  documented in spite of its name
    for thread, frame in frames.items():
        text.write(f"thread {thread}\n{''.join(traceback.format_stack(frame))}\n")
    tasks = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
    for task in tasks[:TASKS]:
        task.print_stack(file=text)
    if len(tasks) > TASKS:
        text.write(f"and {len(tasks) - TASKS} tasks more\n")
    return text.getvalue()


def enter(name: str, log_level: Level, log_format: Form) -> None:
    """Begin a child's life: to be called before anything else in it."""
    log_to_stderr(log_level, log_format, name)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # it is for the supervisor, and would end whom it was sent to by mistake
    # A supervisor that is killed cannot end its children: the kernel does it, if it was asked in time.
    _end_with_parent(signal.SIGTERM)
    parent = parent_process()
    if parent is not None and os.getppid() != parent.pid:
        os._exit(0)


def _end_with_parent(number: int) -> None:
    """Let the kernel send this signal when the parent dies; 0: none."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
