"""Messages that are alike: what a gateway repeats is read once, and of the next message only what differs.

The requests of one client have the same headers in the same order, and most have the same values; a request id, a token or a
length differs. So bytes are looked up by their *shape*, which is their tags and lengths, and compared as a whole with the last
ones of that shape, but for the values that are known to differ; those are cut out. That is a third of what reading field by
field takes, which happens twice for each shape and once for each value that differs for the first time. What is seen only once
costs hardly more than its reading.
"""

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Generic, TypeVar

import msgspec

from shunter.picker.transport.protobuf import decode_varint

__all__ = ["Learnt", "Shapes", "UnlikeError", "enter"]

Meaning = TypeVar("Meaning")
Place = TypeVar("Place")

# Kept at once, of clients and of the lengths of what they say. A message of a dozen headers takes at most 9 KB.
_KEPT = 512

# Of what is kept: its size, and how many values it has. The most hostile clients together make a worker keep 23 MB of headers.
_KEPT_BYTES = 4096
_KEPT_VALUES = 64

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
    differ: list[int]  # by number
    varying: list[Place]  # where they stand
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
        self._kept: dict[tuple[int, bytes], Shape[Meaning, Place] | None] = {}  # None: of what was seen once

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
        if key in self._kept:
            self._kept[key] = _outline(learnt, text, shape)
        elif len(data) <= _KEPT_BYTES and len(learnt.spans) <= _KEPT_VALUES:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            self._kept[key] = None
        return learnt.meaning


def _outline(learnt: Learnt[Meaning, Place], text: str, known: Shape[Meaning, Place] | None) -> Shape[Meaning, Place]:
    spans, differ = learnt.spans, list[int]()
    if known is not None and known.learnt.spans == spans:
        told, before = known.differ, known.text
        differ = [at for at, (begin, end) in enumerate(spans) if at in told or text[begin:end] != before[begin:end]]
    slices: list[slice] = []
    behind = 0
    for at in differ:
        begin, end = spans[at]
        slices += (slice(behind, begin), slice(begin, end))
        behind = end
    cut = itemgetter(*slices, slice(behind, None), slice(0, 0))
    return Shape(learnt, text, differ, [learnt.places[at] for at in differ], cut, cut(text)[::2])


def enter(data: bytes, at: int, tag: int) -> tuple[int, int]:
    """Return where the content of a field begins and ends that must be ``at``."""
    if data[at] != tag:
        raise UnlikeError
    length, begin = data[at + 1], at + 2
    if length > 0x7F:
        length, begin = decode_varint(data, at + 1)
    end = begin + length
    if end > len(data):
        raise UnlikeError
    return begin, end
