"""Section E, accounting: under a load that comes as it likes, counters and histograms say what clients were told and saw."""

import asyncio
import random
from collections.abc import Sequence

from shunter.conformance.core.case import Case, Level
from shunter.conformance.core.exchange import Exchange
from shunter.conformance.core.signals import Signal
from shunter.conformance.errors import Mismatch
from shunter.conformance.exposition import Page
from shunter.conformance.sections.servers.answers import Completion, Usage
from shunter.conformance.sections.servers.asking import ask_completion
from shunter.conformance.sections.servers.holding import GAUGE_FOLLOWS, SETTLES, expect_served, hold_tokens, settle
from shunter.conformance.sections.servers.load import QUEUE_RISES, TOKENS_COUNTED, TRIED, WAITING, rises
from shunter.conformance.sections.servers.metrics import SAMPLE_PERIOD_S, scrape
from shunter.conformance.sections.servers.openai import STREAM_FRAMING
from shunter.conformance.sections.servers.profile import E2E, IGNORE_EOS, LATENCIES, OPENAI, TTFT
from shunter.conformance.sections.servers.target import Target

__all__ = ["CASES", "COUNTERS"]

# An open loop: so many requests, whole answers and streams, of lengths between these shares of what lasts, come at random
# times, on average as fast as a batch of TRIED[0] can take them. The same dice every time, so that a failure can be repeated.
ARRIVALS, SHORTEST, LONGEST = 24, 0.05, 0.5
SEED = 28

# Beside what the server knows of, a client's time has the network, and a busy machine on both sides.
SEEN = 0.8
CLOCKS = 1.01

# Who waits for a seat has his first token after somebody has ended; the share allows for those who came a little later.
WAITED = 0.8

MEANING = "Meaning of the metrics in vLLM, the reference server of the GIE Model Server Protocol (proposal 003)"


async def counters(target: Target) -> str:
    await settle(target)
    before = await scrape(target)
    dice = random.Random(SEED)  # noqa: S311 – the arrivals of a load, no secret
    most = hold_tokens(target)
    lengths = [max(1, round(most * dice.uniform(SHORTEST, LONGEST))) for _ in range(ARRIVALS)]
    mean_s = sum(lengths) / ARRIVALS * (target.step_s or 0.0) / TRIED[0]
    asked: list[asyncio.Task[Exchange]] = []
    try:
        for nth, tokens in enumerate(lengths):
            await asyncio.sleep(dice.expovariate(1 / mean_s) if mean_s else 0.0)
            ask = ask_completion(target, max_tokens=tokens, ignore_eos=True, stream=nth % 2 == 1)
            asked.append(asyncio.ensure_future(ask))
        answers = await asyncio.gather(*asked)
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    expect_served(answers)
    # All prompts are alike, and with ignore_eos a stream has as many tokens as it was asked for.
    prompt = answers[0].read(Completion).usage.prompt_tokens
    return await rises(target, before, [Usage(prompt, tokens, prompt + tokens) for tokens in lengths])


async def first_token(target: Target) -> str:
    before, answers = await _full_batch(target)
    times_s = sorted(answer.elapsed_s for answer in answers)
    waited_s = (len(answers) - target.capacity) * times_s[0] * WAITED if target.capacity else 0.0
    return await _sums(target, before, TTFT, len(answers), waited_s, sum(times_s) * CLOCKS)


async def whole_answer(target: Target) -> str:
    before, answers = await _full_batch(target)
    seen_s = sum(answer.elapsed_s for answer in answers)
    return await _sums(target, before, E2E, len(answers), seen_s * SEEN, seen_s * CLOCKS)


async def _full_batch(target: Target) -> tuple[Page, Sequence[Exchange]]:
    """The page before, and the answers of a batch and a queue that come at once."""
    await settle(target)
    before = await scrape(target)
    tokens, count = hold_tokens(target), (target.capacity or TRIED[0]) + WAITING
    answers = await asyncio.gather(*(ask_completion(target, max_tokens=tokens, ignore_eos=True) for _ in range(count)))
    expect_served(answers)
    return before, answers


async def _sums(target: Target, before: Page, name: str, count: int, least_s: float, most_s: float) -> str:
    """Wait until a histogram has so many more observations, whose sum is between two bounds; raises Mismatch."""
    family = target.profile.histograms[name]
    clock = asyncio.get_running_loop().time
    limit_s = target.seconds(GAUGE_FOLLOWS)
    end_s = clock() + limit_s
    while True:
        late = clock() > end_s
        page = await scrape(target)
        rose, sum_s = (page.total(Signal(family + part)) - before.total(Signal(family + part)) for part in ("_count", "_sum"))
        if rose == count and least_s <= sum_s <= most_s:
            return f"{family}: {count} observations, {sum_s:.2f} s together"
        if late:
            wanted = f"{count} more observations in {family}, {least_s:.2f} to {most_s:.2f} s together, within {limit_s:g} s"
            raise Mismatch(wanted, f"{rose:g}, {sum_s:.2f} s together")
        await asyncio.sleep(SAMPLE_PERIOD_S)


COUNTERS = Case(
    id="ms.accounting.counters",
    level=Level.MUST,
    requirement="Counters of tokens and of finished requests MUST rise by what clients were told, whatever ran beside "
    "what, whole or as a stream.",
    why="Throughput and cost are computed from them, and a server is never as busy in tests as where it is billed.",
    source=MEANING,
    features=(OPENAI, "counters", IGNORE_EOS),
    needs=(TOKENS_COUNTED.id, STREAM_FRAMING.id),
    bounds=(GAUGE_FOLLOWS, SETTLES),
    run=counters,
)

FIRST_TOKEN = Case(
    id="ms.accounting.first-token",
    level=Level.SHOULD,
    requirement="The histogram of times to the first token SHOULD have each request once, in seconds, with the "
    "time that it waited.",
    why="It is what autoscalers and objectives look at: without the queue, a server that is overrun looks fast.",
    source=MEANING,
    features=(LATENCIES, IGNORE_EOS),
    needs=(QUEUE_RISES.id,),
    bounds=(GAUGE_FOLLOWS, SETTLES),
    run=first_token,
)

WHOLE_ANSWER = Case(
    id="ms.accounting.whole-answer",
    level=Level.SHOULD,
    requirement="The histogram of times to the last token SHOULD have each request once, with the time that its client saw, in "
    "seconds.",
    why="What clients complain of has to be found in it.",
    source=MEANING,
    features=(LATENCIES, IGNORE_EOS),
    needs=(QUEUE_RISES.id,),
    bounds=(GAUGE_FOLLOWS, SETTLES),
    run=whole_answer,
)

CASES = (COUNTERS, FIRST_TOKEN, WHOLE_ANSWER)
