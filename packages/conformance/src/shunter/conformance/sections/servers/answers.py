"""The answers of an OpenAI-style API as far as clients and gateways rely on them.

Further members are welcome everywhere: servers add their own. What is declared here must be there, with this type.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

__all__ = [
    "Chat",
    "ChatChunk",
    "Completion",
    "CompletionChunk",
    "Counted",
    "ErrorBody",
    "ModelList",
    "RepositoryEntry",
    "UsageChunk",
]

Name = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=0)]
CompletionEnd = Literal["stop", "length", "content_filter"]
ChatEnd = Literal["stop", "length", "content_filter", "tool_calls", "function_call"]


class Usage(Struct, frozen=True):
    """Token counts."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count


class Counted(Struct, frozen=True):
    """Any whole answer, for its usage."""

    usage: Usage


class UsageChunk(Struct, frozen=True):
    """One event of any stream, for its usage."""

    choices: list[msgspec.Raw]
    usage: Usage | None = None


class CompletionChoice(Struct, frozen=True):
    """One completion."""

    index: Count
    text: str
    finish_reason: CompletionEnd


class Completion(Struct, frozen=True):
    """The answer of POST /v1/completions."""

    id: Name
    object: Literal["text_completion"]
    created: int
    model: Name
    choices: Annotated[list[CompletionChoice], Meta(min_length=1)]
    usage: Usage


class Message(Struct, frozen=True):
    """What the assistant said; the content is null when it called a tool."""

    role: Literal["assistant"]
    content: str | None


class ChatChoice(Struct, frozen=True):
    """One reply."""

    index: Count
    message: Message
    finish_reason: ChatEnd


class Chat(Struct, frozen=True):
    """The answer of POST /v1/chat/completions."""

    id: Name
    object: Literal["chat.completion"]
    created: int
    model: Name
    choices: Annotated[list[ChatChoice], Meta(min_length=1)]
    usage: Usage


class CompletionDelta(Struct, frozen=True):
    """A piece of a completion."""

    index: Count
    text: str
    finish_reason: CompletionEnd | None = None


class CompletionChunk(Struct, frozen=True):
    """One event of a streamed completion; `choices` is empty in a chunk that only carries usage."""

    id: Name
    object: Literal["text_completion"]
    choices: list[CompletionDelta]


class ChatDelta(Struct, frozen=True):
    """A piece of a reply."""

    index: Count
    delta: dict[str, msgspec.Raw]
    finish_reason: ChatEnd | None = None


class ChatChunk(Struct, frozen=True):
    """One event of a streamed reply."""

    id: Name
    object: Literal["chat.completion.chunk"]
    choices: list[ChatDelta]


class ModelCard(Struct, frozen=True):
    """A served model."""

    id: Name
    owned_by: str = ""


class ModelList(Struct, frozen=True):
    """The answer of GET /v1/models."""

    data: Annotated[list[ModelCard], Meta(min_length=1)]


class RepositoryEntry(Struct, frozen=True):
    """A model in the repository of a Triton server; a state that is missing means that it was never loaded."""

    name: Name
    state: str = ""


class ErrorBody(Struct, frozen=True):
    """An error as OpenAI wraps it; only its presence is relied on here."""

    error: dict[str, msgspec.Raw]
