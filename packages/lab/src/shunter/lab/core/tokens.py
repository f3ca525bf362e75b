"""A stand-in for a tokeniser and a model: text becomes token ids, and a prompt always gets the same answer.

*Tokens.* A token is one optional space and up to five visible ASCII characters, or any other single character: about four
bytes of English text each, as with common vocabularies. Its id is the CRC-32 of its text, so nothing has to be learned or
stored, and equal texts have equal tokens. The words of an answer are one token each, so a conversation sent back as the
next prompt has exactly the tokens that were generated and hits the prefix cache.

*Answers.* What a request will be told is decided before it runs: words drawn by a hash of its prompt, adapter and seed. The
answer to a smaller `max_tokens` is a prefix of the answer to a larger one, a stream says what a whole answer says, and
adapters speak differently from their base. The words mean nothing.
"""

import re
import struct
from collections.abc import Sequence
from hashlib import blake2b, shake_128
from typing import Literal
from zlib import crc32

import msgspec

__all__ = ["LONGEST_TOKEN_CHARS", "Script", "tokenise", "write"]

LONGEST_TOKEN_CHARS = 6
_TOKEN = re.compile(r" ?[!-~]{1,5}|.", re.DOTALL)

# Each at most five letters: one token with its leading space.
_VOCABULARY = (
    "rail track yard wagon train brake spark steam smoke wheel axle frame coach guard lever point "
    "cross post lamp green amber red clear stop go slow fast early late night dawn noon "
    "north south east west hill river plain forge iron steel coal oil grain salt stone wood "
    "hump sort shunt van pull push roll halt turn join split queue load empty route main"
)
_WORDS = tuple(f" {word}" for word in _VOCABULARY.split())
# Who speaks of a locomotive is answered in characters of two to four bytes, one token each.
_LOCOMOTIVE = "\N{STEAM LOCOMOTIVE}"
_WAGONS = tuple(f"{_LOCOMOTIVE}\N{RAILWAY CAR}\N{TRAM CAR}\N{LATIN SMALL LETTER U WITH DIAERESIS}\N{RIGHTWARDS ARROW}")
_LOCOMOTIVE_ID = crc32(_LOCOMOTIVE.encode())

# Lengths of answers that end by themselves: 16 tokens and up to 16 × 31 more, small ones likelier (product of two draws).
_SHORTEST_TOKENS = 16
_LONGEST_TOKENS = 512


class Script(msgspec.Struct, frozen=True):
    """Everything a request will be told: one piece of text per token (empty where a stop string cut it off)."""

    tokens: tuple[int, ...]
    pieces: tuple[str, ...]
    finish: Literal["stop", "length"]
    stop_reason: str | None = None


def tokenise(text: str) -> tuple[int, ...]:
    """Token ids of a text; at least one per `LONGEST_TOKEN_CHARS` characters. Linear."""
    return tuple(crc32(piece.encode("utf-8", "surrogatepass")) for piece in _TOKEN.findall(text))


def write(
    prompt: Sequence[int],
    max_tokens: int,
    *,
    adapter: str | None = None,
    seed: str = "",
    min_tokens: int = 0,
    ignore_eos: bool = False,
    stop: Sequence[str] = (),
    keep_stop: bool = False,
) -> Script:
    """The answer to a prompt: up to `max_tokens` tokens, ended earlier by its own length or by a stop string."""
    digest = blake2b(f"{adapter or ''}\0{seed}\0".encode())
    digest.update(struct.pack(f"<{len(prompt)}q", *prompt))
    dice = shake_128(digest.digest())
    one, other = dice.digest(2)
    own = _SHORTEST_TOKENS + (_LONGEST_TOKENS - _SHORTEST_TOKENS) * one * other // (255 * 255)
    length = max_tokens if ignore_eos else min(max_tokens, max(own, min_tokens))
    words = _WAGONS if _LOCOMOTIVE_ID in prompt else _WORDS
    pieces = [words[draw % len(words)] for draw in dice.digest(2 + length)[2:]]
    tokens = tuple(crc32(piece.encode()) for piece in pieces)
    finish: Literal["stop", "length"] = "stop" if length < max_tokens else "length"
    found = _find_stop(pieces, stop, min_tokens)
    if found is None:
        return Script(tokens, tuple(pieces), finish)
    stopped_at, needed, string = found
    end = stopped_at + len(string) if keep_stop else stopped_at
    cut: list[str] = []
    for piece in pieces[:needed]:
        cut.append(piece[: max(0, end)])
        end -= len(piece)
    return Script(tokens[:needed], tuple(cut), "stop", string)


def _find_stop(pieces: Sequence[str], stop: Sequence[str], min_tokens: int) -> tuple[int, int, str] | None:
    """Where the first stop string begins, how many tokens complete it, and which one it is."""
    text = "".join(pieces)
    start = sum(len(piece) for piece in pieces[:min_tokens])
    hits = [(at + len(string), at, string) for string in stop if (at := text.find(string, start)) >= 0]
    if not hits:
        return None
    end, at, string = min(hits)
    reached = 0
    for needed, piece in enumerate(pieces, 1):
        reached += len(piece)
        if reached >= end:
            return at, needed, string
    return None
