"""What engines hold in their KV caches: how a block of a prompt is named, and what is said of it in the log.

An engine announces its blocks by hashes of its own, which differ from engine to engine (vLLM's are unsigned, SGLang's signed
64-bit numbers, and both depend on the engine's version). The tokens come with them, so everybody here names a block anew::

    root(adapter, block size) ─ link(…, tokens of block 0, extra) ─ link(…, tokens of block 1, extra) ─ …

Each name stands for everything up to there: all tokens, the LoRA adapter, and per block whatever else the engine mixed in (its
``extra_keys``: a cache salt in block 0, hashes of images where they lie). Names are xxh3, 64 bits, seeded by the one before.

Only a block that ends a *stride*, 64 tokens or the next multiple of the block size, is spoken of: smaller steps cost memory
and tell nothing that would change a choice. Statements are idempotent; where one was lost, ``Cleared`` comes sooner or later.
"""

from array import array
from collections.abc import Sequence
from typing import Annotated

import msgspec
import xxhash

from shunter.snapshot.log import MAX_RECORD_BYTES

__all__ = [
    "BLOCK_LOG",
    "MAX_NAMES",
    "STRIDE_TOKENS",
    "Begun",
    "Cleared",
    "Dropped",
    "Held",
    "Statement",
    "decode_statement",
    "encode_statement",
    "link",
    "names_of",
    "pack",
    "root",
    "stride_blocks",
]

BLOCK_LOG = "kv-blocks.log"
"""The file in the snapshot's directory."""

STRIDE_TOKENS = 64
TOKEN_BYTES = 4

# A name is at most 9 bytes of msgpack; the rest is room for everything else in the record, an adapter's name above all.
MAX_NAMES = (MAX_RECORD_BYTES - 2048) // 9


# More than any reader has room for (16,384): what is beyond is damage, and would be a bit far out.
Slot = Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]


class Begun(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=0):
    """A writer started: whatever its predecessors said is void."""


class Held(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """These blocks are in that cache."""

    slot: Slot
    incarnation: int
    tier: str  # "gpu", "cpu" …: the engine's medium in small letters
    block_size: int  # tokens
    adapter: str | None
    names: tuple[int, ...]


class Dropped(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """These are no longer."""

    slot: Slot
    incarnation: int
    tier: str
    names: tuple[int, ...]


class Cleared(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Nothing that was said of this endpoint holds any longer."""

    slot: Slot
    incarnation: int


Statement = Begun | Held | Dropped | Cleared

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Statement).decode


def encode_statement(statement: Statement) -> bytes:
    """Return a record for the log. Up to MAX_NAMES names fit."""
    return _encode(statement)


def decode_statement(record: bytes) -> Statement | None:
    """Return what a record says; None if it says nothing that this version understands."""
    try:
        return _decode(record)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def stride_blocks(block_size: int) -> int:
    """How many blocks of ``block_size`` tokens make a stride."""
    return -(-STRIDE_TOKENS // block_size)


def pack(tokens: Sequence[int]) -> memoryview:
    """Return tokens as ``link`` takes them, four bytes each. Raises OverflowError for what is no unsigned 32-bit number."""
    return memoryview(array("I", tokens)).cast("B")


def root(adapter: str | None, block_size: int) -> int:
    """Return where the chain of a prompt begins."""
    # Surrogates, which JSON may contain, are told apart like everything else.
    return xxhash.xxh3_64_intdigest((adapter or "").encode("utf-8", "surrogatepass"), block_size)


def link(parent: int, tokens: memoryview, extra: Sequence[object] = ()) -> int:
    """Return the name of a block: that of the one before it, its packed tokens, and what else it depends on."""
    name = xxhash.xxh3_64_intdigest(tokens, parent)
    return xxhash.xxh3_64_intdigest(_encode(extra), name) if extra else name


def names_of(tokens: Sequence[int], block_size: int, *, adapter: str | None = None, salt: str | None = None) -> tuple[int, ...]:
    """Return the names of a prompt's strides, in order; what does not fill one has no name.

    ``salt`` is the request's ``cache_salt``, which vLLM mixes into block 0. Raises OverflowError as ``pack`` does.
    """
    packed = pack(tokens)
    width, stride = block_size * TOKEN_BYTES, stride_blocks(block_size)
    names: list[int] = []
    name = root(adapter, block_size)
    extra: Sequence[object] = (salt,) if salt else ()
    for at in range(len(tokens) // (block_size * stride) * stride):
        name = link(name, packed[at * width : (at + 1) * width], extra)
        extra = ()
        if (at + 1) % stride == 0:
            names.append(name)
    return tuple(names)
