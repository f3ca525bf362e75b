"""Section E, the KV cache: how large it is, how full it is, and what becomes of requests that do not fit."""

import asyncio
from collections.abc import Sequence

from shunter.conformance.core.case import Case, Level
from shunter.conformance.core.exchange import Exchange
from shunter.conformance.core.signals import Role
from shunter.conformance.errors import Mismatch, Skip, TooShort
from shunter.conformance.exposition import Page
from shunter.conformance.sections.servers.accounting import COUNTERS
from shunter.conformance.sections.servers.answers import Completion, ModelList
from shunter.conformance.sections.servers.asking import PROMPT, ask_completion
from shunter.conformance.sections.servers.holding import (
    GAUGE_FOLLOWS,
    SCRAPE_EVERY_S,
    SETTLES,
    Reading,
    cache_size,
    draw,
    expect_served,
    hold_tokens,
    read,
    read_number,
    settle,
)
from shunter.conformance.sections.servers.load import ALL_SHOWN, KV_FOLLOWS, TRIED
from shunter.conformance.sections.servers.metrics import EXPOSITION, SAMPLE_PERIOD_S, scrape
from shunter.conformance.sections.servers.openai import USAGE_EXACT
from shunter.conformance.sections.servers.profile import CACHE_SIZE, GENERATED_TOKENS, IGNORE_EOS, OPENAI, PREEMPTIONS
from shunter.conformance.sections.servers.target import Target

__all__ = ["CASES"]

# Requests that decode together while their blocks are counted, for so many blocks each at least.
DECODING, BLOCKS_EACH = 4, 8

# A block of each request may be begun, and the step in progress may have taken another one or not.
OFF_PER_REQUEST = 2

# To fill a cache, prompts take this share of it and all requests together this much of it, if they fit a context.
PROMPTS, DEMAND = 0.8, 1.4

# A full cache shows at least this; the last blocks may be kept back, and somebody's end frees many at once.
FULL = 0.9

# It takes long until a cache is full, and a full one stays so for a while.
FILL_LOOK_S = 0.2

# What all of it may take by the pace of the target: their prompts one after the other, then as many steps as one of them
# needs. In a full batch a step takes longer, and whoever is preempted is computed again: it has to come within a minute, after
# which a client takes a server for hung.
MOST_FILL_S = 25.0

# The context of a server that does not tell it.
CONTEXT_TOKENS = 2048

MEANING = "GIE Model Server Protocol (proposal 003), Metrics Reporting: meaning of the reference server's metrics"
SIZES = "Metrics that the reference picker reads for its prefix cache scorer: block size and number of blocks"


async def size(target: Target) -> str:
    block_tokens, blocks = cache_size(target, await scrape(target))
    return f"{blocks} blocks of {block_tokens} tokens"


async def capacity(target: Target) -> str:
    page = await scrape(target)
    block_tokens, blocks = cache_size(target, page)
    told = target.profile.cache.tokens if target.profile.cache else None
    if told is None:
        raise Skip("this kind of server does not say how many tokens its cache holds")
    if (tokens := read_number(page, told)) != block_tokens * blocks:
        raise Mismatch(f"{block_tokens * blocks} tokens, which are {blocks} blocks of {block_tokens}", f"{tokens}")
    return f"{tokens} tokens in {blocks} blocks of {block_tokens}"


async def tokens_held(target: Target) -> str:
    await settle(target)
    before = await scrape(target)
    block_tokens, blocks = cache_size(target, before)
    if target.capacity and target.capacity < DECODING:
        raise Skip(f"{target.capacity} requests run at once, and {DECODING} are needed")
    if 2 * BLOCKS_EACH * block_tokens > (context := await _context_tokens(target)):
        raise Skip(f"{BLOCKS_EACH} blocks of {block_tokens} tokens fill a context of {context}")
    generated = target.profile.counters[GENERATED_TOKENS]
    tokens = max(hold_tokens(target), BLOCKS_EACH * block_tokens)
    pages: list[Page] = []
    # Each begins in a way of its own: what several share is held once.
    asked = [_ask(target, f"{nth} {PROMPT}", tokens) for nth in range(DECODING)]
    try:
        while not any(task.done() for task in asked):
            page = await scrape(target)
            if not any(task.done() for task in asked):
                pages.append(page)
            await asyncio.sleep(SCRAPE_EVERY_S)
        answers = await asyncio.gather(*asked)
    finally:
        await _give_up(asked)
    expect_served(answers)
    prompts = sum(answer.read(Completion).usage.prompt_tokens for answer in answers)
    least, off = DECODING * BLOCKS_EACH / 2, DECODING * OFF_PER_REQUEST
    seen = judged = 0.0
    for page in pages:
        running = page.total(target.profile.signals[Role.RUNNING])
        held = (prompts + page.total(generated) - before.total(generated)) / block_tokens
        if running != DECODING or held < least:
            continue
        seen, judged = page.total(target.profile.signals[Role.KV]) * blocks, judged + 1
        if abs(seen - held) > off:
            raise Mismatch(f"{held:.0f} of {blocks} blocks in use, ± {off}, for {DECODING} requests", f"{seen:.1f}")
    if not judged:
        raise TooShort
    return f"{judged:g} pages, the last with {seen:.0f} of {blocks} blocks in use"


async def _fill(target: Target) -> tuple[list[Reading], Sequence[Exchange], int]:
    """What gauges and answers say, and the tokens of each, when requests ask for more than the cache holds.

    Raises Skip where that cannot be done.
    """
    await settle(target)
    block_tokens, blocks = cache_size(target, await scrape(target))
    seats, held = target.capacity or TRIED[0], block_tokens * blocks
    context = await _context_tokens(target)
    each = min(int(DEMAND * held / seats), context - 1)
    if each * seats < held:
        raise Skip(
            f"its cache holds {held} tokens, and {seats} requests of a context of {context} do not fill it; start it with "
            "fewer blocks (vLLM: --num-gpu-blocks-override)"
        )
    prompt_tokens = min(int(PROMPTS * held / seats), each - 1)
    tokens = each - prompt_tokens
    most = " on" * int(prompt_tokens / await _tokens_per_word(target))
    # It begins with the time, since of what was asked before nothing is left to compute.
    alone = await ask_completion(target, prompt=f"{asyncio.get_running_loop().time()}{most}", max_tokens=1)
    alone.expect_status(200)
    lasts_s = seats * alone.elapsed_s + tokens * (target.step_s or 0.0)
    if lasts_s > MOST_FILL_S:
        raise Skip(f"its cache of {held} tokens would take {lasts_s:.0f} s to fill; start it with fewer blocks")
    seen: list[Reading] = []
    asked = [_ask(target, f"{nth}{most}", tokens) for nth in range(seats)]
    begin_s = asyncio.get_running_loop().time()
    try:
        while not all(task.done() for task in asked):
            seen.append(await read(target, begin_s))
            await asyncio.sleep(FILL_LOOK_S)
        answers = await asyncio.gather(*asked)
    finally:
        await _give_up(asked)
    draw(target, seen)
    expect_served(answers)
    return seen, answers, tokens


def _ask(target: Target, prompt: str, tokens: int) -> asyncio.Task[Exchange]:
    return asyncio.ensure_future(ask_completion(target, prompt=prompt, max_tokens=tokens, ignore_eos=True))


async def _give_up(asked: Sequence[asyncio.Task[Exchange]]) -> None:
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)


async def _context_tokens(target: Target) -> int:
    """The context of a model, if the model list tells it."""
    return (await target.get(target.profile.api.models)).read(ModelList).context(target.model) or CONTEXT_TOKENS


async def _tokens_per_word(target: Target) -> float:
    """What a word takes of a long prompt."""
    few, many = 10, 110
    usages: list[int] = []
    for words in (few, many):
        answer = await ask_completion(target, prompt=f"0{' on' * words}", max_tokens=1)
        answer.expect_status(200)
        usages.append(answer.read(Completion).usage.prompt_tokens)
    return max(usages[1] - usages[0], 1) / (many - few)


async def full(target: Target) -> str:
    seen, _, _ = await _fill(target)
    fullest = max(each.kv for each in seen)
    if fullest < FULL:
        raise Mismatch(f"KV of at least {FULL:g} while requests ask for more than the cache holds", f"at most {fullest:g}")
    return f"{len(seen)} looks, KV up to {fullest:g}"


async def nothing_lost(target: Target) -> str:
    _, answers, tokens = await _fill(target)
    short = [answer.read(Completion).usage.completion_tokens for answer in answers]
    if any(said != tokens for said in short):
        raise Mismatch(f"{tokens} tokens for each of {len(answers)} requests that the cache does not hold at once", f"{short}")
    return f"{len(answers)} requests had their {tokens} tokens each"


async def preemptions(target: Target) -> str:
    counter = target.profile.counters[PREEMPTIONS]
    before = (await scrape(target)).total(counter)
    seen, answers, _ = await _fill(target)
    arrived = next((at for at, each in enumerate(seen) if each.running >= len(answers)), len(seen))
    if not any(each.queue > 0 for each in seen[arrived:]):
        raise Skip("nobody who ran was seen to wait again; a smaller cache would show it")
    clock, limit_s = asyncio.get_running_loop().time, target.seconds(GAUGE_FOLLOWS)
    begin_s = clock()
    while (rise := (await scrape(target)).total(counter) - before) < 1:
        if clock() - begin_s > limit_s:
            raise Mismatch(f"a rise of {counter} when requests that ran wait again", f"it rose by {rise:g}")
        await asyncio.sleep(SAMPLE_PERIOD_S)
    return f"{counter} rose by {rise:g}"


SIZE = Case(
    id="ms.cache.size",
    level=Level.SHOULD,
    requirement="A server SHOULD say how many tokens a KV block has and how many blocks there are, in whole numbers.",
    why="Pickers that keep prefixes together compute hashes by blocks, and forget as many as the server does.",
    source=SIZES,
    features=(CACHE_SIZE,),
    needs=(EXPOSITION.id,),
    run=size,
)

CAPACITY = Case(
    id="ms.cache.capacity",
    level=Level.SHOULD,
    requirement="The tokens that the KV cache is said to hold SHOULD be its blocks times their size.",
    why="Whoever plans with one number and whoever plans with the others should plan the same.",
    source=SIZES,
    features=(CACHE_SIZE,),
    needs=(SIZE.id,),
    run=capacity,
)

TOKENS_HELD = Case(
    id="ms.cache.tokens-held",
    level=Level.SHOULD,
    requirement="KV-cache utilization SHOULD be the share of blocks that the tokens of running requests need.",
    why="Pickers compare servers by it, and hold back what would not fit; a gauge of something else makes them wrong.",
    source=MEANING,
    features=(OPENAI, Role.KV.feature, Role.RUNNING.feature, CACHE_SIZE, "counters", IGNORE_EOS),
    needs=(SIZE.id, KV_FOLLOWS.id, COUNTERS.id),
    bounds=(SETTLES,),
    run=tokens_held,
)

FULL_CASE = Case(
    id="ms.cache.full",
    level=Level.MUST,
    requirement="KV-cache utilization MUST be near 1 while requests ask for more than the cache holds.",
    why="Thresholds that hold requests back, such as 0.8 or 0.95, never fire on a gauge that stops below them.",
    source=MEANING,
    features=(OPENAI, Role.KV.feature, CACHE_SIZE, IGNORE_EOS),
    needs=(SIZE.id, KV_FOLLOWS.id, USAGE_EXACT.id, ALL_SHOWN.id),  # all of which say how much fills it
    bounds=(SETTLES,),
    run=full,
)

NOTHING_LOST = Case(
    id="ms.cache.nothing-lost",
    level=Level.MUST,
    requirement="Requests that the KV cache does not hold at once MUST be answered whole, one after the other if need be.",
    why="Memory runs out at the busiest time; an answer that ends early looks complete to its client.",
    source="OpenAI API reference, Create completion: finish_reason and usage",
    features=(OPENAI, Role.KV.feature, CACHE_SIZE, IGNORE_EOS),
    needs=(SIZE.id, KV_FOLLOWS.id, USAGE_EXACT.id),
    bounds=(SETTLES,),
    run=nothing_lost,
)

PREEMPTED = Case(
    id="ms.cache.preemptions",
    level=Level.SHOULD,
    requirement="A request that has to give up its KV blocks SHOULD be counted as preempted.",
    why="It is computed again from its first token: a server that does this all the time is busy and gets nothing done.",
    source="Meaning of vllm:num_preemptions_total in vLLM, the reference server of the GIE Model Server Protocol",
    features=(OPENAI, Role.KV.feature, Role.QUEUE.feature, CACHE_SIZE, PREEMPTIONS, IGNORE_EOS),
    needs=(FULL_CASE.id,),
    bounds=(GAUGE_FOLLOWS, SETTLES),
    run=preemptions,
)

CASES = (SIZE, CAPACITY, TOKENS_HELD, FULL_CASE, NOTHING_LOST, PREEMPTED)
