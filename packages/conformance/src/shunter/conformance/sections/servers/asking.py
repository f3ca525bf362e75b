"""The requests that the cases send: small, greedy, and the same in every case."""

import msgspec

from shunter.conformance.core.exchange import Exchange
from shunter.conformance.sections.servers.target import Target

__all__ = ["PROMPT", "TOKENS", "ask_chat", "ask_completion", "completion_body"]

# Enough for several stream chunks, and still an answer within a second on a slow CPU.
TOKENS = 8

PROMPT = "The railway worker who sorts every wagon onto the right track is called"


class _Asked(msgspec.Struct):
    """What every way of asking knows of a request."""

    model: str
    prompt: str
    max_tokens: int
    stream: bool = False
    ignore_eos: bool = False


def completion_body(target: Target, **fields: object) -> dict[str, object]:
    """The body of /v1/completions with a fixed prompt; fields override or extend it, and one that is None is left out."""
    return _body(target, {"prompt": PROMPT}, fields)


async def ask_completion(target: Target, **fields: object) -> Exchange:
    """POST what `completion_body` returns; a server without the OpenAI API is asked in its own way, as far as that goes."""
    body = completion_body(target, **fields)
    api = target.profile.api
    if api.generate is None:
        return await target.post(api.completions, body)
    asked = msgspec.convert(body, _Asked)
    path = api.streams if asked.stream and api.streams else api.completions
    generate = api.generate(asked.prompt, asked.max_tokens, asked.ignore_eos, asked.stream)
    return await target.post(path.format(model=asked.model), generate)


async def ask_chat(target: Target, **fields: object) -> Exchange:
    """POST /v1/chat/completions with a fixed message; fields override or extend the body, and one that is None is left out."""
    return await target.post(
        target.profile.api.chat, _body(target, {"messages": [{"role": "user", "content": PROMPT}]}, fields)
    )


def _body(target: Target, asked: dict[str, object], fields: dict[str, object]) -> dict[str, object]:
    body = {"model": target.model, **asked, "max_tokens": TOKENS, "temperature": 0, **fields}
    return {name: value for name, value in body.items() if value is not None}
