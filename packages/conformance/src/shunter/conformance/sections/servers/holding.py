"""Requests that are kept at a server for a while, and what its gauges say meanwhile."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec

from shunter.conformance.core.case import Bound
from shunter.conformance.core.exchange import Exchange
from shunter.conformance.core.signals import Role
from shunter.conformance.errors import Mismatch, Skip
from shunter.conformance.exposition import Page
from shunter.conformance.sections.servers.asking import ask_completion
from shunter.conformance.sections.servers.metrics import SAMPLE_PERIOD_S, SHED, find, scrape
from shunter.conformance.sections.servers.profile import CACHE_SIZE, IGNORE_EOS, Told
from shunter.conformance.sections.servers.target import Target

__all__ = [
    "FEWEST_TOKENS",
    "GAUGE_FOLLOWS",
    "SETTLES",
    "Reading",
    "cache_size",
    "draw",
    "expect_served",
    "hold_tokens",
    "holding",
    "read",
    "read_number",
    "settle",
    "watch",
]

# How long a request should last by the pace of the target: long enough for some looks at the gauges. Within these numbers of
# tokens, of which the upper fits into a context of 2,048.
HOLD_S = 2.0
FEWEST_TOKENS, MOST_TOKENS = 16, 1536

# The interval of the reference endpoint picker.
SCRAPE_EVERY_S = 0.05

GAUGE_FOLLOWS = Bound(
    "gauge-follows",
    1.0,
    "pickers scrape every 50 ms and send hundreds of requests a second; what a gauge does not show yet sends them astray",
)

SETTLES = Bound("settles", 60.0, "a server that does not notice that a client has left works its request off")


class Reading(msgspec.Struct, frozen=True):
    """What the gauges of one page say, all engines behind it together; NaN where the profile maps none."""

    at_s: float
    queue: float
    running: float
    kv: float

    @property
    def here(self) -> float:
        """Requests that the server says it has."""
        return self.queue + self.running

    def __str__(self) -> str:
        """As evidence."""
        return f"running {self.running:g}, queue {self.queue:g}, KV {self.kv:g} after {self.at_s:.2f} s"


def hold_tokens(target: Target, hold_s: float | None = None) -> int:
    """Return how many tokens keep a request at the target for a while."""
    lasting_s = HOLD_S * target.patience if hold_s is None else hold_s
    wanted = lasting_s / target.step_s if target.step_s else FEWEST_TOKENS
    return max(FEWEST_TOKENS, min(MOST_TOKENS, round(wanted)))


@asynccontextmanager
async def holding(
    target: Target, count: int, *, tokens: Sequence[int] = (), stream: bool = False, leave: bool = False
) -> AsyncGenerator[Callable[[], int]]:
    """Keep so many requests at the target while the block runs; then wait for their answers, or hang up (``leave``).
    What it yields tells how many are not answered yet. Only cases about hanging up do it: on a server that does not notice,
    they alone should fail. Raises Skip for a server that refuses some, or cannot be made to generate so many tokens.
    """
    if lack := target.profile.lack((IGNORE_EOS,)):
        raise Skip(lack)
    tasks = [
        asyncio.ensure_future(ask_completion(target, max_tokens=most, ignore_eos=True, stream=stream))
        for most in tokens or [hold_tokens(target)] * count
    ]
    try:
        yield lambda: sum(not task.done() for task in tasks)
        answers = [] if leave else await asyncio.gather(*tasks)
        expect_served(answers)
    except Mismatch:
        _expect_not_shed([task.result() for task in tasks if task.done() and not task.exception()])
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def expect_served(answers: Sequence[Exchange]) -> None:
    """Raise Skip if some of the requests that came at once were refused, and Mismatch if they got another answer than 200."""
    _expect_not_shed(answers)
    for answer in answers:
        answer.expect_status(200)


def _expect_not_shed(answers: Sequence[Exchange]) -> None:
    if any(answer.status in SHED for answer in answers):
        raise Skip(f"of requests at once it refuses some (HTTP {' or '.join(map(str, SHED))}), which is its right")


async def read(target: Target, begin_s: float) -> Reading:
    """Look at the gauges once."""
    at_s = asyncio.get_running_loop().time() - begin_s  # a page is as of some time after it was asked for
    page = await scrape(target)
    queue, running = (sum(series.value for series in find(target, page, role)) for role in (Role.QUEUE, Role.RUNNING))
    kv = page.find(target.profile.signals[Role.KV]) if Role.KV in target.profile.signals else []
    return Reading(at_s, queue, running, sum(series.value for series in kv) if kv else math.nan)


async def watch(
    target: Target, enough: Callable[[Reading], bool], bound: Bound = GAUGE_FOLLOWS, *, wanted: str
) -> list[Reading]:
    """Look at the gauges until one look is enough; raises Mismatch if none is in time."""
    clock = asyncio.get_running_loop().time
    begin_s, limit_s = clock(), target.seconds(bound)
    readings: list[Reading] = []
    try:
        while True:
            readings.append(await read(target, begin_s))
            if enough(readings[-1]):
                return readings
            if readings[-1].at_s > limit_s:
                raise Mismatch(f"{wanted} within {limit_s:g} s", str(readings[-1]))
            await asyncio.sleep(SAMPLE_PERIOD_S)
    finally:
        if len(readings) > 1:  # one is no line
            draw(target, readings)


def read_number(page: Page, told: Told) -> int:
    """A whole number above 0 from a label or a value of the page; raises Mismatch."""
    series = page.find(told.signal)
    if not series:
        raise Mismatch(f"a series {told.signal}", "the page has none")
    text = series[0].labels.get(told.label, "") if told.label else str(series[0].value)
    value = float(text) if text.replace(".", "", 1).isdecimal() else 0.0
    if not (value > 0 and value.is_integer()):
        where = f"label {told.label} of {told.signal}" if told.label else str(told.signal)
        raise Mismatch(f"a whole number above 0 in {where}", repr(text))
    return int(value)


def cache_size(target: Target, page: Page) -> tuple[int, int]:
    """Tokens of a block, and the number of blocks, as a page says; raises Mismatch, and Skip where no page does."""
    cache = target.profile.cache
    if cache is None:
        raise Skip(f"this profile has no name for it: {CACHE_SIZE}")
    return read_number(page, cache.block_tokens), read_number(page, cache.blocks)


async def settle(target: Target) -> None:
    """Wait until nothing is there that an earlier case has left, and see how fast the target is by itself."""
    await _await_nobody(target)
    await target.adapt()
    await _await_nobody(target)  # of whom that took: a gauge may show him for a while, and a counter not yet


async def _await_nobody(target: Target) -> None:
    try:
        await watch(target, lambda each: each.here == 0, SETTLES, wanted="running and queue 0")
    except Mismatch as mismatch:
        raise Skip(f"requests whose clients have hung up are still there: {mismatch.actual}") from None


def draw(target: Target, readings: list[Reading]) -> None:
    """Keep readings for the report."""
    for role in target.profile.signals:
        target.plot(str(role), [(each.at_s, getattr(each, role)) for each in readings if math.isfinite(getattr(each, role))])
