"""Refusals: an immediate response says it all, why it came included."""

from shunter.conformance.core.case import Case, Level
from shunter.conformance.errors import Mismatch, Skip
from shunter.conformance.sections.pickers.asking import ANSWERS, PROMPT, ask, request, subset
from shunter.conformance.sections.pickers.messages import Ended, Part, Reply
from shunter.conformance.sections.pickers.profile import DROP_REASON
from shunter.conformance.sections.pickers.stream import EXT_PROC, PICKS
from shunter.conformance.sections.pickers.target import Target

__all__ = ["CASES"]

REASON = "x-llm-d-request-dropped-reason"
NO_ENDPOINTS = "rejected-no-endpoints"

# The gateway allows nobody: the one request that every picker has to refuse.
NOBODY = request(PROMPT, metadata=subset([]))

REFUSES = ("ep.subset.empty",)


async def _refused(target: Target) -> Reply:
    refusal = (await ask(target, NOBODY)).refusal
    if refusal is None:
        raise Skip("needs a picker that refuses a request")
    return refusal


async def last_word(target: Target) -> str:
    async with target.stream() as stream:
        await stream.send(*NOBODY)
        await stream.finish()
        heard: list[Part] = []
        while not isinstance(each := await stream.receive(ANSWERS), Ended):
            heard.append(each.part)
    if heard != [Part.IMMEDIATE] or not each.ok:
        raise Mismatch("an immediate response, and then the end of the stream with gRPC OK", " → ".join([*heard, str(each)]))
    return f"{' → '.join(heard)} → {each}"


async def readable(target: Target) -> str:
    refusal = await _refused(target)
    if not refusal.body.strip():
        raise Mismatch("a body that says why", f"HTTP {refusal.status} with an empty body")
    return repr(refusal.body.decode("utf-8", "replace"))


async def reason(target: Target) -> str:
    said = (await _refused(target)).header(REASON)
    if said != NO_ENDPOINTS:
        raise Mismatch(f"{REASON}: {NO_ENDPOINTS}", f"{REASON}: {said}" if said else "no such header")
    return f"{REASON}: {said}"


CASES: tuple[Case[Target], ...] = (
    Case(
        id="ep.refusal.last-word",
        level=Level.MUST,
        requirement="The picker MUST say nothing after an immediate response, and end the stream without an error.",
        why="Envoy has answered the client; anything further is an answer to nothing.",
        source=EXT_PROC,
        run=last_word,
        needs=(*PICKS, *REFUSES),
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.refusal.readable",
        level=Level.SHOULD,
        requirement="The picker SHOULD say in the body why it refuses.",
        why="It is all that the client ever learns.",
        source="GIE reference picker, pkg/common/error",
        run=readable,
        needs=(*PICKS, *REFUSES),
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.refusal.reason",
        level=Level.SHOULD,
        requirement=f"The picker SHOULD name the reason of a refusal in {REASON}.",
        why="Autoscalers and clients tell by it a pool that is full from one that is empty.",
        source="llm-d-router, pkg/common/error",
        run=reason,
        features=(DROP_REASON,),
        needs=(*PICKS, *REFUSES),
        bounds=(ANSWERS,),
    ),
)
