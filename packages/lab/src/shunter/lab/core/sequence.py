"""What an engine knows of one request, and what it tells of it."""

from collections.abc import Hashable

import msgspec

from shunter.lab.core.cache import Path
from shunter.lab.core.requests import Finish, Work

__all__ = ["Sequence", "Token"]


class Token(msgspec.Struct, frozen=True, gc=False):
    """The index-th output token of a request exists since `at_s`; the last one says why it is the last."""

    id: Hashable
    index: int
    at_s: float
    finish: Finish | None
    cached_tokens: int
    """Prompt tokens of the request that came from the prefix cache, or from elsewhere."""


class Sequence(msgspec.Struct, eq=False):
    """The life of one request inside an engine."""

    request: Work
    path: Path
    arrived_s: float
    prompt: int
    output: int
    adapter: str | None
    admitted_s: float | None = None
    first_s: float = 0.0
    last_s: float = 0.0
    rank: int = 0
    """Orders the running sequences by when they joined."""
    decoding: bool = False
    generated: int = 0
    """Tokens of the answer; while it decodes, the engine's steps minus `born` instead."""
    born: int = 0
    cached: int = 0
    encoded: int = 0
    """Tokens of the prompt up to where its media were encoded for it, or taken."""
    preemptions: int = 0

    def token(self, generated: int, at_s: float) -> Token:
        """Its newest token, of so many."""
        finish = self.request.finish if generated == self.output else None
        return Token(self.request.id, generated - 1, at_s, finish, self.cached)
