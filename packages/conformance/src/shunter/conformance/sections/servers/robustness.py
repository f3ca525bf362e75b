"""Section C, robustness: what some clients do wrong, or too much of, is not felt by probes and by other clients."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import cycle, islice

from shunter.conformance.core.case import Bound, Case, Level
from shunter.conformance.core.exchange import Exchange, clip
from shunter.conformance.core.signals import Role
from shunter.conformance.errors import Mismatch, TooShort
from shunter.conformance.sections.servers.asking import ask_completion, completion_body
from shunter.conformance.sections.servers.errors import (
    MALFORMED_JSON,
    MISSING_PROMPT,
    MISTAKES,
    NOWHERE,
    UNKNOWN_PATH,
    WRONG_METHOD,
)
from shunter.conformance.sections.servers.holding import GAUGE_FOLLOWS, SETTLES, holding, read, settle, watch
from shunter.conformance.sections.servers.load import RUNNING_RISES, TRIED, WAITING
from shunter.conformance.sections.servers.metrics import EXPOSITION, LOAD_IDLE, SAMPLE_PERIOD_S, SHED
from shunter.conformance.sections.servers.openai import COMPLETION_FIELDS
from shunter.conformance.sections.servers.profile import IGNORE_EOS, OPENAI
from shunter.conformance.sections.servers.reachability import HEALTH_QUICK, PROBE_TIMEOUT, ask_health
from shunter.conformance.sections.servers.target import Target

__all__ = ["CASES"]

# Probes while others are there.
PROBES = 10

# Requests at once, more than any small server runs and many queues hold.
CROWD = 48

# Mistakes that are made, so many at once: what is lost with each of them shows.
MISTAKES_MADE, AT_ONCE = 200, 8

# Bodies that end in their middle.
ABANDONED = 20

SHED_QUICKLY = Bound(
    "shed-quickly",
    2.0,
    "whoever is refused asks another server; after a wait he would better have queued",
)

LOAD_FEATURES = (Role.QUEUE.feature, Role.RUNNING.feature)


async def health_unseen(target: Target) -> str:
    await settle(target)
    clock = asyncio.get_running_loop().time
    begin_s = clock()
    looks = 0
    for _ in range(PROBES):
        probe = asyncio.ensure_future(ask_health(target))
        try:
            while True:
                done = probe.done()
                looks += 1
                if (seen := await read(target, begin_s)).here:
                    raise Mismatch("running and queue 0 while only probes are there", str(seen))
                if done:
                    break
                await asyncio.wait({probe}, timeout=SAMPLE_PERIOD_S)
            await probe
        finally:
            probe.cancel()
    return f"{PROBES} probes, {looks} looks at the gauges"


async def health_under_load(target: Target) -> str:
    count = (target.capacity or TRIED[0]) + WAITING
    async with holding(target, count) as unanswered:
        await watch(target, lambda each: each.running >= 1, wanted="running at least 1")
        took_s: list[float] = []
        while unanswered() and len(took_s) < PROBES:
            took_s.append((await ask_health(target)).elapsed_s)
            await asyncio.sleep(SAMPLE_PERIOD_S)
    if not took_s:
        raise TooShort
    return f"{len(took_s)} probes beside {count} requests, the slowest {max(took_s) * 1000:.0f} ms"


async def overload(target: Target) -> str:
    exchanges = await asyncio.gather(*(ask_completion(target) for _ in range(CROWD)))
    statuses = Counter(exchange.status for exchange in exchanges)
    told = ", ".join(f"{count} × {status}" for status, count in sorted(statuses.items()))
    if statuses.keys() - {200, *SHED} or not statuses[200]:
        wrong = next((exchange.text for exchange in exchanges if exchange.status not in {200, *SHED}), "")
        raise Mismatch(
            f"of {CROWD} requests at once some 200 and the others {' or '.join(map(str, SHED))}", f"{told}: {clip(wrong)!r}"
        )
    limit_s = target.seconds(SHED_QUICKLY)
    slowest_s = max((exchange.elapsed_s for exchange in exchanges if exchange.status != 200), default=0.0)
    if slowest_s > limit_s:
        raise Mismatch(f"a refusal within {limit_s:g} s", f"the last of {told} after {slowest_s:.2f} s")
    return f"of {CROWD} requests at once {told}"


async def mistakes(target: Target) -> str:
    makers: list[Callable[[Target], Awaitable[Exchange]]] = [
        *MISTAKES.values(),
        lambda target: target.get(target.profile.api.completions),
        lambda target: target.get(NOWHERE),
    ]
    quiet = await _quiet(target)
    made = list(islice(cycle(makers), MISTAKES_MADE))
    for begin in range(0, MISTAKES_MADE, AT_ONCE):
        for exchange in await asyncio.gather(*(mistake(target) for mistake in made[begin : begin + AT_ONCE])):
            if not 400 <= exchange.status < 500:
                raise Mismatch(f"4xx for each of {MISTAKES_MADE} mistakes", f"HTTP {exchange.status}: {clip(exchange.text)!r}")
    return await _unhurt(target, f"{MISTAKES_MADE} mistakes", quiet=quiet)


async def half_a_body(target: Target) -> str:
    quiet = await _quiet(target)
    whole = json.dumps(completion_body(target)).encode()
    for _ in range(ABANDONED):
        await target.abandon(target.profile.api.completions, whole[: len(whole) // 2], len(whole))
    return await _unhurt(target, f"{ABANDONED} bodies that broke off", quiet=quiet)


async def _quiet(target: Target) -> bool:
    """Whether its gauges say that nothing is there; one that is missing, or never says so, is the business of other cases."""
    if all(role in target.profile.signals for role in (Role.QUEUE, Role.RUNNING)):
        with suppress(Mismatch):
            await watch(target, lambda each: each.here == 0, wanted="running and queue 0")
            return True
    return False


async def _unhurt(target: Target, after: str, *, quiet: bool) -> str:
    """Find the server as it was: ready, as `quiet` as before, and generating; raises Mismatch."""
    await ask_health(target)
    if quiet:
        await watch(target, lambda each: each.here == 0, wanted=f"running and queue 0 after {after}")
    exchange = await ask_completion(target)
    exchange.expect_status(200)
    return f"after {after} ready{', idle' * quiet}, and a completion in {exchange.elapsed_s:.2f} s"


PROBING = "Kubernetes, Configure Liveness, Readiness and Startup Probes"
GAUGES = "GIE Model Server Protocol (proposal 003), Metrics Reporting: the gauges are of requests"

HEALTH_UNSEEN = Case(
    id="ms.robustness.health-unseen",
    level=Level.SHOULD,
    requirement="Probes of the health path SHOULD NOT show as running or queued requests.",
    why="A server that is probed by generating looks busy when it is not, and takes a seat from a client for every probe.",
    source=GAUGES,
    features=LOAD_FEATURES,
    needs=(LOAD_IDLE.id, HEALTH_QUICK.id),
    bounds=(PROBE_TIMEOUT, SETTLES),
    run=health_unseen,
)

HEALTH_UNDER_LOAD = Case(
    id="ms.robustness.health-under-load",
    level=Level.SHOULD,
    requirement="With a full batch and a queue the health path SHOULD be answered within one second.",
    why="A probe that waits in the queue fails just when the server is needed: it is restarted, and the others get its load.",
    source=f"{PROBING}: timeoutSeconds",
    features=(*LOAD_FEATURES, IGNORE_EOS),
    needs=(HEALTH_UNSEEN.id, RUNNING_RISES.id),
    bounds=(PROBE_TIMEOUT, GAUGE_FOLLOWS),
    run=health_under_load,
)

OVERLOAD = Case(
    id="ms.robustness.overload",
    level=Level.SHOULD,
    requirement=f"Of {CROWD} requests at once each SHOULD be answered, or refused at once with 429 or 503.",
    why="Gateways try another server after 503 and clients wait after 429; after a 500, a reset or a silence they do neither.",
    source="RFC 6585 §4; RFC 9110 §15.6.4",
    needs=(COMPLETION_FIELDS.id,),
    features=(OPENAI,),
    bounds=(SHED_QUICKLY,),
    run=overload,
)

MISTAKES_FORGOTTEN = Case(
    id="ms.robustness.mistakes",
    level=Level.MUST,
    requirement=f"After {MISTAKES_MADE} mistakes of clients a server MUST be ready, idle and generating as before.",
    why="What each of them leaves behind, somebody who does not know the API fills a server with.",
    source=f"{PROBING}; {GAUGES}",
    features=(OPENAI,),
    needs=(
        MALFORMED_JSON.id,
        MISSING_PROMPT.id,
        WRONG_METHOD.id,
        UNKNOWN_PATH.id,
        COMPLETION_FIELDS.id,
        HEALTH_QUICK.id,
        EXPOSITION.id,
    ),
    bounds=(PROBE_TIMEOUT, GAUGE_FOLLOWS),
    run=mistakes,
)

HALF_A_BODY = Case(
    id="ms.robustness.half-a-body",
    level=Level.SHOULD,
    requirement="Requests that break off in the middle of their body SHOULD leave nothing behind.",
    why="Clients lose their connection in the middle of long prompts; what waits for the rest waits for ever.",
    source=f"RFC 9112 §8 (incomplete messages); {GAUGES}",
    features=(OPENAI,),
    needs=(MISTAKES_FORGOTTEN.id,),
    bounds=(PROBE_TIMEOUT, GAUGE_FOLLOWS),
    run=half_a_body,
)

CASES = (HEALTH_UNSEEN, HEALTH_UNDER_LOAD, OVERLOAD, MISTAKES_FORGOTTEN, HALF_A_BODY)
