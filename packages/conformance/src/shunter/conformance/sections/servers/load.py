"""Section E, load: under requests that last, the gauges show each of them, soon, and nothing else."""

import asyncio
import statistics
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

from shunter.conformance.core.case import Case, Level
from shunter.conformance.core.profile import GIE
from shunter.conformance.core.signals import Role
from shunter.conformance.errors import Mismatch, Skip, TooShort
from shunter.conformance.exposition import Page
from shunter.conformance.sections.servers.answers import Completion, Usage
from shunter.conformance.sections.servers.asking import TOKENS, ask_completion
from shunter.conformance.sections.servers.holding import (
    GAUGE_FOLLOWS,
    SCRAPE_EVERY_S,
    SETTLES,
    Reading,
    cache_size,
    draw,
    expect_served,
    hold_tokens,
    holding,
    read,
    settle,
    watch,
)
from shunter.conformance.sections.servers.metrics import (
    COUNTERS_RISE,
    KV_IDLE,
    KV_RANGE,
    LOAD_IDLE,
    LOAD_REPORTING,
    ONE_SERIES,
    REPORTING,
    SAMPLE_PERIOD_S,
    scrape,
)
from shunter.conformance.sections.servers.openai import USAGE_EXACT, USAGE_SUM
from shunter.conformance.sections.servers.profile import GENERATED_TOKENS, IGNORE_EOS, PREEMPTIONS, PROMPT_TOKENS, SUCCESSES
from shunter.conformance.sections.servers.target import Target

__all__ = ["CASES", "find_capacity"]

# So many at once are tried, one number after the other, until a server lets some of them wait.
TRIED = (4, 8, 16, 32, 64, 128)

# How many wait behind those that run.
WAITING = 4

# So many times the gauges are looked at after they have settled, and with so few nothing is known.
LOOKS, FEWEST_LOOKS = 20, 3

# Whoever has a seat may still be in the queue, until the step in progress and the next are over.
SETTLING_STEPS = 2

# An answer that the server has sent and that its client has not read yet.
ON_THE_WAY_S = 0.25

# Where all requests are to end, the first is so much shorter than where they are to last.
SHORTER = 2

# What a server may still hold when nothing runs: a block of many.
KV_SLACK = 0.001

# Completions whose tokens are added up.
ASKED = 5

FEATURES = (Role.QUEUE.feature, Role.RUNNING.feature, IGNORE_EOS)


async def running_rises(target: Target) -> str:
    async with holding(target, 1):
        # SGLang makes its gauges anew when a prompt has been computed, and leaves out that prompt: it takes a second one.
        await asyncio.sleep(SETTLING_STEPS * (target.step_s or 0.0))
        async with holding(target, 1):
            seen = await watch(target, lambda each: each.running >= 1, wanted="running at least 1 with 2 requests")
    return f"with 2 requests {seen[-1]}"


async def queue_rises(target: Target) -> str:
    capacity = await find_capacity(target)
    count = capacity + WAITING
    async with holding(target, count):
        try:
            seen = await watch(
                target, lambda each: each.queue >= WAITING, wanted=f"queue at least {WAITING} with {count} requests"
            )
        except Mismatch:
            # Of a gauge that is late an old value may have been taken for how many run at once: the next try knows better.
            running = (await read(target, asyncio.get_running_loop().time())).running
            target.capacity = int(running) if capacity < running < count else None
            raise
    return f"{capacity} run at once; with {count} {seen[-1]}"


async def find_capacity(target: Target) -> int:
    """How many requests run at once, as a case has found out, or as is found out now; raises Skip if all do that are tried.

    Raises Mismatch if none is shown to run: no server has room for none.
    """
    return target.capacity or await _measure_capacity(target)


async def _measure_capacity(target: Target) -> int:
    for count in TRIED:
        looks, settled = list[Reading](), list[Reading]()
        enough_s = SETTLING_STEPS * (target.step_s or 0.0)
        begin_s, limit_s = asyncio.get_running_loop().time(), target.seconds(GAUGE_FOLLOWS)
        async with holding(target, count) as unanswered:
            while unanswered() and not (looks and looks[-1].at_s > limit_s):
                looks.append(await read(target, begin_s))
                settled += [each for each in looks[-1:] if each.here >= count]
                if len(settled) >= FEWEST_LOOKS and settled[-1].at_s - settled[0].at_s >= enough_s:
                    break
                await asyncio.sleep(SAMPLE_PERIOD_S)
            if not (settled or unanswered()):
                raise TooShort
        # One look at a gauge that lies is not enough.
        most = max((each.running for each in looks), default=0.0)
        capacity = statistics.median([each.running for each in settled[-FEWEST_LOOKS:]] or [most])
        if capacity < 1:
            raise Mismatch(f"running at least 1 with {count} requests within {limit_s:g} s", f"running {capacity:g}")
        if capacity < count:
            target.capacity = int(capacity)
            return target.capacity
    raise Skip(f"{TRIED[-1]} requests run at once; a smaller batch (vLLM: --max-num-seqs 4) would show a queue")


async def all_shown(target: Target) -> str:
    count = (target.capacity or TRIED[0]) + WAITING
    async with holding(target, count) as unanswered:
        whole = f"running + queue {count} with {count} requests"
        settled = await watch(target, lambda each: each.here == count or unanswered() < count, wanted=whole)
        if unanswered() < count:
            raise Mismatch(f"{whole}, before the first is answered", str(settled[-1]))
        begin_s = asyncio.get_running_loop().time()
        seen: list[Reading] = []
        while unanswered() == count and len(seen) < LOOKS:
            seen.append(await read(target, begin_s))
            wrong = seen[-1].here != count
            await asyncio.sleep(ON_THE_WAY_S if wrong else SAMPLE_PERIOD_S)
            if wrong and unanswered() == count:
                raise Mismatch(f"running + queue {count} at each look while {count} requests last", str(seen[-1]))
    if len(seen) < FEWEST_LOOKS:
        raise TooShort
    return f"{len(seen)} looks, {count} at each"


async def running_bounded(target: Target) -> str:
    capacity = await find_capacity(target)
    seen = await _looks(target, capacity + WAITING)
    if above := [each for each in seen if each.running > capacity]:
        raise Mismatch(f"at most {capacity} running while others wait, as when {capacity} were running first", str(above[0]))
    return f"{len(seen)} looks, at most {capacity} running"


async def scrapers_agree(target: Target) -> str:
    count = (target.capacity or TRIED[0]) + WAITING
    pairs: list[tuple[Reading, Reading]] = []
    begin_s = asyncio.get_running_loop().time()
    async with holding(target, count) as unanswered:
        await watch(target, lambda each: each.here >= count, wanted=f"running + queue {count}")
        while unanswered() == count and len(pairs) < LOOKS:
            pair = await asyncio.gather(read(target, begin_s), read(target, begin_s))
            if unanswered() == count:
                pairs.append((pair[0], pair[1]))
            await asyncio.sleep(SAMPLE_PERIOD_S)
    if len(pairs) < FEWEST_LOOKS:
        raise TooShort
    apart = [f"{a}; {b}" for a, b in pairs if (a.running, a.queue) != (b.running, b.queue)]
    if len(apart) > 1:  # one may have come while the server was just putting a request from one gauge to the other
        raise Mismatch(
            f"two pages at once say the same while {count} requests last", f"{len(apart)} of {len(pairs)}: {apart[0]}"
        )
    return f"{len(pairs) - len(apart)} of {len(pairs)} pairs of pages say the same"


async def queue_falls(target: Target) -> str:
    preempted = target.profile.counters.get(PREEMPTIONS)
    before = (await scrape(target)).total(preempted) if preempted else 0
    seen = await _draining(target, 2 * (target.capacity or TRIED[0]))
    if preempted and (await scrape(target)).total(preempted) > before:
        raise Skip("requests were preempted, and whoever is goes back into the queue; a larger KV cache would hold them")
    fullest = max(range(len(seen)), key=lambda at: seen[at].queue)
    if grown := [pair for pair in pairwise(seen[fullest:]) if pair[1].queue > pair[0].queue]:
        raise Mismatch("a queue that never grows when nobody comes any more", f"{grown[0][0]}, then {grown[0][1]}")
    return f"{len(seen)} looks: from {seen[fullest].queue:g} to {seen[-1].queue:g}"


async def _looks(target: Target, count: int) -> list[Reading]:
    """Look at the gauges for a while after so many requests are shown, and before the first of them ends."""
    seen: list[Reading] = []
    async with holding(target, count) as unanswered:
        await watch(target, lambda each: each.here >= count, wanted=f"running + queue {count}")
        begin_s = asyncio.get_running_loop().time()
        while unanswered() == count and len(seen) < LOOKS:
            seen.append(await read(target, begin_s))
            await asyncio.sleep(SAMPLE_PERIOD_S)
    if len(seen) < FEWEST_LOOKS:
        raise TooShort
    return seen


async def _draining(target: Target, count: int) -> list[Reading]:
    """Look at the gauges while so many requests end one after the other."""
    fewest = max(TOKENS, hold_tokens(target) // SHORTER)
    begin_s = asyncio.get_running_loop().time()
    seen: list[Reading] = []
    async with holding(target, count, tokens=[fewest + fewest * at // count for at in range(count)]) as unanswered:
        while unanswered():
            seen.append(await read(target, begin_s))
            await asyncio.sleep(SCRAPE_EVERY_S)
    draw(target, seen)
    if len(seen) < FEWEST_LOOKS:
        raise TooShort
    return seen


async def load_drains(target: Target) -> str:
    count = 2 * (target.capacity or TRIED[0])
    seen = await _draining(target, count)
    fullest = max(range(len(seen)), key=lambda at: seen[at].here)
    if seen[fullest].here > count:
        raise Mismatch(f"running + queue at most {count} with {count} requests", str(seen[fullest]))
    if grown := [pair for pair in pairwise(seen[fullest:]) if pair[1].here > pair[0].here]:
        raise Mismatch("running + queue that never grow when nobody comes any more", f"{grown[0][0]}, then {grown[0][1]}")
    return f"{count} requests, {len(seen)} looks: from {seen[fullest].here:g} to {seen[-1].here:g}"


async def kv_follows(target: Target) -> str:
    await settle(target)
    await _expect_visible(target)
    before = (await read(target, asyncio.get_running_loop().time())).kv
    async with holding(target, TRIED[0]):
        await watch(target, lambda each: each.kv > before, wanted=f"KV above {before:g} while {TRIED[0]} requests run")
    after = await watch(target, lambda each: each.kv <= before + KV_SLACK, wanted=f"KV {before:g} again when nothing runs")
    return f"{before:g} before, {after[-1].kv:g} again after {after[-1].at_s:.2f} s"


async def _expect_visible(target: Target) -> None:
    """Raise Skip where a few requests hold less of a large cache than its gauge tells."""
    if not target.profile.kv_step:
        return
    with suppress(Mismatch):  # a size that is not told is the business of another case
        block_tokens, blocks = cache_size(target, await scrape(target))
        step_tokens = target.profile.kv_step * block_tokens * blocks
        if TRIED[0] * hold_tokens(target) < step_tokens:
            raise Skip(
                f"its gauge tells no less than {step_tokens:.0f} of {block_tokens * blocks} tokens, and {TRIED[0]} requests "
                "hold fewer; a smaller cache (SGLang: --max-total-tokens) would show them"
            )


async def tokens_counted(target: Target) -> str:
    before = await scrape(target)
    answers = [await ask_completion(target) for _ in range(ASKED)]
    expect_served(answers)
    return await rises(target, before, [answer.read(Completion).usage for answer in answers])


async def rises(target: Target, before: Page, usages: Sequence[Usage]) -> str:
    """Wait until the counters have risen since a page by what clients were told; raises Mismatch if they do not in time."""
    told = {
        PROMPT_TOKENS: sum(usage.prompt_tokens for usage in usages),
        GENERATED_TOKENS: sum(usage.completion_tokens for usage in usages),
        SUCCESSES: len(usages),
    }
    signals = {name: signal for name, signal in target.profile.counters.items() if name in told}
    limit_s, clock = target.seconds(GAUGE_FOLLOWS), asyncio.get_running_loop().time
    end_s = clock() + limit_s
    while True:
        late = clock() > end_s
        page = await scrape(target)
        rose = {name: page.total(signal) - before.total(signal) for name, signal in signals.items()}
        wrong = [f"{signals[name]} rose by {rise:g}" for name, rise in rose.items() if rise != told[name]]
        if not wrong:
            return f"{len(usages)} completions: " + ", ".join(f"{name} {told[name]}" for name in signals)
        if late:
            wanted = ", ".join(f"{signal} by {told[name]}" for name, signal in signals.items())
            raise Mismatch(f"a rise of {wanted}, within {limit_s:g} s", "; ".join(wrong))
        await asyncio.sleep(SAMPLE_PERIOD_S)


RUNNING_RISES = Case(
    id="ms.load.running-rises",
    level=Level.MUST,
    requirement="While requests run, the gauge of running requests MUST show it.",
    why="A busy server that looks idle gets the traffic of all the others.",
    source=LOAD_REPORTING,
    features=FEATURES,
    needs=(LOAD_IDLE.id,),
    bounds=(GAUGE_FOLLOWS,),
    suites=(GIE,),
    run=running_rises,
)

QUEUE_RISES = Case(
    id="ms.load.queue-rises",
    level=Level.MUST,
    requirement="While requests wait because the batch is full, the gauge of queued requests MUST show them.",
    why="The queue is what the reference picker weighs most: without it a server that is full looks like one that has room.",
    source=REPORTING,
    features=FEATURES,
    needs=(RUNNING_RISES.id, ONE_SERIES.id),  # of an engine that is there twice, twice as many seem to run at once
    bounds=(GAUGE_FOLLOWS,),
    suites=(GIE,),
    run=queue_rises,
)

ALL_SHOWN = Case(
    id="ms.load.all-shown",
    level=Level.MUST,
    requirement="Running and queued requests together MUST be the requests that the server has, at each look.",
    why="Pickers compare the sums of servers: one that counts twice, or not all, is avoided or flooded.",
    source=LOAD_REPORTING,
    features=FEATURES,
    needs=(QUEUE_RISES.id,),
    bounds=(GAUGE_FOLLOWS,),
    suites=(GIE,),
    run=all_shown,
)

LOAD_DRAINS = Case(
    id="ms.load.drains",
    level=Level.MUST,
    requirement="When nobody comes any more, running and queued requests together MUST NOT grow.",
    why="A value that jumps back is an old one: pickers act on load that is no longer there.",
    source=LOAD_REPORTING,
    features=FEATURES,
    needs=(ALL_SHOWN.id,),
    suites=(GIE,),
    run=load_drains,
)

RUNNING_BOUNDED = Case(
    id="ms.load.running-bounded",
    level=Level.MUST,
    requirement="Running requests MUST NOT be more than the server runs at once: what waits is queued.",
    why="Pickers take a queue for the sign that a server is full; one that counts it as running looks better than it is.",
    source=LOAD_REPORTING,
    features=FEATURES,
    needs=(ALL_SHOWN.id,),
    bounds=(GAUGE_FOLLOWS,),
    run=running_bounded,
)

SCRAPERS_AGREE = Case(
    id="ms.load.scrapers-agree",
    level=Level.MUST,
    requirement="Two scrapers that come at once MUST be told the same queue and the same running requests.",
    why="Several processes of one server may each have gauges of their own: what a picker sees is then a matter of luck.",
    source=LOAD_REPORTING,
    features=FEATURES,
    needs=(RUNNING_BOUNDED.id,),
    bounds=(GAUGE_FOLLOWS,),
    run=scrapers_agree,
)

QUEUE_FALLS = Case(
    id="ms.load.queue-falls",
    level=Level.MUST,
    requirement="When nobody comes any more and none is preempted, the queue MUST NOT grow.",
    why="A queue that grows by itself sends traffic away from a server that empties.",
    source=REPORTING,
    features=FEATURES,
    needs=(LOAD_DRAINS.id, SCRAPERS_AGREE.id),
    run=queue_falls,
)

KV_FOLLOWS = Case(
    id="ms.load.kv-follows",
    level=Level.MUST,
    requirement="KV-cache utilization MUST rise while requests run, and fall back when they end.",
    why="A gauge that does not move says that there is always room, and long prompts go where they must wait for memory.",
    source=REPORTING,
    features=(*FEATURES, Role.KV.feature),
    needs=(RUNNING_RISES.id, KV_RANGE.id, KV_IDLE.id),
    bounds=(GAUGE_FOLLOWS, SETTLES),
    suites=(GIE,),
    run=kv_follows,
)

TOKENS_COUNTED = Case(
    id="ms.load.tokens-counted",
    level=Level.MUST,
    requirement="The counters of prompt tokens, generated tokens and finished requests MUST rise by what clients were told.",
    why="Throughput, cost per token and learnt speeds come from them.",
    source="Meaning of the counters in vLLM, the reference server of the GIE Model Server Protocol (proposal 003)",
    features=("counters",),
    needs=(COUNTERS_RISE.id, USAGE_SUM.id, USAGE_EXACT.id),
    bounds=(GAUGE_FOLLOWS,),
    run=tokens_counted,
)

CASES = (
    RUNNING_RISES,
    QUEUE_RISES,
    ALL_SHOWN,
    LOAD_DRAINS,
    KV_FOLLOWS,
    TOKENS_COUNTED,
    RUNNING_BOUNDED,
    SCRAPERS_AGREE,
    QUEUE_FALLS,
)
