"""Malformed requests and streams: each is refused or ended, and harms nobody else."""

from collections.abc import Awaitable, Callable

from shunter.conformance.core.case import Bound, Case, Level
from shunter.conformance.errors import Mismatch, Unanswered
from shunter.conformance.sections.pickers.asking import (
    ANSWERS,
    PROMPT,
    Answered,
    ask,
    chat,
    expect_status,
    pick,
    request,
)
from shunter.conformance.sections.pickers.messages import Ended, Message, Part
from shunter.conformance.sections.pickers.stream import EXT_PROC, PICKS, expect_same_body
from shunter.conformance.sections.pickers.target import Target

__all__ = ["CASES"]

REFERENCE = "GIE reference picker, pkg/epp/handlers and pkg/common/error"

ENDS = Bound(
    "ends",
    5.0,
    "a stream that nobody will ever send anything on again holds memory and a place among the allowed",
    scales=False,
)

READS_ALL = Bound("reads-all", 20.0, "10 MB at half a megabyte a second; the reference takes 0.3 s", scales=False)

# Ten pictures, say. Envoy sends pieces of at most 16 KiB (its HTTP/2 frames) to 64 KiB.
LARGE_BYTES = 10_000_000
PIECE_BYTES = 64 << 10

DEEP = 100_000
RESETS = 20


async def bad_json(target: Target) -> str:
    return expect_status(await ask(target, request(b'{"model": "exam", "messages": [')), 400)


async def no_model(target: Target) -> str:
    return expect_status(await ask(target, request(b'{"messages": [{"role": "user", "content": "who?"}]}')), 400)


async def deep_json(target: Target) -> str:
    body = b'{"model": "exam", "messages": ' + b"[" * DEEP + b"]" * DEEP + b"}"
    return _say(await ask(target, request(body)))


async def large(target: Target) -> str:
    body = chat("x" * LARGE_BYTES)
    told = request(*(body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES)))
    answered = await ask(target, told, bound=READS_ALL)
    return expect_status(answered, 413) if answered.refusal else expect_same_body(answered, body)


def _say(answered: Answered) -> str:
    return f"HTTP {answered.refusal.status}" if answered.refusal else answered.endpoint


async def _end(target: Target, *messages: Message) -> str:
    """Send messages and nothing more; the picker has to answer or to end the stream."""
    async with target.stream() as stream:
        await stream.send(*messages)
        await stream.finish()
        heard: list[Part] = []
        while not isinstance(each := await stream.receive(ENDS), Ended):
            heard.append(each.part)
    return f"{' → '.join(heard)}{' → ' if heard else ''}{each}"


def _unharmed(abuse: Callable[[Target], Awaitable[str]]) -> Callable[[Target], Awaitable[str]]:
    """Make a case of an abuse: afterwards the picker has to pick as before."""

    async def run(target: Target) -> str:
        said = await abuse(target)
        try:
            await pick(target)
        except (Mismatch, Unanswered) as failure:
            raise Mismatch("picks as before, on another stream", str(failure)) from None
        return said

    return run


async def half(target: Target) -> str:
    return await _end(target, *request(PROMPT)[:2])


async def nothing(target: Target) -> str:
    return await _end(target)


async def body_first(target: Target) -> str:
    return await _end(target, Message(part=Part.REQUEST_BODY, body=PROMPT, end=True))


async def without_part(target: Target) -> str:
    return await _end(target, Message(part=Part.NOTHING))


async def twice(target: Target) -> str:
    head, *rest = request(PROMPT)
    return await _end(target, head, head, *rest)


async def reset(target: Target) -> str:
    told = request(PROMPT)
    for at in range(RESETS):
        async with target.stream() as stream:
            await stream.send(*told[: at % len(told)])
    return f"{RESETS} streams reset at every place"


CASES: tuple[Case[Target], ...] = (
    Case(
        id="ep.malformed.json",
        level=Level.SHOULD,
        requirement="The picker SHOULD refuse a body that is not JSON with HTTP 400.",
        why="It is the client's mistake; no model server need hear of it.",
        source=REFERENCE,
        run=bad_json,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.malformed.no-model",
        level=Level.SHOULD,
        requirement="The picker SHOULD refuse a chat request without a model with HTTP 400.",
        why="Without a model no rule, no adapter and no cached prefix applies.",
        source=REFERENCE,
        run=no_model,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.malformed.deep-json",
        level=Level.MUST,
        requirement="The picker MUST answer a request whose JSON is nested without measure.",
        why="A parser that recurses runs out of stack, and takes the requests of everybody else along.",
        source="RFC 8259 section 9",
        run=_unharmed(deep_json),
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.malformed.large",
        level=Level.MUST,
        requirement="The picker MUST hand on a body of 10 MB, or refuse it with HTTP 413.",
        why="Pictures come inside of prompts. A stream that breaks is HTTP 500 to the client, who would try again.",
        source=EXT_PROC,
        run=large,
        needs=PICKS,
        bounds=(READS_ALL,),
    ),
    Case(
        id="ep.malformed.half",
        level=Level.MUST,
        requirement="The picker MUST end a stream whose request stops in its middle.",
        why="The client has gone; what it has sent so far must not be kept for ever.",
        source=EXT_PROC,
        run=_unharmed(half),
        needs=PICKS,
        bounds=(ENDS, ANSWERS),
    ),
    Case(
        id="ep.malformed.nothing",
        level=Level.MUST,
        requirement="The picker MUST end a stream on which nothing comes.",
        why="A client may leave before its request has begun.",
        source=EXT_PROC,
        run=_unharmed(nothing),
        needs=PICKS,
        bounds=(ENDS, ANSWERS),
    ),
    Case(
        id="ep.malformed.body-first",
        level=Level.MUST,
        requirement="The picker MUST answer or end a stream that begins with a body.",
        why="No proxy sends it; whoever does must not find a way to hang or to crash the picker.",
        source=EXT_PROC,
        run=_unharmed(body_first),
        needs=PICKS,
        bounds=(ENDS, ANSWERS),
    ),
    Case(
        id="ep.malformed.without-part",
        level=Level.MUST,
        requirement="The picker MUST answer or end a stream with a message of no known kind.",
        why="Later versions of ext_proc have messages that today's pickers do not know.",
        source=EXT_PROC,
        run=_unharmed(without_part),
        needs=PICKS,
        bounds=(ENDS, ANSWERS),
    ),
    Case(
        id="ep.malformed.twice",
        level=Level.MUST,
        requirement="The picker MUST answer or end a stream with two heads.",
        why="No proxy sends it; whoever does must not find a way to hang or to crash the picker.",
        source=EXT_PROC,
        run=_unharmed(twice),
        needs=PICKS,
        bounds=(ENDS, ANSWERS),
    ),
    Case(
        id="ep.malformed.reset",
        level=Level.MUST,
        requirement="The picker MUST pick as before after streams that were reset.",
        why="Clients hang up all the time, and Envoy resets the stream of each.",
        source=EXT_PROC,
        run=_unharmed(reset),
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
)
