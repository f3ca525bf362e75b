"""The protobuf encoding itself: fields out of bytes, bytes out of fields.

A tag is a field's number << 3 | its wire type. ``walk`` is linear and raises nothing but ProtocolError.
"""

from collections.abc import Iterator, Sequence

from shunter.picker.errors import ProtocolError

__all__ = ["decode_varint", "encode_utf8", "encode_varint", "field", "head", "merge", "walk"]

_VARINT, _LENGTH = 0, 2  # wire types
_WIDTHS = {1: 8, 5: 4}  # wire types of fixed width, bytes


def walk(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield each field's tag, its number if it is a varint, else its bytes."""
    at, size = 0, len(data)
    try:
        while at < size:
            tag = data[at]
            at += 1
            if tag > 0x7F:
                tag, at = decode_varint(data, at - 1)
            if not 8 <= tag < 1 << 32:
                raise ProtocolError(f"not protobuf: no field has tag {tag}")
            wire = tag & 7
            if wire == _VARINT:
                number, at = decode_varint(data, at)
                yield tag, number, b""
                continue
            if wire == _LENGTH:
                length = data[at]
                at += 1
                if length > 0x7F:
                    length, at = decode_varint(data, at - 1)
            elif wire in _WIDTHS:
                length = _WIDTHS[wire]
            else:
                raise ProtocolError(f"not protobuf: wire type {wire}")
            if at + length > size:
                raise ProtocolError("not protobuf: a field is cut off")
            yield tag, 0, data[at : at + length]
            at += length
    except IndexError:
        raise ProtocolError("not protobuf: a field is cut off") from None


def decode_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a varint of at most 64 bits and where it ends; IndexError if it is cut off."""
    value = data[at]
    if value < 0x80:
        return value, at + 1
    byte = data[at + 1]
    if byte < 0x80:
        return value & 0x7F | byte << 7, at + 2
    value, shift = 0, 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
        if shift == 70:
            raise ProtocolError("not protobuf: a varint of more than ten bytes")


def merge(parts: Sequence[bytes]) -> bytes:
    """Return the encoding of the merged message: that is what concatenated encodings are."""
    return parts[0] if len(parts) == 1 else b"".join(parts)


def field(tag: int, payload: bytes) -> bytes:
    """Write a field of wire type 2. ``tag`` is below 128."""
    size = len(payload)
    return b"%c%c%b" % (tag, size, payload) if size < 0x80 else head(tag, size) + payload


def head(tag: int, size: int) -> bytes:
    """Write what stands before a payload of ``size`` bytes."""
    return b"%c%c" % (tag, size) if size < 0x80 else b"%c%b" % (tag, encode_varint(size))


def encode_varint(value: int) -> bytes:
    """Write a number that is not negative."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_utf8(text: str) -> bytes:
    """Write text; what has no encoding (half of a surrogate pair) becomes a question mark."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")
