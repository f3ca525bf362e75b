"""Operation: health for probes, and an end that costs nobody a request."""

import asyncio

from shunter.conformance.core.case import Bound, Case, Level
from shunter.conformance.errors import Mismatch, Unanswered
from shunter.conformance.sections.pickers.asking import ANSWERS, PROMPT, hear_request, pick, request, respond
from shunter.conformance.sections.pickers.stream import PICKS, expect_same_body
from shunter.conformance.sections.pickers.target import Target

__all__ = ["CASES"]

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
SERVING, NOT_SERVING = "SERVING", "NOT_SERVING"

DRAINS = Bound(
    "drains",
    30.0,
    "the grace that Kubernetes gives a pod by default, after which it is killed",
    scales=False,
)

LOOK_EVERY_S = 0.02


async def serving(target: Target) -> str:
    said = await target.health(SERVICE)
    if said != SERVING:
        raise Mismatch(f"{SERVING} for {SERVICE}", said)
    return f"{SERVICE}: {said}"


async def finishes(target: Target) -> str:
    told = request(PROMPT)
    try:
        async with target.stream() as stream, target.stream() as undecided:
            await stream.send(*told)
            _ = (await hear_request(stream, told)).head
            await undecided.send(told[0])
            await _prove(target)
            await target.control.terminate()
            await _drained(target)
            await undecided.send(*told[1:])
            expect_same_body(await hear_request(undecided, told), PROMPT)
            await respond(stream, b"{}")
            await stream.finish()
            await respond(undecided, b"{}")
            await undecided.finish()
    finally:
        await target.control.restart()
    return "a request that waited for its response, and one that had no endpoint yet"


async def _prove(target: Target) -> None:
    """Another whole request after it: what was sent before is with the picker by now."""
    await pick(target)


async def _drained(target: Target) -> str:
    """Wait until the picker has noticed that it is to end: it says so, or takes nobody any more."""
    clock = asyncio.get_running_loop().time
    deadline_s = clock() + target.seconds(ANSWERS)
    while clock() < deadline_s:
        try:
            said = await target.health(SERVICE)
        except Unanswered as gone:
            return str(gone)
        if said != SERVING:
            return said
        await asyncio.sleep(LOOK_EVERY_S)
    return SERVING


async def not_serving(target: Target) -> str:
    try:
        async with target.stream() as stream:
            await stream.send(request(PROMPT)[0])  # a request that keeps it from ending at once
            await _prove(target)
            await target.control.terminate()
            said = await _drained(target)
    finally:
        await target.control.restart()
    if said == SERVING:
        raise Mismatch(f"{NOT_SERVING}, or no answer, after SIGTERM", said)
    return said


async def ends(target: Target) -> str:
    try:
        await target.control.terminate()
        if not await target.control.ended(target.seconds(DRAINS)):
            raise Mismatch(f"the end within {target.seconds(DRAINS):g} s, since no request is left", "it still runs")
    finally:
        await target.control.restart()
    return "ended"


REFERENCE = "GIE reference picker, cmd/epp/runner"

CASES: tuple[Case[Target], ...] = (
    Case(
        id="ep.operation.serving",
        level=Level.MUST,
        requirement=f"The picker MUST say {SERVING} to a gRPC health check of {SERVICE} while it picks.",
        why="Gateways and Kubernetes ask before they send anything; to a picker that does not answer they send nothing.",
        source="GIE proposal 004, health checking",
        run=serving,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.operation.finishes",
        level=Level.MUST,
        requirement="After SIGTERM the picker MUST finish the requests that it has begun.",
        why="In full-duplex mode every request hangs on its stream to the picker: what ends one ends the other.",
        source=REFERENCE,
        run=finishes,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.operation.not-serving",
        level=Level.SHOULD,
        requirement=f"After SIGTERM the picker SHOULD say {NOT_SERVING}.",
        why="Gateways that check health send new requests elsewhere while it finishes the old ones.",
        source=REFERENCE,
        run=not_serving,
        needs=(*PICKS, "ep.operation.serving"),
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.operation.ends",
        level=Level.MUST,
        requirement="After SIGTERM the picker MUST end once no request is left.",
        why="Kubernetes kills what does not end by itself, and a rollout waits for it that long.",
        source=REFERENCE,
        run=ends,
        needs=PICKS,
        bounds=(DRAINS,),
    ),
)
