"""What can befall a running stack: each fault is a function that strikes once, at a moment that dice have chosen."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import msgspec
from hack.chaos.witness import Witness, until

from shunter.snapshot import SnapshotReader
from shunter.stack.testing import Running

__all__ = ["FAULTS", "Fault", "Scene"]

STOPPED_S = 5.0
SOON_S = 0.2, 2.0


class Scene:
    """A running stack, who watches it, and the dice."""

    def __init__(self, stack: Running, witness: Witness, dice: Random):
        self.stack = stack
        self.witness = witness
        self.dice = dice

    async def process(self, name: str) -> int:
        """Return a process of the stack, once it lives."""
        return await until(lambda: self._child(name))

    async def workers(self, at_least: int = 1) -> list[int]:
        """Return the workers that live, once there are so many."""
        return await until(lambda: len(living := self.living_workers()) >= at_least and living)

    def living_workers(self) -> list[int]:
        """Of those who sit in the seats, or sat there last, the supervisor's children."""
        supervisor = self._child("picker")
        return sorted(pid for pid in self.witness.pids() if supervisor and _parent(pid) == supervisor)

    def _child(self, name: str) -> int | None:
        pid = self.stack.state.pids[name]
        return pid if _parent(pid) == self.stack.process.pid else None


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
    except OSError:
        return None


async def nothing(_scene: Scene) -> None:
    """What the same clients see when all goes well."""


async def kill_a_worker(scene: Scene) -> None:
    """Whoever lives at this moment, ready or not. To wait for one would be to kill each as soon as it is born."""
    while not (living := scene.living_workers()):  # noqa: ASYNC110  there is no event across processes
        await asyncio.sleep(scene.dice.uniform(*SOON_S))
    victim = scene.dice.choice(living)
    os.kill(victim, signal.SIGKILL)
    scene.witness.struck_workers({victim})


async def kill_all_workers(scene: Scene) -> None:
    victims = await scene.workers(scene.witness.workers)
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    scene.witness.struck_workers(victims)


async def stop_a_worker(scene: Scene) -> None:
    victim = scene.dice.choice(await scene.workers())
    os.kill(victim, signal.SIGSTOP)
    scene.witness.struck_workers({victim})
    await asyncio.sleep(STOPPED_S)
    if victim in await scene.workers():  # nobody has lost patience with it
        os.kill(victim, signal.SIGCONT)


async def kill_the_supervisor(scene: Scene) -> None:
    workers = await scene.workers(scene.witness.workers)
    os.kill(await scene.process("picker"), signal.SIGKILL)
    scene.witness.struck_workers(workers)


async def kill_the_scraper(scene: Scene) -> None:
    reader = SnapshotReader(scene.stack.directory)

    def epoch() -> int | None:
        view = reader.view(time.monotonic_ns())
        return view and view.load.epoch

    before = epoch()
    os.kill(await scene.process("scraper"), signal.SIGKILL)
    scene.witness.struck(lambda: epoch() != before)


async def kill_the_collector(scene: Scene) -> None:
    seat = scene.witness.collector
    victim = await until(lambda: seat.ready and seat.pid)
    os.kill(victim, signal.SIGKILL)
    scene.witness.struck(lambda: seat.ready and seat.pid != victim)


async def restart(scene: Scene) -> None:
    workers = await scene.workers(scene.witness.workers)
    os.kill(await scene.process("picker"), signal.SIGHUP)
    scene.witness.struck_workers(workers)


async def reload(scene: Scene) -> None:
    """Give the last scorer another weight."""
    path = scene.stack.directory / "picker.yaml"
    document = msgspec.yaml.decode(path.read_bytes())
    *_, scorer, _picker = document["schedulingProfiles"][0]["plugins"]
    scorer["weight"] = 3.0 - scorer.get("weight", 1.0)
    path.write_bytes(msgspec.yaml.encode(document))
    await restart(scene)


class Fault(msgspec.Struct, frozen=True):
    """Something that happens ``times`` in a complete run, each after a random pause; the restless do not wait for recovery."""

    name: str
    strike: Callable[[Scene], Awaitable[None]]
    times: int
    pause_s: tuple[float, float]
    restless: bool = False


FAULTS = (
    Fault("none", nothing, 10, (1.0, 1.0)),
    Fault("SIGKILL a worker", kill_a_worker, 200, SOON_S, restless=True),
    Fault("SIGKILL all workers", kill_all_workers, 12, (0.5, 2.0)),
    Fault("SIGSTOP a worker for 5 s", stop_a_worker, 4, (0.5, 1.5)),
    Fault("SIGKILL the supervisor", kill_the_supervisor, 8, (0.5, 2.0)),
    Fault("SIGKILL the scraper", kill_the_scraper, 5, (0.5, 1.5)),
    Fault("SIGKILL the collector", kill_the_collector, 5, (0.5, 1.5)),
    Fault("rolling restart", restart, 5, (0.5, 1.5)),
    Fault("reload of a changed configuration", reload, 5, (0.5, 1.5)),
)
