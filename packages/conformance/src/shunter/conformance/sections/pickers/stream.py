"""The pick itself: which endpoint, said where, and the request's body handed on."""

import json
from collections.abc import Mapping
from typing import Any, cast

from shunter.conformance.core.case import Case, Level
from shunter.conformance.core.exchange import clip
from shunter.conformance.errors import Mismatch
from shunter.conformance.sections.pickers.asking import (
    ANSWERS,
    CHAT,
    DESTINATION,
    METADATA,
    PROMPT,
    Answered,
    ask,
    chat,
    hear,
    pick,
    request,
)
from shunter.conformance.sections.pickers.messages import Part
from shunter.conformance.sections.pickers.target import Target

__all__ = ["CASES", "EXT_PROC", "PICKS", "PROTOCOL", "expect_same_body", "same_body"]

PICKS = ("ep.stream.destination", "ep.stream.body-end", "ep.stream.order")
"""The cases without which no other can be judged."""

PROTOCOL = "GIE proposal 004, Endpoint Picker Protocol 1.0"
EXT_PROC = "envoy/service/ext_proc/v3/external_processor.proto"

# Nothing a picker sends may be larger: gateways have failed with pieces of 128 KiB, and the reference stays below 64 KiB.
CHUNK_BYTES = 64 << 10

# More than one such piece, and less than any limit on bodies.
LARGE_BYTES = 300_000


async def destination(target: Target) -> str:
    async with target.stream() as stream:
        await stream.send(*request(PROMPT))
        answered = Answered(tuple(await hear(stream, Part.REQUEST_HEADERS)))
    return f"{DESTINATION}: {answered.destination}"


async def body_end(target: Target) -> str:
    async with target.stream() as stream:
        await stream.send(*request(PROMPT))
        heard = await hear(stream, Part.REQUEST_BODY, end=True)
    return f"end_of_stream in answer {len(heard)}"


async def order(target: Target) -> str:
    parts: list[Part] = []
    async with target.stream() as stream:
        await stream.send(*request(PROMPT))
        while Part.REQUEST_HEADERS not in parts or Part.REQUEST_BODY not in parts:
            wanted = Part.REQUEST_BODY if Part.REQUEST_HEADERS in parts else Part.REQUEST_HEADERS
            parts += [each.part for each in await hear(stream, wanted)]
    if parts[0] is not Part.REQUEST_HEADERS:
        raise Mismatch("the answer to the headers before those to the body", " → ".join(parts))
    return " → ".join(parts)


async def known_endpoint(target: Target) -> str:
    known = [server.address for server in target.servers]
    endpoint = await pick(target)
    if endpoint not in known:
        raise Mismatch(f"one of {', '.join(known)}", endpoint)
    return endpoint


async def metadata(target: Target) -> str:
    answered = await ask(target, request(PROMPT))
    spaces = [space for each in answered.replies if (space := each.metadata.get(METADATA))]
    found = [cast("Mapping[str, Any]", space).get(DESTINATION) if isinstance(space, Mapping) else space for space in spaces]
    said = f"{METADATA}: {{{DESTINATION}: {answered.destination}}}"
    if found != [answered.destination]:
        raise Mismatch(f"dynamic metadata {said}, as the header says", f"{found}" if found else f"no metadata in {METADATA}")
    return said


async def fallbacks(target: Target) -> str:
    known = {server.address for server in target.servers}
    endpoints = (await ask(target, request(PROMPT))).destination.split(",")
    if len({*endpoints}) < len(endpoints) or not known.issuperset(endpoints[1:]):
        raise Mismatch("a comma-separated list of different endpoints of the pool, without blanks", ",".join(endpoints))
    return f"{len(endpoints) - 1} to fall back on"


async def body_form(target: Target) -> str:
    forms = {each.form or "no body" for each in (await ask(target, request(PROMPT))).chunks}
    if forms != {"streamed_response"}:
        raise Mismatch("the body as streamed_response, the only form of full-duplex mode", ", ".join(sorted(forms)))
    return "streamed_response"


async def body_intact(target: Target) -> str:
    body = chat("intact " * 40)
    return expect_same_body(await ask(target, request(body[:7], body[7:190], body[190:])), body)


async def chunks(target: Target) -> str:
    answered = await ask(target, request(chat("x" * LARGE_BYTES)))
    _ = answered.head
    sizes = [len(each.body) for each in answered.chunks]
    if max(sizes) > CHUNK_BYTES:
        raise Mismatch(f"pieces of at most {CHUNK_BYTES} bytes", f"one of {max(sizes)}")
    return f"{sum(sizes)} bytes in {len(sizes)} pieces of at most {max(sizes)}"


async def content_length(target: Target) -> str:
    answered = await ask(target, request(PROMPT))
    said = answered.head.header("content-length")
    if said is None:
        return "not set; Envoy sends the body in chunks"
    if said != str(len(answered.body)):
        raise Mismatch(f"content-length: {len(answered.body)}, as the body that it hands on", f"content-length: {said}")
    return f"content-length: {said}"


async def route(target: Target) -> str:
    if not (await ask(target, request(PROMPT))).head.clears_route:
        raise Mismatch("clear_route_cache in the answer to the headers", "not set")
    return "clear_route_cache"


async def no_body(target: Target) -> str:
    return await _ask_without(target)


async def empty_body(target: Target) -> str:
    return await _ask_without(target, b"")


async def _ask_without(target: Target, *pieces: bytes) -> str:
    answered = await ask(target, request(*pieces, method="POST" if pieces else "GET", path=CHAT if pieces else "/v1/models"))
    return f"HTTP {answered.refusal.status}" if answered.refusal else answered.destination


async def trailers(target: Target) -> str:
    body = chat("with trailers")
    answered = await ask(target, request(body, trailers=True))
    expect_same_body(answered, body)
    return " → ".join(each.part for each in answered.replies)


def same_body(got: bytes, sent: bytes) -> bool:
    """Whether a body is the one that was sent; the same JSON in other words is."""
    try:
        return got == sent or json.loads(got) == json.loads(sent)
    except (ValueError, RecursionError):
        return False


def expect_same_body(answered: Answered, body: bytes) -> str:
    """Raise Mismatch unless the body that goes on is the one that was sent."""
    _ = answered.head
    if not same_body(answered.body, body):
        quoted = clip(answered.body.decode("utf-8", "replace"))
        raise Mismatch(f"the client's {len(body)} bytes", f"{len(answered.body)} bytes: {quoted!r}")
    return f"{len(body)} bytes, unchanged" if answered.body == body else f"{len(answered.body)} bytes, the same JSON"


CASES: tuple[Case[Target], ...] = (
    Case(
        id="ep.stream.destination",
        level=Level.MUST,
        requirement=f"The picker MUST set {DESTINATION} to the chosen endpoint, in its answer to the headers.",
        why="Envoy's original-destination cluster and its override_host policy read it; without it a request goes anywhere.",
        source=PROTOCOL,
        run=destination,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.stream.body-end",
        level=Level.MUST,
        requirement="The picker MUST mark the end of the body that it hands on.",
        why="What goes to the model server is the body in the picker's answers; without its end the server waits for more.",
        source=EXT_PROC,
        run=body_end,
        needs=("ep.stream.destination",),
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.stream.order",
        level=Level.MUST,
        requirement="The picker MUST answer the request's headers before its body.",
        why="Envoy takes an answer to the body that comes too early for an error, and the client gets HTTP 500.",
        source=EXT_PROC,
        run=order,
        needs=("ep.stream.body-end",),
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.stream.known-endpoint",
        level=Level.MUST,
        requirement="The endpoint MUST be one of the pool, written host:port.",
        why="Envoy connects to whatever address it is told.",
        source=PROTOCOL,
        run=known_endpoint,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.stream.fallbacks",
        level=Level.MUST,
        requirement="Endpoints to fall back on MUST be other ones of the pool, behind the first and parted by commas alone.",
        why="A retry walks down the list; a blank makes an address that is none.",
        source=PROTOCOL,
        run=fallbacks,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.stream.metadata",
        level=Level.MUST,
        requirement=f"The picker MUST say the same in the dynamic metadata {METADATA}.",
        why="Gateways that do not trust headers read the endpoint there, and different values send one request to two places.",
        source=PROTOCOL,
        run=metadata,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.stream.body-form",
        level=Level.MUST,
        requirement="The picker MUST hand the body on as streamed_response in full-duplex mode.",
        why="Any other mutation of the body is an error to Envoy in this mode.",
        source=EXT_PROC,
        run=body_form,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.stream.body-intact",
        level=Level.MUST,
        requirement="The picker MUST hand on the whole body, in whatever pieces it came.",
        why="What it does not hand on never reaches the model server.",
        source=EXT_PROC,
        run=body_intact,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.stream.chunks",
        level=Level.SHOULD,
        requirement="No piece of a body SHOULD be larger than 64 KiB.",
        why="Gateways have failed with larger ones; the reference cuts at 62,000 bytes.",
        source="GIE reference picker, pkg/epp/handlers",
        run=chunks,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.stream.content-length",
        level=Level.MUST,
        requirement="A content-length that the picker sets MUST be that of the body it hands on.",
        why="Where Envoy keeps the header, a server cuts the body off or waits for the rest of it.",
        source="RFC 9110 section 8.6",
        run=content_length,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.stream.route",
        level=Level.SHOULD,
        requirement="The picker SHOULD make the gateway choose the route again.",
        why="A route that was chosen before the pick knows nothing of it: routes and clusters may match what the picker sets.",
        source="GIE reference picker, pkg/epp/handlers",
        run=route,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.stream.no-body",
        level=Level.MUST,
        requirement="The picker MUST answer a request without a body.",
        why="Clients GET the list of models through the same route; nothing follows the headers that an answer could wait for.",
        source=PROTOCOL,
        run=no_body,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.stream.empty-body",
        level=Level.MUST,
        requirement="The picker MUST answer a request with an empty body, with an endpoint or a refusal.",
        why="A request that is never answered holds a client and a connection until an idle timeout.",
        source=PROTOCOL,
        run=empty_body,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.stream.trailers",
        level=Level.MUST,
        requirement="The picker MUST take trailers for the end of the body, and answer them.",
        why="The protocol has Envoy send trailers; before them no piece of the body says that it is the last.",
        source=PROTOCOL,
        run=trailers,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
)
