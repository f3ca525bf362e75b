"""What one endpoint holds: its engine's events, in the engine's own hashes, become statements in names that everybody knows.

An engine tells the tokens of a block once, when it stores it; later it speaks of it by hash alone. So for every block it holds
its name is kept here, and how far it is from the next stride; only blocks that end one are spoken of (``snapshot.blocks``).
A block whose parent is not known has no name: that happens after something was missed, and until its chain is stored anew.
"""

from collections.abc import Iterable, Sequence

import msgspec

from shunter.scraper.core.kvevents import AllCleared, Event, Hash, Removed, Stored
from shunter.snapshot import Cleared, Dropped, Held, Statement
from shunter.snapshot.blocks import MAX_NAMES, link, pack, root, stride_blocks

__all__ = ["MAX_BLOCKS", "Holdings"]

# A million tokens in blocks of 16 is 65,536, 11 MB here; the largest caches have some of these. It keeps an engine that never
# says "removed" from taking the machine.
MAX_BLOCKS = 1 << 18

# Where an engine does not say, as SGLang's first releases: what all of them compute in.
DEFAULT_TIER = "gpu"
LONGEST_TIER = 16


class Block(msgspec.Struct, gc=False):
    """One block of the engine's."""

    name: int
    place: int  # in its stride, from 0; the last one of a stride is spoken of
    block_size: int
    tiers: tuple[str, ...]


class Holdings:
    """One endpoint's blocks."""

    def __init__(self, slot: int, incarnation: int, *, max_blocks: int = MAX_BLOCKS) -> None:
        """Hold nothing yet."""
        self._slot = slot
        self._incarnation = incarnation
        self._max_blocks = max_blocks
        self._blocks: dict[Hash, Block] = {}  # oldest first
        self._partial: set[int | None] = set()  # groups of layers that are not looked at
        self._tiers: dict[tuple[str, ...], tuple[str, ...]] = {}  # one object for each of the few there are
        self.orphans = 0  # blocks without a name, for want of a parent

    def __len__(self) -> int:
        """How many blocks are known."""
        return len(self._blocks)

    def clear(self) -> Statement:
        """Forget everything."""
        self._blocks.clear()
        return Cleared(self._slot, self._incarnation)

    def apply(self, events: Iterable[Event]) -> list[Statement]:
        """Take what the engine says and return what is to be said of it."""
        statements: list[Statement] = []
        for event in events:
            match event:
                case Stored(partial=True):
                    self._partial.add(event.group_idx)
                case Stored():
                    self._store(event, statements)
                case Removed() if event.group_idx not in self._partial:
                    self._remove(event.block_hashes, _tier(event.medium), statements)
                case Removed():
                    pass
                case AllCleared():
                    statements.append(self.clear())
        return statements

    def _store(self, event: Stored, statements: list[Statement]) -> None:
        tier = _tier(event.medium)
        kept = self._name(event, statements) if event.token_ids else [self._blocks.get(each) for each in event.block_hashes]
        names: list[int] = []
        size = event.block_size
        for block in kept:
            if block is None:
                self.orphans += 1
            elif tier not in block.tiers:
                tiers = (*block.tiers, tier)
                block.tiers = self._tiers.setdefault(tiers, tiers)
                size = block.block_size
                if block.place == stride_blocks(size) - 1:
                    names.append(block.name)
        pieces = (tuple(names[at : at + MAX_NAMES]) for at in range(0, len(names), MAX_NAMES))
        statements += [Held(self._slot, self._incarnation, tier, size, event.adapter, some) for some in pieces]
        while len(self._blocks) > self._max_blocks:
            self._forget(next(iter(self._blocks)), statements)

    def _name(self, event: Stored, statements: list[Statement]) -> Sequence[Block | None]:
        """Return the blocks of an event that tells their tokens, new ones entered; none if nobody knows the one before."""
        size, adapter, blocks = event.block_size, event.adapter, self._blocks
        if event.parent_block_hash is None:
            name, place = root(adapter, size), -1
        else:
            parent = blocks.get(event.parent_block_hash)
            if parent is None:
                return [None] * len(event.block_hashes)
            name, place = parent.name, parent.place
        packed, stride = pack(event.token_ids), stride_blocks(size)
        width = 4 * size
        kept: list[Block] = []
        for at, own in enumerate(event.block_hashes):
            extra = _without(adapter, event.extra_keys[at]) if event.extra_keys else ()
            name, place = link(name, packed[at * width : (at + 1) * width], extra), (place + 1) % stride
            block = blocks.get(own)
            if block is not None and block.name != name:  # another content under the same hash: what it stood for is gone
                self._forget(own, statements)
                block = None
            if block is None:
                block = blocks[own] = Block(name, place, size, ())
            kept.append(block)
        return kept

    def _forget(self, own: Hash, statements: list[Statement]) -> None:
        for tier in self._blocks[own].tiers:
            self._remove((own,), tier, statements)
        self._blocks.pop(own, None)

    def _remove(self, hashes: Iterable[Hash], tier: str, statements: list[Statement]) -> None:
        names: list[int] = []
        for each in hashes:
            block = self._blocks.get(each)
            if block is None or tier not in block.tiers:
                continue
            block.tiers = tuple(held for held in block.tiers if held != tier)
            if not block.tiers:
                del self._blocks[each]
            if block.place == stride_blocks(block.block_size) - 1:
                names.append(block.name)
        pieces = (tuple(names[at : at + MAX_NAMES]) for at in range(0, len(names), MAX_NAMES))
        statements += [Dropped(self._slot, self._incarnation, tier, some) for some in pieces]


def _tier(medium: str | None) -> str:
    return medium.lower()[:LONGEST_TIER] if medium else DEFAULT_TIER


def _without(adapter: str | None, extra: Sequence[object] | None) -> Sequence[object]:
    """Return what a block depends on besides its adapter, which the root of its chain tells already."""
    if not extra:
        return ()
    return extra[1:] if adapter is not None and extra[0] == adapter else extra
