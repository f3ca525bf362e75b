"""Defects of responses, of refusals, and of what becomes of malformed streams and other body modes."""

from shunter.conformance.sections.pickers.asking import DESTINATION
from shunter.conformance.sections.pickers.messages import Mode, Part, Reply
from shunter.conformance.testing.pickers.seams import (
    Fault,
    Talk,
    answers,
    at,
    change,
    refusing,
    strict,
    without,
)

__all__ = ["FAULTS"]

MANY_BYTES = 4 << 20  # the gRPC library's own limit
DEEP = b"[" * 1000
HEADERS, BODY = Part.REQUEST_HEADERS, Part.REQUEST_BODY


def collect_events(talk: Talk, replies: list[Reply]) -> list[Reply]:
    """Keep a stream of events until it ends."""
    if "event-stream" not in talk.content_type:
        return replies
    talk.held += [each.body for each in replies if each.part is Part.RESPONSE_BODY and not each.end]
    kept = [each for each in replies if each.part is not Part.RESPONSE_BODY or each.end]
    return [change(each, body=b"".join(talk.held) + each.body) if each.part is Part.RESPONSE_BODY else each for each in kept]


def shorten(talk: Talk, reply: Reply) -> Reply:
    """Lose the last byte of a document."""
    document = talk.status == 200 and talk.content_type == "application/json"
    return change(reply, body=reply.body[:-1]) if document and reply.body.endswith(b"}") else reply


def as_text(talk: Talk, reply: Reply) -> Reply:
    if talk.content_type != "text/html":
        return reply
    return change(reply, body=reply.body.decode("utf-8", "replace").encode())


def cover_error(talk: Talk, reply: Reply) -> Reply:
    return Reply(part=Part.IMMEDIATE, status=502, body=b"bad gateway") if talk.status >= 500 else reply


FAULTS: tuple[Fault, ...] = (
    Fault(
        name="response-shortened",
        breaks="a document loses its last byte",
        case="ep.response.body",
        tongue=answers(Part.RESPONSE_BODY, shorten),
    ),
    Fault(
        name="events-collected",
        breaks="a stream of events is kept until it ends",
        case="ep.response.events",
        tongue=collect_events,
    ),
    Fault(
        name="response-trailers-unanswered",
        breaks="the trailers of a response are never answered",
        case="ep.response.trailers",
        wait=at(Part.RESPONSE_TRAILERS),
    ),
    Fault(
        name="bodiless-unanswered",
        breaks="a response without a body is never answered",
        case="ep.response.bodiless",
        wait=lambda _, message: message is not None and message.part is Part.RESPONSE_HEADERS and message.end,
    ),
    Fault(
        name="error-covered",
        breaks="an error of the model server becomes the picker's own",
        case="ep.response.error",
        tongue=answers(Part.RESPONSE_HEADERS, cover_error),
    ),
    Fault(
        name="response-as-text",
        breaks="what is not UTF-8 in a response is replaced",
        case="ep.response.opaque",
        tongue=answers(Part.RESPONSE_BODY, as_text),
    ),
    Fault(
        name="served-untold",
        breaks="the client is not told who served",
        case="ep.response.served",
        tongue=answers(Part.RESPONSE_HEADERS, lambda _, reply: change(reply, sets=())),
    ),
    Fault(
        name="talks-on",
        breaks="the body is answered after the refusal",
        case="ep.refusal.last-word",
        tongue=lambda _, replies: (
            [*replies, Reply(part=BODY, form="streamed_response", end=True)] if replies and replies[0].status else replies
        ),
    ),
    Fault(
        name="refusal-empty",
        breaks="a refusal has no body",
        case="ep.refusal.readable",
        tongue=refusing(lambda reply: change(reply, body=b"")),
    ),
    Fault(
        name="reason-missing",
        breaks="a refusal has no reason in its headers",
        case="ep.refusal.reason",
        tongue=refusing(lambda reply: change(reply, sets=())),
    ),
    Fault(
        name="any-json", breaks="what is not JSON is picked for", case="ep.malformed.json", traits=frozenset({"takes-anything"})
    ),
    Fault(
        name="any-model",
        breaks="a request without a model is picked for",
        case="ep.malformed.no-model",
        traits=frozenset({"needs-no-model"}),
    ),
    Fault(
        name="deep-json-fatal",
        breaks="deeply nested JSON ends the stream with an error",
        case="ep.malformed.deep-json",
        ear=strict(lambda talk, message: DEEP not in talk.body + message.body),
    ),
    Fault(
        name="body-limit",
        breaks="a body of more than 4 MiB ends the stream with an error",
        case="ep.malformed.large",
        ear=strict(lambda talk, _: sum(map(len, talk.pieces)) < MANY_BYTES),
    ),
    Fault(
        name="half-kept",
        breaks="a request that stops in its middle is kept for ever",
        case="ep.malformed.half",
        wait=lambda talk, message: message is None and bool(talk.pieces) and not talk.over_request,
    ),
    Fault(
        name="nothing-kept",
        breaks="a stream on which nothing came is kept for ever",
        case="ep.malformed.nothing",
        wait=lambda talk, message: message is None and not talk.headers,
    ),
    Fault(
        name="body-first-kept",
        breaks="a stream that begins with a body is kept for ever",
        case="ep.malformed.body-first",
        wait=lambda talk, message: message is not None and message.part is BODY and not talk.headers,
    ),
    Fault(
        name="unknown-kept",
        breaks="a message of no known kind is never answered",
        case="ep.malformed.without-part",
        wait=at(Part.NOTHING),
    ),
    Fault(
        name="twice-kept",
        breaks="a second head is never answered",
        case="ep.malformed.twice",
        wait=lambda talk, message: message is not None and message.part is HEADERS and bool(talk.headers),
    ),
    Fault(
        name="reset-poisons",
        breaks="a stream that is reset fails the next one",
        case="ep.malformed.reset",
        traits=frozenset({"is-poisoned"}),
    ),
    Fault(
        name="buffered-as-stream",
        breaks="a buffered body is answered as a streamed one",
        case="ep.modes.buffered",
        tongue=lambda talk, replies: [
            change(each, form="streamed_response", end=True) if talk.mode is Mode.BUFFERED and each.part is BODY else each
            for each in replies
        ],
    ),
    Fault(
        name="streamed-undecided",
        breaks="no endpoint is named in mode STREAMED",
        case="ep.modes.streamed",
        tongue=answers(HEADERS, lambda talk, reply: without(reply, DESTINATION) if talk.mode is Mode.STREAMED else reply),
    ),
    Fault(
        name="none-unanswered",
        breaks="nothing is answered in mode NONE",
        case="ep.modes.none",
        wait=lambda talk, _: talk.mode is Mode.NONE,
    ),
)
