"""Headers of messages that are alike: what a gateway repeats is read once, and of the next message only what differs.

The requests of one client have the same headers in the same order, and most have the same values; a request id, a token or a
length differs. So an event is looked up by its *shape*, its tags and lengths, compared as a whole with the last one of that
shape but for the values that are known to differ, and those are cut out: a third of what reading it field by field takes.
"""

from collections.abc import Callable
from operator import itemgetter

import msgspec

from shunter.picker.transport.protobuf import decode_varint

__all__ = ["Headers", "Shapes"]

Headers = list[tuple[str, str]]

# Kept at once, of clients and of the lengths of what they say; and how large an event may be of which one is kept. Together a
# worker spends a few megabytes on the most hostile clients.
_KEPT = 512
_KEPT_BYTES = 4096

# What is left of an event without these is its tags and its short lengths.
_PRINTABLE = bytes(range(0x20, 0x100))

# What may stand behind the map of headers: nothing, or end_of_stream = 3.
_LAST = b"\x18\x01"


class Shape(msgspec.Struct, frozen=True, gc=False):
    """An event, and which of its values differ in others."""

    headers: Headers
    last: bool  # it ends the message
    spans: list[tuple[int, int]]  # of the values
    varying: list[tuple[int, str]]  # which of them differ, and the names of those
    cut: Callable[[str], tuple[str, ...]]
    """Takes an event apart: what is before the first value that differs, that value, ..., what is behind the last, nothing."""
    between: tuple[str, ...]


class Shapes:
    """What was seen of the messages of gateways, by shape."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, bytes], Shape] = {}

    def read(self, event: bytes, at: int) -> tuple[Headers, bool] | None:
        """Return the headers of an event whose HttpHeaders begin ``at``, names in lower case, and whether it is the last.

        None or IndexError if Envoy would not write it like this.
        """
        text = event.decode("latin-1")
        key = len(event), event.translate(None, _PRINTABLE)
        shape = self._kept.get(key)
        if shape is not None:
            parts = shape.cut(text)
            if parts[::2] == shape.between:
                headers = shape.headers.copy()
                for (which, name), value in zip(shape.varying, parts[1::2], strict=False):
                    headers[which] = name, value
                return headers, shape.last
        shape = _learn(event, text, at, shape)
        if shape is None:
            return None
        if len(event) <= _KEPT_BYTES:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            self._kept[key] = shape
        return shape.headers.copy(), shape.last


def _learn(event: bytes, text: str, at: int, known: Shape | None) -> Shape | None:
    """Read an event header by header: the key (field 1), then raw_value (field 3), which Envoy leaves out when empty."""
    headers: Headers = []
    spans: list[tuple[int, int]] = []
    if event[at] != 0x0A:
        return None
    length, at = decode_varint(event, at + 1)
    stop = at + length
    while at < stop:
        if event[at] != 0x0A:
            return None
        length, at = decode_varint(event, at + 1)
        end = at + length
        if event[at] != 0x0A:
            return None
        length, begin = decode_varint(event, at + 1)
        at = begin + length
        name, length = text[begin:at].lower(), 0
        if at != end:
            if event[at] != 0x1A:
                return None
            length, at = decode_varint(event, at + 1)
        if at + length != end:
            return None
        headers.append((name, text[at:end]))
        spans.append((at, end))
        at = end
    if at != stop or event[at:] not in (b"", _LAST):
        return None
    varying: list[tuple[int, str]] = []
    if known is not None and known.spans == spans:
        told = {which for which, _ in known.varying}
        differs = [which in told or pair[0] != pair[1] for which, pair in enumerate(zip(headers, known.headers, strict=True))]
        varying = [(which, headers[which][0]) for which, differing in enumerate(differs) if differing]
    slices: list[slice] = []
    behind = 0
    for which, _ in varying:
        slices += (slice(behind, spans[which][0]), slice(*spans[which]))
        behind = spans[which][1]
    cut = itemgetter(*slices, slice(behind, None), slice(0, 0))
    return Shape(headers, at < len(event), spans, varying, cut, cut(text)[::2])
