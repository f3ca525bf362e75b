"""Section D, scraping: a page that comes in time, however busy the server is, costs it little, and does not grow."""

import asyncio
import gzip
import statistics
import zlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from shunter.conformance.core.case import Bound, Case, Level
from shunter.conformance.core.exchange import Exchange
from shunter.conformance.core.signals import Role
from shunter.conformance.errors import Disturbed, FormatError, Mismatch, Skip, TooShort
from shunter.conformance.exposition import read_page
from shunter.conformance.sections.servers.asking import ask_completion
from shunter.conformance.sections.servers.holding import (
    FEWEST_TOKENS,
    GAUGE_FOLLOWS,
    SCRAPE_EVERY_S,
    expect_served,
    hold_tokens,
    holding,
    watch,
)
from shunter.conformance.sections.servers.load import FEWEST_LOOKS, RUNNING_RISES, TRIED, WAITING, find_capacity
from shunter.conformance.sections.servers.metrics import EXPOSITION, SHED, read_metrics, scrape
from shunter.conformance.sections.servers.profile import IGNORE_EOS
from shunter.conformance.sections.servers.target import Target

__all__ = ["CASES"]

IN_TIME = Bound(
    "scrape-in-time",
    1.0,
    "the reference endpoint picker gives up on a scrape after one second",
    scales=False,
)

MEDIAN = Bound("scrape-median", 0.1, "with twice the interval of the reference picker, every decision rests on an old page")

# A page of a busy server with many adapters was 90 KB; ten times that is more than scrapers of a hundred servers can read
# twenty times a second.
LARGEST_PAGE_BYTES = 1_000_000

# So many requests are answered, so many at once, and series may become more by so many, for what the first ones set up.
SERVED, AT_ONCE, FEWEST_SERVED = 200, 16, 40
SERVED_S = 20.0
GROWTH = SERVED // 20

# What scraping may cost of the throughput. Loads without and with scrapers are measured in turns: with so many pairs, noise
# alone lets all of them exceed it in 1 of 64 servers that are just at the limit.
COST, PAIRS = 0.10, 6
TURN_S = 1.0

# So many come at once: more than threads of a small pool. For so long a page is asked for every 50 ms, answered or not. Only
# half of them count: where each request that comes starts a thread, as in llama.cpp, some of a crowd wait for the next one to
# come, and whether that is a page is chance.
CROWD = 24
CROWDED_S = 1.0

TEXT = "text/plain"
VERSION = "0.0.4"

REACHES = "Model Server Protocol of the GIE (proposal 003): the reference picker scrapes every 50 ms and waits one second"
FEATURES = (Role.QUEUE.feature, Role.RUNNING.feature, IGNORE_EOS)


@asynccontextmanager
async def _scraping(target: Target) -> AsyncGenerator[list[Exchange]]:
    """Scrape as a picker does while the block runs."""
    pages: list[Exchange] = []

    async def scrape_on() -> None:
        clock = asyncio.get_running_loop().time
        while True:
            begin_s = clock()
            pages.append(await target.metrics())
            await asyncio.sleep(max(0.0, SCRAPE_EVERY_S - (clock() - begin_s)))

    scraper = asyncio.ensure_future(scrape_on())
    try:
        yield pages
    finally:
        scraper.cancel()
        (outcome,) = await asyncio.gather(scraper, return_exceptions=True)
    if isinstance(outcome, Exception):
        raise outcome


async def _times_s(target: Target) -> list[float]:
    """How long pages take under a full batch and a queue, in ascending order."""
    async with _scraping(target) as pages, holding(target, (target.capacity or TRIED[0]) + WAITING):
        pass
    if len(pages) < FEWEST_LOOKS:
        raise TooShort
    return sorted(page.elapsed_s for page in pages)


async def in_time(target: Target) -> str:
    times_s = await _times_s(target)
    limit_s = target.seconds(IN_TIME)
    late = sum(seconds > limit_s for seconds in times_s)
    if 100 * late > len(times_s):
        raise Mismatch(
            f"99 of 100 pages within {limit_s:g} s", f"{late} of {len(times_s)} came later, the last {times_s[-1]:.2f} s"
        )
    return f"{len(times_s)} pages under load, the slowest {times_s[-1] * 1000:.0f} ms"


async def median(target: Target) -> str:
    times_s = await _times_s(target)
    limit_s, middle_s = target.seconds(MEDIAN), statistics.median(times_s)
    if middle_s > limit_s:
        raise Mismatch(f"half of the pages within {limit_s * 1000:.0f} ms", f"half took more than {middle_s * 1000:.0f} ms")
    return f"{len(times_s)} pages under load, half within {middle_s * 1000:.1f} ms"


async def crowded(target: Target) -> str:
    with suppress(Skip, Mismatch):  # gauges that lie are for other cases; where nobody knows how many run, all last as long
        await watch(target, lambda each: each.here == 0, wanted="running and queue 0")
        await find_capacity(target)
    seats = min(target.capacity or CROWD, CROWD)
    tokens = [hold_tokens(target)] * seats + [FEWEST_TOKENS] * (CROWD - seats)
    pages: list[asyncio.Task[Exchange]] = []
    async with holding(target, CROWD, tokens=tokens) as unanswered:
        try:
            while len(pages) * SCRAPE_EVERY_S < CROWDED_S:
                pages.append(asyncio.ensure_future(target.metrics()))
                await asyncio.sleep(SCRAPE_EVERY_S)
            if not unanswered():
                raise TooShort
            answers = await asyncio.gather(*pages)
        finally:
            for page in pages:
                page.cancel()
            await asyncio.gather(*pages, return_exceptions=True)
    limit_s = target.seconds(IN_TIME)
    times_s = sorted(page.elapsed_s for page in answers)
    if statistics.median(times_s) > limit_s:
        late = sum(seconds > limit_s for seconds in times_s)
        raise Mismatch(
            f"half of the pages within {limit_s:g} s while {CROWD} requests come at once",
            f"{late} of {len(times_s)} came later, the last after {times_s[-1]:.2f} s",
        )
    return f"{len(times_s)} pages beside {CROWD} requests at once, the slowest {times_s[-1] * 1000:.0f} ms"


async def size(target: Target) -> str:
    page = await target.metrics()
    page.expect_status(200)
    if len(page.body) > LARGEST_PAGE_BYTES:
        raise Mismatch(f"at most {LARGEST_PAGE_BYTES} bytes", f"{len(page.body)} bytes")
    return f"{len(page.body)} bytes"


async def stable_series(target: Target) -> str:
    served = SERVED
    if target.step_s:
        served = max(FEWEST_SERVED, min(SERVED, round(SERVED_S / target.step_s)))
    await _serve(target, AT_ONCE)  # the first of each kind may bring its series along
    before = await scrape(target)
    await _serve(target, served)
    after = await scrape(target)
    known = {(each.name, frozenset(each.labels.items())) for each in before.series}
    new = [each for each in after.series if (each.name, frozenset(each.labels.items())) not in known]
    if len(new) > GROWTH:
        raise Mismatch(f"at most {GROWTH} new series after {served} more requests", f"{len(new)}, such as {new[0]}")
    return f"{len(before.series)} series, {len(new)} more after {served} requests"


async def _serve(target: Target, count: int) -> None:
    """Let so many requests be answered, a few at once; what is refused for load is not asked for again."""
    for begin in range(0, count, AT_ONCE):
        asked = (ask_completion(target, max_tokens=1) for _ in range(begin, min(begin + AT_ONCE, count)))
        for answer in await asyncio.gather(*asked):
            answer.expect_status(200, *SHED)


async def content_type(target: Target) -> str:
    page = await target.metrics(headers={"accept": f"{TEXT};version={VERSION}"})
    page.expect_status(200)
    said = page.headers.get("content-type", "")
    parameters = {part.strip() for part in said.lower().split(";")[1:]}
    version = next((part.partition("=")[2].strip('"') for part in parameters if part.startswith("version=")), VERSION)
    if page.content_type != TEXT or version != VERSION:
        raise Mismatch(f"content-type {TEXT}; version={VERSION}", said or "none")
    return said


async def compression(target: Target) -> str:
    page = await target.metrics(headers={"accept-encoding": "gzip"})
    page.expect_status(200)
    coding = page.headers.get("content-encoding", "identity")
    if coding not in {"gzip", "identity"}:
        raise Mismatch("a page as it is or by gzip, which was asked for", f"content-encoding {coding}")
    try:
        body = gzip.decompress(page.body) if coding == "gzip" else page.body
        read = read_page(body)
    except (OSError, EOFError, zlib.error, FormatError) as error:
        raise Mismatch(f"a page of the text format, content-encoding {coding}", str(error)) from None
    return f"{len(read.series)} series, content-encoding {coding}: {len(page.body)} bytes"


async def head(target: Target) -> str:
    answer = await target.metrics("HEAD")
    if answer.status >= 500 and answer.status != 501:
        raise Mismatch("a status below 500, or 501, for HEAD", f"HTTP {answer.status}")
    page = read_metrics(await target.metrics())
    return f"HTTP {answer.status}, and {len(page.series)} series by GET afterwards"


async def costs_little(target: Target) -> str:
    dearer: list[float] = []
    ratios: list[float] = []
    while len(ratios) < PAIRS and len(ratios) - len(dearer) < (PAIRS + 1) // 2:
        quiet_s = await _turn_s(target)
        async with _scraping(target):
            scraped_s = await _turn_s(target)
        ratios.append(scraped_s / quiet_s)
        dearer += [ratios[-1]] * (ratios[-1] > 1 + COST)
    told = f"the same load took {', '.join(f'{ratio:.2f}' for ratio in ratios)} times as long with a scraper as without"
    if len(dearer) == PAIRS:
        raise Mismatch(f"throughput that a scrape every {SCRAPE_EVERY_S * 1000:.0f} ms changes by less than {COST:.0%}", told)
    if 2 * len(dearer) > PAIRS:
        raise Disturbed(f"{told}, which decides nothing")
    return told


async def _turn_s(target: Target) -> float:
    """How long a full batch takes, of as many as a turn has time for."""
    clock = asyncio.get_running_loop().time
    tokens, batches = hold_tokens(target, TURN_S), 0
    begin_s = clock()
    while True:
        asked = (ask_completion(target, max_tokens=tokens, ignore_eos=True) for _ in range(target.capacity or TRIED[0]))
        expect_served(await asyncio.gather(*asked))
        batches += 1
        if (took_s := clock() - begin_s) >= TURN_S:
            return took_s / batches


IN_TIME_CASE = Case(
    id="ms.scrape.in-time",
    level=Level.SHOULD,
    requirement="Under full load, 99 of 100 pages SHOULD come within a second.",
    why="A scrape that times out is lost: the picker goes on with old values, and soon takes the server for dead.",
    source=REACHES,
    features=FEATURES,
    needs=(RUNNING_RISES.id,),
    bounds=(IN_TIME,),
    run=in_time,
)

MEDIAN_CASE = Case(
    id="ms.scrape.median",
    level=Level.SHOULD,
    requirement="Under full load, half of the pages SHOULD come within 100 ms.",
    why="What is on the page is as old as the page took; hundreds of requests may have been sent by it meanwhile.",
    source=REACHES,
    features=FEATURES,
    needs=(IN_TIME_CASE.id,),
    bounds=(MEDIAN,),
    run=median,
)

CROWDED_CASE = Case(
    id="ms.scrape.crowded",
    level=Level.SHOULD,
    requirement=f"While {CROWD} requests come at once, half of the pages SHOULD come within a second.",
    why="What has a thread for each request has none for its page when all are taken: it falls silent just as its queue grows.",
    source=REACHES,
    features=FEATURES,
    needs=(MEDIAN_CASE.id,),
    bounds=(IN_TIME, GAUGE_FOLLOWS),
    run=crowded,
)

SIZE = Case(
    id="ms.scrape.size",
    level=Level.SHOULD,
    requirement="A page SHOULD be smaller than a megabyte.",
    why="Every picker reads it twenty times a second, of every server.",
    source=REACHES,
    needs=(EXPOSITION.id,),
    run=size,
)

STABLE_SERIES = Case(
    id="ms.scrape.stable-series",
    level=Level.SHOULD,
    requirement="The number of series SHOULD NOT grow with the number of requests that were answered.",
    why="A label with a value for each request fills the memory of the server, of every scraper and of Prometheus.",
    source="Prometheus, Instrumentation: do not overuse labels",
    needs=(EXPOSITION.id,),
    run=stable_series,
)

CONTENT_TYPE = Case(
    id="ms.scrape.content-type",
    level=Level.SHOULD,
    requirement="A page SHOULD be sent as text/plain, of version 0.0.4 if it says a version, to whoever asks for that.",
    why="Prometheus chooses its parser by the type, and since version 3 rejects a page without one that it knows.",
    source="Prometheus, Exposition formats: text format 0.0.4; Content negotiation",
    needs=(EXPOSITION.id,),
    run=content_type,
)

COMPRESSION = Case(
    id="ms.scrape.compression",
    level=Level.SHOULD,
    requirement="Asked for gzip, a server SHOULD send a page that is what its content-encoding says.",
    why="Prometheus and the HTTP clients of pickers ask for gzip unless they are told not to.",
    source="RFC 9110 §8.4 (Content-Encoding), §12.5.3 (Accept-Encoding)",
    needs=(EXPOSITION.id,),
    run=compression,
)

HEAD = Case(
    id="ms.scrape.head",
    level=Level.SHOULD,
    requirement="A HEAD of the metrics page SHOULD be answered or refused, and leave the page as it is.",
    why="Load balancers and uptime checks ask so.",
    source="RFC 9110 §9.3.2 (HEAD), §15.6 (an error of the server is no refusal)",
    needs=(EXPOSITION.id,),
    run=head,
)

COSTS_LITTLE = Case(
    id="ms.scrape.costs-little",
    level=Level.SHOULD,
    requirement="A scrape every 50 ms SHOULD change the throughput by less than a tenth.",
    why="Several pickers and Prometheus scrape at once; what renders the page is often the process that answers requests.",
    source=REACHES,
    features=FEATURES,
    needs=(RUNNING_RISES.id,),
    run=costs_little,
)

CASES = (IN_TIME_CASE, MEDIAN_CASE, CROWDED_CASE, SIZE, STABLE_SERIES, CONTENT_TYPE, COMPRESSION, HEAD, COSTS_LITTLE)
