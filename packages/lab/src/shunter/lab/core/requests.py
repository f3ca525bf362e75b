"""What an engine is asked for: a prompt and the answer it will get, as real tokens or as runs of imagined ones."""

from collections.abc import Hashable, Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import Literal, Protocol

import msgspec

from shunter.lab.core.arrivals import Segment
from shunter.lab.core.media import Medium

__all__ = ["Finish", "Request", "SegmentRequest", "Work"]

Finish = Literal["stop", "length"]
Pieces = tuple[Sequence[Hashable], Sequence[int]]
"""Keys of the pieces that a prompt and its answer consist of, and the tokens from the beginning to each one's end."""


class Work(Protocol):
    """What the engine needs to know of a request; it decides only when things happen."""

    @property
    def id(self) -> Hashable: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...
    @property
    def finish(self) -> Finish: ...
    @property
    def adapter(self) -> str | None: ...
    @property
    def max_tokens(self) -> int | None: ...
    @property
    def remote(self) -> bool:
        """Is the prompt computed elsewhere, and its keys and values transferred here."""
        ...

    @property
    def media(self) -> Sequence[Medium]:
        """What of the prompt has to be encoded, in order."""
        ...

    def pieces(self, block_size: int) -> Pieces:
        """Cut prompt and answer so that equal pieces after equal pieces are equal tokens."""
        ...


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Real tokens. Every full block is a piece, known by the hash of its tokens and of the block before."""

    id: str
    prompt: Sequence[int]
    output: Sequence[int]
    finish: Finish = "length"
    adapter: str | None = None
    cache_salt: str = ""
    max_tokens: int | None = None
    """What the client asked for, if that was more than it gets. None: the length of the output."""
    remote: bool = False
    media: Sequence[Medium] = ()
    shared: bool = False
    """Adapters share what is cached, which is wrong."""

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt)

    @property
    def output_tokens(self) -> int:
        return len(self.output)

    def pieces(self, block_size: int) -> Pieces:
        tokens = (*self.prompt, *self.output)
        ends = list(range(block_size, len(tokens) + 1, block_size))
        keys: list[Hashable] = []
        parent = self._root()
        for end in ends:
            # Hashes of ints are the same in every process, unlike those of strings.
            parent = hash((parent, *tokens[end - block_size : end]))
            keys.append(parent)
        # What is left never becomes a full block, so nobody can share it.
        return [*keys, self.id], [*ends, len(tokens)]

    def _root(self) -> int:
        """Where the chain of hashes starts: requests of different adapters or salts never share a block."""
        adapter = None if self.shared else self.adapter
        if adapter is None and not self.cache_salt:
            return 0
        return int.from_bytes(blake2b(f"{adapter or ''}\0{self.cache_salt}".encode(), digest_size=7).digest(), "big")


class SegmentRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Imagined tokens: only which prompts begin alike is known of them."""

    id: int
    prompt: tuple[Segment, ...]
    output: Segment
    finish: Finish = "stop"
    adapter: str | None = None
    max_tokens: int | None = None
    remote: bool = False
    media: tuple[Medium, ...] = ()

    @property
    def prompt_tokens(self) -> int:
        return sum([segment.tokens for segment in self.prompt])

    @property
    def output_tokens(self) -> int:
        return self.output.tokens

    def pieces(self, block_size: int) -> Pieces:  # noqa: ARG002  segments are known without their blocks
        segments = (*self.prompt, self.output)
        keys: list[Hashable] = [segment.id for segment in segments]
        if self.adapter is not None:
            keys[0] = (self.adapter, keys[0])
        return keys, list(accumulate([segment.tokens for segment in segments]))
