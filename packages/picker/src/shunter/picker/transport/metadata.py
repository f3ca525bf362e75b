"""Metadata of a stream: google.protobuf.Struct to plain Python values and back."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import cast

from shunter.picker.core.events import Metadata
from shunter.picker.errors import ProtocolError
from shunter.picker.transport.protobuf import encode_utf8, field, head, merge, walk
from shunter.picker.transport.shapes import Learnt, UnlikeError, enter

__all__ = ["MAX_DEPTH", "decode_metadata", "encode_metadata", "learn_texts", "renew_texts"]

# Metadata are a namespace's keys and, at most, lists and small structs below them; the limit keeps hostile ones off the stack.
MAX_DEPTH = 32

# Metadata up to this size are decoded once for many messages: two namespaces with a few endpoints in them.
REMEMBERED_BYTES = 1024


def decode_metadata(data: bytes) -> Metadata:
    """Read a core.v3.Metadata; equal bytes may give the same object, which nobody may change."""
    return _remember_metadata(data) if len(data) <= REMEMBERED_BYTES else _read_metadata(data)


def _read_metadata(data: bytes) -> Metadata:
    """Read filter_metadata, field 1: a map of structs. The typed map is nobody's business here."""
    return {
        name: _decode_struct(value, MAX_DEPTH) for tag, _, entry in walk(data) if tag == 0x0A for name, value in [_entry(entry)]
    }


# Envoy repeats a stream's metadata with each of its messages, and most streams have none.
_remember_metadata = lru_cache(maxsize=256)(_read_metadata)


Texts = Learnt[Metadata, tuple[str, str]]
"""Metadata, in which namespace and under which key each text stands, and where in the bytes."""


def learn_texts(data: bytes, text: str, at: int, stop: int) -> Texts:
    """Read metadata that are nothing but ASCII texts, as are those of a pick, which come back with each response."""
    metadata: Metadata = {}
    places: list[tuple[str, str]] = []
    spans: list[tuple[int, int]] = []
    while at < stop:
        space, at, end = _enter_entry(data, text, at)
        if space in metadata:
            raise UnlikeError
        metadata[space] = fields = {}
        while at < end:
            name, at, value_end = _enter_entry(data, text, at)
            begin, at = enter(data, at, 0x1A)  # string_value = 3
            if at != value_end or name in fields:
                raise UnlikeError
            fields[name] = _ascii(text[begin:at])
            places.append((space, name))
            spans.append((begin, at))
        if at != end:
            raise UnlikeError
    if at != stop:
        raise UnlikeError
    return Learnt(metadata, places, spans)


def _enter_entry(data: bytes, text: str, at: int) -> tuple[str, int, int]:
    """Return the key of the map's entry ``at``, and where the content of its value begins and ends."""
    at, end = enter(data, at, 0x0A)
    begin, at = enter(data, at, 0x0A)
    key = _ascii(text[begin:at])
    at, value_end = enter(data, at, 0x12)
    if value_end != end:
        raise UnlikeError
    return key, at, end


def _ascii(text: str) -> str:
    """Return a text whose bytes are its characters."""
    if not text.isascii():
        raise UnlikeError
    return text


def renew_texts(metadata: Metadata, places: Sequence[tuple[str, str]], values: Iterable[str]) -> Metadata | None:
    """Return them with other texts in some places; None if one is not ASCII."""
    renewed = {space: fields.copy() for space, fields in metadata.items()}
    for (space, name), value in zip(places, values, strict=False):
        if not value.isascii():
            return None
        renewed[space][name] = value
    return renewed


def _entry(data: bytes) -> tuple[str, bytes]:
    """Read the entry of a map from string to a message."""
    name = b""
    values: list[bytes] = []
    for tag, _, value in walk(data):
        if tag == 0x0A:
            name = value
        elif tag == 0x12:
            values.append(value)
    return _text(name), merge(values)


def _decode_struct(data: bytes, depth: int) -> dict[str, object]:
    return {
        name: _decode_value(value, depth - 1) for tag, _, entry in walk(data) if tag == 0x0A for name, value in [_entry(entry)]
    }


def _decode_value(data: bytes, depth: int) -> object:
    """Read a google.protobuf.Value: null 1, number 2, string 3, bool 4, struct 5, list 6."""
    if depth < 0:
        raise ProtocolError(f"metadata is nested deeper than {MAX_DEPTH} levels")
    kind = number = 0
    parts: list[bytes] = []
    for tag, varint, value in walk(data):
        if tag not in {0x08, 0x11, 0x1A, 0x20, 0x2A, 0x32}:
            continue
        if tag != kind or tag < 0x2A:
            parts = []
        kind, number = tag, varint
        parts.append(value)
    match kind:
        case 0x11:
            return struct.unpack("<d", parts[0])[0]
        case 0x1A:
            return _text(parts[0])
        case 0x20:
            return number != 0
        case 0x2A:
            return _decode_struct(merge(parts), depth)
        case 0x32:
            return [_decode_value(item, depth - 1) for tag, _, item in walk(merge(parts)) if tag == 0x0A]
        case _:
            return None


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ProtocolError("metadata: a string is not UTF-8") from None


def encode_metadata(metadata: Metadata | None) -> bytes:
    """Write dynamic_metadata = 8: a struct of structs."""
    return field(0x42, _encode_struct(metadata)) if metadata else b""


def _encode_struct(values: Mapping[str, object]) -> bytes:
    parts: list[bytes] = []
    for name, value in values.items():
        if isinstance(value, str):
            kind, content = 0x1A, value.encode("utf-8", "replace")
        elif isinstance(value, dict):  # not Mapping, which takes ten times as long to find out
            kind, content = 0x2A, _encode_struct(cast("dict[str, object]", value))
        else:
            parts.append(field(0x0A, field(0x0A, encode_utf8(name)) + field(0x12, _encode_value(value))))
            continue
        parts += (_lead_of_value(name, kind, len(content)), content)
    return b"".join(parts)


@lru_cache(maxsize=1024)  # the same few names, texts of a few lengths
def _lead_of_value(name: str, kind: int, size: int) -> bytes:
    """Write what stands before the ``size`` bytes of a value, in a Struct's entry {key = 1, value = 2 {``kind``}}."""
    lead = head(kind, size)
    lead = field(0x0A, encode_utf8(name)) + head(0x12, len(lead) + size) + lead
    return head(0x0A, len(lead) + size) + lead


def _encode_value(value: object) -> bytes:
    if isinstance(value, str):
        return field(0x1A, encode_utf8(value))
    match value:
        case None:
            return b"\x08\x00"
        case bool():
            return b"\x20\x01" if value else b"\x20\x00"
        case int() | float():
            return b"\x11" + struct.pack("<d", value)
        case Mapping():
            return field(0x2A, _encode_struct(cast("Mapping[str, object]", value)))
        case Sequence():
            return field(0x32, b"".join([field(0x0A, _encode_value(item)) for item in cast("Sequence[object]", value)]))
        case _:
            raise TypeError(f"metadata cannot hold {value!r}")
