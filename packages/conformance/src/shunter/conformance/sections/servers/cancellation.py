"""Section F, cancellation: whoever hangs up takes his request along, running or queued."""

import asyncio

from shunter.conformance.core.case import Bound, Case, Level
from shunter.conformance.core.signals import Role
from shunter.conformance.errors import Mismatch, Skip
from shunter.conformance.sections.servers.holding import GAUGE_FOLLOWS, SETTLES, hold_tokens, holding, read, settle, watch
from shunter.conformance.sections.servers.load import ALL_SHOWN, KV_FOLLOWS, KV_SLACK, RUNNING_RISES, WAITING, find_capacity
from shunter.conformance.sections.servers.metrics import SAMPLE_PERIOD_S, scrape
from shunter.conformance.sections.servers.openai import STREAM_FRAMING
from shunter.conformance.sections.servers.profile import ABORTS, IGNORE_EOS
from shunter.conformance.sections.servers.target import Target

__all__ = ["CASES"]

# Requests that hang up together.
LEAVING = 3

# They would last so many times as long as the server may take for noticing: who is gone in time is not done, but given up.
# No longer, for on a server that does not notice the next case waits for them.
LONGER = 2

WHOLE_NOTICED = Bound(
    "whole-noticed",
    5.0,
    "a server that has nothing to send yet learns of a client's leaving only by asking, which llama.cpp does once a second",
)

FEATURES = (Role.QUEUE.feature, Role.RUNNING.feature, IGNORE_EOS)


async def _leave(target: Target, bound: Bound, *, stream: bool) -> str:
    await settle(target)
    tokens = hold_tokens(target, LONGER * target.seconds(bound))
    async with holding(target, LEAVING, tokens=[tokens] * LEAVING, stream=stream, leave=True):
        await watch(target, lambda each: each.running >= 1, wanted="running at least 1")
    gone = f"running and queue 0 after {LEAVING} clients hung up"
    seen = await watch(target, lambda each: each.here == 0, bound, wanted=gone)
    if seen[-1].at_s > tokens * (target.step_s or 0.0) / 2:
        raise Skip(
            f"nobody there {seen[-1].at_s:.2f} s after {LEAVING} clients hung up; so soon they might have been done anyway"
        )
    return f"nobody there {seen[-1].at_s:.2f} s after {LEAVING} clients hung up"


def _long(target: Target) -> int:
    """Return tokens that take longer than a server has for each of the steps of a case."""
    return hold_tokens(target, 4 * target.seconds(GAUGE_FOLLOWS))


async def stream(target: Target) -> str:
    return await _leave(target, GAUGE_FOLLOWS, stream=True)


async def whole(target: Target) -> str:
    return await _leave(target, WHOLE_NOTICED, stream=False)


async def queued(target: Target) -> str:
    await settle(target)
    capacity = await find_capacity(target)
    async with holding(target, capacity, tokens=[_long(target)] * capacity, leave=True) as unanswered:
        await watch(target, lambda each: each.running >= capacity, wanted=f"running {capacity}")
        async with holding(target, WAITING, stream=True, leave=True):
            await watch(target, lambda each: each.queue >= WAITING, wanted=f"queue at least {WAITING}")
        gone = f"queue 0 after the {WAITING} who waited hung up, before the first of those that run has ended"
        seen = await watch(target, lambda each: each.queue == 0, wanted=gone)
        if unanswered() < capacity:
            raise Mismatch(gone, f"{seen[-1]}, when {capacity - unanswered()} had ended")
    return f"nobody waiting {seen[-1].at_s:.2f} s after {WAITING} who waited hung up"


async def kv(target: Target) -> str:
    await settle(target)
    before = (await read(target, asyncio.get_running_loop().time())).kv
    async with holding(target, LEAVING, tokens=[_long(target)] * LEAVING, stream=True, leave=True):
        await watch(target, lambda each: each.kv > before, wanted=f"KV above {before:g} while {LEAVING} requests run")
    freed = f"nobody there and KV {before:g} again after {LEAVING} clients hung up"
    seen = await watch(target, lambda each: each.here == 0 and each.kv <= before + KV_SLACK, wanted=freed)
    return f"{before:g} before, {seen[-1].kv:g} again {seen[-1].at_s:.2f} s after {LEAVING} clients hung up"


async def counted(target: Target) -> str:
    await settle(target)
    signal = target.profile.counters[ABORTS]
    before = (await scrape(target)).total(signal)
    async with holding(target, LEAVING, tokens=[_long(target)] * LEAVING, stream=True, leave=True) as unanswered:
        await watch(target, lambda each: each.here >= unanswered() > 0, wanted="running + queue as many as there are requests")
        leaving = unanswered()  # the others were refused
    clock, limit_s = asyncio.get_running_loop().time, target.seconds(GAUGE_FOLLOWS)
    begin_s = clock()
    while (rise := (await scrape(target)).total(signal) - before) != leaving:
        if clock() - begin_s > limit_s:
            wanted = f"a rise of {signal} by {leaving} within {limit_s:g} s after so many clients hung up"
            raise Mismatch(wanted, f"it rose by {rise:g}")
        await asyncio.sleep(SAMPLE_PERIOD_S)
    return f"{signal} rose by {leaving}"


REPORTING = "GIE Model Server Protocol (proposal 003), Metrics Reporting: the gauges are of requests that are there"

STREAM = Case(
    id="ms.cancel.stream",
    level=Level.MUST,
    requirement="A streamed request whose client hangs up MUST be given up, and leave the gauges.",
    why="Users close tabs, and gateways retry elsewhere: what goes on for nobody takes the batch from everybody.",
    source=f"RFC 9112 §9.6 (a client may close); {REPORTING}",
    features=FEATURES,
    needs=(RUNNING_RISES.id, STREAM_FRAMING.id),
    bounds=(GAUGE_FOLLOWS, SETTLES),
    run=stream,
)

WHOLE = Case(
    id="ms.cancel.whole",
    level=Level.MUST,
    requirement="A request that is not streamed and whose client hangs up MUST be given up, and leave the gauges.",
    why="Clients with a timeout ask again; a server that works off what nobody waits for any more never catches up.",
    source=f"RFC 9112 §9.6 (a client may close); {REPORTING}",
    features=FEATURES,
    needs=(STREAM.id,),
    bounds=(WHOLE_NOTICED, GAUGE_FOLLOWS, SETTLES),
    run=whole,
)

QUEUED = Case(
    id="ms.cancel.queued",
    level=Level.MUST,
    requirement="A request that waits and whose client hangs up MUST leave the queue at once, without running first.",
    why="Under overload most of a queue may be of clients that have gone.",
    source=f"RFC 9112 §9.6 (a client may close); {REPORTING}",
    features=FEATURES,
    needs=(STREAM.id, ALL_SHOWN.id),
    bounds=(GAUGE_FOLLOWS, SETTLES),
    run=queued,
)

KV_FREED = Case(
    id="ms.cancel.kv",
    level=Level.MUST,
    requirement="When clients hang up, the KV cache of their requests MUST be free again at once, and the gauge show it.",
    why="Memory that is kept for nobody makes a server look full, and in the end it is: new requests wait or push out others.",
    source=REPORTING,
    features=(*FEATURES, Role.KV.feature),
    needs=(STREAM.id, KV_FOLLOWS.id),
    bounds=(GAUGE_FOLLOWS, SETTLES),
    run=kv,
)

COUNTED = Case(
    id="ms.cancel.counted",
    level=Level.SHOULD,
    requirement="Requests whose clients hang up SHOULD be counted as aborted.",
    why="Users who give up are the first sign of an overload; a server that counts only what it finishes looks well.",
    source="Meaning of the counter in vLLM, the reference server of the GIE Model Server Protocol (proposal 003)",
    features=(*FEATURES, ABORTS),
    needs=(STREAM.id,),
    bounds=(GAUGE_FOLLOWS, SETTLES),
    run=counted,
)

CASES = (STREAM, WHOLE, QUEUED, KV_FREED, COUNTED)
