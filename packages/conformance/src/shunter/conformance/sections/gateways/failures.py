"""Failures of pickers: what becomes of requests is what the pool's failure mode says."""

import asyncio
from contextlib import suppress

from shunter.conformance.core.case import Bound, Case, Level
from shunter.conformance.errors import Mismatch, Unanswered
from shunter.conformance.sections.gateways.answers import PASSED_ON, UNBUFFERED, make_events
from shunter.conformance.sections.gateways.picks import EACH, OWN_PICKER, SPOOFED
from shunter.conformance.sections.gateways.profile import FAIL_OPEN, MIDWAY_OPEN, STREAMS_CLOSE, STREAMS_OPEN
from shunter.conformance.sections.gateways.target import PROMPT, RECOVERS, Target
from shunter.conformance.sections.gateways.trial import DESTINATION, Pool, Reply, Trial, Trouble

__all__ = ["CASES"]

GIVES_UP = Bound(
    "gives-up",
    12.0,
    "the setup of the exam lets a gateway wait three seconds for a pick, or for twice four seconds of silence",
)

SEEN_AWAY = Bound(
    "seen-away",
    20.0,
    "where only a health check shows that a picker is away, it looks every few seconds and believes the second failure",
)

ASK_AGAIN_S = 0.05

# That a gateway serves without a pick once may be chance; several times it is its way.
IN_A_ROW = 5


def _is_served(target: Target, trial: Trial, pool: Pool) -> bool:
    return trial.exchange.status == 200 and len(trial.arrived) == 1 and trial.servers[0] in target.servers(pool)


def _expect_refused(trial: Trial, *, outage: str) -> None:
    """An error of the gateway, and nobody served."""
    if trial.exchange.status < 500 or trial.arrived:
        raise Mismatch(f"HTTP 5xx and no server asked, the picker being {outage}", trial.said())


async def _until_served(target: Target) -> str:
    """A gateway that looks after its pickers' health may need a moment to see that one is away."""
    clock = asyncio.get_running_loop().time
    start_s, refused = clock(), 0
    while True:
        try:
            trial = await target.ask(Pool.OPEN)
            said = trial.said()
            if _is_served(target, trial, Pool.OPEN):
                return f"{clock() - start_s:.1f} s after the picker had died, when {refused} requests had failed"
        except Unanswered as failure:
            said = str(failure)
        refused += 1
        if clock() - start_s > target.seconds(SEEN_AWAY):
            raise Mismatch(f"to be served by the pool within {target.seconds(SEEN_AWAY):g} s", said)
        await asyncio.sleep(ASK_AGAIN_S)


async def open_away(target: Target) -> str:
    async with target.picker_down(Pool.OPEN):
        began = await _until_served(target)
        for _ in range(IN_A_ROW):
            trial = await target.ask(Pool.OPEN)
            if not _is_served(target, trial, Pool.OPEN):
                raise Mismatch("to be served by a server of the pool, the picker being away", trial.said())
    return f"served without a pick {began}"


async def close_away(target: Target) -> str:
    async with target.picker_down(Pool.CLOSE):
        trials = [await target.ask(Pool.CLOSE) for _ in range(IN_A_ROW)]
    for trial in trials:
        _expect_refused(trial, outage="away")
    return f"HTTP {trials[-1].exchange.status}, and no server was asked"


async def recovers(target: Target) -> str:
    for pool in Pool:
        async with target.picker_down(pool) as outage:
            with suppress(Unanswered):  # what becomes of requests meanwhile is for other cases
                await target.ask(pool)
        if not outage.asked_again:
            raise Mismatch(
                f"the picker of {pool} asked again within {target.seconds(RECOVERS):g} s of its return", "it was not"
            )
    return "both pickers were asked again after they had come back"


async def apart(target: Target) -> str:
    for pool, other in ((Pool.OPEN, Pool.CLOSE), (Pool.CLOSE, Pool.OPEN)):
        async with target.picker_down(pool):
            for server in target.servers(other):
                (await target.ask(other, server)).expect_served(server)
    return "while one pool's picker was away, the other's was asked and obeyed"


async def spoofed_away(target: Target) -> str:
    """Asked once the gateway serves without a pick: before, it serves nobody, whomever the client names."""
    async with target.picker_down(Pool.OPEN):
        await _until_served(target)
        trial = await target.ask(Pool.OPEN, headers={DESTINATION: target.outside})
    if target.outside in trial.servers:
        raise Mismatch("a server of the pool, or an error", f"the client's choice, {target.outside}, which is in no pool")
    return f"a client that named {target.outside}, the picker being away: {trial.said()}"


async def _open_trouble(target: Target, trouble: Trouble) -> str:
    trial = await target.ask(Pool.OPEN, trouble)
    if not _is_served(target, trial, Pool.OPEN):
        raise Mismatch(f"to be served by a server of the pool, though the picker {trouble.value}", trial.said())
    if trial.exchange.elapsed_s > target.seconds(GIVES_UP):
        raise Mismatch(f"an answer within {target.seconds(GIVES_UP):g} s", f"one after {trial.exchange.elapsed_s:.1f} s")
    if not trial.arrival.body:
        raise Mismatch("the client's body at the server", "an empty one")
    return f"served after {trial.exchange.elapsed_s:.1f} s, though the picker {trouble.value}"


async def _close_trouble(target: Target, trouble: Trouble) -> str:
    trial = await target.ask(Pool.CLOSE, trouble)
    _expect_refused(trial, outage=f"one that {trouble.value}")
    if trial.exchange.elapsed_s > target.seconds(GIVES_UP):
        raise Mismatch(f"an answer within {target.seconds(GIVES_UP):g} s", f"one after {trial.exchange.elapsed_s:.1f} s")
    return f"HTTP {trial.exchange.status} after {trial.exchange.elapsed_s:.1f} s; the picker {trouble.value}"


async def open_error(target: Target) -> str:
    return await _open_trouble(target, Trouble.ABORT)


async def open_hang(target: Target) -> str:
    return await _open_trouble(target, Trouble.HANG)


async def open_silent(target: Target) -> str:
    trial = await target.ask(Pool.OPEN, Trouble.CLOSE)
    if any(arrival.body != PROMPT for arrival in trial.arrived):
        raise Mismatch("the client's body at the server, or an error", f"{len(trial.arrival.body)} bytes of {len(PROMPT)}")
    return f"a picker that ends the stream with OK and no answer: {trial.said()}"


async def close_error(target: Target) -> str:
    return await _close_trouble(target, Trouble.ABORT)


async def close_hang(target: Target) -> str:
    return await _close_trouble(target, Trouble.HANG)


async def close_silent(target: Target) -> str:
    return await _close_trouble(target, Trouble.CLOSE)


async def _survives(target: Target, pool: Pool) -> str:
    pieces = make_events(4)
    async with target.streaming(pool, reply=Reply(pieces, stream=True, held=True)) as stream:
        await stream.read(len(pieces[0]), PASSED_ON)
        async with target.picker_down(pool):
            stream.trial.let_go(len(pieces))
            try:
                rest = await stream.rest()
            except Unanswered as broken:
                raise Mismatch("the stream to its end, though the picker died in its middle", str(broken)) from None
    if rest != b"".join(pieces[1:]):
        raise Mismatch("the rest of the stream", f"{len(rest)} other bytes")
    return f"{len(pieces) - 1} events after the picker's death reached the client, to the end"


async def open_stream(target: Target) -> str:
    return await _survives(target, Pool.OPEN)


async def close_stream(target: Target) -> str:
    return await _survives(target, Pool.CLOSE)


FAILURE_MODE = "GIE InferencePool, endpointPickerRef.failureMode"

RECOVERY = Case(
    id="gw.failure.recovers",
    level=Level.MUST,
    requirement="A picker that was away and is back MUST be asked again.",
    why="An outage of seconds must not cost the scheduling of hours.",
    source=FAILURE_MODE,
    needs=(OWN_PICKER.id,),
    bounds=(RECOVERS,),
    run=recovers,
)

OPEN_AWAY = Case(
    id="gw.failure.open-away",
    level=Level.MUST,
    requirement="In a pool that fails open, requests MUST be served by the pool while the picker is away.",
    why="It was chosen so that a picker's death costs balance, and no answers.",
    source=f"{FAILURE_MODE} FailOpen",
    features=(FAIL_OPEN,),
    needs=(RECOVERY.id,),
    bounds=(SEEN_AWAY, RECOVERS),
    run=open_away,
)

CLOSE_AWAY = Case(
    id="gw.failure.close-away",
    level=Level.MUST,
    requirement="In a pool that fails closed, requests MUST get an error while the picker is away, and no server be asked.",
    why="It was chosen because a server that nobody picked may be the wrong one.",
    source=f"{FAILURE_MODE} FailClose",
    needs=(RECOVERY.id,),
    bounds=(RECOVERS,),
    run=close_away,
)

APART = Case(
    id="gw.failure.apart",
    level=Level.MUST,
    requirement="While one pool's picker is away, the other pool's requests MUST go where their picker says.",
    why="Pools are apart so that their failures are.",
    source=FAILURE_MODE,
    needs=(RECOVERY.id,),
    bounds=(RECOVERS,),
    run=apart,
)

SPOOFED_AWAY = Case(
    id="gw.failure.spoofed",
    level=Level.MUST,
    requirement=f"A client's own {DESTINATION} MUST NOT decide who serves while the picker is away either.",
    why="Nobody overwrites it then: a gateway that reads it from the request lets the client reach any address.",
    source="seen on clusters of type ORIGINAL_DST that fail open",
    features=(FAIL_OPEN,),
    needs=(OPEN_AWAY.id, SPOOFED.id),
    bounds=(SEEN_AWAY, RECOVERS),
    run=spoofed_away,
)

OPEN_ERROR = Case(
    id="gw.failure.open-error",
    level=Level.MUST,
    requirement="In a pool that fails open, a request whose picker ends the stream with an error MUST be served by the pool.",
    why="A picker that is full or broken answers that way.",
    source=f"{FAILURE_MODE} FailOpen",
    features=(FAIL_OPEN, MIDWAY_OPEN),
    needs=(EACH.id,),
    bounds=(GIVES_UP,),
    run=open_error,
)

OPEN_HANG = Case(
    id="gw.failure.open-hang",
    level=Level.MUST,
    requirement="In a pool that fails open, a request whose picker says nothing MUST be served by the pool, in time.",
    why="A picker that hangs is worse than one that is gone if everybody waits for it.",
    source=f"{FAILURE_MODE} FailOpen",
    features=(FAIL_OPEN, MIDWAY_OPEN),
    needs=(EACH.id,),
    bounds=(GIVES_UP,),
    run=open_hang,
)

OPEN_SILENT = Case(
    id="gw.failure.open-silent",
    level=Level.MUST,
    requirement="In a pool that fails open, a request whose picker ends the stream with OK and no answer MUST keep its body.",
    why="A picker that is being stopped ends its streams so; a server that gets an empty body answers something else.",
    source=f"{FAILURE_MODE} FailOpen",
    features=(FAIL_OPEN,),
    needs=(EACH.id,),
    run=open_silent,
)

CLOSE_ERROR = Case(
    id="gw.failure.close-error",
    level=Level.MUST,
    requirement="In a pool that fails closed, a request whose picker ends the stream with an error MUST get an error.",
    why="A server that nobody picked may be the wrong one.",
    source=f"{FAILURE_MODE} FailClose",
    needs=(EACH.id,),
    bounds=(GIVES_UP,),
    run=close_error,
)

CLOSE_HANG = Case(
    id="gw.failure.close-hang",
    level=Level.MUST,
    requirement="In a pool that fails closed, a request whose picker says nothing MUST get an error, in time.",
    why="A client that gets no answer cannot go elsewhere.",
    source=f"{FAILURE_MODE} FailClose",
    needs=(EACH.id,),
    bounds=(GIVES_UP,),
    run=close_hang,
)

CLOSE_SILENT = Case(
    id="gw.failure.close-silent",
    level=Level.MUST,
    requirement="In a pool that fails closed, a request whose picker ends the stream with OK and no answer MUST get an error.",
    why="A picker that is being stopped ends its streams so; what is sent on then was picked by nobody.",
    source=f"{FAILURE_MODE} FailClose",
    needs=(EACH.id,),
    bounds=(GIVES_UP,),
    run=close_silent,
)

OPEN_STREAM = Case(
    id="gw.failure.open-stream",
    level=Level.SHOULD,
    requirement="In a pool that fails open, streams under way SHOULD outlive their picker.",
    why="The pick is made; a new version of a picker should not cut every answer that is being written.",
    source=f"{FAILURE_MODE} FailOpen",
    features=(FAIL_OPEN, STREAMS_OPEN),
    needs=(UNBUFFERED.id, RECOVERY.id),
    bounds=(PASSED_ON, RECOVERS),
    run=open_stream,
)

CLOSE_STREAM = Case(
    id="gw.failure.close-stream",
    level=Level.SHOULD,
    requirement="In a pool that fails closed, streams under way SHOULD outlive their picker.",
    why="They were picked; failing closed is about those that were not.",
    source=f"{FAILURE_MODE} FailClose",
    features=(STREAMS_CLOSE,),
    needs=(UNBUFFERED.id, RECOVERY.id),
    bounds=(PASSED_ON, RECOVERS),
    run=close_stream,
)

CASES = (
    RECOVERY,
    OPEN_AWAY,
    CLOSE_AWAY,
    APART,
    SPOOFED_AWAY,
    OPEN_ERROR,
    OPEN_HANG,
    OPEN_SILENT,
    CLOSE_ERROR,
    CLOSE_HANG,
    CLOSE_SILENT,
    OPEN_STREAM,
    CLOSE_STREAM,
)
