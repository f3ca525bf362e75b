"""When decoding sequences need blocks: each one more in every step whose number modulo the block size is its own."""

__all__ = ["Needs"]


class Needs:
    """The needs of all decoding sequences together."""

    def __init__(self, block_size: int) -> None:
        self._size = block_size
        self._everybody = 0
        self._at = [0] * block_size

    def join(self, step: int) -> None:
        """One more sequence needs a block in this step."""
        self._at[step % self._size] += 1
        self._everybody += 1

    def leave(self, step: int) -> None:
        """One sequence less does."""
        self._at[step % self._size] -= 1
        self._everybody -= 1

    def at(self, step: int) -> int:
        """Blocks that are needed in one step."""
        return self._at[step % self._size]

    def of(self, first: int, steps: int) -> int:
        """Blocks that are needed in so many steps."""
        size, needs = self._size, self._at
        rounds, rest = divmod(steps, size)
        blocks = rounds * self._everybody
        if rest:
            at = first % size
            blocks += sum(needs[at : at + rest])
            if at + rest > size:
                blocks += sum(needs[: at + rest - size])
        return blocks

    def met(self, step: int, steps: int, free: int) -> int:
        """For how many steps, of so many from this one on, whose own needs are met, free blocks are enough."""
        size, everybody = self._size, self._everybody
        if ((steps - 1) // size + 1) * everybody <= free:
            return steps
        rounds, free = divmod(free, everybody)
        enough = 1 + rounds * size
        for following in range(step + 1, step + 1 + size):
            free -= self._at[following % size]
            if free < 0:
                break
            enough += 1
        return min(steps, enough)
