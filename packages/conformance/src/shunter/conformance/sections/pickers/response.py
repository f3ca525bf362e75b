"""The response: handed on as it comes, without holding up a stream of events."""

from shunter.conformance.core.case import Case, Level
from shunter.conformance.errors import Mismatch
from shunter.conformance.sections.pickers.asking import (
    ANSWERS,
    DESTINATION,
    METADATA,
    PROMPT,
    hear,
    hear_request,
    request,
    respond,
)
from shunter.conformance.sections.pickers.messages import Message, Part, Reply
from shunter.conformance.sections.pickers.profile import SERVED_ECHO
from shunter.conformance.sections.pickers.stream import EXT_PROC, PICKS, PROTOCOL
from shunter.conformance.sections.pickers.target import Target

__all__ = ["CASES"]

EVENTS = "text/event-stream"
ECHO = "x-conformance-test-served-endpoint"

DOCUMENT = b'{"id":"1","object":"chat.completion","model":"exam","choices":[{"index":0,"message":{"content":"left"}}]}'
EVENT = b'data: {"model":"exam","choices":[{"index":0,"delta":{"content":"left"}}]}\n\n'
DONE = b"data: [DONE]\n\n"

HANDED_ON = "ep.response.body"


async def _serve(target: Target, *pieces: bytes, **response: object) -> tuple[str, list[Reply]]:
    """Return the chosen endpoint and the answers to a response."""
    told = request(PROMPT)
    async with target.stream() as stream:
        await stream.send(*told)
        endpoint = (await hear_request(stream, told)).endpoint
        return endpoint, await respond(stream, *pieces, **response)  # pyright: ignore[reportArgumentType] # handed on as it came


def _expect_body(replies: list[Reply], body: bytes) -> str:
    got = b"".join(each.body for each in replies if each.part is Part.RESPONSE_BODY)
    if got != body:
        raise Mismatch(f"{body!r}", f"{got!r}")
    return f"{len(got)} bytes in {len(replies)} answers"


async def body(target: Target) -> str:
    _, replies = await _serve(target, DOCUMENT[:20], DOCUMENT[20:])
    return _expect_body(replies, DOCUMENT)


async def error(target: Target) -> str:
    _, replies = await _serve(target, b'{"error":"out of memory"}', status=500)
    if Part.IMMEDIATE in {each.part for each in replies}:
        raise Mismatch("the model server's own error", f"an immediate response, HTTP {replies[-1].status}")
    return _expect_body(replies, b'{"error":"out of memory"}')


async def html(target: Target) -> str:
    _, replies = await _serve(target, b"<html>\xff\xfe", b"</html>", content_type="text/html")
    return _expect_body(replies, b"<html>\xff\xfe</html>")


async def events(target: Target) -> str:
    told = request(PROMPT)
    async with target.stream() as stream:
        await stream.send(*told)
        _ = (await hear_request(stream, told)).head
        fields = ((":status", b"200"), ("content-type", EVENTS.encode()))
        await stream.send(Message(part=Part.RESPONSE_HEADERS, headers=fields))
        await hear(stream, Part.RESPONSE_HEADERS)
        for _ in range(3):
            await stream.send(Message(part=Part.RESPONSE_BODY, body=EVENT))
            _expect_body(await hear(stream, Part.RESPONSE_BODY), EVENT)
        await stream.send(Message(part=Part.RESPONSE_BODY, body=DONE, end=True))
        _expect_body(await hear(stream, Part.RESPONSE_BODY, end=True), DONE)
    return "each event before the next one came"


async def trailers(target: Target) -> str:
    _, replies = await _serve(target, DOCUMENT, trailers=True)
    return " → ".join(each.part for each in replies)


async def bodiless(target: Target) -> str:
    told = request(PROMPT)
    async with target.stream() as stream:
        await stream.send(*told)
        _ = (await hear_request(stream, told)).head
        await stream.send(Message(part=Part.RESPONSE_HEADERS, headers=((":status", b"204"),), end=True))
        await hear(stream, Part.RESPONSE_HEADERS)
    return "answered"


async def served(target: Target) -> str:
    told = request(PROMPT)
    async with target.stream() as stream:
        await stream.send(*told)
        endpoint = (await hear_request(stream, told)).endpoint
        replies = await respond(stream, DOCUMENT, metadata={METADATA: {f"{DESTINATION}-served": endpoint}})
    said = next((each.header(ECHO) for each in replies if each.part is Part.RESPONSE_HEADERS), None)
    if said != endpoint:
        raise Mismatch(f"{ECHO}: {endpoint}", f"{ECHO}: {said}" if said else "no such header")
    return f"{ECHO}: {said}"


CASES: tuple[Case[Target], ...] = (
    Case(
        id=HANDED_ON,
        level=Level.MUST,
        requirement="The picker MUST hand a response on unchanged.",
        why="In full-duplex mode the client gets what the picker's answers say, and nothing else.",
        source=EXT_PROC,
        run=body,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.response.events",
        level=Level.MUST,
        requirement="The picker MUST hand on each event of a stream before the next one comes.",
        why="Whoever collects a stream of tokens turns the time to its first token into the time to its last.",
        source=PROTOCOL,
        run=events,
        needs=(*PICKS, HANDED_ON),
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.response.trailers",
        level=Level.MUST,
        requirement="The picker MUST answer the trailers of a response.",
        why="Model servers that speak gRPC end every answer with them; unanswered, the client never sees the end.",
        source=EXT_PROC,
        run=trailers,
        needs=(*PICKS, HANDED_ON),
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.response.bodiless",
        level=Level.MUST,
        requirement="The picker MUST answer a response without a body.",
        why="Nothing follows the headers that an answer could wait for.",
        source=EXT_PROC,
        run=bodiless,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.response.error",
        level=Level.MUST,
        requirement="The picker MUST hand on the error of a model server.",
        why="The client is to learn what went wrong, and gateways retry by status.",
        source=EXT_PROC,
        run=error,
        needs=(*PICKS, HANDED_ON),
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.response.opaque",
        level=Level.MUST,
        requirement="The picker MUST hand on a response that it cannot read.",
        why="Proxies in between answer in HTML, and not every answer is text.",
        source=EXT_PROC,
        run=html,
        needs=(*PICKS, HANDED_ON),
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.response.served",
        level=Level.MAY,
        requirement=f"The picker MAY say in the header {ECHO} who served, as the gateway told it.",
        why="GIE's conformance tests of gateways need a picker that does so.",
        source="GIE conformance tests, tests/gateway_following_epp_routing.go",
        run=served,
        features=(SERVED_ECHO,),
        needs=(*PICKS, HANDED_ON),
        bounds=(ANSWERS,),
    ),
)
