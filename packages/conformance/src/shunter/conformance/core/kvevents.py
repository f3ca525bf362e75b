"""KV events: what a server publishes of its cache, from frames of bytes that may be anything.

A message is a topic, a sequence number of 8 bytes (big-endian) and a batch in MessagePack: `[time, [event, …], rank]`. An event
is a map with a `type`, as vLLM 0.32 and SGLang 0.5 send it, or an array that begins with it, as older releases of vLLM do.
Hashes are unsigned in vLLM, signed in SGLang, and bytes where vLLM is told so; here a whole number is unsigned.
"""

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from shunter.conformance.core.exchange import clip
from shunter.conformance.errors import FormatError

__all__ = ["Batch", "Cleared", "Event", "Hash", "KvMessage", "Other", "Removed", "Stored", "read_batch", "read_frames"]

SEQUENCE_BYTES = 8

Hash = int | bytes
"""What a block is called."""


class KvMessage(msgspec.Struct, frozen=True):
    """One message, its batch not read yet."""

    topic: str
    sequence: int
    payload: bytes


class Stored(msgspec.Struct, frozen=True, tag="BlockStored", tag_field="type"):
    """Blocks that are in the cache now, each after the one before it."""

    block_hashes: list[Hash]
    parent_block_hash: Hash | None
    token_ids: list[int]
    block_size: int
    lora_id: int | str | None = None
    medium: str | None = None
    lora_name: str | None = None


class Removed(msgspec.Struct, frozen=True, tag="BlockRemoved", tag_field="type"):
    """Blocks that are no longer."""

    block_hashes: list[Hash]
    medium: str | None = None


class Cleared(msgspec.Struct, frozen=True, tag="AllBlocksCleared", tag_field="type"):
    """Nothing is in the cache any more."""


class Other(msgspec.Struct, frozen=True):
    """An event of a type that is not known here, and need not be."""

    type: str


Event = Stored | Removed | Cleared | Other

_KINDS: dict[str, type[Stored | Removed | Cleared]] = {
    "BlockStored": Stored,
    "BlockRemoved": Removed,
    "AllBlocksCleared": Cleared,
}


class Batch(msgspec.Struct, frozen=True):
    """What happened between two messages; `rank` is of the data-parallel engine, if told."""

    at_s: float
    events: tuple[Event, ...]
    rank: int | None = None


def read_frames(frames: Sequence[bytes]) -> KvMessage:
    """Read a message; the topic may be missing. Raises FormatError."""
    if len(frames) not in {2, 3}:
        raise FormatError(f"a message of {len(frames)} frames: want a topic, a sequence number and a payload")
    topic, sequence, payload = (b"", *frames)[-3:]
    if len(sequence) != SEQUENCE_BYTES:
        raise FormatError(f"a sequence number of {len(sequence)} bytes: want {SEQUENCE_BYTES}")
    return KvMessage(topic.decode("utf-8", "replace"), int.from_bytes(sequence, "big"), payload)


def read_batch(payload: bytes) -> Batch:
    """Read a batch in either form; raises FormatError with the place of the first fault."""
    try:
        parts = msgspec.msgpack.decode(payload, type=list[Any])
        if len(parts) not in {2, 3}:
            raise FormatError(f"a batch of {len(parts)} members: want a time, events and at most a rank")
        at_s, events, rank = (*parts, None)[:3]
        return Batch(
            msgspec.convert(at_s, float),
            tuple(_read_event(at, event) for at, event in enumerate(msgspec.convert(events, list[Any]))),
            msgspec.convert(rank, int | None),
        )
    except (msgspec.MsgspecError, RecursionError, ValueError, TypeError) as error:
        raise FormatError(f"a batch that cannot be read: {clip(str(error))}") from None


def _read_event(at: int, event: Any) -> Event:
    members = cast("dict[Any, Any]", event) if isinstance(event, dict) else _named(event)
    kind = members.get("type")
    if not isinstance(kind, str):
        raise FormatError(f"event {at} has no type")
    shape = _KINDS.get(kind)
    if shape is None:
        return Other(kind)
    try:
        read = msgspec.convert(members, shape)
    except msgspec.ValidationError as error:
        raise FormatError(f"event {at}, a {kind}: {clip(str(error))}") from None
    if isinstance(read, Stored):
        if read.block_size < 1 or len(read.token_ids) != read.block_size * len(read.block_hashes):
            blocks = f"{len(read.block_hashes)} blocks of {read.block_size} tokens"
            raise FormatError(f"event {at}, a {kind} of {blocks}: {len(read.token_ids)} tokens")
        hashes = [_unsigned(each) for each in read.block_hashes]
        parent = None if read.parent_block_hash is None else _unsigned(read.parent_block_hash)
        return msgspec.structs.replace(read, block_hashes=hashes, parent_block_hash=parent)
    if isinstance(read, Removed):
        return msgspec.structs.replace(read, block_hashes=[_unsigned(each) for each in read.block_hashes])
    return read


def _named(event: Any) -> dict[Any, Any]:
    """The members of an event that is an array, by name; what comes after those that are known has none."""
    values = msgspec.convert(event, list[Any])
    kind = values[0] if values else None
    shape = _KINDS.get(kind) if isinstance(kind, str) else None
    names = shape.__struct_fields__ if shape else ()
    return {"type": kind} | dict(zip(names, values[1:], strict=False))


def _unsigned(name: Hash) -> Hash:
    return name & (1 << 64) - 1 if isinstance(name, int) else name
