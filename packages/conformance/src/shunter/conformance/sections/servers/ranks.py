"""Section H, data parallel: engines behind one port are told apart, and can be asked for."""

import asyncio

from shunter.conformance.core.case import Case, Level
from shunter.conformance.core.exchange import Exchange
from shunter.conformance.core.signals import Role
from shunter.conformance.errors import Mismatch, Skip
from shunter.conformance.exposition import Page
from shunter.conformance.sections.servers.asking import TOKENS, completion_body
from shunter.conformance.sections.servers.holding import GAUGE_FOLLOWS, SETTLES, hold_tokens, settle
from shunter.conformance.sections.servers.load import RUNNING_RISES
from shunter.conformance.sections.servers.metrics import SAMPLE_PERIOD_S, scrape
from shunter.conformance.sections.servers.profile import IGNORE_EOS, RANKS
from shunter.conformance.sections.servers.target import Target

__all__ = ["CASES"]

# Requests that are pinned to a rank together.
PINNED = 2

FEATURES = (RANKS, Role.QUEUE.feature, Role.RUNNING.feature, IGNORE_EOS)


async def series(target: Target) -> str:
    page = await scrape(target)
    ranks = _ranks(target, page)
    for role in (Role.QUEUE, Role.RUNNING):
        signal = target.profile.signals[role]
        shown = {each.labels.get(target.profile.engine_label) for each in page.find(signal)}
        if missing := [rank for rank in ranks if rank not in shown]:
            raise Mismatch(f"a series {signal} for each of {len(ranks)} engines", f"none for {', '.join(missing)}")
    return f"{len(ranks)} engines: {', '.join(ranks)}"


async def pinned(target: Target) -> str:
    ranks = _ranks(target, await scrape(target))
    for rank in ranks:
        await settle(target)
        await _pin(target, rank)
    return f"{PINNED} requests for each of {', '.join(ranks)} ran there and nowhere else"


async def out_of_range(target: Target) -> str:
    ranks = _ranks(target, await scrape(target))
    # Of several servers that share their ranks, the second has those that come after the first one's.
    beyond = max([len(ranks), *(int(rank) + 1 for rank in ranks if rank.isdecimal())])
    answer = await _ask(target, str(beyond), TOKENS)
    answer.expect_status(400, 404, 422)
    return f"HTTP {answer.status} for rank {beyond}, where there are {', '.join(ranks)}"


def _ranks(target: Target, page: Page) -> list[str]:
    """The engines that any series of the page is of; raises Skip where there is one alone."""
    label = target.profile.engine_label
    ranks = sorted({each.labels[label] for each in page.series if label in each.labels})
    if len(ranks) < 2:
        raise Skip("one engine is behind this port: there is nothing to tell apart (vLLM: --data-parallel-size 2)")
    return ranks


async def _ask(target: Target, rank: str, tokens: int) -> Exchange:
    body = completion_body(target, max_tokens=tokens, ignore_eos=True)
    return await target.post(target.profile.api.completions, body, {target.profile.rank_header: rank})


async def _pin(target: Target, rank: str) -> None:
    """Let requests run that are pinned to a rank, and look where they do."""
    signal, label = target.profile.signals[Role.RUNNING], target.profile.engine_label
    clock, limit_s = asyncio.get_running_loop().time, target.seconds(GAUGE_FOLLOWS)
    asked = [asyncio.create_task(_ask(target, rank, hold_tokens(target))) for _ in range(PINNED)]
    try:
        begin_s = clock()
        while True:
            running = {each.labels.get(label): each.value for each in (await scrape(target)).find(signal)}
            if running.get(rank) == PINNED == sum(running.values()):
                break
            for task in asked:
                if task.done():
                    task.result().expect_status(200)  # who was refused runs nowhere
            if clock() - begin_s > limit_s:
                raise Mismatch(
                    f"{PINNED} requests that were pinned to {rank} running there, within {limit_s:g} s", str(running)
                )
            await asyncio.sleep(SAMPLE_PERIOD_S)
        for answer in await asyncio.gather(*asked):
            answer.expect_status(200)
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


VLLM = "vLLM, data-parallel deployment: internal load balancing, X-data-parallel-rank"

SERIES = Case(
    id="ms.ranks.series",
    level=Level.SHOULD,
    requirement="Of several engines behind one port, each SHOULD have its own series of queued and of running requests.",
    why="Pickers read the first series that they find; what the others have to do is seen by nobody if it is nowhere.",
    source=VLLM,
    features=FEATURES,
    needs=(RUNNING_RISES.id,),
    run=series,
)

PINNED_THERE = Case(
    id="ms.ranks.pinned",
    level=Level.SHOULD,
    requirement="A request that names a data-parallel rank in the header SHOULD run there.",
    why="Who knows where a prompt is cached chooses the engine, not only the port.",
    source=VLLM,
    features=FEATURES,
    needs=(SERIES.id,),
    bounds=(GAUGE_FOLLOWS, SETTLES),
    run=pinned,
)

OUT_OF_RANGE = Case(
    id="ms.ranks.out-of-range",
    level=Level.SHOULD,
    requirement="A request for a data-parallel rank that there is not SHOULD be refused with 400.",
    why="A rank that comes from an old list of engines should be noticed, and not be served by chance.",
    source=VLLM,
    features=FEATURES,
    needs=(SERIES.id,),
    run=out_of_range,
)

CASES = (SERIES, PINNED_THERE, OUT_OF_RANGE)
