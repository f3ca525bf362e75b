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
    "Identified",
    "LikelyChat",
    "LikelyCompletion",
    "ModelList",
    "Named",
    "RepositoryEntry",
    "UsageChunk",
    "WholeError",
    "WholeModelList",
]

Name = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=0)]
CompletionEnd = Literal["stop", "length", "content_filter"]
ChatEnd = Literal["stop", "length", "content_filter", "tool_calls", "function_call"]


class Named(Struct, frozen=True):
    """Any answer, for the model that it names."""

    model: Name


class Identified(Struct, frozen=True):
    """Any answer, for its id."""

    id: Name


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


class Delta(Struct, frozen=True):
    """What a piece of a reply adds."""

    role: str | None = None
    content: str | None = None


class ChatDelta(Struct, frozen=True):
    """A piece of a reply."""

    index: Count
    delta: Delta
    finish_reason: ChatEnd | None = None


class ChatChunk(Struct, frozen=True):
    """One event of a streamed reply."""

    id: Name
    object: Literal["chat.completion.chunk"]
    choices: list[ChatDelta]


class ModelMeta(Struct, frozen=True):
    """What llama.cpp says of a model beside the API."""

    n_ctx_train: int | None = None


class ModelCard(Struct, frozen=True):
    """A served model, as far as the exam itself needs to know it."""

    id: Name
    owned_by: str = ""
    max_model_len: int | None = None
    meta: ModelMeta | None = None

    @property
    def context(self) -> int | None:
        """Tokens that no prompt of this model may exceed, where the server tells."""
        return self.max_model_len or (self.meta.n_ctx_train if self.meta else None)


class ModelList(Struct, frozen=True):
    """The answer of GET /v1/models."""

    data: Annotated[list[ModelCard], Meta(min_length=1)]

    def context(self, model: str) -> int | None:
        """The context of a model, where the server tells it."""
        return next((card.context for card in self.data if card.id == model), None)


class WholeCard(Struct, frozen=True):
    """A model with all that the API says of it."""

    id: Name
    object: Literal["model"]
    created: int
    owned_by: str


class WholeModelList(Struct, frozen=True):
    """The answer of GET /v1/models with all that the API says of it."""

    object: Literal["list"]
    data: list[WholeCard]


class RepositoryEntry(Struct, frozen=True):
    """A model in the repository of a Triton server; a state that is missing means that it was never loaded."""

    name: Name
    state: str = ""


class Logprobs(Struct, frozen=True):
    """Likelihoods of the tokens of a completion; the first token may have none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[Count]


class LikelyChoice(Struct, frozen=True):
    """A completion with the likelihoods of its tokens."""

    logprobs: Logprobs


class LikelyCompletion(Struct, frozen=True):
    """An answer that was asked for with logprobs."""

    choices: Annotated[list[LikelyChoice], Meta(min_length=1)]
    usage: Usage


class ChatAlternative(Struct, frozen=True):
    """A token that might have been said."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatLikelihood(ChatAlternative, frozen=True):
    """A token that was said, and the likeliest in its place."""

    top_logprobs: list[ChatAlternative]


class ChatLogprobs(Struct, frozen=True):
    """Likelihoods of the tokens of a message."""

    content: list[ChatLikelihood]


class LikelyReply(Struct, frozen=True):
    """A reply with the likelihoods of its tokens."""

    logprobs: ChatLogprobs


class LikelyChat(Struct, frozen=True):
    """An answer of a chat that was asked for with logprobs."""

    choices: Annotated[list[LikelyReply], Meta(min_length=1)]
    usage: Usage


class ErrorDetail(Struct, frozen=True):
    """What is wrong, for a person and for a program."""

    message: Name
    type: Name
    code: int | str | None = None


class WholeError(Struct, frozen=True):
    """An error with all that clients of the API read of it."""

    error: ErrorDetail


class ErrorBody(Struct, frozen=True):
    """An error as OpenAI wraps it; only its presence is relied on here."""

    error: dict[str, msgspec.Raw]
