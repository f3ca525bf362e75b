"""Messages that are alike: what a gateway repeats is read once, and of the next message only what differs.

The requests of one client have the same headers in the same order, and most have the same values; a request id, a token or a
length differs. So bytes are looked up by their *shape*, which is their tags and lengths, and compared as a whole with the last
ones of that shape, but for the values that are known to differ; those are cut out. That is a third of what reading field by
field takes, which happens once for each shape and each value that differs for the first time.
"""

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Generic, TypeVar

import msgspec

from shunter.picker.transport.protobuf import decode_varint

__all__ = ["Learnt", "Shapes", "UnlikeError", "enter"]

Meaning = TypeVar("Meaning")
Place = TypeVar("Place")

# Kept at once, of clients and of the lengths of what they say; and how large what is kept may be. Together a worker spends some
# megabytes on the most hostile clients.
_KEPT = 512
_KEPT_BYTES = 4096

# What is left of an encoding without these is its tags and its short lengths.
_PRINTABLE = bytes(range(0x20, 0x100))


class UnlikeError(Exception):
    """Envoy would not write it like this."""


class Learnt(msgspec.Struct, Generic[Meaning, Place], frozen=True, gc=False):
    """What was read field by field: the meaning, where in it values stand, and where they stand in the bytes."""

    meaning: Meaning
    places: list[Place]
    spans: list[tuple[int, int]]


class Shape(msgspec.Struct, Generic[Meaning, Place], frozen=True, gc=False):
    """What was learnt last, and which of its values differ in others."""

    learnt: Learnt[Meaning, Place]
    text: str
    differ: list[bool]
    varying: list[Place]
    cut: Callable[[str], tuple[str, ...]]
    """Takes bytes apart: what is before the first value that differs, that value, ..., what is behind the last, nothing."""
    between: tuple[str, ...]


class Shapes(Generic[Meaning, Place]):
    """What was seen of one kind of message.

    ``learn`` reads bytes field by field; it raises UnlikeError or IndexError where Envoy would write otherwise. ``renew``
    returns a meaning with other values, each a character for a byte, in some places; None if it cannot.
    """

    def __init__(
        self,
        learn: Callable[[bytes, str], Learnt[Meaning, Place]],
        renew: Callable[[Meaning, Sequence[Place], Iterable[str]], Meaning | None],
    ) -> None:
        self._learn = learn
        self._renew = renew
        self._kept: dict[tuple[int, bytes], Shape[Meaning, Place]] = {}

    def read(self, data: bytes) -> Meaning | None:
        """Return what bytes mean, which nobody may change; None if Envoy would not write them like this."""
        text = data.decode("latin-1")
        key = len(data), data.translate(None, _PRINTABLE)
        shape = self._kept.get(key)
        if shape is not None:
            parts = shape.cut(text)
            if parts[::2] == shape.between:
                return self._renew(shape.learnt.meaning, shape.varying, parts[1::2])
        try:
            learnt = self._learn(data, text)
        except (UnlikeError, IndexError):
            return None
        if len(data) <= _KEPT_BYTES:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            self._kept[key] = _outline(learnt, text, shape)
        return learnt.meaning


def _outline(learnt: Learnt[Meaning, Place], text: str, known: Shape[Meaning, Place] | None) -> Shape[Meaning, Place]:
    differ = [False] * len(learnt.spans)
    if known is not None and known.learnt.spans == learnt.spans:
        before = [known.text[begin:end] for begin, end in learnt.spans]
        now = [text[begin:end] for begin, end in learnt.spans]
        differ = [told or one != other for told, one, other in zip(known.differ, before, now, strict=True)]
    slices: list[slice] = []
    behind = 0
    for (begin, end), differs in zip(learnt.spans, differ, strict=True):
        if differs:
            slices += (slice(behind, begin), slice(begin, end))
            behind = end
    cut = itemgetter(*slices, slice(behind, None), slice(0, 0))
    varying = [place for place, differs in zip(learnt.places, differ, strict=True) if differs]
    return Shape(learnt, text, differ, varying, cut, cut(text)[::2])


def enter(data: bytes, at: int, tag: int) -> tuple[int, int]:
    """Return where the content of a field begins and ends that must be ``at``."""
    if data[at] != tag:
        raise UnlikeError
    length, begin = decode_varint(data, at + 1)
    end = begin + length
    if end > len(data):
        raise UnlikeError
    return begin, end
