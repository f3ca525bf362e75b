"""ext_proc messages by hand: bytes of a ProcessingRequest to an event, a reply to bytes of a ProcessingResponse.

Only the fields that the picker speaks; everything else is skipped. Writing them by hand costs a quarter of a protobuf library
here, since header maps and bodies become plain Python values at once.

Rules
-----
1. ``decode`` returns an event or raises ProtocolError, for any bytes, in time linear in their length.
2. Where a valid message says something twice, the meaning is protobuf's: a repeated embedded message is merged, a scalar
   overwritten, of a oneof the last one set holds. (Concatenated encodings are the encoding of the merged message.)
3. Stricter than protobuf: no groups (proto3 has none), no unknown body mode, no structure deeper than MAX_DEPTH.
   More lenient: header names and values are taken byte for byte, not checked to be UTF-8.

Field numbers are those of ``envoy/service/ext_proc/v3/external_processor.proto``, written as tags (number << 3 | wire type).
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from shunter.picker.core.events import (
    BodyMode,
    BodyReply,
    Event,
    HeadersReply,
    Immediate,
    Metadata,
    Mutation,
    Protocol,
    Reply,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    Side,
)
from shunter.picker.errors import ProtocolError

__all__ = ["MAX_DEPTH", "decode", "encode"]

# Metadata are a namespace's keys and, at most, lists and small structs below them; the limit keeps hostile ones off the stack.
MAX_DEPTH = 32

_VARINT, _LENGTH = 0, 2  # wire types
_WIDTHS = {1: 8, 5: 4}  # wire types of fixed width, bytes


def decode(message: bytes) -> Event:
    """Return the event in the bytes of a ProcessingRequest; raise ProtocolError if there is none."""
    kind = 0
    parts: list[bytes] = []
    context: list[bytes] = []
    announced: list[bytes] = []
    for tag, _, value in _fields(message):
        if tag in _EVENTS:
            if tag != kind:
                kind, parts = tag, []
            parts.append(value)
        elif tag == 0x42:  # metadata_context = 8
            context.append(value)
        elif tag == 0x5A:  # protocol_config = 11
            announced.append(value)
    payload = _merge(parts)
    metadata = _decode_metadata(_merge(context)) if context else {}
    protocol = _decode_protocol(_merge(announced)) if announced else None
    match kind:
        case 0x12:  # request_headers = 2
            headers, end = _decode_headers(payload)
            return RequestHeaders(headers, end, protocol, metadata)
        case 0x1A:  # response_headers = 3
            headers, end = _decode_headers(payload)
            return ResponseHeaders(headers, end, metadata, protocol)
        case 0x22:  # request_body = 4
            body, end = _decode_body(payload)
            return RequestBody(body, end, metadata)
        case 0x2A:  # response_body = 5
            body, end = _decode_body(payload)
            return ResponseBody(body, end, metadata)
        case 0x32:  # request_trailers = 6
            return RequestTrailers(metadata)
        case 0x3A:  # response_trailers = 7
            return ResponseTrailers(metadata)
        case _:
            raise ProtocolError("a ProcessingRequest without headers, body or trailers")


_EVENTS = frozenset({0x12, 0x1A, 0x22, 0x2A, 0x32, 0x3A})


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield each field's tag, its number if it is a varint, else its bytes."""
    at, size = 0, len(data)
    try:
        while at < size:
            tag = data[at]
            at += 1
            if tag > 0x7F:
                tag, at = _varint(data, at - 1)
            if not 8 <= tag < 1 << 32:
                raise ProtocolError(f"not protobuf: no field has tag {tag}")
            wire = tag & 7
            if wire == _VARINT:
                number, at = _varint(data, at)
                yield tag, number, b""
                continue
            if wire == _LENGTH:
                length = data[at]
                at += 1
                if length > 0x7F:
                    length, at = _varint(data, at - 1)
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


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a varint of at most 64 bits and where it ends; IndexError if it is cut off."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
        if shift == 70:
            raise ProtocolError("not protobuf: a varint of more than ten bytes")


def _merge(parts: Sequence[bytes]) -> bytes:
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _decode_headers(payload: bytes) -> tuple[list[tuple[str, str]], bool]:
    """Read an HttpHeaders."""
    maps: list[bytes] = []
    end = 0
    for tag, number, value in _fields(payload):
        if tag == 0x0A:  # headers = 1
            maps.append(value)
        elif tag == 0x18:  # end_of_stream = 3
            end = number
    entries = _merge(maps)
    try:
        return _read_header_map(entries) or _decode_header_map(entries), end != 0
    except IndexError:
        return _decode_header_map(entries), end != 0


def _read_header_map(data: bytes) -> list[tuple[str, str]] | None:
    """Read a HeaderMap as Envoy writes it, in a third of the time; None or IndexError if somebody else wrote it.

    Envoy writes of each entry the key (field 1) and then raw_value (field 3), which it leaves out when empty.
    """
    text = data.decode("latin-1")
    headers: list[tuple[str, str]] = []
    at, size = 0, len(data)
    while at < size:
        tag, length = data[at], data[at + 1]
        at += 2
        if length > 0x7F:
            length, at = _varint(data, at - 1)
        end = at + length
        if tag != 0x0A or end > size or data[at] != 0x0A:
            return None
        length = data[at + 1]
        at += 2
        if length > 0x7F:
            length, at = _varint(data, at - 1)
        key_end = at + length
        value = key_end
        if key_end != end:
            if data[key_end] != 0x1A:
                return None
            length = data[key_end + 1]
            value = key_end + 2
            if length > 0x7F:
                length, value = _varint(data, value - 1)
            if value + length != end:
                return None
        headers.append((text[at:key_end].lower(), text[value:end]))
        at = end
    return headers


def _decode_header_map(data: bytes) -> list[tuple[str, str]]:
    """Read a HeaderMap, whoever wrote it; raw_value is preferred to value."""
    headers: list[tuple[str, str]] = []
    for tag, _, entry in _fields(data):
        if tag != 0x0A:  # headers = 1
            continue
        key = text = raw = b""
        for part, _, value in _fields(entry):
            if part == 0x0A:
                key = value
            elif part == 0x12:
                text = value
            elif part == 0x1A:
                raw = value
        headers.append((key.decode("latin-1").lower(), (raw or text).decode("latin-1")))
    return headers


def _decode_body(payload: bytes) -> tuple[bytes, bool]:
    """Read an HttpBody."""
    body, end = b"", 0
    for tag, number, value in _fields(payload):
        if tag == 0x0A:  # body = 1
            body = value
        elif tag == 0x10:  # end_of_stream = 2
            end = number
    return body, end != 0


def _decode_protocol(data: bytes) -> Protocol:
    request = response = 0
    for tag, number, _ in _fields(data):
        if tag == 0x08:  # request_body_mode = 1
            request = number
        elif tag == 0x10:  # response_body_mode = 2
            response = number
    try:
        return Protocol(BodyMode(request), BodyMode(response))
    except ValueError as error:
        known = ", ".join(mode.name for mode in BodyMode)
        raise ProtocolError(f"protocol_config: {error}; set the body modes to one of {known}") from None


def _decode_metadata(data: bytes) -> Metadata:
    """Read a core.v3.Metadata: filter_metadata is field 1, a map of structs; the typed map is nobody's business here."""
    return {
        name: _decode_struct(value, MAX_DEPTH)
        for tag, _, entry in _fields(data)
        if tag == 0x0A
        for name, value in [_entry(entry)]
    }


def _entry(data: bytes) -> tuple[str, bytes]:
    """Read the entry of a map from string to a message."""
    name = b""
    values: list[bytes] = []
    for tag, _, value in _fields(data):
        if tag == 0x0A:
            name = value
        elif tag == 0x12:
            values.append(value)
    return _text(name), _merge(values)


def _decode_struct(data: bytes, depth: int) -> dict[str, object]:
    return {
        name: _decode_value(value, depth - 1)
        for tag, _, entry in _fields(data)
        if tag == 0x0A
        for name, value in [_entry(entry)]
    }


def _decode_value(data: bytes, depth: int) -> object:
    """Read a google.protobuf.Value: null 1, number 2, string 3, bool 4, struct 5, list 6."""
    if depth < 0:
        raise ProtocolError(f"metadata is nested deeper than {MAX_DEPTH} levels")
    kind = number = 0
    parts: list[bytes] = []
    for tag, varint, value in _fields(data):
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
            return _decode_struct(_merge(parts), depth)
        case 0x32:
            return [_decode_value(item, depth - 1) for tag, _, item in _fields(_merge(parts)) if tag == 0x0A]
        case _:
            return None


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ProtocolError("metadata: a string is not UTF-8") from None


def encode(reply: Reply) -> bytes:
    """Return the bytes of the ProcessingResponse that says ``reply``."""
    match reply:
        case HeadersReply():
            common = _encode_mutation(reply.mutation) if reply.mutation else b""
            tag = 0x0A if reply.side is Side.REQUEST else 0x12  # request_headers = 1, response_headers = 2
            return _field(tag, _field(0x0A, common) if common else b"") + _encode_metadata(reply.dynamic_metadata)
        case BodyReply():
            common = _encode_mutation(reply.mutation) if reply.mutation else b""
            if reply.streamed is not None:  # body_mutation = 3 {streamed_response = 3 {body = 1, end_of_stream = 2}}
                streamed = _field(0x0A, reply.streamed) if reply.streamed else b""
                common += _field(0x1A, _field(0x1A, streamed + b"\x10\x01" if reply.end_of_stream else streamed))
            elif reply.replaced is not None:  # body_mutation = 3 {body = 1}; of a oneof an empty body is written too
                common += _field(0x1A, _field(0x0A, reply.replaced))
            tag = 0x1A if reply.side is Side.REQUEST else 0x22  # request_body = 3, response_body = 4
            return _field(tag, _field(0x0A, common) if common else b"") + _encode_metadata(reply.dynamic_metadata)
        case Immediate():
            return _encode_immediate(reply)
        case _:
            return b"\x2a\x00" if reply.side is Side.REQUEST else b"\x32\x00"  # request_trailers = 5, response_trailers = 6


def _encode_immediate(reply: Immediate) -> bytes:
    parts = [_field(0x0A, b"\x08" + _number(reply.status))]  # status = 1 {code = 1}
    if reply.headers:
        parts.append(_field(0x12, _encode_set_headers(reply.headers)))
    if reply.body:
        parts.append(_field(0x1A, reply.body))
    if reply.details:
        parts.append(_field(0x2A, _utf8(reply.details)))
    return _field(0x3A, b"".join(parts))  # immediate_response = 7


def _encode_mutation(mutation: Mutation) -> bytes:
    """Write a CommonResponse but for its body.

    header_mutation = 2 {set_headers = 1, remove_headers = 2}, clear_route_cache = 5.
    """
    headers = _encode_set_headers(mutation.set_headers)
    headers += b"".join([_field(0x12, _name(name)) for name in mutation.remove_headers])
    common = _field(0x12, headers) if headers else b""
    return common + b"\x28\x01" if mutation.clear_route_cache else common


def _encode_set_headers(headers: Sequence[tuple[str, str]]) -> bytes:
    """Write header options with key and raw_value only: ext_proc then overwrites, whatever the client sent."""
    return b"".join(
        [
            _field(
                0x0A,
                _field(0x0A, _field(0x0A, _name(name)) + _field(0x1A, _octets(value))),
            )
            for name, value in headers
        ]
    )


def _encode_metadata(metadata: Metadata | None) -> bytes:
    """Write dynamic_metadata = 8: a struct of structs."""
    return _field(0x42, _encode_struct(metadata)) if metadata else b""


def _encode_struct(values: Mapping[str, object]) -> bytes:
    return b"".join(
        [_field(0x0A, _field(0x0A, _utf8(name)) + _field(0x12, _encode_value(value))) for name, value in values.items()]
    )


def _encode_value(value: object) -> bytes:
    match value:
        case None:
            return b"\x08\x00"
        case bool():
            return b"\x20\x01" if value else b"\x20\x00"
        case int() | float():
            return b"\x11" + struct.pack("<d", value)
        case str():
            return _field(0x1A, _utf8(value))
        case Mapping():
            return _field(0x2A, _encode_struct(cast("Mapping[str, object]", value)))
        case Sequence():
            return _field(0x32, b"".join([_field(0x0A, _encode_value(item)) for item in cast("Sequence[object]", value)]))
        case _:
            raise TypeError(f"metadata cannot hold {value!r}")


def _name(text: str) -> bytes:
    """Names are a protobuf string, which must be UTF-8; a header's name is ASCII anyway."""
    return text.encode("ascii", "replace")


def _octets(text: str) -> bytes:
    return text.encode("latin-1", "replace")


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _field(tag: int, payload: bytes) -> bytes:
    size = len(payload)
    return (bytes((tag, size)) if size < 0x80 else bytes((tag,)) + _number(size)) + payload


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
