"""The picker's own metrics: a page that can be read, names that dashboards know, counts that are right."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from shunter.conformance.core.case import Bound, Case, Level
from shunter.conformance.errors import FormatError, Mismatch
from shunter.conformance.exposition import Page, read_page
from shunter.conformance.sections.pickers.asking import ANSWERS, PROMPT, chat, hear_request, request, spend
from shunter.conformance.sections.pickers.profile import POOL_METRICS, TOKEN_METRICS
from shunter.conformance.sections.pickers.stream import PICKS
from shunter.conformance.sections.pickers.target import Target

__all__ = ["CASES"]

SOURCE = "GIE reference picker, pkg/epp/metrics"
PAGE = "ep.metrics.exposition"

# Of llm-d's router, and of its predecessors in GIE.
FAMILIES = {
    "ready endpoints": ("llm_d_epp_ready_endpoints", "inference_pool_ready_pods"),
    "average queue": ("llm_d_epp_average_queue_size", "inference_pool_average_queue_size"),
    "average KV-cache usage": ("llm_d_epp_average_kv_cache_utilization", "inference_pool_average_kv_cache_utilization"),
}

COUNTED = Bound("counted", 10.0, "the reference writes its gauges of the pool every 5 s", scales=False)

LOOK_EVERY_S = 0.05

REQUESTS = 5
ABANDONED = 20

# Of each response.
TOKENS = 7
EVENTS = (
    b'data: {"model":"exam","choices":[{"index":0,"delta":{"content":"left"}}]}\n\n',
    b'data: {"model":"exam","choices":[],"usage":{"prompt_tokens":4,"completion_tokens":7,"total_tokens":11}}\n\n',
    b"data: [DONE]\n\n",
)


async def _page(target: Target) -> Page:
    exchange = await target.metrics()
    exchange.expect_status(200)
    try:
        return read_page(exchange.body)
    except FormatError as error:
        raise Mismatch("a page in the Prometheus text format", str(error)) from None


def _sum(page: Page, names: Sequence[str]) -> float | None:
    """The sum over a family's series, of the first of the names that is there."""
    for name in names:
        if found := [each.value for each in page.series if each.name == name]:
            return sum(found)
    return None


async def _await(target: Target, names: Sequence[str], wanted: Callable[[float | None], bool], said: str) -> str:
    """Read the page until the sum over a family is as it should be."""
    clock = asyncio.get_running_loop().time
    deadline_s = clock() + target.seconds(COUNTED)
    while not wanted(value := _sum(await _page(target), names)):
        if clock() > deadline_s:
            actual = "no such family" if value is None else f"{value:g}"
            raise Mismatch(f"{' or '.join(names)} {said} within {target.seconds(COUNTED):g} s", actual)
        await asyncio.sleep(LOOK_EVERY_S)
    return f"{names[0]} {said}"


async def exposition(target: Target) -> str:
    page = await _page(target)
    return f"{len(page.series)} series of {len(page.types)} families"


async def names(target: Target) -> str:
    for family in FAMILIES.values():
        await _await(target, family, lambda value: value is not None, "there")
    return ", ".join(FAMILIES)


async def ready(target: Target) -> str:
    known = len(target.servers)
    return await _await(target, FAMILIES["ready endpoints"], lambda value: value == known, str(known))


async def requests(target: Target) -> str:
    family = target.profile.requests
    wanted = (_sum(await _page(target), family) or 0.0) + REQUESTS
    for _ in range(REQUESTS):
        await spend(target)
    return await _await(target, family, lambda value: value == wanted, f"{wanted:g}, {REQUESTS} more than before")


async def running(target: Target) -> str:
    family = target.profile.running
    told = request(PROMPT)
    async with AsyncExitStack() as streams:
        for _ in range(ABANDONED):
            stream = await streams.enter_async_context(target.stream())
            await stream.send(*told)
            _ = (await hear_request(stream, told)).head
        await _await(target, family, lambda value: (value or 0) >= ABANDONED, f"at least {ABANDONED}, which run")
    return await _await(target, family, lambda value: value == 0, f"0 after {ABANDONED} clients have left")


async def tokens(target: Target) -> str:
    family = target.profile.tokens
    wanted = (_sum(await _page(target), family) or 0.0) + 2 * TOKENS
    await spend(target, chat("stream", stream=True), *EVENTS, content_type="text/event-stream")
    whole = b'{"model":"exam","choices":[],"usage":{"prompt_tokens":4,"completion_tokens":7,"total_tokens":11}}'
    await spend(target, chat("whole"), whole)
    return await _await(target, family, lambda value: value == wanted, f"{wanted:g}, {2 * TOKENS} more than before")


CASES: tuple[Case[Target], ...] = (
    Case(
        id=PAGE,
        level=Level.MUST,
        requirement="The picker's metrics page MUST keep the Prometheus text format.",
        why="Prometheus drops a page that breaks it as a whole.",
        source="Prometheus text format 0.0.4",
        run=exposition,
        needs=PICKS,
    ),
    Case(
        id="ep.metrics.names",
        level=Level.SHOULD,
        requirement="The picker SHOULD expose its pool's ready endpoints and averages under the reference's names.",
        why="Autoscalers and dashboards read them by name.",
        source=SOURCE,
        run=names,
        features=(POOL_METRICS,),
        needs=(*PICKS, PAGE),
        bounds=(COUNTED,),
    ),
    Case(
        id="ep.metrics.ready",
        level=Level.SHOULD,
        requirement="The picker SHOULD count as ready the endpoints that it may pick.",
        why="Alerts on an empty pool look there.",
        source=SOURCE,
        run=ready,
        features=(POOL_METRICS,),
        needs=(*PICKS, "ep.metrics.names"),
        bounds=(COUNTED,),
    ),
    Case(
        id="ep.metrics.requests",
        level=Level.SHOULD,
        requirement="The picker SHOULD count each request once.",
        why="Rates, error budgets and bills are made of it.",
        source=SOURCE,
        run=requests,
        needs=(*PICKS, PAGE),
        bounds=(COUNTED, ANSWERS),
    ),
    Case(
        id="ep.metrics.running",
        level=Level.MUST,
        requirement="The picker MUST forget requests whose clients have left.",
        why="What it takes for running counts against an endpoint: with each lost client it would be picked less.",
        source=SOURCE,
        run=running,
        needs=(*PICKS, PAGE),
        bounds=(COUNTED, ANSWERS),
    ),
    Case(
        id="ep.metrics.tokens",
        level=Level.SHOULD,
        requirement="The picker SHOULD count the tokens that streams and whole responses tell of.",
        why="Usage is billed and limited by it, and clients prefer streams.",
        source=SOURCE,
        run=tokens,
        features=(TOKEN_METRICS,),
        needs=(*PICKS, PAGE),
        bounds=(COUNTED, ANSWERS),
    ),
)
