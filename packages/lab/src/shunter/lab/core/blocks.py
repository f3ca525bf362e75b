"""The KV block pool: paged blocks, counted references, and the prefix cache that lives in the free ones.

The rules are vLLM's:

1. Block 0 is the null block and never given out; usage is used / (blocks − 1).
2. A full block is known by the hash of its tokens and of everything before them, so equal prefixes share blocks.
3. A block without references is free even while its content is still known. It counts as free in the usage, can be hit
   again, and is forgotten only when it is given out for something else: least recently freed first.
4. A sequence's blocks are freed last block first, so that the tail of a prefix is forgotten before its head.

Every operation costs O(blocks it touches).
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

__all__ = ["BlockPool", "chain", "chain_root"]


def chain_root(adapter: str | None, salt: str) -> int:
    """Where the hash chain of a request starts: requests of different adapters or salts never share a block."""
    if adapter is None and not salt:
        return 0
    return int.from_bytes(blake2b(f"{adapter or ''}\0{salt}".encode(), digest_size=7).digest(), "big")


def chain(parent: int, tokens: Sequence[int]) -> int:
    """Identity of a full block after `parent`. Hashes of ints are the same in every process, unlike those of strings."""
    return hash((parent, *tokens))


class BlockPool:
    """Blocks given out by reference and found again by content."""

    def __init__(self, num_blocks: int, *, caching: bool = True) -> None:
        self.capacity = num_blocks - 1
        self._caching = caching
        # By block, the null block first; a block that was never given out has no entry yet, so a large cache costs nothing.
        self._references = [0]
        self._released: OrderedDict[int, None] = OrderedDict()
        self._block_of: dict[int, int] = {}
        self._content_of: dict[int, int] = {}

    @property
    def used(self) -> int:
        return len(self._references) - 1 - len(self._released)

    @property
    def usage(self) -> float:
        """Share of the blocks that live requests hold, 0 to 1."""
        return self.used / self.capacity

    @property
    def cached(self) -> int:
        """Blocks whose content is known, held or free."""
        return len(self._block_of)

    def match(self, contents: Iterable[int]) -> list[int]:
        """Blocks of the longest known prefix of these contents."""
        found: list[int] = []
        for content in contents:
            block = self._block_of.get(content)
            if block is None:
                break
            found.append(block)
        return found

    def take(self, hits: Sequence[int], fresh: int) -> list[int] | None:
        """One more reference to each hit, and so many fresh blocks; None, and no change, if too few are free."""
        revived = [block for block in hits if not self._references[block]]
        if fresh > self.capacity - self.used - len(revived):
            return None
        for block in revived:
            del self._released[block]
        for block in hits:
            self._references[block] += 1
        return [self._give() for _ in range(fresh)]

    def _give(self) -> int:
        if len(self._references) <= self.capacity:
            self._references.append(1)
            return len(self._references) - 1
        block, _ = self._released.popitem(last=False)
        self._references[block] = 1
        content = self._content_of.pop(block, None)
        if content is not None:
            del self._block_of[content]
        return block

    def learn(self, block: int, content: int) -> None:
        """A full block holds that content from now on. A content already known elsewhere stays where it was."""
        if self._caching and content not in self._block_of:
            self._block_of[content] = block
            self._content_of[block] = content

    def release(self, blocks: Sequence[int]) -> None:
        """One reference less to each block of a sequence, given in the order of its tokens."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if not self._references[block]:
                self._released[block] = None
