"""What a server says: the text of an answer, whole or as a stream, and the chunks that a stream comes in."""

from collections.abc import Sequence
from typing import TypeVar

from shunter.conformance.core.exchange import Exchange, clip, read_json
from shunter.conformance.core.sse import read_events
from shunter.conformance.errors import FormatError, Mismatch, Skip
from shunter.conformance.sections.servers.answers import Chat, ChatChunk, Completion, CompletionChunk
from shunter.conformance.sections.servers.asking import ask_chat, ask_completion
from shunter.conformance.sections.servers.metrics import SHED
from shunter.conformance.sections.servers.target import Target

__all__ = ["DONE", "Chunk", "read_chunks", "read_stream", "say", "streamed_text", "whole_text"]

DONE = "[DONE]"

Chunk = CompletionChunk | ChatChunk

Piece = TypeVar("Piece", CompletionChunk, ChatChunk)


def read_stream(exchange: Exchange) -> list[str]:
    """The chunks of a streamed answer as text, at least one; raises Mismatch unless `[DONE]` closes an event stream."""
    exchange.expect_status(200)
    if exchange.content_type != "text/event-stream":
        raise Mismatch("content-type: text/event-stream", f"content-type: {exchange.content_type or 'missing'}")
    try:
        events = [event.data for event in read_events(exchange.body)]
    except FormatError as error:
        raise Mismatch("a well-formed event stream (WHATWG HTML §9.2)", str(error)) from None
    if events[-1:] != [DONE]:
        raise Mismatch(f"data: {DONE} as the last event", f"the last event is {clip((events or [''])[-1])!r}")
    if len(events) == 1:
        raise Mismatch(f"at least one chunk before {DONE}", "none")
    return events[:-1]


def read_chunks(exchange: Exchange, shape: type[Piece]) -> list[Piece]:
    """The chunks of a streamed answer; raises Mismatch unless they belong together."""
    chunks = [read_json(text, shape) for text in read_stream(exchange)]
    if len(ids := {chunk.id for chunk in chunks}) != 1:
        raise Mismatch("the same id in every chunk", f"{len(ids)} ids: {clip(', '.join(sorted(ids)))}")
    return chunks


def whole_text(answer: Completion | Chat) -> str:
    """The text of the first choice."""
    return (answer.choices[0].message.content or "") if isinstance(answer, Chat) else answer.choices[0].text


def streamed_text(chunks: Sequence[Chunk]) -> str:
    """The text of the first choice, put together again."""
    pieces: list[str | None] = []
    for chunk in chunks:
        if isinstance(chunk, CompletionChunk):
            pieces += [choice.text for choice in chunk.choices if choice.index == 0]
        else:
            pieces += [choice.delta.content for choice in chunk.choices if choice.index == 0]
    return "".join(filter(None, pieces))


async def say(target: Target, *, chat: bool = False, stream: bool = False, **fields: object) -> str:
    """Ask, and return the text of the first choice; raises Skip for a server that refuses because it is busy."""
    exchange = await (ask_chat if chat else ask_completion)(target, stream=stream, **fields)
    if exchange.status in SHED:
        raise Skip(f"it refuses some (HTTP {' or '.join(map(str, SHED))}), which is its right")
    exchange.expect_status(200)
    if stream:
        return streamed_text(read_chunks(exchange, ChatChunk) if chat else read_chunks(exchange, CompletionChunk))
    return whole_text(exchange.read(Chat) if chat else exchange.read(Completion))
