"""ext_proc messages by hand: bytes of a ProcessingRequest to an event, a reply to bytes of a ProcessingResponse.

Only the fields that the picker speaks; everything else is skipped. By hand, because header maps and bodies become plain Python
values at once, and the picker needs neither generated code nor the protobuf library.

Rules
-----
1. ``decode`` returns an event or raises ProtocolError, for any bytes, in time linear in their length.
2. Where a valid message says something twice, the meaning is protobuf's: a repeated embedded message is merged, a scalar
   overwritten, of a oneof the last one set holds. (Concatenated encodings are the encoding of the merged message.)
3. Stricter than protobuf: no groups (proto3 has none), no unknown body mode, no structure deeper than MAX_DEPTH.
   More lenient: header names and values are taken byte for byte, not checked to be UTF-8. Of metadata that come again
   with a piece of a response (``read_piece``) only the length is read.

Field numbers are those of ``envoy/service/ext_proc/v3/external_processor.proto``, written as tags (number << 3 | wire type).
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache

from shunter.picker.core.events import (
    BodyMode,
    BodyReply,
    Event,
    HeadersReply,
    Immediate,
    Metadata,
    MoreTime,
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
from shunter.picker.transport.frames import MAX_FRAME_BYTES
from shunter.picker.transport.headers import decode_headers, read_headers
from shunter.picker.transport.metadata import decode_metadata, encode_metadata, learn_texts, renew_texts
from shunter.picker.transport.protobuf import decode_varint, encode_utf8, encode_varint, field, head, merge, walk
from shunter.picker.transport.shapes import Learnt, Shapes, UnlikeError, enter

__all__ = ["decode", "encode", "encode_pieces", "opening", "read", "read_piece", "write_piece"]


# Most often what stands behind an event is nothing, or an announcement: up to this size it is decoded once for many messages.
REMEMBERED_REST_BYTES = 32

# So is a message that says no more than that a body ends.
REMEMBERED_EVENT_BYTES = 32


def decode(message: bytes) -> Event:
    """Return the event in the bytes of a ProcessingRequest; raise ProtocolError if there is none.

    Equal bytes may give the same object, which nobody may change.
    """
    return read(message)[0]


def read(message: bytes) -> tuple[Event, bytes]:
    """Return the same, and what stands behind the event where Envoy repeats that with the next message; else nothing."""
    return _remember_event(message) if len(message) <= REMEMBERED_EVENT_BYTES else _read_event(message)


def _read_event(message: bytes) -> tuple[Event, bytes]:
    """Read headers and bodies as Envoy writes them in a third of the time that ``_decode`` takes.

    The event comes first, and of it what is not the default; after it nothing, or what concerns the stream.
    """
    try:
        kind, length, at, size = message[0], message[1], 2, len(message)
        if length > 0x7F:
            length, at = decode_varint(message, 1)
        end = at + length
        rest = message[end:]
        told = _remember_rest(rest) if len(rest) <= REMEMBERED_REST_BYTES else _read_rest(rest)
        if told is None or end > size:
            return _decode(message), b""
        metadata, protocol = told
        if kind == 0x2A or kind == 0x22:  # noqa: PLR1714  a set takes longer
            content = at
            if at < end and message[at] == 0x0A:
                length, content = decode_varint(message, at + 1)
                at = content + length
            last = at + 2 == end and message[at] == 0x10 and message[at + 1] == 0x01
            if at == end or last:
                event = ResponseBody if kind == 0x2A else RequestBody
                return event(message[content:at], last, metadata), rest
        elif kind == 0x12 or kind == 0x1A:  # noqa: PLR1714  as above
            told = read_headers(message[at:end])
            if told is not None:
                headers, last = told
                if kind == 0x12:
                    return RequestHeaders(headers, last, protocol, metadata), rest
                return ResponseHeaders(headers, last, metadata, protocol), rest
    except IndexError:
        pass
    return _decode(message), b""


_remember_event = lru_cache(maxsize=256)(_read_event)


def _decode(message: bytes) -> Event:
    """Read any message, whoever wrote it."""
    kind = 0
    parts: list[bytes] = []
    context: list[bytes] = []
    announced: list[bytes] = []
    for tag, _, value in walk(message):
        if tag in _EVENTS:
            if tag != kind:
                kind, parts = tag, []
            parts.append(value)
        elif tag == 0x42:  # metadata_context = 8
            context.append(value)
        elif tag == 0x5A:  # protocol_config = 11
            announced.append(value)
    payload = merge(parts)
    metadata = decode_metadata(merge(context)) if context else {}
    protocol = None
    if announced:
        modes = merge(announced)
        protocol = _PROTOCOLS.get(modes) or _decode_protocol(modes)
    match kind:
        case 0x12:  # request_headers = 2
            headers, end = decode_headers(payload)
            return RequestHeaders(headers, end, protocol, metadata)
        case 0x1A:  # response_headers = 3
            headers, end = decode_headers(payload)
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

Rest = tuple[Metadata, Protocol | None]


def _read_rest(data: bytes) -> Rest | None:
    """Read what stands behind the event; None if it is more than metadata and an announcement."""
    if not data:
        return {}, None
    texts = _read_texts(data)
    if texts is not None:
        return texts
    metadata: Metadata = {}
    protocol: Protocol | None = None
    seen: set[int] = set()
    for tag, _, value in walk(data):
        if tag in _EVENTS or tag in seen:
            return None
        seen.add(tag)
        if tag == 0x42:  # metadata_context = 8
            metadata = decode_metadata(value)
        elif tag == 0x5A:  # protocol_config = 11
            protocol = _PROTOCOLS.get(value) or _decode_protocol(value)
    return metadata, protocol


_remember_rest = lru_cache(maxsize=256)(_read_rest)


def _learn_texts(data: bytes, text: str) -> Learnt[Rest, tuple[str, str]]:
    """Read a rest that is metadata_context = 8 and no more."""
    begin, end = enter(data, 0, 0x42)
    if end != len(data):
        raise UnlikeError
    learnt = learn_texts(data, text, begin, end)
    return Learnt((learnt.meaning, None), learnt.places, learnt.spans)


def _renew_texts(known: Rest, places: Sequence[tuple[str, str]], values: Iterable[str]) -> Rest | None:
    metadata = renew_texts(known[0], places, values)
    return None if metadata is None else (metadata, None)


_read_texts = Shapes(_learn_texts, _renew_texts).read


def _decode_body(payload: bytes) -> tuple[bytes, bool]:
    """Read an HttpBody."""
    body, end = b"", 0
    for tag, number, value in walk(payload):
        if tag == 0x0A:  # body = 1
            body = value
        elif tag == 0x10:  # end_of_stream = 2
            end = number
    return body, end != 0


def _decode_protocol(data: bytes) -> Protocol:
    request = response = 0
    for tag, number, _ in walk(data):
        if tag == 0x08:  # request_body_mode = 1
            request = number
        elif tag == 0x10:  # response_body_mode = 2
            response = number
    try:
        return Protocol(BodyMode(request), BodyMode(response))
    except ValueError as error:
        known = ", ".join(mode.name for mode in BodyMode)
        raise ProtocolError(f"protocol_config: {error}; set the body modes to one of {known}") from None


def _write_modes(request: BodyMode, response: BodyMode) -> bytes:
    return (b"\x08%c" % request if request else b"") + (b"\x10%c" % response if response else b"")


# As everybody writes them: a lookup is cheaper than two enums.
_PROTOCOLS = {_write_modes(request, response): Protocol(request, response) for request in BodyMode for response in BodyMode}


Pieces = list[bytes | bytearray | memoryview]


def encode(reply: Reply) -> bytes:
    """Return the bytes of the ProcessingResponse that says ``reply``."""
    message = encode_pieces(reply)
    return b"".join(message) if isinstance(message, list) else message


def encode_pieces(reply: Reply) -> bytes | Pieces:
    """Return the same, in pieces if it is large: the bytes of a body that goes on are left where they are."""
    if isinstance(reply, BodyReply):
        body = reply.streamed
        if body is None or reply.mutation is not None or reply.dynamic_metadata is not None:
            return _encode_body(reply)
        # request_body = 3, response_body = 4
        lead = _remember_lead(0x22 if reply.side is _RESPONSE else 0x1A, len(body), reply.end_of_stream)
        pieces: Pieces = [lead, body, _END] if reply.end_of_stream else [lead, body]
        return pieces if len(body) > MAX_FRAME_BYTES else b"".join(pieces)
    if isinstance(reply, HeadersReply):
        tag = 0x12 if reply.side is _RESPONSE else 0x0A  # request_headers = 1, response_headers = 2
        if reply.dynamic_metadata is None:
            return _remember_headers(tag, reply.mutation)
        return _encode_headers(tag, reply.mutation) + encode_metadata(reply.dynamic_metadata)
    if isinstance(reply, Immediate):
        return _encode_immediate(reply)
    if isinstance(reply, MoreTime):
        return field(0x52, _encode_duration(reply.timeout_s))  # override_message_timeout = 10
    return b"\x32\x00" if reply.side is _RESPONSE else b"\x2a\x00"  # request_trailers = 5, response_trailers = 6


_RESPONSE = Side.RESPONSE
_END = b"\x10\x01"  # end_of_stream = 2 of a streamed response


def _encode_headers(tag: int, mutation: Mutation | None) -> bytes:
    common = _encode_mutation(mutation) if mutation else b""
    return _lead_of_headers(tag, len(common)) + common


# What is said of a response's headers is always the same.
_remember_headers = lru_cache(maxsize=16)(_encode_headers)


@lru_cache(maxsize=2048)  # endpoints have names of a few lengths
def _lead_of_headers(tag: int, size: int) -> bytes:
    """Write what stands before a CommonResponse of ``size`` bytes, in a HeadersResponse {response = 1}."""
    lead = head(0x0A, size) if size else b""
    return head(tag, len(lead) + size) + lead


def _encode_body(reply: BodyReply) -> bytes:
    """Write a BodyResponse {response = 1} with its body_mutation = 3, so that the body is copied once."""
    tag = 0x22 if reply.side is _RESPONSE else 0x1A
    lead = _encode_mutation(reply.mutation) if reply.mutation else b""
    body: bytes | bytearray | memoryview = b""
    back = b""
    if reply.streamed is not None:
        body, back = reply.streamed, _END if reply.end_of_stream else b""
        lead = _lead(tag, len(body), reply.end_of_stream, lead)
    else:
        if reply.replaced is not None:  # {body = 1}; of a oneof an empty one is written too
            body = reply.replaced
            inner = head(0x0A, len(body))
            lead += head(0x1A, len(inner) + len(body)) + inner
        if lead:
            lead = head(0x0A, len(lead) + len(body)) + lead
        lead = head(tag, len(lead) + len(body)) + lead
    return b"".join((lead, body, back, encode_metadata(reply.dynamic_metadata)))


def _lead(tag: int, size: int, end: bool, mutation: bytes = b"") -> bytes:
    """Write what stands before a body of ``size`` bytes.

    It is in {response = 1 {mutation, body_mutation = 3 {streamed_response = 3 {body = 1, end_of_stream = 2}}}}.
    """
    rest = size + len(_END) if end else size
    lead = head(0x0A, size) if size else b""
    lead = head(0x1A, len(lead) + rest) + lead
    lead = mutation + head(0x1A, len(lead) + rest) + lead
    lead = head(0x0A, len(lead) + rest) + lead
    return head(tag, len(lead) + rest) + lead


# Events of a stream come in a few lengths, large bodies in chunks of one.
_remember_lead = lru_cache(maxsize=2048)(_lead)


# -- pieces of a response's body, as most messages of a stream of events are: all that metadata tell came with its first message


def opening(rest: bytes) -> bytes:
    """Return how what stands behind an event begins if it is metadata and no more; else all of it.

    Envoy repeats the metadata of a stream with each message, but what they are a map of in any order.
    """
    if rest.startswith(b"\x42"):  # metadata_context = 8
        length, at = decode_varint(rest, 1)
        if at + length == len(rest):
            return rest[:at]
    return rest


Lead = bytes | tuple[()]


def read_piece(message: bytes, opening: bytes, rest_bytes: int) -> tuple[bytes, bool] | None:
    """Return the data of a ResponseBody and whether it is the last; None if it is anything else.

    Behind it there must be ``rest_bytes`` that begin with ``opening``; what they say nobody wants to know.
    """
    size = len(message) - rest_bytes
    if message.startswith(opening, size):
        lead, lead_of_last = _leads_of_piece(size)
        if message.startswith(lead):
            return message[len(lead) : size], False
        if message.startswith(lead_of_last) and message.startswith(_END, size - len(_END)):
            return message[len(lead_of_last) : size - len(_END)], True
    return None


@lru_cache(maxsize=2048)
def _leads_of_piece(size: int) -> tuple[Lead, Lead]:
    """Write how a message of ``size`` bytes begins that says {response_body = 5 {body = 1}}, and with end_of_stream = 2."""
    return _lead_of_piece(size, 0), _lead_of_piece(size, len(_END))


def _lead_of_piece(size: int, behind_bytes: int) -> Lead:
    for data in range(size - 2 - behind_bytes, max(size - 22, -1), -1):
        lead = head(0x0A, data) if data else b""
        lead = head(0x2A, len(lead) + data + behind_bytes) + lead
        if len(lead) + data + behind_bytes == size:
            return lead
    return _NO_LEAD


_NO_LEAD = ()  # of alternatives: no message begins like any of none


def write_piece(data: bytes) -> bytes:
    """Write the BodyReply that lets a piece of a response go on as it is."""
    return _remember_lead(0x22, len(data), False) + data


def _encode_immediate(reply: Immediate) -> bytes:
    parts = [field(0x0A, b"\x08" + encode_varint(reply.status))]  # status = 1 {code = 1}
    if reply.headers:
        parts.append(field(0x12, _encode_set_headers(reply.headers)))
    if reply.body:
        parts.append(field(0x1A, reply.body))
    if reply.details:
        parts.append(field(0x2A, encode_utf8(reply.details)))
    return field(0x3A, b"".join(parts))  # immediate_response = 7


def _encode_duration(duration_s: float) -> bytes:
    """Write a google.protobuf.Duration {seconds = 1, nanos = 2}; it is above zero."""
    seconds, nanos = divmod(round(duration_s * 1e9), 10**9)
    return (b"\x08" + encode_varint(seconds) if seconds else b"") + (b"\x10" + encode_varint(nanos) if nanos else b"")


def _encode_mutation(mutation: Mutation) -> bytes:
    """Write a CommonResponse but for its body.

    header_mutation = 2 {set_headers = 1, remove_headers = 2}, clear_route_cache = 5.
    """
    headers = _encode_set_headers(mutation.set_headers)
    if mutation.remove_headers:
        headers += b"".join([field(0x12, _name(name)) for name in mutation.remove_headers])
    common = field(0x12, headers) if headers else b""
    return common + b"\x28\x01" if mutation.clear_route_cache else common


def _encode_set_headers(headers: Sequence[tuple[str, str]]) -> bytes:
    """Write header options with key and raw_value only: ext_proc then overwrites, whatever the client sent."""
    return b"".join(
        [
            part
            for name, value in headers
            for part in (_lead_of_header(name, len(value)), value.encode("latin-1", "replace"))  # a byte for each character
        ]
    )


@lru_cache(maxsize=2048)  # the same few names, values of a few lengths
def _lead_of_header(name: str, size: int) -> bytes:
    """Write what stands before a raw_value of ``size`` bytes, in {set_headers = 1 {header = 1 {key = 1, raw_value = 3}}}."""
    lead = field(0x0A, _name(name)) + head(0x1A, size)
    lead = head(0x0A, len(lead) + size) + lead
    return head(0x0A, len(lead) + size) + lead


def _name(text: str) -> bytes:
    """Names are a protobuf string, which must be UTF-8; a header's name is ASCII anyway."""
    return text.encode("ascii", "replace")
