"""The prompts that one endpoint was sent, in pieces: which block of them is forgotten first, at a price per piece.

Prompts are chains of hashes, each of which stands for the whole prompt up to there. Where one begins like another they share
a piece, and a piece is cut where they part, so it was always sent as a whole: a prompt of hundreds of blocks that begins like
those before it moves a few pieces to the end of the line, not hundreds of blocks.

The order is that of the blocks' last sending, and of those sent together the last one of the prompt first: without its
beginning the rest of a prompt is never found.
"""

from collections import OrderedDict

import msgspec

__all__ = ["Chains"]


class Piece(msgspec.Struct, eq=False, gc=False):
    """Blocks that follow each other."""

    hashes: list[int]
    start: int  # blocks of the prompt before it
    times: int  # that it was sent, less those that were taken back


class Chains:
    """All of them. What foreign prompts with equal hashes mix up here makes a wrong guess, and nothing else."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._pieces: dict[int, Piece] = {}  # by the first hash
        self._order: OrderedDict[Piece, None] = OrderedDict()  # the first to be forgotten first
        self.size = 0
        """What bounds of memory count: blocks, and pieces, each of which takes as much as one or two blocks."""

    def __len__(self) -> int:
        """How many blocks there are."""
        return self.size - len(self._order)

    def send(self, hashes: list[int]) -> int:
        """Remember a prompt as the last one that was sent; return how many blocks of its beginning were here before."""
        known, pieces = 0, list[Piece]()
        while known < len(hashes) and (piece := self._pieces.get(hashes[known])) is not None:
            length = len(piece.hashes)
            if piece.hashes != hashes[known : known + length]:
                piece = self._cut(piece, _common(piece.hashes, hashes[known : known + length]))
            piece.times += 1
            pieces.append(piece)
            known += len(piece.hashes)
        if known < len(hashes):
            self._enter(Piece(hashes[known:], known, 1))
            self.size += len(hashes) - known
        for piece in reversed(pieces):
            self._order.move_to_end(piece)
        return known

    def take_back(self, hashes: list[int]) -> list[tuple[int, int]]:
        """Forget one sending of a prompt; return the blocks that no other one brought, as ``pop`` does.

        Of a prompt that is not here whole any longer nothing is taken back: what is left may be another one's.
        """
        at, pieces = 0, list[Piece]()
        while at < len(hashes) and (piece := self._pieces.get(hashes[at])) is not None:
            if piece.hashes != hashes[at : at + len(piece.hashes)]:
                return []
            pieces.append(piece)
            at += len(piece.hashes)
        if at < len(hashes):
            return []
        gone: list[tuple[int, int]] = []
        for piece in pieces:
            piece.times -= 1
            if piece.times <= 0:
                del self._order[piece]
                self._pieces.pop(piece.hashes[0], None)
                self.size -= 1 + len(piece.hashes)
                gone += [(value, piece.start + offset) for offset, value in enumerate(piece.hashes)]
        return gone

    def pop(self) -> tuple[int, int]:
        """Forget the block whose turn it is; return its hash, and how many are before it in its prompt."""
        piece = next(iter(self._order))
        value = piece.hashes.pop()
        if not piece.hashes:
            del self._order[piece]
            self._pieces.pop(value, None)
            self.size -= 1
        self.size -= 1
        return value, piece.start + len(piece.hashes)

    def _cut(self, piece: Piece, length: int) -> Piece:
        """Take the beginning of a piece out of it and return it; what is left keeps its place in the line."""
        beginning = Piece(piece.hashes[:length], piece.start, piece.times)
        del piece.hashes[:length]
        piece.start += length
        self._pieces[piece.hashes[0]] = piece
        self._enter(beginning)
        return beginning

    def _enter(self, piece: Piece) -> None:
        self._pieces[piece.hashes[0]] = piece
        self._order[piece] = None
        self.size += 1


def _common(some: list[int], others: list[int]) -> int:
    """Return how many hashes two chains have in common. One by one: a bisection would trust that all differ after the first."""
    pairs = zip(some, others, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(some), len(others)))
