"""Section E, freshness: a page says how things are, not how they were, and says more the more there is to do."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from shunter.conformance.core.case import Bound, Case, Level
from shunter.conformance.core.signals import Role
from shunter.conformance.errors import Mismatch, TooShort
from shunter.conformance.sections.servers.asking import TOKENS, ask_completion
from shunter.conformance.sections.servers.holding import (
    FEWEST_TOKENS,
    GAUGE_FOLLOWS,
    SCRAPE_EVERY_S,
    SETTLES,
    Reading,
    draw,
    expect_served,
    hold_tokens,
    holding,
    read,
    settle,
)
from shunter.conformance.sections.servers.load import (
    ALL_SHOWN,
    FEWEST_LOOKS,
    LOAD_DRAINS,
    LOAD_REPORTING,
    ON_THE_WAY_S,
    TRIED,
    WAITING,
    find_capacity,
)
from shunter.conformance.sections.servers.metrics import SAMPLE_PERIOD_S
from shunter.conformance.sections.servers.profile import IGNORE_EOS
from shunter.conformance.sections.servers.target import Target

__all__ = ["CASES"]

FRESH = Bound(
    "fresh",
    0.1,
    "twice the interval of the reference picker; in simulations, values so much older cost four times the time to first token",
)

# A gauge is renewed by steps of the engine: with the one in progress and the next, nobody has to wait for a third.
FRESH_STEPS = 2

# Requests come one after the other, this long apart.
APART_S = 0.05

# Of the looks, so many may show what is old: a machine that is busy with something else.
OLD = 0.1

FEATURES = (Role.QUEUE.feature, Role.RUNNING.feature, IGNORE_EOS)


async def lag(target: Target) -> str:
    await settle(target)
    count, fewest = 2 * (target.capacity or TRIED[0]), max(TOKENS, hold_tokens(target) // 2)
    clock = asyncio.get_running_loop().time
    begin_s = clock()
    sent_s: list[float] = []
    ended_s: list[float] = []
    looks: list[tuple[Reading, float]] = []

    async def ask(nth: int) -> None:
        await asyncio.sleep(nth * APART_S)
        sent_s.append(clock() - begin_s)
        answer = await ask_completion(target, max_tokens=fewest + fewest * nth // count, ignore_eos=True)
        ended_s.append(clock() - begin_s)
        expect_served([answer])

    asked = asyncio.gather(*(ask(nth) for nth in range(count)))
    try:
        while not asked.done():
            reading = await read(target, begin_s)
            looks.append((reading, clock() - begin_s))
            await asyncio.sleep(SCRAPE_EVERY_S)
        await asked
    finally:
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    draw(target, [reading for reading, _ in looks])
    if len(looks) < FEWEST_LOOKS:
        raise TooShort
    limit_s = max(target.seconds(FRESH), FRESH_STEPS * (target.step_s or 0.0))
    old = [told for reading, came_s in looks if (told := _old(reading, came_s, sent_s, ended_s, limit_s))]
    if len(old) > max(1.0, OLD * len(looks)):
        raise Mismatch(
            f"on {1 - OLD:.0%} of the pages every request that came or ended {limit_s * 1000:.0f} ms before",
            f"{len(old)} of {len(looks)} pages were older: {old[0]}",
        )
    return f"{len(looks) - len(old)} of {len(looks)} pages showed all that was {limit_s * 1000:.0f} ms old"


def _old(reading: Reading, came_s: float, sent_s: list[float], ended_s: list[float], limit_s: float) -> str:
    """What is wrong with a page that was asked for at one time and came at another; empty if nothing is."""
    due_s = reading.at_s - limit_s
    most = sum(at_s <= came_s for at_s in sent_s) - sum(at_s <= due_s for at_s in ended_s)
    fewest = sum(at_s <= due_s for at_s in sent_s) - sum(at_s <= came_s + ON_THE_WAY_S for at_s in ended_s)
    if fewest <= reading.here <= most:
        return ""
    wanted = f"{most}" if reading.here > most else f"at least {fewest}"
    return f"{reading}, when there were {wanted}"


async def ramp(target: Target) -> str:
    await settle(target)
    capacity = await find_capacity(target)
    levels = sorted({max(1, capacity // 2), *(capacity + WAITING * more for more in range(4))})
    # Who waits until the first ends need not last himself: four times as many as run at once would outlast any client.
    lasting = [hold_tokens(target)] * capacity + [FEWEST_TOKENS] * (levels[-1] - capacity)
    shown, told = [0.0], ""
    async with AsyncExitStack() as held:
        unanswered: list[Callable[[], int]] = []
        for level in levels:
            # One after the other: of many at once, a server that has a thread for each (llama.cpp) reads some later, and
            # until then it does not answer who asks for its page.
            for tokens in lasting[len(unanswered) : level]:
                unanswered.append(await held.enter_async_context(holding(target, 1, tokens=[tokens])))
                await asyncio.sleep(SAMPLE_PERIOD_S)
            shown.append(await _settled(target, level))
            if sum(count() for count in unanswered) < level:
                raise TooShort
            told = ", ".join(f"{here:g} with {level}" for level, here in zip(levels, shown[1:], strict=False))
            if shown[-1] <= shown[-2]:
                raise Mismatch("more running + queued the more requests there are", told)
    return f"running + queue {told}"


async def _settled(target: Target, level: int) -> float:
    """What the gauges show of so many requests: all of them, or what they show when they have had time enough."""
    clock = asyncio.get_running_loop().time
    begin_s, limit_s = clock(), target.seconds(GAUGE_FOLLOWS)
    while True:
        reading = await read(target, begin_s)
        if reading.here == level or reading.at_s > limit_s:
            return reading.here
        await asyncio.sleep(SAMPLE_PERIOD_S)


LAG = Case(
    id="ms.freshness.lag",
    level=Level.SHOULD,
    requirement="A page SHOULD show every request that came or ended 0.1 s, or two steps, before it was asked for.",
    why="All pickers send to the server that looked emptiest; by the time an old page is corrected it is the fullest.",
    source="Scrape interval of the reference picker (50 ms); GIE Model Server Protocol (proposal 003), Metrics Reporting",
    features=FEATURES,
    needs=(LOAD_DRAINS.id,),
    bounds=(FRESH, SETTLES),
    run=lag,
)

RAMP = Case(
    id="ms.freshness.ramp",
    level=Level.MUST,
    requirement="The more requests a server has, the more running and queued ones its gauges MUST show, however many they are.",
    why="Under overload all servers have queues: a gauge that stops at some length makes the fullest look like the others.",
    source=LOAD_REPORTING,
    features=FEATURES,
    needs=(ALL_SHOWN.id,),
    bounds=(GAUGE_FOLLOWS, SETTLES),
    run=ramp,
)

CASES = (LAG, RAMP)
