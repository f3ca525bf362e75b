"""The requests that the cases send: small, greedy, and the same in every case."""

from shunter.conformance.core.exchange import Exchange
from shunter.conformance.sections.servers.target import Target

__all__ = ["TOKENS", "ask_chat", "ask_completion"]

# Enough for several stream chunks, and still an answer within a second on a slow CPU.
TOKENS = 8

PROMPT = "The railway worker who sorts every wagon onto the right track is called"


async def ask_completion(target: Target, **fields: object) -> Exchange:
    """POST /v1/completions with a fixed prompt; fields override or extend the body."""
    body = {"model": target.model, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, **fields}
    return await target.post("/v1/completions", body)


async def ask_chat(target: Target, **fields: object) -> Exchange:
    """POST /v1/chat/completions with a fixed message; fields override or extend the body."""
    messages = [{"role": "user", "content": PROMPT}]
    body = {"model": target.model, "messages": messages, "max_tokens": TOKENS, "temperature": 0, **fields}
    return await target.post("/v1/chat/completions", body)
