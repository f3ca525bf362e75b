"""What prompts are in tokens, as far as an engine has told: the names of their blocks, found again by the prompt's beginning.

Only an engine knows its tokenizer and its chat template, and asking it takes longer than a choice may. So its answers are kept,
and found by what a choice computes anyway: the chained hashes of the prompt's bytes (``core.prefix``). One that begins like a
known prompt has its tokens, up to about where the two part: a conversation's next turn has those of the turn before, a new
question those of the system prompt. How many tokens the common bytes are is estimated by their part of the whole, rounded down;
a name too many does no harm, for nobody holds a block of a prompt that he was not sent.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import xxhash

__all__ = ["Manner", "Spelling", "Spellings", "digest"]

# Each is an entry of 150 bytes and a share of the names: of short prompts 12,500 are kept, of those with 100,000 tokens 200.
MAX_ENTRIES = 50_000


Manner = tuple[int, bool]
"""In which a prompt's strides are named: the block size, and whether the model asked for is an adapter."""


class Spelling(msgspec.Struct, frozen=True, gc=False):
    """The names of a prompt's strides, or of as many as a known prompt begins with."""

    names: Sequence[int]
    strides: int  # how many the whole prompt has, or probably has
    whole: bool = True  # are these all of them


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A known prompt."""

    names: Mapping[Manner, Sequence[int]]
    size_bytes: int


def digest(rest: memoryview, hashes: Sequence[int]) -> int:
    """Return a number that stands for all of a prompt: its hashes, and the ``rest`` that fills no block."""
    return xxhash.xxh3_64_intdigest(rest, hashes[-1])


class Spellings:
    """The known prompts, those asked for longest ago forgotten first."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        """Know none."""
        self._max_entries = max_entries
        self._whole: OrderedDict[int, Entry] = OrderedDict()
        self._begun: OrderedDict[int, tuple[Entry, int]] = OrderedDict()  # hash → who begins so, and how many bytes that is

    def __len__(self) -> int:
        """How many entries there are."""
        return len(self._whole) + len(self._begun)

    def knows(self, key: int, sizes: Iterable[int]) -> bool:
        """Is the prompt of this ``digest`` known as a whole, in blocks of all these sizes?"""
        entry = self._whole.get(key)
        return entry is not None and all((size, False) in entry.names for size in sizes)

    def find(self, key: int, hashes: Sequence[int], size_bytes: int, manner: Manner) -> Spelling | None:
        """Return what is known of a prompt of this ``digest``, hashes and size; None if nothing is."""
        entry = self._whole.get(key)
        if entry is not None and manner in entry.names:
            self._whole.move_to_end(key)
            return Spelling(entry.names[manner], len(entry.names[manner]))
        for value in reversed(hashes):
            if value in self._begun:
                self._begun.move_to_end(value)
                entry, common_bytes = self._begun[value]
                names = entry.names.get(manner, ())
                common = len(names) * common_bytes // entry.size_bytes
                return Spelling(names[:common], max(common, len(names) * size_bytes // entry.size_bytes), whole=False)
        return None

    def learn(
        self,
        key: int,
        hashes: Sequence[int],
        ends: Sequence[int],
        size_bytes: int,
        names: Mapping[Manner, Sequence[int]],
    ) -> None:
        """Remember a prompt: where its blocks end, in bytes, and the names of its strides."""
        entry = Entry(names, size_bytes)
        self._whole[key] = entry
        # The beginning last: without it the rest is seldom found. More blocks than ends come from a worker with another
        # configuration, which is about to be replaced.
        for value, end in reversed(list(zip(hashes, ends, strict=False))):
            self._begun[value] = (entry, end)
            self._begun.move_to_end(value)
        while len(self) > self._max_entries:
            (self._begun if len(self._begun) > len(self._whole) else self._whole).popitem(last=False)
