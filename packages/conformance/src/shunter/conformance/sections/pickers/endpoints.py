"""Endpoints that come and go: who has left is not picked, and of nobody nobody is chosen."""

import asyncio
from collections.abc import Callable

from shunter.conformance.core.case import Bound, Case, Level
from shunter.conformance.errors import Mismatch, Skip
from shunter.conformance.sections.pickers.asking import ANSWERS, Answered, ask, chat, expect_status, request
from shunter.conformance.sections.pickers.stream import PICKS, PROTOCOL
from shunter.conformance.sections.pickers.target import Target

__all__ = ["CASES", "FOLLOWS"]

FOLLOWS = Bound(
    "follows",
    10.0,
    "a pod that is deleted has 30 s to end by default; whoever learns of it later sends requests to a dead address",
    scales=False,
)

LOOK_EVERY_S = 0.05

# So many different prompts in a row, and none of them to somebody who has left: he is forgotten, it was not luck.
IN_A_ROW = 30


async def _offer(target: Target, told: Callable[[Answered], bool], wanted: str, *addresses: str) -> Answered:
    """Make these the only endpoints, and ask until enough answers in a row are as they should be."""
    clock = asyncio.get_running_loop().time
    await target.control.offer([each for each in target.servers if each.address in addresses])
    deadline_s = clock() + target.seconds(FOLLOWS)
    at = in_a_row = 0
    while True:
        at += 1
        answered = await ask(target, request(chat(f"prompt {at} {'and ' * at}")))
        if in_a_row := in_a_row + 1 if told(answered) else 0:
            if in_a_row == IN_A_ROW:
                return answered
            continue
        if clock() > deadline_s:
            last = f"HTTP {answered.refusal.status}" if answered.refusal else answered.destination
            raise Mismatch(f"{wanted} within {target.seconds(FOLLOWS):g} s", last)
        await asyncio.sleep(LOOK_EVERY_S)


def _named(answered: Answered) -> list[str]:
    """Whom the picker named; nobody if it refused."""
    return [] if answered.refusal else answered.destination.split(",")


async def _restore(target: Target) -> None:
    """Give everybody back, whatever came of it."""
    everybody = [each.address for each in target.servers]
    await _offer(target, lambda each: each.refusal is None, "an endpoint, now that there are some again", *everybody)


async def none(target: Target) -> str:
    try:
        answered = await _offer(target, lambda each: each.refusal is not None, "a refusal, since there is nobody")
    finally:
        await _restore(target)
    return expect_status(answered, 503)


async def removed(target: Target) -> str:
    gone, *rest = (each.address for each in target.servers)
    if not rest:
        raise Skip("needs two servers or more, one of which leaves; --servers names them")

    def spared(answered: Answered) -> bool:
        return bool(named := _named(answered)) and gone not in named

    try:
        await _offer(target, spared, f"nothing for {gone}, which has left", *rest)
    finally:
        await _restore(target)
    return f"{IN_A_ROW} prompts, none to {gone}, which had left"


async def added(target: Target) -> str:
    known = [each.address for each in target.servers]
    one, another = known[0], known[-1]
    try:
        for only in (one, another):
            await _offer(target, lambda each, only=only: _named(each) == [only], f"{only}, since there is nobody else", only)
    finally:
        await _restore(target)
    return f"{another} instead of {one}"


CASES: tuple[Case[Target], ...] = (
    Case(
        id="ep.endpoints.none",
        level=Level.MUST,
        requirement="The picker MUST refuse requests with HTTP 503 when there is no endpoint.",
        why="Clients, gateways and autoscalers tell by it a pool that is empty from a picker that is broken.",
        source=PROTOCOL,
        run=none,
        needs=PICKS,
        bounds=(FOLLOWS, ANSWERS),
    ),
    Case(
        id="ep.endpoints.removed",
        level=Level.MUST,
        requirement="The picker MUST NOT pick an endpoint that has left.",
        why="Nobody answers there any more, or by now somebody else does.",
        source=PROTOCOL,
        run=removed,
        needs=PICKS,
        bounds=(FOLLOWS, ANSWERS),
    ),
    Case(
        id="ep.endpoints.added",
        level=Level.MUST,
        requirement="The picker MUST pick an endpoint that has come.",
        why="Whoever scales a pool up wants its new servers to be used.",
        source=PROTOCOL,
        run=added,
        needs=(*PICKS, "ep.endpoints.removed"),
        bounds=(FOLLOWS, ANSWERS),
    ),
)
