"""Defects of how a request is heard and its pick is told."""

from collections.abc import Callable

from shunter.conformance.sections.pickers.asking import DESTINATION, METADATA
from shunter.conformance.sections.pickers.messages import Message, Part, Reply
from shunter.conformance.testing.pickers.seams import (
    Fault,
    Talk,
    answers,
    at,
    change,
    narrow,
    setting,
    strict,
    without,
)

__all__ = ["FAULTS"]

STRANGER = "192.0.2.9:80"  # of documentation addresses (RFC 5737)
MANY_HEADERS = 200
HEADERS, BODY = Part.REQUEST_HEADERS, Part.REQUEST_BODY


def chosen(value: Callable[[Talk, str], str]) -> Callable[[Talk, list[Reply]], list[Reply]]:
    """Say another destination, in header and metadata."""

    def alter(talk: Talk, reply: Reply) -> Reply:
        said = value(talk, reply.header(DESTINATION) or "")
        return change(setting(reply, DESTINATION, said), metadata={METADATA: {DESTINATION: said}})

    return answers(Part.REQUEST_HEADERS, alter)


def in_other_form(talk: Talk, replies: list[Reply]) -> list[Reply]:
    """The body in one mutation of the whole, and its end as a stream's."""
    parts = [change(each, form="body", end=False) if each.part is Part.REQUEST_BODY else each for each in replies]
    return [*parts, Reply(part=Part.REQUEST_BODY, form="streamed_response", end=True)] if talk.over_request else parts


def lose_first_piece(talk: Talk, message: Message) -> Message:
    if message.part is Part.REQUEST_BODY and len(talk.pieces) == 2:
        del talk.pieces[0]
    return message


def in_one_piece(_: Talk, replies: list[Reply]) -> list[Reply]:
    """Where the last piece stands, all of them."""
    chunks = [each for each in replies if each.part is Part.REQUEST_BODY]
    whole = b"".join(each.body for each in chunks)
    return [change(each, body=whole) if chunks and each is chunks[-1] else each for each in replies if each not in chunks[:-1]]


def by_host(talk: Talk, pool: list[str]) -> list[str]:
    hosts = None if talk.subset is None else {each.rpartition(":")[0] for each in talk.subset}
    return pool if hosts is None else [each for each in pool if each.rpartition(":")[0] in hosts]


def hint_of_last(talk: Talk, message: Message) -> Message:
    """Take the subset hint from the message that completes the request."""
    talk.subset = message.metadata.get("envoy.lb.subset_hint", {}).get(f"{DESTINATION}-subset")
    return message


FAULTS: tuple[Fault, ...] = (
    Fault(
        name="destination-missing",
        breaks="the endpoint is only in the metadata",
        case="ep.stream.destination",
        tongue=answers(HEADERS, lambda _, reply: without(reply, DESTINATION)),
    ),
    Fault(
        name="body-endless",
        breaks="no piece of the body is the last",
        case="ep.stream.body-end",
        tongue=answers(BODY, lambda _, reply: change(reply, end=False)),
    ),
    Fault(
        name="body-before-headers",
        breaks="the body is answered before the headers",
        case="ep.stream.order",
        tongue=lambda _, replies: replies[::-1] if len(replies) == 2 else replies,
    ),
    Fault(
        name="stranger-picked",
        breaks="the endpoint is none of the pool",
        case="ep.stream.known-endpoint",
        tongue=chosen(lambda _, value: f"{STRANGER},{value}"),
    ),
    Fault(
        name="stranger-behind",
        breaks="the endpoint to fall back on is none of the pool",
        case="ep.stream.fallbacks",
        tongue=chosen(lambda _, value: f"{value},{STRANGER}"),
    ),
    Fault(
        name="metadata-differ",
        breaks="the metadata name another endpoint than the header",
        case="ep.stream.metadata",
        tongue=answers(HEADERS, lambda _, reply: change(reply, metadata={METADATA: {DESTINATION: STRANGER}})),
    ),
    Fault(
        name="body-replaced",
        breaks="the body is replaced instead of streamed",
        case="ep.stream.body-form",
        tongue=in_other_form,
    ),
    Fault(
        name="piece-lost",
        breaks="the first of several pieces of a body is lost",
        case="ep.stream.body-intact",
        ear=lose_first_piece,
    ),
    Fault(
        name="one-chunk",
        breaks="a body is handed on in one piece, whatever its size",
        case="ep.stream.chunks",
        tongue=in_one_piece,
    ),
    Fault(
        name="length-wrong",
        breaks="content-length is one too many",
        case="ep.stream.content-length",
        tongue=answers(HEADERS, lambda talk, reply: setting(reply, "content-length", str(len(talk.body) + 1))),
    ),
    Fault(
        name="route-kept",
        breaks="the route is not chosen again",
        case="ep.stream.route",
        tongue=answers(HEADERS, lambda _, reply: change(reply, clears_route=False)),
    ),
    Fault(
        name="get-unanswered",
        breaks="a request without a body is never answered",
        case="ep.stream.no-body",
        wait=lambda _, message: message is not None and message.part is HEADERS and message.end,
    ),
    Fault(
        name="empty-unanswered",
        breaks="a request with an empty body is never answered",
        case="ep.stream.empty-body",
        wait=lambda talk, message: message is not None and message.part is BODY and message.end and not talk.body,
    ),
    Fault(
        name="trailers-unheard", breaks="trailers do not end a body", case="ep.stream.trailers", wait=at(Part.REQUEST_TRAILERS)
    ),
    Fault(
        name="client-wins",
        breaks="the client's own destination stays before the picker's",
        case="ep.headers.spoofed",
        tongue=answers(
            HEADERS,
            lambda talk, reply: setting(
                reply, DESTINATION, reply.header(DESTINATION) or "", appends=DESTINATION in talk.headers
            ),
        ),
    ),
    Fault(
        name="no-request-id",
        breaks="no request id is made up",
        case="ep.headers.request-id",
        tongue=answers(HEADERS, lambda _, reply: without(reply, "x-request-id")),
    ),
    Fault(
        name="request-id-replaced",
        breaks="the client's request id is replaced",
        case="ep.headers.request-id-kept",
        tongue=answers(HEADERS, lambda _, reply: setting(reply, "x-request-id", "mine")),
    ),
    Fault(
        name="few-headers",
        breaks="many headers end the stream",
        case="ep.headers.many",
        ear=strict(lambda _, message: len(message.headers) <= MANY_HEADERS),
    ),
    Fault(
        name="utf-8-headers",
        breaks="a header that is not UTF-8 ends the stream",
        case="ep.headers.octets",
        ear=strict(lambda _, message: all(value.isascii() for _, value in message.headers)),
    ),
    Fault(
        name="subset-ignored",
        breaks="the hint is ignored if it names anybody of the pool",
        case="ep.subset.honoured",
        allow=lambda talk, pool: pool if narrow(talk, pool) else [],
    ),
    Fault(name="subset-by-host", breaks="the hint is taken for one of hosts", case="ep.subset.port", allow=by_host),
    Fault(
        name="subset-of-last",
        breaks="the hint is taken from the last message",
        case="ep.subset.first-message",
        ear=hint_of_last,
    ),
    Fault(
        name="subset-empty-all",
        breaks="an empty hint allows everybody",
        case="ep.subset.empty",
        allow=lambda talk, pool: narrow(talk, pool) if talk.subset else pool,
    ),
    Fault(
        name="subset-strangers-all",
        breaks="a hint of strangers allows everybody",
        case="ep.subset.strangers",
        allow=lambda talk, pool: narrow(talk, pool) or (pool if talk.subset else []),
    ),
)
