"""One fault on a running stack under load, and what it cost: by the clients, by Envoy's log and by the workers' counters."""

import asyncio
import json
import statistics
from random import Random

import msgspec
from hack.chaos.faults import Fault, Scene
from hack.chaos.load import Clients, Toll
from hack.chaos.stage import WORKERS
from hack.chaos.witness import Witness, until

from shunter.stack.testing import Running

__all__ = ["DEFAULT", "Row", "undergo"]

# Before the first strike: connections are warm, and there are streams in the middle of their answer.
SETTLE_S = 1.5
# A strike that is felt longer than this is a finding of its own.
PATIENCE_S = 15.0
FLUSH_S = 0.1  # Envoy's, of its log
LOGGED_WITHIN_S = 5.0
LOSSES_SHOWN = 20
# After the last answer. A request whose worker and whose record are both lost counts as in flight for up to a minute.
BOOKED_S = 75.0

DEFAULT = "lean"


class Row(msgspec.Struct, kw_only=True):
    """What one fault cost in one profile."""

    profile: str
    default: bool
    fault: str
    kills: int  # or other strikes
    requests: int
    failures: int  # as clients saw it
    fallbacks: int  # answered 200 without a pick, by Envoy's own balancing
    recovery_ms: float | None  # median, until as many workers as before, none of those struck, answered picks
    recovery_max_ms: float | None
    silence_ms: float  # the longest time without any pick
    p99_ms: float  # until the head of the answer
    booked: int  # in flight by the picker's account, when nothing has been for long
    kinds: dict[str, int]  # of failures
    losses: list[dict[str, object]] = []  # the first few, with Envoy's line on each


async def undergo(stack: Running, fault: Fault, times: int, rate_per_s: float, dice: Random) -> Row:
    """Strike ``times`` under so many requests a second, and count."""
    witness = Witness(stack.directory / "picker", WORKERS)
    clients = Clients(stack.gateway, rate_per_s)
    scene = Scene(stack, witness, dice)
    over, toll = asyncio.Event(), Toll()
    prefix = f"chaos-{dice.getrandbits(32):08x}-"
    log = stack.directory / "access.log"
    offset = log.stat().st_size
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(clients.ask_until(over, toll, prefix))
        tasks.create_task(witness.watch(over))
        await asyncio.sleep(SETTLE_S)
        for _ in range(times):
            await asyncio.sleep(dice.uniform(*fault.pause_s))
            await fault.strike(scene)
            if not fault.restless:
                await until(lambda: witness.all_over, PATIENCE_S)
        await until(lambda: witness.all_over, PATIENCE_S)
        over.set()
    await until(lambda: not witness.booked, BOOKED_S)
    lines = await _logged(log, offset, prefix, toll.requests)
    felt_ms = [1e3 * strike.felt_s for strike in witness.strikes if strike.felt_s is not None]
    lost = not witness.all_over
    return Row(
        profile=stack.state.plan.profile,
        default=stack.state.plan.profile == DEFAULT,
        fault=fault.name,
        kills=len(witness.strikes),
        requests=toll.requests,
        failures=toll.failures,
        fallbacks=sum(line["pick"] is None and line["status"] == 200 for line in lines.values()),
        recovery_ms=round(statistics.median(felt_ms), 1) if felt_ms else None,
        recovery_max_ms=None if lost or not felt_ms else round(max(felt_ms), 1),
        silence_ms=round(1e3 * witness.silence_s, 1),
        p99_ms=round(1e3 * statistics.quantiles(toll.heads_s, n=100)[98], 1),
        booked=witness.booked,
        kinds=dict(toll.failed),
        losses=[{"kind": kind, **lines.get(name, {"request_id": name})} for _, name, kind in toll.losses[:LOSSES_SHOWN]],
    )


async def _logged(log, offset, prefix, requests):
    """Return Envoy's lines by request id, once all are there or it is too late for them."""

    def read():
        with log.open("rb") as file:
            file.seek(offset)
            return file.read()

    await until(lambda: read().count(prefix.encode()) >= requests, LOGGED_WITHIN_S, look_s=FLUSH_S)
    lines = [json.loads(line) for line in read().splitlines(keepends=True) if line.endswith(b"\n") and prefix.encode() in line]
    return {line["request_id"]: line for line in lines}
