"""The requests that the cases send: small, greedy, and the same in every case."""

import msgspec

from shunter.conformance.core.exchange import Exchange
from shunter.conformance.sections.servers.target import Target

__all__ = ["PROMPT", "TOKENS", "ask_chat", "ask_completion"]

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


async def ask_completion(target: Target, **fields: object) -> Exchange:
    """POST a fixed prompt; fields override or extend the body of /v1/completions.

    A server without the OpenAI API is asked by the way that it has, as far as that knows of the fields.
    """
    body = {"model": target.model, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, **fields}
    api = target.profile.api
    if api.generate is None:
        return await target.post(api.completions, body)
    asked = msgspec.convert(body, _Asked)
    path = api.streams if asked.stream and api.streams else api.completions
    generate = api.generate(asked.prompt, asked.max_tokens, asked.ignore_eos, asked.stream)
    return await target.post(path.format(model=asked.model), generate)


async def ask_chat(target: Target, **fields: object) -> Exchange:
    """POST /v1/chat/completions with a fixed message; fields override or extend the body."""
    messages = [{"role": "user", "content": PROMPT}]
    body = {"model": target.model, "messages": messages, "max_tokens": TOKENS, "temperature": 0, **fields}
    return await target.post(target.profile.api.chat, body)
