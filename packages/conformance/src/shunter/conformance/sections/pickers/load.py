"""Many at once: nobody waits for anybody else, and nobody gets another one's answer."""

import asyncio

from shunter.conformance.core.case import Bound, Case, Level
from shunter.conformance.errors import Mismatch, Unanswered
from shunter.conformance.sections.pickers.asking import ANSWERS, PROMPT, ask, chat, hear_request, pick, request, respond
from shunter.conformance.sections.pickers.stream import EXT_PROC, PICKS, PROTOCOL, expect_same_body
from shunter.conformance.sections.pickers.target import Target

__all__ = ["CASES"]

STREAMS = 100

ALL_ANSWERED = Bound(
    "all-answered",
    10.0,
    "the reference picks for 1,600 requests a second on one core; a slow machine is granted a hundredth of that",
    scales=False,
)


async def hundred(target: Target) -> str:
    gate = asyncio.Barrier(STREAMS)  # nobody goes on before all have come as far

    async def one(at: int) -> None:
        body = chat(f"number {at}")
        told = request(body)
        async with target.stream() as stream:
            await stream.send(told[0])
            await gate.wait()
            await stream.send(*told[1:])
            expect_same_body(await hear_request(stream, told, bound=ALL_ANSWERED), body)
            await gate.wait()
            await respond(stream, b"{}")
            await stream.finish()

    try:
        async with asyncio.TaskGroup() as tasks:
            for at in range(STREAMS):
                tasks.create_task(one(at))
    except* (Mismatch, Unanswered) as failures:
        raise failures.exceptions[0] from None  # one will do
    return f"{STREAMS} requests at once, each with its own body"


async def stalled(target: Target) -> str:
    async with target.stream() as stream:
        await stream.send(*request(PROMPT)[:2])
        endpoint = await pick(target)
    return f"{endpoint}, while another request stood still"


async def kept(target: Target) -> str:
    """A stream that is held from its request until its response, as a long generation does."""
    told = request(PROMPT)
    async with target.stream() as stream:
        await stream.send(*told)
        _ = (await hear_request(stream, told)).head
        for _ in range(STREAMS):
            await ask(target, request(PROMPT))
        await respond(stream, b"{}")
    return f"a response after {STREAMS} other requests"


CASES: tuple[Case[Target], ...] = (
    Case(
        id="ep.load.hundred",
        level=Level.MUST,
        requirement=f"The picker MUST serve {STREAMS} requests at once.",
        why="Each generation holds its stream until its last token: so many are open in any pool that is used.",
        source=PROTOCOL,
        run=hundred,
        needs=PICKS,
        bounds=(ALL_ANSWERED, ANSWERS),
    ),
    Case(
        id="ep.load.stalled",
        level=Level.MUST,
        requirement="The picker MUST answer a request while another one stands still.",
        why="A client on a slow line would hold up everybody.",
        source=EXT_PROC,
        run=stalled,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.load.kept",
        level=Level.MUST,
        requirement=f"The picker MUST know a request that it has decided still after {STREAMS} others.",
        why="Answers take minutes, decisions microseconds.",
        source=EXT_PROC,
        run=kept,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
)
