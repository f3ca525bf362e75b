"""Conversations with a picker: a request as Envoy tells it, the answers to it, and the response that follows."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from shunter.conformance.core.case import Bound
from shunter.conformance.core.exchange import clip
from shunter.conformance.errors import Mismatch, Unanswered
from shunter.conformance.sections.pickers.messages import Ended, Message, Mode, Part, Reply
from shunter.conformance.sections.pickers.target import Stream, Target

__all__ = [
    "ANSWERS",
    "CHAT",
    "DESTINATION",
    "JSON",
    "METADATA",
    "MODEL",
    "PROMPT",
    "Answered",
    "ask",
    "chat",
    "expect_status",
    "hear",
    "hear_request",
    "pick",
    "request",
    "respond",
    "spend",
    "subset",
]

CHAT = "/v1/chat/completions"
MODEL = "exam"
DESTINATION = "x-gateway-destination-endpoint"
METADATA = "envoy.lb"
JSON = "application/json"

ANSWERS = Bound(
    "answers",
    5.0,
    "Envoy has no time limit of its own in full-duplex mode: whoever waits for a picker waits until the route's idle timeout. "
    "The reference answers within milliseconds",
    scales=False,
)


def chat(prompt: str, model: str = MODEL, **fields: object) -> bytes:
    """Return the body of a chat request."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": prompt}]} | fields).encode()


PROMPT = chat("which track?")
USAGE = b'{"usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}'

Fields = Sequence[tuple[str, bytes]]


def subset(endpoints: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the metadata by which a proxy narrows the choice."""
    return {"envoy.lb.subset_hint": {f"{DESTINATION}-subset": list(endpoints)}}


def request(
    *pieces: bytes,
    method: str = "POST",
    path: str = CHAT,
    headers: Fields = (),
    trailers: bool = False,
    metadata: dict[str, dict[str, Any]] | None = None,
) -> list[Message]:
    """Return what Envoy tells of a request in full-duplex mode; without pieces it has no body.

    The last piece does not end the stream: an empty one does, as Envoy sends it, or the trailers.
    """
    pseudo = ((":method", method), (":path", path), (":scheme", "http"), (":authority", "exam.test"))
    fields = [*((name, value.encode()) for name, value in pseudo)]
    if pieces:
        fields.append(("content-type", JSON.encode()))
        fields.append(("content-length", str(sum(map(len, pieces))).encode()))
    hints = metadata or {}
    messages = [Message(part=Part.REQUEST_HEADERS, headers=(*fields, *headers), end=not pieces, metadata=hints)]
    messages += [Message(part=Part.REQUEST_BODY, body=piece, metadata=hints) for piece in pieces]
    if trailers:
        messages.append(Message(part=Part.REQUEST_TRAILERS, headers=(("x-exam-trailer", b"1"),), metadata=hints))
    elif pieces:
        messages.append(Message(part=Part.REQUEST_BODY, end=True, metadata=hints))
    return messages


class Answered(msgspec.Struct, frozen=True):
    """All that a picker answered to a request."""

    replies: tuple[Reply, ...]

    @property
    def refusal(self) -> Reply | None:
        """The immediate response, or None."""
        return next((each for each in self.replies if each.part is Part.IMMEDIATE), None)

    @property
    def head(self) -> Reply:
        """The answer to the headers; raises Mismatch if the request was refused instead."""
        if self.refusal:
            raise Mismatch("an endpoint", f"an immediate response, HTTP {self.refusal.status}: {_quote(self.refusal.body)}")
        for each in self.replies:
            if each.part is Part.REQUEST_HEADERS:
                return each
        raise Mismatch(
            "an answer to the request's headers", f"only {', '.join(each.part for each in self.replies) or 'silence'}"
        )

    @property
    def destination(self) -> str:
        """What the destination header is set to."""
        value = self.head.header(DESTINATION)
        if value is None:
            names = ", ".join(each.name for each in self.head.sets) or "no header"
            raise Mismatch(f"the header {DESTINATION} in the answer to the headers", f"it sets {names}")
        return value

    @property
    def endpoint(self) -> str:
        """The endpoint that is tried first."""
        return self.destination.partition(",")[0]

    @property
    def chunks(self) -> tuple[Reply, ...]:
        """The answers to the body."""
        return tuple(each for each in self.replies if each.part is Part.REQUEST_BODY)

    @property
    def body(self) -> bytes:
        """The body that goes on to the model server, in full-duplex mode."""
        return b"".join(each.body for each in self.chunks)


async def hear(stream: Stream, last: Part, *, end: bool = False, bound: Bound = ANSWERS) -> list[Reply]:
    """Return the answers up to the one to this part (with `end`: the one that ends it), or up to a refusal."""
    replies: list[Reply] = []
    while True:
        each = await stream.receive(bound)
        if isinstance(each, Ended):
            told = f" after {', '.join(reply.part for reply in replies)}" if replies else ""
            raise Unanswered(f"the picker ended the stream{told}, before it answered {last}: {each}")
        replies.append(each)
        if each.part is Part.IMMEDIATE or (each.part is last and (each.end or not end)):
            return replies


async def hear_request(stream: Stream, told: Sequence[Message], *, bound: Bound = ANSWERS) -> Answered:
    """Return the answers to a request that was told in full-duplex mode."""
    last = told[-1].part
    return Answered(tuple(await hear(stream, last, end=last is Part.REQUEST_BODY, bound=bound)))


async def ask(target: Target, told: Sequence[Message], *, bound: Bound = ANSWERS) -> Answered:
    """Tell a request on a stream of its own, and return the answers to it."""
    async with target.stream() as stream:
        await stream.send(*told)
        return await hear_request(stream, told, bound=bound)


async def pick(target: Target, body: bytes = PROMPT, **fields: Any) -> str:
    """Return the endpoint for a request, whose response never comes."""
    return (await ask(target, request(body, **fields))).endpoint


async def respond(
    stream: Stream,
    *pieces: bytes,
    status: int = 200,
    content_type: str = JSON,
    headers: Fields = (),
    trailers: bool = False,
    metadata: dict[str, dict[str, Any]] | None = None,
) -> list[Reply]:
    """Tell a response in full-duplex mode, each piece after the answer to the one before, and return the answers."""
    fields = ((":status", str(status).encode()), ("content-type", content_type.encode()), *headers)
    await stream.send(Message(part=Part.RESPONSE_HEADERS, headers=fields, metadata=metadata or {}))
    for piece in pieces:
        await stream.send(Message(part=Part.RESPONSE_BODY, body=piece))
    last = Part.RESPONSE_TRAILERS if trailers else Part.RESPONSE_BODY
    await stream.send(Message(part=last, headers=(("x-exam-trailer", b"1"),)) if trailers else Message(part=last, end=True))
    return await hear(stream, last, end=not trailers)


async def spend(target: Target, body: bytes = PROMPT, *response: bytes, content_type: str = JSON, **fields: Any) -> str:
    """Play a request and its response to the end, so that the picker knows that it is over; return the endpoint."""
    told = request(body, **fields)
    async with target.stream(Mode.FULL_DUPLEX_STREAMED) as stream:
        await stream.send(*told)
        answered = await hear_request(stream, told)
        endpoint = answered.endpoint
        await respond(stream, *(response or (USAGE,)), content_type=content_type)
        await stream.finish()
        return endpoint


def expect_status(answered: Answered, *wanted: int) -> str:
    """Raise Mismatch unless the request was refused with one of these; say how."""
    choice = " or ".join(map(str, wanted))
    if answered.refusal is None:
        raise Mismatch(f"an immediate response, HTTP {choice}", f"the endpoint {answered.endpoint}")
    if answered.refusal.status not in wanted:
        raise Mismatch(
            f"an immediate response, HTTP {choice}", f"HTTP {answered.refusal.status}: {_quote(answered.refusal.body)}"
        )
    return f"HTTP {answered.refusal.status}: {_quote(answered.refusal.body)}"


def _quote(body: bytes) -> str:
    return repr(clip(body.decode("utf-8", "replace")))
