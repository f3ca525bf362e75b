"""Other body modes than full duplex: gateways that cannot do that, or save its cost, announce them in their first message."""

from collections.abc import Awaitable, Callable, Sequence

from shunter.conformance.core.case import Case, Level
from shunter.conformance.errors import Mismatch
from shunter.conformance.sections.pickers.asking import ANSWERS, DESTINATION, PROMPT, Answered, hear, request
from shunter.conformance.sections.pickers.messages import Message, Mode, Part, Reply
from shunter.conformance.sections.pickers.profile import BODY_MODES
from shunter.conformance.sections.pickers.stream import EXT_PROC, PICKS
from shunter.conformance.sections.pickers.target import Target

__all__ = ["CASES"]

WHY = "A wrong form of answer is HTTP 500 to the client."


def _expect(replies: Sequence[Reply], where: Part) -> str:
    """The choice has to be in the answer to this part, and no body in a form that only full duplex knows."""
    answered = Answered(tuple(replies))
    _ = answered.head
    streamed = [each.part for each in replies if each.form == "streamed_response"]
    if streamed:
        raise Mismatch("no streamed_response in this mode", f"one in the answer to {streamed[0]}")
    value = next((said for each in replies if each.part is where and (said := each.header(DESTINATION))), None)
    if value is None:
        raise Mismatch(f"{DESTINATION} in the answer to {where}", f"{', '.join(each.part for each in replies)} without it")
    return f"{DESTINATION}: {value}, in the answer to {where}"


async def buffered(target: Target) -> str:
    head = request(PROMPT)[0]
    async with target.stream(Mode.BUFFERED) as stream:
        await stream.send(head)
        replies = await hear(stream, Part.REQUEST_HEADERS)
        await stream.send(Message(part=Part.REQUEST_BODY, body=PROMPT, end=True))
        replies += await hear(stream, Part.REQUEST_BODY)
    return _expect(replies, Part.REQUEST_BODY)


async def streamed(target: Target) -> str:
    head = request(PROMPT)[0]
    async with target.stream(Mode.STREAMED) as stream:
        await stream.send(head)
        replies = await hear(stream, Part.REQUEST_HEADERS)
        for piece, end in ((PROMPT[:9], False), (PROMPT[9:], True)):
            await stream.send(Message(part=Part.REQUEST_BODY, body=piece, end=end))
            replies += await hear(stream, Part.REQUEST_BODY)
    return _expect(replies, Part.REQUEST_HEADERS)


async def headers_only(target: Target) -> str:
    async with target.stream(Mode.NONE) as stream:
        await stream.send(request(PROMPT)[0])
        return _expect(await hear(stream, Part.REQUEST_HEADERS), Part.REQUEST_HEADERS)


def _case(mode: Mode, run: Callable[[Target], Awaitable[str]], requirement: str) -> Case[Target]:
    return Case(
        id=f"ep.modes.{mode.lower()}",
        level=Level.MAY,
        requirement=requirement,
        why=WHY,
        source=EXT_PROC,
        run=run,
        features=(BODY_MODES,),
        needs=PICKS,
        bounds=(ANSWERS,),
    )


CASES: tuple[Case[Target], ...] = (
    _case(Mode.BUFFERED, buffered, "A picker MAY answer in mode BUFFERED: the headers at once, the choice with the body."),
    _case(Mode.STREAMED, streamed, "A picker MAY answer in mode STREAMED: the choice with the headers, each piece by itself."),
    _case(Mode.NONE, headers_only, "A picker MAY answer in mode NONE: the choice with the headers."),
)
