"""What an engine publishes of its KV cache, in the form of vLLM 0.32: blocks stored and removed, batch by batch.

The cache tells which blocks it came to know and which it forgot, by their keys; the tokens are the requests'. A batch is
MessagePack of ``[time, events, rank]``, events are maps; consecutive blocks of one prompt are one event.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence

import msgspec

from shunter.lab.core.requests import Request

__all__ = ["Announcer"]

HASHES = (1 << 64) - 1  # vLLM's are unsigned
# Blocks whose tokens are kept: those of a cache are announced again only after they were forgotten and computed anew.
MAX_BLOCKS = 1 << 18


class Block(msgspec.Struct, frozen=True, gc=False):
    """A block of some request, known to the cache or not."""

    parent: int | None
    tokens: Sequence[int]
    adapter: str | None
    salt: str  # in the first block of a prompt only, as in vLLM


class Stored(msgspec.Struct, tag="BlockStored", kw_only=True):
    """The event of blocks that are in the cache."""

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str = "GPU"
    lora_name: str | None
    extra_keys: list[list[str] | None]
    group_idx: int = 0
    kv_cache_spec_kind: str = "full_attention"


class Removed(msgspec.Struct, tag="BlockRemoved"):
    """The event of one that is no longer."""

    block_hashes: list[int]
    medium: str = "GPU"
    group_idx: int = 0


class Cleared(msgspec.Struct, tag="AllBlocksCleared"):
    """The event of an empty cache."""


class Announcer:
    """Listens to one cache, and to what its engine is asked."""

    def __init__(self, block_size: int) -> None:
        """Nothing has happened yet."""
        self._block_size = block_size
        self._blocks: OrderedDict[Hashable, Block] = OrderedDict()
        self._events: list[Stored | Removed | Cleared] = []

    def asked(self, request: Request) -> None:
        """Remember the tokens of a request that its engine is about to get."""
        tokens, size = (*request.prompt, *request.output), self._block_size
        parent: int | None = None
        keys, ends = request.pieces(size)
        for key, end in zip(keys[:-1], ends, strict=False):  # the last piece is never a full block
            salt = "" if parent is not None else request.cache_salt
            self._blocks[key] = Block(parent, tokens[end - size : end], request.adapter, salt)
            self._blocks.move_to_end(key)
            parent = _hash(key)
        while len(self._blocks) > MAX_BLOCKS:
            self._blocks.popitem(last=False)

    def stored(self, key: Hashable) -> None:
        """The cache has come to know a block."""
        block = self._blocks.get(key)
        if block is None:
            return
        event = self._events[-1] if self._events else None
        if not isinstance(event, Stored) or event.block_hashes[-1] != block.parent:
            event = Stored(
                block_hashes=[],
                parent_block_hash=block.parent,
                token_ids=[],
                block_size=self._block_size,
                lora_id=None if block.adapter is None else 1,
                lora_name=block.adapter,
                extra_keys=[],
            )
            self._events.append(event)
        event.block_hashes.append(_hash(key))
        event.token_ids.extend(block.tokens)
        event.extra_keys.append([each for each in (block.adapter, block.salt) if each] or None)

    def removed(self, key: Hashable) -> None:
        """It has forgotten one."""
        self._events.append(Removed([_hash(key)]))

    def cleared(self) -> None:
        """It has forgotten everything."""
        self._events.append(Cleared())

    def batch(self, now_s: float) -> bytes | None:
        """Return what has happened since the last time, as it is published; None if nothing has."""
        if not self._events:
            return None
        events, self._events = self._events, []
        return msgspec.msgpack.encode([now_s, events, 0])


def _hash(key: Hashable) -> int:
    return hash(key) & HASHES  # of an int in the range of hashes, as these keys are, it is the same in every process
