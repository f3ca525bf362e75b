"""Log-probabilities in the API's two shapes: as believable as the words they belong to, and as repeatable.

vLLM puts the chosen token first and lists it among the likeliest; a completion that asks for 0 gets the chosen one alone.
"""

from collections.abc import Sequence
from typing import Any
from zlib import crc32

__all__ = ["MOST_ALTERNATIVES", "chat_logprobs", "completion_logprobs"]

# vLLM's --max-logprobs.
MOST_ALTERNATIVES = 20

_COMMON = "a the of and to in is it that for on as by at from with or be was not"
_ALTERNATIVES = tuple(f" {word}" for word in _COMMON.split())


def completion_logprobs(tokens: Sequence[str], offset: int, most: int) -> dict[str, Any]:
    """Of tokens that begin so many characters into the text; `most`: alternatives for each."""
    chosen = [_likeliest(token, most) for token in tokens]
    offsets = [offset + sum(map(len, tokens[:index])) for index in range(len(tokens))]
    return {
        "text_offset": offsets,
        "token_logprobs": [likeliest[0][1] for likeliest in chosen],
        "tokens": list(tokens),
        "top_logprobs": [dict(likeliest[: max(1, most)]) for likeliest in chosen],
    }


def chat_logprobs(tokens: Sequence[str], most: int) -> dict[str, Any]:
    """Of the tokens of a message, or of a piece of it."""
    content: list[dict[str, Any]] = []
    for token in tokens:
        likeliest = [_entry(*each) for each in _likeliest(token, most)]
        content.append({**likeliest[0], "top_logprobs": likeliest[:most]})
    return {"content": content}


def _entry(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def _likeliest(token: str, most: int) -> list[tuple[str, float]]:
    """The token and alternatives, each less likely than the one before."""
    first = -0.125 - crc32(token.encode()) % 64 / 64
    others = [word for word in _ALTERNATIVES if word != token]
    return [(token, first), *((word, first - 0.75 * rank) for rank, word in enumerate(others[: most - 1], 1))]
