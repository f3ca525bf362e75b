"""The KV cache: blocks of tokens, shared by prompts that begin alike, forgotten least recently used and tail first.

The rules are vLLM's, with two simplifications (3 and 5) that cost a block or two a request:

1. Block 0 is the null block and never given out; usage is used / (blocks − 1).
2. A full block is known by its tokens and everything before them, so equal prefixes share blocks.
3. Nothing is kept twice: who computes a block that is known already shares the known one from then on.
4. A block that no sequence holds is free even while its content is known. It can be hit again, and is forgotten only when it
   is given out for something else: least recently freed first, of one sequence the tail before the head.
5. Free blocks without a known content are given out before any content is forgotten.

No operation costs anything per block. A prompt is a sequence of *pieces* of many tokens, equal or different as a whole; known
prompts form a tree of pieces, and since a prefix outlives what follows it, of every piece a leading run of blocks is known, of
which a leading run is held, and the rest lies in the queue of free blocks as a few intervals. (A server that sees real tokens
makes every block a piece of its own: equal tokens, equal key.)

Block numbers below count from the beginning of the prompt. A block belongs to the piece in which its last token is.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

import msgspec

__all__ = ["KvCache", "Path", "Watch"]


class _Interval(msgspec.Struct, eq=False):
    """Blocks of one piece that became free together."""

    piece: "_Piece"
    low: int
    high: int


class _Piece(msgspec.Struct, eq=False):
    """A piece of a prompt in the place where it occurs. Blocks [first, held) are in use, [held, known) free but known."""

    parent: "_Piece | None"
    key: Hashable
    first: int
    end: int
    known: int
    held: int
    through: int = 0
    """Paths that go on beyond."""
    tips: list["Path"] = []
    """Paths that end here."""
    free: list[_Interval] = []
    """[held, known) in the order in which it will be forgotten: from its end."""
    children: dict[Hashable, "_Piece"] = {}


class Path(msgspec.Struct, eq=False):
    """What one sequence holds of the cache: the blocks of its first `tokens` tokens."""

    keys: Sequence[Hashable]
    """Of its pieces, answer included."""
    ends: Sequence[int]
    """Tokens from the beginning to the end of each piece."""
    tokens: int = 0
    full: int = 0
    """Blocks among them that are full."""
    piece: _Piece | None = None
    """Where the next full block will be; None: nothing is held."""
    at: int = -1
    """Which one that is of its pieces."""
    lazy: bool = False
    """It has grown since, by tokens that nobody else has; its owner knows how far, and has taken the blocks."""


class Watch(Protocol):
    """Who is told what a cache knows, of pieces that are known as a whole: where tokens are real, each is a block."""

    def stored(self, key: Hashable) -> None: ...
    def removed(self, key: Hashable) -> None: ...
    def cleared(self) -> None: ...


class KvCache:
    """The blocks of one engine. `settle` is called with a lazy path whose real length matters now."""

    def __init__(self, num_blocks: int, block_size: int, settle: Callable[[Path], None], *, caching: bool = True) -> None:
        self.capacity = num_blocks - 1
        self.free = self.capacity
        self._block_size = block_size
        self._settle = settle
        self._caching = caching
        self._paths = 0
        self.watch: Watch | None = None
        self.clear()

    @property
    def used(self) -> int:
        return self.capacity - self.free

    @property
    def usage(self) -> float:
        """Share of the blocks that live sequences hold, 0 to 1."""
        return self.used / self.capacity

    @property
    def known(self) -> int:
        """Blocks whose content is known and that nobody holds."""
        return self.free - max(0, self._blank)

    def clear(self) -> None:
        """Forget everything; no path that was made before may be used again."""
        self.free = self._blank = self.capacity
        self._root = _Piece(None, None, 0, 0, 0, 0)
        self._freed: OrderedDict[_Interval, None] = OrderedDict()
        if self.watch is not None:
            self.watch.cleared()

    def path(self, keys: Sequence[Hashable], ends: Sequence[int]) -> Path:
        """The path of a new sequence. It holds nothing yet."""
        if not self._caching:  # a beginning that nobody else has
            self._paths += 1
            keys = [(None, self._paths), *keys[1:]]
        return Path(keys, ends)

    def match(self, path: Path, tokens: int) -> int:
        """How many of a path's first `tokens` tokens are known, in whole blocks."""
        self._forget()
        limit = tokens // self._block_size
        piece = self._root
        for key in path.keys:
            child = piece.children.get(key)
            if child is None:
                break
            piece = child
            self._awake(piece)
            if piece.known < piece.end or piece.end >= limit:
                break
        return min(piece.known, limit) * self._block_size

    def fits(self, path: Path, tokens: int) -> bool:
        """True if so many of a path's tokens could be held now."""
        return self._cost(path, tokens)[0] <= self.free

    def extend(self, path: Path, tokens: int) -> bool:
        """Hold the blocks of a path's first `tokens` tokens; False, and no change, if too few are free."""
        taken, revived = self._cost(path, tokens)
        if taken > self.free:
            return False
        self.advance(path, tokens)
        self.free -= taken
        self._blank -= taken - revived
        self._forget()
        return True

    def _cost(self, path: Path, tokens: int) -> tuple[int, int]:
        """The free blocks that it takes to hold so many tokens, and how many of them are known already."""
        self._forget()
        size = self._block_size
        full = tokens // size
        taken = (tokens % size > 0) - (path.tokens % size > 0)
        revived = 0
        piece, at = path.piece or self._root, path.at
        while True:
            upto = min(full, piece.end)
            if upto > piece.held:
                taken += upto - piece.held
                revived += max(0, min(upto, piece.known) - piece.held)
            if full < piece.end or at + 1 == len(path.keys):
                break
            at += 1
            child = piece.children.get(path.keys[at])
            if child is None:
                taken += full - piece.end
                break
            piece = child
            self._awake(piece)
        return taken, revived

    def take(self, blocks: int) -> None:
        """Count so many fresh blocks, of which there must be enough, as given to lazy paths."""
        self.free -= blocks
        self._blank -= blocks
        if self.watch is not None:  # who wants to know at once
            self._forget()

    def advance(self, path: Path, tokens: int) -> None:
        """Move the end of a path forward without counting blocks."""
        self._forget()
        full = tokens // self._block_size
        piece = path.piece
        if piece is None:
            piece = self._root
        else:
            piece.tips.remove(path)
        while True:
            upto = min(full, piece.end)
            if upto > piece.held:
                if piece.known > piece.held:
                    self._revive(piece, upto)
                piece.held = upto
                if upto > piece.known:
                    piece.known = upto
                    if self.watch is not None and upto == piece.end:
                        self.watch.stored(piece.key)
            if full < piece.end or path.at + 1 == len(path.keys):
                break
            piece.through += 1
            path.at += 1
            piece = self._child(piece, path.keys[path.at], path.ends[path.at])
        piece.tips.append(path)
        path.piece, path.tokens, path.full = piece, tokens, full

    def alone(self, path: Path) -> bool:
        """True if what a path will grow by is known to nobody else, and no one else is in the place where it grows."""
        self._forget()
        piece = path.piece
        return (
            piece is not None and not piece.through and len(piece.tips) == 1 and not piece.children and piece.known == path.full
        )

    def release(self, path: Path) -> None:
        """Hold nothing any more. Full blocks stay known until they are needed."""
        self._forget()
        piece = path.piece
        if piece is None:
            return
        if path.tokens % self._block_size:
            self.free += 1
            self._blank += 1
        piece.tips.remove(path)
        while piece.parent is not None:
            if not piece.through:
                self._loosen(piece)
            parent = piece.parent
            if piece.known == piece.first and not (piece.through or piece.tips or piece.children):
                del parent.children[piece.key]
            parent.through -= 1
            piece = parent
        path.piece, path.at, path.tokens, path.full, path.lazy = None, -1, 0, 0, False

    def _child(self, piece: _Piece, key: Hashable, end_tokens: int) -> _Piece:
        child = piece.children.get(key)
        if child is None:
            first = piece.end
            child = piece.children[key] = _Piece(piece, key, first, end_tokens // self._block_size, first, first)
        return child

    def _awake(self, piece: _Piece) -> None:
        """Somebody else looks at a piece: those who grow there must say how far they are."""
        for tip in piece.tips:
            if tip.lazy:
                self._settle(tip)

    def _loosen(self, piece: _Piece) -> None:
        """Free what no tip holds, of a piece beyond which nobody is."""
        held = max([tip.full for tip in piece.tips]) if piece.tips else piece.first
        if held < piece.held:
            self.free += piece.held - held
            if self._caching:
                interval = _Interval(piece, held, piece.held)
                piece.free.append(interval)
                self._freed[interval] = None
            else:
                self._blank += piece.held - held
                piece.known = held
            piece.held = held

    def _revive(self, piece: _Piece, upto: int) -> None:
        """Take the blocks from `held` to `upto` out of the queue of free ones, as far as they are in it."""
        while piece.free and piece.free[-1].low < upto:
            interval = piece.free[-1]
            if interval.high > upto:
                interval.low = upto
                break
            piece.free.pop()
            del self._freed[interval]

    def _forget(self) -> None:
        """Forget as many contents as it takes for the blocks that were given out: what lazy paths took, when somebody looks."""
        while self._blank < 0:
            interval = next(iter(self._freed))
            piece = interval.piece
            count = min(interval.high - interval.low, -self._blank)
            self._blank += count
            interval.high -= count
            if self.watch is not None and piece.known == piece.end:
                self.watch.removed(piece.key)
            piece.known = interval.high
            if interval.high == interval.low:
                del self._freed[interval]
                piece.free.pop(0)
                self._prune(piece)

    def _prune(self, piece: _Piece) -> None:
        """Drop pieces that nothing is known of."""
        while piece.parent is not None and piece.known == piece.first:
            if piece.through or piece.tips or piece.children:
                break
            del piece.parent.children[piece.key]
            piece = piece.parent
