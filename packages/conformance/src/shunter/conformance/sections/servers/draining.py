"""Section F, the end: a server is ready no sooner than it can generate, and no longer than it means to stay.

These cases end the server, so they come last; each starts it again, and leaves it when it generates.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from shunter.conformance.core.case import Bound, Case, Level
from shunter.conformance.core.exchange import Exchange
from shunter.conformance.errors import ConformanceError, Mismatch, Refused, Skip, Unanswered
from shunter.conformance.sections.servers.answers import Completion, CompletionChunk
from shunter.conformance.sections.servers.asking import ask_completion
from shunter.conformance.sections.servers.cancellation import FEATURES
from shunter.conformance.sections.servers.holding import FEWEST_TOKENS, GAUGE_FOLLOWS, Reading, hold_tokens, watch
from shunter.conformance.sections.servers.load import RUNNING_RISES
from shunter.conformance.sections.servers.metrics import SAMPLE_PERIOD_S
from shunter.conformance.sections.servers.openai import STREAM_FINISH_REASON, USAGE_EXACT
from shunter.conformance.sections.servers.profile import OPENAI
from shunter.conformance.sections.servers.reachability import HEALTH
from shunter.conformance.sections.servers.saying import read_chunks
from shunter.conformance.sections.servers.target import Control, Target

__all__ = ["CASES"]

STARTS = Bound(
    "starts",
    600.0,
    "a large model takes minutes to load; a startup probe that waits longer gives up",
    scales=False,
)

UNREADY = Bound(
    "unready",
    1.0,
    "gateways that check health themselves do so about each second, and send new work until a check fails",
    scales=False,
)

EXITS = Bound("exits", 5.0, "beside the time of its requests, a server needs some to free its memory and to close")

ENGINE_MISSED = Bound(
    "engine-missed",
    10.0,
    "the period of a kubelet's probe: what it finds healthy once more costs everybody who asks as long again",
    scales=False,
)

# Requests that run when the server is asked to end, those that come afterwards, and how long the first should go on.
RUNNING, NEW = 2, 5
DRAIN_S = 2.0

# What of the time to drain a request may take that is to end within it: the machine may be slower than it was.
SHARE_OF_GRACE = 0.5

KUBERNETES = "Kubernetes, Pod Lifecycle: Termination of Pods"
PROBES = "Kubernetes, Configure Liveness, Readiness and Startup Probes"


async def ready_when_able(target: Target) -> str:
    clock = asyncio.get_running_loop().time
    begin_s = clock()
    await target.control.restart()
    try:
        await _until(target, STARTS, ready=True)
        ready_s = clock() - begin_s
        try:
            answer = await ask_completion(target)
            answer.expect_status(200)
        except Unanswered as unanswered:
            raise Mismatch("a completion as soon as the health path answers 200", str(unanswered)) from None
    finally:
        await _able(target)
    return f"ready {ready_s:.1f} s after it was started, and then the first completion took {answer.elapsed_s:.2f} s"


async def unready(target: Target) -> str:
    async with _reborn(target) as control, _asked(target, _tokens(target, control, target.seconds(UNREADY))):
        await control.terminate()
        seconds = await _until(target, UNREADY, ready=False)
    return f"no longer ready {seconds:.2f} s after SIGTERM"


async def in_flight(target: Target) -> str:
    async with _reborn(target) as control:
        tokens = _tokens(target, control)
        async with _asked(target, tokens) as asked:
            await control.terminate()
            try:
                whole, stream = await asyncio.gather(*asked)
            except Unanswered as unanswered:
                raise Mismatch("whole answers for all that ran at SIGTERM", str(unanswered)) from None
        whole.expect_status(200)
        answer = whole.read(Completion)
        reasons = [choice.finish_reason for chunk in read_chunks(stream, CompletionChunk) for choice in chunk.choices]
        ends = answer.choices[0].finish_reason, *reasons[-1:]
        if (said := answer.usage.completion_tokens) != tokens or ends != ("length", "length"):
            raise Mismatch(
                f"{tokens} tokens, and finish_reason length whole and as a stream",
                f"{said} tokens and {' and '.join(map(str, ends))}",
            )
    return f"{tokens} tokens for each of the {RUNNING} that ran at SIGTERM"


async def refuses(target: Target) -> str:
    said: list[str] = []
    async with _reborn(target) as control, _asked(target, _tokens(target, control)) as asked:
        await control.terminate()
        while not all(task.done() for task in asked) and len(said) < NEW:
            try:
                answer = await ask_completion(target, max_tokens=1)
                answer.expect_status(200, 503)
                said.append(str(answer.status))
            except Refused:
                said.append("no connection")
            except Unanswered as broken:
                await asyncio.sleep(SAMPLE_PERIOD_S)  # where the server has gone, those who ran learn of it a moment later
                if not all(task.done() for task in asked):  # else it has drained, and has ended meanwhile
                    raise Mismatch("an answer, 503, or no connection", str(broken)) from None
            await asyncio.sleep(SAMPLE_PERIOD_S)
    if not said:
        raise Skip("nothing could be asked while it drained: the request that ran had ended before")
    return f"{len(said)} requests during the drain: {', '.join(said)}"


async def exits(target: Target) -> str:
    clock = asyncio.get_running_loop().time
    async with _reborn(target) as control, _asked(target, _tokens(target, control)) as asked:
        begin_s, limit_s = clock(), control.grace_s + target.seconds(EXITS)
        await control.terminate()
        if not await control.ended(limit_s):
            raise Mismatch(
                f"gone {limit_s:g} s after SIGTERM, {control.grace_s:g} s of them for its requests", "it is still there"
            )
        seconds = clock() - begin_s
        _, hanging = await asyncio.wait(asked, timeout=target.seconds(GAUGE_FOLLOWS))
        if hanging:
            raise Mismatch("every connection answered or closed", f"{len(hanging)} clients still wait, and nobody is there")
    return f"gone {seconds:.1f} s after SIGTERM"


async def engine_dead(target: Target) -> str:
    await target.control.kill_engine()
    try:
        seconds = await _until(target, ENGINE_MISSED, ready=False)
    finally:
        await target.control.restart()
        await _able(target)
    return f"not healthy {seconds:.2f} s after its engine was killed"


@asynccontextmanager
async def _reborn(target: Target) -> AsyncGenerator[Control]:
    """Power over a server that generates again when the block has ended, whatever happened in it."""
    control = target.control
    if not control.grace_s:
        raise Skip("it was told to let no request finish: give it time to drain (--grace)")
    try:
        yield control
    finally:
        await control.restart()
        await _able(target)


@asynccontextmanager
async def _asked(target: Target, tokens: int) -> AsyncGenerator[list[asyncio.Task[Exchange]]]:
    """Two requests that the server has when the block begins, of which one is streamed; both are hung up when it ends.

    It has them when its gauges show them, or, where these are late, when it has served somebody who came after them.
    """
    asked = [
        asyncio.create_task(ask_completion(target, max_tokens=tokens, ignore_eos=True, stream=stream))
        for stream in (False, True)
    ]
    later = asyncio.create_task(ask_completion(target, max_tokens=1))
    wanted = f"running + queue {RUNNING}, or an answer to who came after them,"

    def come(each: Reading) -> bool:
        if not later.done():
            return each.here > RUNNING  # who came after them is one of those who are here
        return each.here >= RUNNING or (later.exception() is None and later.result().status == 200)

    try:
        await watch(target, come, wanted=wanted)
        yield asked
    finally:
        for task in (*asked, later):
            task.cancel()
        await asyncio.gather(*asked, later, return_exceptions=True)


async def _able(target: Target) -> None:
    """Wait until the server generates; raises Unanswered if it never does, and Skip if it cannot be asked to."""
    clock = asyncio.get_running_loop().time
    end_s = clock() + target.seconds(STARTS)
    while clock() < end_s:
        try:
            (await ask_completion(target, max_tokens=1)).expect_status(200)
        except Skip:  # there is no model to ask for
            raise
        except ConformanceError:
            await asyncio.sleep(SAMPLE_PERIOD_S)
        else:
            return
    raise Unanswered(f"it has been started again, and generates nothing after {target.seconds(STARTS):g} s")


async def _until(target: Target, bound: Bound, *, ready: bool) -> float:
    """Ask for its health until it is ready, or until it is not; returns the seconds, raises Mismatch if it is not in time."""
    clock = asyncio.get_running_loop().time
    begin_s, limit_s = clock(), target.seconds(bound)
    path = target.profile.health_path
    wanted = f"{path} {'200' if ready else 'anything but 200'} within {limit_s:g} s"
    seen = "no answer"
    try:
        async with asyncio.timeout(limit_s):
            while True:
                try:
                    status = (await target.get(path)).status
                except Unanswered:
                    status = 0
                if (status == 200) is ready:
                    return clock() - begin_s
                seen = f"HTTP {status}" if status else "no answer"
                await asyncio.sleep(SAMPLE_PERIOD_S)
    except TimeoutError:
        raise Mismatch(wanted, seen) from None


def _tokens(target: Target, control: Control, least_s: float = 0.0) -> int:
    """Return how many tokens last longer than that, and not too long to end in time; raises Skip where there are none such."""
    if target.step_s is None:
        raise Skip("how long a request lasts is unknown: the pace of the server could not be measured")
    most_s = SHARE_OF_GRACE * control.grace_s
    if max(least_s, target.step_s * FEWEST_TOKENS) > most_s:
        raise Skip(f"{control.grace_s:g} s to drain are too few for a request that can be seen running (--grace)")
    return hold_tokens(target, min(least_s + DRAIN_S, most_s))


READY_WHEN_ABLE = Case(
    id="ms.drain.ready-when-able",
    level=Level.MUST,
    requirement="A server that starts MUST NOT answer its health path with 200 before it can generate.",
    why="From that answer on traffic comes; and a rollout would replace replicas that serve by some that do not.",
    source=PROBES,
    needs=(HEALTH.id,),
    bounds=(STARTS,),
    run=ready_when_able,
)

UNREADY_SOON = Case(
    id="ms.drain.unready",
    level=Level.SHOULD,
    requirement="A server that was asked to end SHOULD stop answering its health path with 200, while it lets requests finish.",
    why="Gateways with health checks of their own learn only by them that they should send new work elsewhere.",
    source=f"{KUBERNETES}; {PROBES}",
    features=FEATURES,
    needs=(HEALTH.id, RUNNING_RISES.id),
    bounds=(UNREADY, GAUGE_FOLLOWS, STARTS),
    run=unready,
)

IN_FLIGHT = Case(
    id="ms.drain.in-flight",
    level=Level.MUST,
    requirement="A server that was asked to end and has time to drain MUST answer in full what it has begun.",
    why="Otherwise every rollout and every scale-down cuts off users in the middle of an answer, which no gateway can repair.",
    source=KUBERNETES,
    features=(OPENAI, *FEATURES),
    needs=(USAGE_EXACT.id, STREAM_FINISH_REASON.id, RUNNING_RISES.id),
    bounds=(GAUGE_FOLLOWS, STARTS),
    run=in_flight,
)

REFUSES = Case(
    id="ms.drain.refuses",
    level=Level.SHOULD,
    requirement="While it drains, a server SHOULD answer new requests, refuse them with 503, or accept no connections.",
    why="New work keeps coming until every gateway has heard. With 503, or no connection, a gateway asks another replica.",
    source=f"RFC 9110 §15.6.4; {KUBERNETES}",
    features=FEATURES,
    needs=(RUNNING_RISES.id,),
    bounds=(GAUGE_FOLLOWS, STARTS),
    run=refuses,
)

EXITS_IN_TIME = Case(
    id="ms.drain.exits",
    level=Level.MUST,
    requirement="A server that was asked to end MUST be gone when its time to drain is over, and leave no connection hanging.",
    why="What does not end is killed, with all that it has; and whoever waits on a dead connection waits for his timeout.",
    source=KUBERNETES,
    features=FEATURES,
    needs=(RUNNING_RISES.id,),
    bounds=(EXITS, GAUGE_FOLLOWS, STARTS),
    run=exits,
)

ENGINE_DEAD = Case(
    id="ms.drain.engine-dead",
    level=Level.SHOULD,
    requirement="When the part of a server that generates has died, its health path SHOULD stop answering 200.",
    why="A front end that goes on smiling keeps its pod in the pool, and fails every request that is sent there.",
    source=PROBES,
    needs=(HEALTH.id,),
    bounds=(ENGINE_MISSED, STARTS),
    run=engine_dead,
)

CASES = (READY_WHEN_ABLE, UNREADY_SOON, IN_FLIGHT, REFUSES, EXITS_IN_TIME, ENGINE_DEAD)
