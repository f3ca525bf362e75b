"""Answers as vLLM 0.32 writes them: whole completions and chats, stream events, usage, errors.

The one deliberate difference: `system_fingerprint`, which vLLM fills with its version, names the server that answered
(`lab-<port>` unless told otherwise), so that a test behind a gateway can see where its request went. A stream carries it
where vLLM does, in its last event before `[DONE]`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shunter.lab.core.asks import Ask
from shunter.lab.core.logprobs import chat_logprobs, completion_logprobs
from shunter.lab.errors import ApiError

__all__ = ["DONE", "Answer", "Choice", "Usage", "encode_error", "encode_event"]

DONE = b"data: [DONE]\n\n"


class Usage(msgspec.Struct, frozen=True):
    """Tokens of a request; `cached` only if the server tells (vLLM's --enable-prompt-tokens-details)."""

    prompt: int
    completion: int
    cached: int | None = None

    def fields(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "total_tokens": self.prompt + self.completion,
            "completion_tokens": self.completion,
        }

    def details(self) -> dict[str, Any]:
        cached = None if self.cached is None else {"cached_tokens": self.cached}
        return {**self.fields(), "prompt_tokens_details": cached, "completion_tokens_details": None}


class Choice(msgspec.Struct, frozen=True):
    """One answer, or the next piece of it (`finish` None): the texts of its tokens, `offset` characters into the answer."""

    index: int
    pieces: tuple[str, ...]
    finish: str | None = None
    stop_reason: str | None = None
    offset: int = 0

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Answer(msgspec.Struct, frozen=True):
    """The answer to one HTTP request: what stays the same in everything it says."""

    ask: Ask
    request_id: str
    created: int
    fingerprint: str

    def whole(self, choices: Sequence[Choice], usage: Usage, transfer: Mapping[str, Any] | None = None) -> bytes:
        """The JSON body of an answer that is not streamed; `transfer` is where to fetch what was computed."""
        return msgspec.json.encode(
            {
                **self._head("chat.completion" if self.ask.chat else "text_completion"),
                "choices": [self._whole_choice(choice) for choice in choices],
                "service_tier": None,
                "system_fingerprint": self.fingerprint,
                "usage": usage.details(),
                **({"prompt_logprobs": None, "prompt_token_ids": None} if self.ask.chat else {}),
                "kv_transfer_params": transfer,
            }
        )

    def opening(self, index: int, usage: Usage | None) -> bytes:
        """The first event of a chat stream: the role, and nothing said yet."""
        usage = None if usage is None else Usage(usage.prompt, 0)
        delta = {"role": "assistant", "content": ""}
        return self._event([{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}], usage)

    def piece(self, choice: Choice, usage: Usage | None, *, last: bool) -> bytes:
        """One token's text. `last`: nothing follows but `[DONE]`."""
        said: dict[str, Any] = {"delta": {"content": choice.text}} if self.ask.chat else {"text": choice.text}
        fields = {"index": choice.index, **said, "logprobs": self._logprobs(choice), "finish_reason": choice.finish}
        if choice.finish is not None or not self.ask.chat:
            fields["stop_reason"] = choice.stop_reason
        return self._event([{**fields, "token_ids": None}], usage, last=last)

    def closing(self, usage: Usage) -> bytes:
        """The event of `include_usage`: the bill, and no choice."""
        body: dict[str, Any] = {
            **self._head(self._chunk_object),
            "choices": [],
            "usage": usage.fields() if usage.cached is None else usage.details(),
            "system_fingerprint": self.fingerprint,
        }
        return encode_event(body)

    @property
    def _chunk_object(self) -> str:
        return "chat.completion.chunk" if self.ask.chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.request_id, "object": kind, "created": self.created, "model": self.ask.model}

    def _event(self, choices: list[dict[str, Any]], usage: Usage | None, *, last: bool = False) -> bytes:
        body = {**self._head(self._chunk_object), "choices": choices}
        if usage is not None:
            body["usage"] = {**usage.fields(), "completion_tokens_details": None}
        if last:
            body["system_fingerprint"] = self.fingerprint
        return encode_event(body)

    def _logprobs(self, choice: Choice) -> dict[str, Any] | None:
        if self.ask.logprobs is None:
            return None
        if self.ask.chat:
            return chat_logprobs(choice.pieces, self.ask.logprobs)
        return completion_logprobs(choice.pieces, choice.offset, self.ask.logprobs)

    def _whole_choice(self, choice: Choice) -> dict[str, Any]:
        said: dict[str, Any] = {"text": choice.text}
        if self.ask.chat:
            message = {"role": "assistant", "content": choice.text, "refusal": None, "annotations": None}
            said = {"message": {**message, "audio": None, "function_call": None, "reasoning": None}}
        return {
            "index": choice.index,
            **said,
            "logprobs": self._logprobs(choice),
            "finish_reason": choice.finish,
            "stop_reason": choice.stop_reason,
            "token_ids": None,
        }


def encode_event(body: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def encode_error(error: ApiError) -> bytes:
    """The JSON body of an error."""
    fields = {"message": error.message, "type": error.kind, "param": error.param, "code": error.status}
    return msgspec.json.encode({"error": fields})
