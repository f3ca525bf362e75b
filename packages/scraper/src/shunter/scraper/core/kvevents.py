"""Engine KV events: bytes of a publication → what the engine stored, removed or cleared, and whether something is missing.

vLLM and SGLang publish over ZeroMQ (PUB): frames ``topic``, 8 bytes of big-endian sequence number, MessagePack of ``[time,
events, data-parallel rank]``. An event is a map with its kind under ``type`` (vLLM 0.32, SGLang 0.5) or an array with its kind
first and the same fields in the same order (older vLLM). A second socket (ROUTER) repeats what was published: it is sent a
sequence number and answers with everything from there on and an end marker, with or without the topic in each answer.

What is peculiar (seen on vLLM 0.32 and SGLang 0.5):

* Block hashes are unsigned 64-bit numbers in vLLM, signed ones in SGLang, bytes in some releases of vLLM. They only have to be
  told apart.
* The same block may be announced as stored twice.
* SGLang leaves out ``lora_name`` where there is none and never sends ``extra_keys``.
* What vLLM offloads to the CPU is announced by hash alone: no tokens, no parent.
* Models with several kinds of attention announce a block once for each group of layers; only groups that keep the whole
  prefix tell whether it can be used again.

The bytes are foreign: whatever they are, the answer is events or KvEventError.
"""

from collections.abc import Sequence
from enum import Enum, auto
from typing import cast

import msgspec

from shunter.scraper.core.excerpt import printable
from shunter.scraper.errors import KvEventError

__all__ = ["END_OF_REPLAY", "AllCleared", "Event", "Hash", "Order", "Removed", "Stored", "Verdict", "decode", "sequence_of"]

Hash = int | bytes
"""An engine's own name of a block."""

END_OF_REPLAY = (1 << 64) - 1  # the sequence number -1 that ends a replay
SEQUENCE_BYTES = 8

# A block size is some tokens; a page of a thousand is the largest of any engine.
LARGEST_BLOCK_TOKENS = 1 << 16

# Of an adapter's name, in characters: file names are shorter, and a record of the log has room for it.
LONGEST_ADAPTER = 256

# Groups of layers whose blocks vanish while the prefix goes on being usable, or that hold no prefix at all.
PARTIAL_KINDS = ("sliding", "chunked", "mamba", "cross", "encoder")


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks are in the cache: consecutive ones of one prompt, after ``parent_block_hash``."""

    block_hashes: list[Hash]
    parent_block_hash: Hash | None = None
    token_ids: list[int] = []
    block_size: int = 0
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[list[object] | None] | None = None  # one for each block
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None

    @property
    def adapter(self) -> str | None:
        """The LoRA adapter they belong to; older engines tell its number only."""
        return self.lora_name or (str(self.lora_id) if self.lora_id is not None else None)

    @property
    def partial(self) -> bool:
        """Is this of layers whose blocks do not tell whether the prefix can be used again?"""
        kind = self.kv_cache_spec_kind
        return kind is not None and any(part in kind for part in PARTIAL_KINDS)


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks are no longer in the cache."""

    block_hashes: list[Hash]
    medium: str | None = None
    group_idx: int | None = None


class AllCleared(msgspec.Struct, frozen=True):
    """Nothing is in the cache any longer."""


Event = Stored | Removed | AllCleared

KINDS: dict[str, type[Event]] = {"BlockStored": Stored, "BlockRemoved": Removed, "AllBlocksCleared": AllCleared}

_batch = msgspec.msgpack.Decoder(list[object])


def decode(payload: bytes) -> list[Event]:
    """Return the events of one publication; kinds that are unknown are left out.

    Raises KvEventError: then nothing is known of what the publication said.
    """
    try:
        batch = _batch.decode(payload)
        events = batch[1] if len(batch) > 1 else None
        if not isinstance(events, list):
            raise KvEventError("a publication is [time, events, rank]")
        found = [_event(each) for each in cast("list[object]", events)]
    except RecursionError:
        raise KvEventError("nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise KvEventError(printable(str(error))) from None
    return [event for event in found if event is not None]


def _event(encoded: object) -> Event | None:
    fields: dict[str, object]
    if isinstance(encoded, dict):
        fields = cast("dict[str, object]", encoded)
        name = fields.get("type")
        kind = KINDS.get(name) if isinstance(name, str) else None
    elif isinstance(encoded, list) and encoded:
        name, *values = cast("list[object]", encoded)
        kind = KINDS.get(name) if isinstance(name, str) else None
        fields = dict(zip(kind.__struct_fields__, values, strict=False)) if kind else {}
    else:
        raise KvEventError("an event is a map or an array that begins with its kind")
    if not isinstance(name, str):
        raise KvEventError("an event says of which kind it is")
    if kind is None:
        return None
    event = msgspec.convert(fields, kind, str_keys=True)
    if isinstance(event, Stored):
        _check(event)
    return event


def _check(event: Stored) -> None:
    """Refuse what contradicts itself."""
    blocks, tokens = len(event.block_hashes), event.token_ids
    if event.lora_name is not None and len(event.lora_name) > LONGEST_ADAPTER:
        raise KvEventError(f"an adapter's name of {len(event.lora_name)} characters")
    if not tokens:
        return
    if not 0 < event.block_size <= LARGEST_BLOCK_TOKENS or len(tokens) != blocks * event.block_size:
        raise KvEventError(f"{blocks} blocks of {event.block_size} tokens cannot have {len(tokens)}")
    if not 0 <= min(tokens) <= max(tokens) < 1 << 32:
        raise KvEventError("a token is an unsigned number of 32 bits")
    if event.extra_keys is not None and len(event.extra_keys) != blocks:
        raise KvEventError(f"{len(event.extra_keys)} extra keys for {blocks} blocks")


def sequence_of(frames: Sequence[bytes]) -> int:
    """Return the sequence number of a publication or a repeated one: the frame before the last. Raises KvEventError."""
    if len(frames) < 2 or len(frames[-2]) != SEQUENCE_BYTES:
        raise KvEventError(f"{len(frames)} frames; a publication has topic, 8 bytes of sequence number and payload")
    return int.from_bytes(frames[-2], "big")


class Verdict(Enum):
    """What a sequence number means."""

    NEXT = auto()  # what comes next
    KNOWN = auto()  # a replay has brought it already
    GAP = auto()  # something before it is missing
    RESTARTED = auto()  # the publisher counts anew: it is another process, with an empty cache


class Order:
    """The sequence numbers of one publisher, live and repeated."""

    def __init__(self) -> None:
        """Know nothing yet: of a publisher that has been running for long, everything so far is missing."""
        self.next = 0
        self._last_live = -1

    def live(self, sequence: int) -> Verdict:
        """Judge the number of a publication, which is not taken yet. They never fall but with a new publisher."""
        if sequence <= self._last_live:
            return Verdict.RESTARTED
        self._last_live = sequence
        return self.repeated(sequence)

    def repeated(self, sequence: int) -> Verdict:
        """Judge the number of a repeated one."""
        if sequence < self.next:
            return Verdict.KNOWN
        return Verdict.NEXT if sequence == self.next else Verdict.GAP

    def take(self, sequence: int) -> None:
        """Everything up to this one is known, or given up."""
        self.next = sequence + 1
