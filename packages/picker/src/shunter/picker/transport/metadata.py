"""Metadata of a stream: google.protobuf.Struct to plain Python values and back."""

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import cast

from shunter.picker.core.events import Metadata
from shunter.picker.errors import ProtocolError
from shunter.picker.transport.protobuf import decode_varint, encode_utf8, field, merge, walk

__all__ = ["MAX_DEPTH", "decode_metadata", "encode_metadata"]

# Metadata are a namespace's keys and, at most, lists and small structs below them; the limit keeps hostile ones off the stack.
MAX_DEPTH = 32

# Metadata up to this size are decoded once for many messages: two namespaces with a few endpoints in them.
REMEMBERED_BYTES = 1024


def decode_metadata(data: bytes) -> Metadata:
    """Read a core.v3.Metadata; equal bytes may give the same object, which nobody may change."""
    return _remember_metadata(data) if len(data) <= REMEMBERED_BYTES else _read_metadata(data)


def _read_metadata(data: bytes) -> Metadata:
    """Read filter_metadata, field 1: a map of structs. The typed map is nobody's business here."""
    try:
        return _read_strings(data)
    except (IndexError, ValueError):
        return {
            name: _decode_struct(value, MAX_DEPTH)
            for tag, _, entry in walk(data)
            if tag == 0x0A
            for name, value in [_entry(entry)]
        }


def _read_strings(data: bytes) -> Metadata:
    """Read structs of nothing but strings, as Envoy writes them; IndexError or ValueError if there is anything else.

    That is how Envoy echoes a pick, each of which is another: what could be anything takes five times as long to read.
    """
    found: dict[str, dict[str, object]] = {}
    at, size = 0, len(data)
    while at < size:
        name, begin, at = _strict_entry(data, at, size)
        values: dict[str, object] = {}
        while begin < at:
            key, value, begin = _strict_entry(data, begin, at)
            length, text = decode_varint(data, value + 1)
            if data[value] != 0x1A or text + length != begin:  # string_value = 3
                raise ValueError
            values[key] = data[text:begin].decode()
        found[name] = values
    return found


def _strict_entry(data: bytes, at: int, stop: int) -> tuple[str, int, int]:
    """Return the name in a map's entry, which is a key and then a message, and where its message begins and ends."""
    length, key = decode_varint(data, at + 1)
    end, key_end = key + length, key + 2 + data[key + 1]
    length, begin = decode_varint(data, key_end + 1)
    if (
        data[at] != 0x0A
        or data[key] != 0x0A
        or data[key + 1] > 0x7F
        or data[key_end] != 0x12
        or not begin + length == end <= stop
    ):
        raise ValueError
    return data[key + 2 : key_end].decode(), begin, end


# Envoy repeats a stream's metadata with each of its messages, and most streams have none.
_remember_metadata = lru_cache(maxsize=256)(_read_metadata)


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
    return b"".join([_encode_entry(encode_utf8(name), value) for name, value in values.items()])


def _encode_entry(name: bytes, value: object) -> bytes:
    if isinstance(value, str):
        text = encode_utf8(value)
        size = len(name) + len(text) + 6
        if size < 0x80:  # every length has one byte
            return b"\x0a%c\x0a%c%b\x12%c\x1a%c%b" % (size, len(name), name, len(text) + 2, len(text), text)
    return field(0x0A, field(0x0A, name) + field(0x12, _encode_value(value)))


def _encode_value(value: object) -> bytes:
    if isinstance(value, str):
        return field(0x1A, encode_utf8(value))
    if isinstance(value, dict):  # said before Mapping, which takes ten times as long to find out
        return field(0x2A, _encode_struct(cast("dict[str, object]", value)))
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
