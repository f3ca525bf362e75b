"""Which endpoint has probably cached the beginning of a prompt: an approximate, bounded index of hashed blocks.

A prompt is cut into blocks and every block is hashed with the hash before it as seed, so one number stands for the whole
prefix up to there. The index remembers, for every hash, the endpoints that were sent it, as bits of one int: looking a
prompt up is a dictionary look-up and an ``and`` per block, however many endpoints there are.

Blocks grow: the first 64 have the configured size (64 tokens, about 256 bytes, is the floor: smaller ones cost more than they
tell), the next 64 twice that, and so on. A short prompt is told apart finely; half a megabyte is 322 blocks instead of 2,048,
and its last block is still less than 2 % of it. The boundaries are the same for all prompts, which is all a prefix needs.

It is a guess: engines evict by their own rules and the scores only lean on it. Endpoints are slots with an incarnation; a slot
with a new owner starts cold.
"""

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

import msgspec
import xxhash

from shunter.picker.core.chains import Chains
from shunter.snapshot import View

__all__ = ["BLOCK_FLOOR_TOKENS", "NO_MATCH", "Match", "PrefixIndex", "PrefixSettings", "tune"]

BLOCK_FLOOR_TOKENS = 64
# Models that mix kinds of attention have the largest, of some two thousand; what is beyond is a mistake of somebody's metrics.
BLOCK_CEILING_TOKENS = 4096
BYTES_PER_TOKEN = 4
BLOCKS_PER_SIZE = 64

# A remembered (block, endpoint) pair was measured to cost 110 bytes, 270 with slot numbers up to a thousand, whose bits make
# long ints, and a piece of prompts (``core.chains``) 210, so it counts as one more: at most 22 to 54 MB, which leaves a worker
# below its 120 MB whatever the number of endpoints and however short the prompts. At 6 endpoints it is their whole default
# capacity, if prompts are long; at 1,000 it is the last 200 blocks of each.
MAX_PAIRS = 200_000


class PrefixSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes in tokens; names and defaults are those of ``approx-prefix-cache-producer``."""

    block_tokens: int = 64
    max_tokens: int = 131_072  # of a prompt; what is longer is not looked at
    capacity_blocks: int = 31_250  # of the first size, per endpoint, where the engine does not tell its cache's size
    auto_tune: bool = True  # believe engines that tell the size of their cache, and of its blocks
    max_pairs: int = MAX_PAIRS


class Match(msgspec.Struct, frozen=True, gc=False):
    """How much of one prompt each slot has seen. A slot that has seen nothing is not listed."""

    hashes: Sequence[int] = ()  # of the prompt's blocks
    tokens: int = 0  # that those blocks stand for, estimated
    blocks: Mapping[int, int] = {}  # slot → number of leading blocks seen
    share: Mapping[int, float] = {}  # slot → the same in bytes, as a part of all hashed bytes: above 0, up to 1
    cached: Mapping[int, float] = {}  # slot → its part in whatever tier of memory, where slower ones make its share less


NO_MATCH = Match()


class PrefixIndex:
    """The memory of who was sent what."""

    def __init__(self, settings: PrefixSettings) -> None:
        """Remember nothing yet."""
        self.settings = settings
        self._auto_tune = settings.auto_tune
        self._max_pairs = settings.max_pairs
        self._cut(settings.block_tokens)
        self._owners: dict[int, int] = {}  # hash → bits of the slots
        self._seen: dict[int, Chains] = {}  # by slot
        self._bytes: dict[int, int] = {}  # slot → sum of the above
        self._incarnations: dict[int, int] = {}
        self.pairs = 0  # of a block and an endpoint, and pieces

    def _cut(self, block_tokens: int) -> None:
        """Have blocks of this size, but for the floor."""
        settings, tokens = self.settings, max(BLOCK_FLOOR_TOKENS, block_tokens)
        self.block_tokens = tokens
        self._capacity_bytes = settings.capacity_blocks * tokens * BYTES_PER_TOKEN
        self._ends = _boundaries(tokens * BYTES_PER_TOKEN, settings.max_tokens * BYTES_PER_TOKEN)
        self._cuts = [slice(start, end) for start, end in pairwise([0, *self._ends])]
        self._sizes = [cut.stop - cut.start for cut in self._cuts]

    def resize(self, block_tokens: int) -> None:
        """Cut prompts into blocks of this size from now on, 64 tokens at least; what is remembered in others is void."""
        if max(BLOCK_FLOOR_TOKENS, block_tokens) != self.block_tokens:
            for slot in [*self._incarnations]:
                self.forget(slot)
            self._cut(block_tokens)

    def hash(self, prompt: memoryview, seed: bytes) -> list[int]:
        """Return the chained hashes of the whole blocks of ``prompt``; a last partial block is dropped.

        ``seed`` must hold everything else that a cached block depends on: model, adapter, salt.
        """
        digest = xxhash.xxh3_64_intdigest
        value = digest(seed)
        whole = bisect_right(self._ends, len(prompt))
        return [value := digest(prompt[cut], value) for cut in self._cuts[:whole]]

    def match(self, hashes: Sequence[int]) -> Match:
        """Return, for every slot that has seen the first block, how far it has seen the prompt without a gap."""
        blocks: dict[int, int] = {}
        owners, depth = self._owners, 0
        alive = owners.get(hashes[0], 0) if hashes else 0
        while alive:
            # Each slot knows a beginning of the prompt and nothing beyond, since it forgets from the end: bisect.
            end = len(hashes)
            while depth < end:
                middle = (depth + end) // 2
                if alive & ~owners.get(hashes[middle], 0):
                    end = middle
                else:
                    depth = middle + 1
            still = alive & owners.get(hashes[end], 0) if end < len(hashes) else 0
            _assign(blocks, alive & ~still, end)
            alive = still
        whole = self._ends[len(hashes) - 1] if hashes else 0
        share = {slot: self._ends[count - 1] / whole for slot, count in blocks.items()}
        return Match(hashes, whole // BYTES_PER_TOKEN, blocks, share)

    def ends(self, hashes: Sequence[int]) -> Sequence[int]:
        """Return where the blocks of these hashes end, in bytes."""
        return self._ends[: len(hashes)]

    def express(self, hashes: Sequence[int], share: Mapping[int, float], cached: Mapping[int, float]) -> Match:
        """Return, in the terms of this index, what somebody else knows of a prompt with these hashes; see Match."""
        count = len(hashes)
        blocks = {slot: int(part * count) or 1 for slot, part in share.items()}
        return Match(hashes, self._ends[count - 1] // BYTES_PER_TOKEN, blocks, share, cached)

    def insert(self, hashes: Sequence[int], slot: int, incarnation: int, cache_tokens: int | None = None) -> None:
        """Remember that the endpoint was sent these blocks; forget its oldest ones beyond its capacity.

        ``cache_tokens`` is the size of the engine's own cache, if it tells.
        """
        if self._incarnations.get(slot) != incarnation:
            self.forget(slot)
            self._incarnations[slot] = incarnation
            self._seen[slot] = Chains()
            self._bytes[slot] = 0
        # More blocks than there are sizes come from a worker with another configuration, which is about to be replaced.
        prompt = list(hashes[: len(self._sizes)])
        seen, owners, bit, count = self._seen[slot], self._owners, 1 << slot, len(prompt)
        before = seen.size
        known = seen.send(prompt)
        self.pairs += seen.size - before
        for value in prompt[known:]:
            owners[value] = owners.get(value, 0) | bit
        if count > known:
            self._bytes[slot] += self._ends[count - 1] - (self._ends[known - 1] if known else 0)
        capacity = cache_tokens * BYTES_PER_TOKEN if cache_tokens and self._auto_tune else self._capacity_bytes
        if self._bytes[slot] > capacity:
            self._shrink(slot, capacity, seen.size)
        while (excess := self.pairs - self._max_pairs) > 0:
            payer = self._largest(slot)
            size = self._seen[payer].size
            # Finding the largest means looking at all; an eighth at a time leaves it about as large as the next.
            self._shrink(payer, self._bytes[payer], size - min(excess, 1 + size // 8))

    def take_back(self, hashes: Sequence[int], slot: int, incarnation: int) -> None:
        """Forget that the endpoint was sent these blocks, as far as no other prompt brought them there."""
        if self._incarnations.get(slot) != incarnation:
            return
        seen = self._seen[slot]
        self.pairs -= seen.size
        for value, at in seen.take_back(list(hashes[: len(self._sizes)])):
            self._bytes[slot] -= self._sizes[at]
            self._strike(value, 1 << slot)
        self.pairs += seen.size

    def retain(self, live: Mapping[int, int]) -> None:
        """Forget every slot that is not in ``live`` (slot → incarnation) with the same incarnation."""
        for slot in [slot for slot, incarnation in self._incarnations.items() if live.get(slot) != incarnation]:
            self.forget(slot)

    def forget(self, slot: int) -> None:
        """Forget all about one slot."""
        if self._incarnations.pop(slot, None) is not None:
            self._shrink(slot, 0, 0)
            del self._seen[slot], self._bytes[slot]

    def __len__(self) -> int:
        """How many different blocks are remembered."""
        return len(self._owners)

    def _largest(self, slot: int) -> int:
        """Who pays when memory is full: this slot if it has its fair share, else the largest one."""
        if self._seen[slot].size * len(self._seen) >= self._max_pairs:
            return slot
        return max(self._seen, key=lambda other: self._seen[other].size)

    def _shrink(self, slot: int, length: int, size: int) -> None:
        """Forget what a slot was sent least recently, until it is no more than ``length`` bytes and that ``size``."""
        seen, has, sizes, bit = self._seen[slot], self._bytes[slot], self._sizes, 1 << slot
        self.pairs -= seen.size
        while has > length or seen.size > size:
            value, at = seen.pop()
            has -= sizes[at]
            self._strike(value, bit)
        self.pairs += seen.size
        self._bytes[slot] = has

    def _strike(self, value: int, bit: int) -> None:
        left = self._owners.get(value, 0) & ~bit
        if left:
            self._owners[value] = left
        else:
            self._owners.pop(value, None)


def tune(indices: Collection[PrefixIndex], view: View | None) -> None:
    """Have prompts cut into blocks as large as the largest of the engines', if they tell: a part of one is never cached.

    Prompts are cut once for all indices, as the first one of them is configured.
    """
    if view is not None and indices and next(iter(indices)).settings.auto_tune:
        told = [size for size in view.load.block_size if size and size <= BLOCK_CEILING_TOKENS]
        if told:
            most = max(told)
            for index in indices:
                index.resize(most)


def _boundaries(block_bytes: int, max_bytes: int) -> list[int]:
    """The ends of the blocks of a prompt of ``max_bytes``."""
    ends: list[int] = []
    end = 0
    while (end := end + (block_bytes << len(ends) // BLOCKS_PER_SIZE)) <= max_bytes:
        ends.append(end)
    return ends


def _assign(blocks: dict[int, int], bits: int, depth: int) -> None:
    while bits:
        lowest = bits & -bits
        blocks[lowest.bit_length() - 1] = depth
        bits ^= lowest
