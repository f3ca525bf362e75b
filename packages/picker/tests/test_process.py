"""How a child ended is said in words, and one that cannot be started leaves nothing behind, however often that is tried."""

import asyncio
from pathlib import Path

import aiomultiprocess.core
import pytest

from shunter.picker.shell import process as processes
from shunter.picker.shell.memory import Seat
from shunter.picker.shell.process import Fate, spawn


@pytest.mark.parametrize(("code", "how"), [(-9, "ended by SIGKILL"), (-35, "ended by signal 35"), (3, "ended with exit code")])
def test_every_end_has_words(code, how):
    assert str(Fate(code, "", None, 1.0, 1.0)).startswith(how)


def test_what_it_came_to_is_the_exit_code():
    async def come_to(code):
        return code

    loop = asyncio.new_event_loop()
    unit = aiomultiprocess.core.Unit(come_to, (3,), {}, None, loop_initializer=lambda: loop)
    with pytest.raises(SystemExit) as ended:
        processes._run(unit)
    loop.close()
    asyncio.set_event_loop(None)
    assert ended.value.code == 3


def refuse(process):
    raise BlockingIOError(f"no process to be had for {process}")


def count_open():
    return len([*Path("/proc/self/fd").iterdir()])


async def test_what_cannot_be_started_leaves_nothing_open(tmp_path, monkeypatch):
    monkeypatch.setattr(aiomultiprocess.core.Process, "start", refuse)
    counts = []
    for _ in range(3):
        with pytest.raises(BlockingIOError):
            await spawn("nobody", "info", "text", asyncio.sleep, Seat(tmp_path, 0, 1, 1), account=bytes)
        counts.append(count_open())
    assert counts[1:] == counts[:1] * 2
