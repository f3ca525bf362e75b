"""The few ext_proc messages that the floor reads and writes: protobuf by hand, nothing checked, nothing configurable."""

__all__ = [
    "REQUEST_BODY",
    "REQUEST_HEADERS",
    "RESPONSE_BODY",
    "RESPONSE_HEADERS",
    "RESPONSE_HEADERS_REPLY",
    "Choice",
    "body_replies",
    "body_reply",
    "read_body",
    "read_headers",
]

# ProcessingRequest: the first byte tells which message of the exchange it is.
REQUEST_HEADERS, RESPONSE_HEADERS, REQUEST_BODY, RESPONSE_BODY = 0x12, 0x1A, 0x22, 0x2A

# ProcessingResponse: what each is answered with.
_KINDS = {REQUEST_HEADERS: b"\x0a", RESPONSE_HEADERS: b"\x12", REQUEST_BODY: b"\x1a", RESPONSE_BODY: b"\x22"}

DESTINATION = b"x-gateway-destination-endpoint"

# Envoy takes no larger piece of a body in one reply (GIE cuts there too).
PIECE_BYTES = 62_000


def varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    return bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80)) + varint(number >> 14)


def nested(tag: int, content: bytes) -> bytes:
    return bytes((tag,)) + varint(len(content)) + content


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number and where it ends."""
    number = data[at]
    if number < 0x80:
        return number, at + 1
    number &= 0x7F
    shift = 7
    while True:
        at += 1
        byte = data[at]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at + 1
        shift += 7


def read_body(message: bytes) -> tuple[bytes, bool]:
    """HttpBody: ``body`` and ``end_of_stream``."""
    size, at = read_varint(message, 1)
    end = at + size
    body = b""
    if at < end and message[at] == 0x0A:
        size, at = read_varint(message, at + 1)
        body = message[at : at + size]
        at += size
    return body, at < end and message[at] == 0x10 and message[at + 1] == 1


def read_headers(message: bytes) -> dict[bytes, bytes]:
    """HttpHeaders: names and raw values."""
    _, at = read_varint(message, 1)
    headers: dict[bytes, bytes] = {}
    if message[at] != 0x0A:
        return headers
    size, at = read_varint(message, at + 1)
    end = at + size
    while at < end:
        size = message[at + 1]
        size, at = (size, at + 2) if size < 0x80 else read_varint(message, at + 1)
        last = at + size
        name = value = b""
        while at < last:
            tag = message[at]
            size = message[at + 1]
            size, at = (size, at + 2) if size < 0x80 else read_varint(message, at + 1)
            if tag == 0x0A:
                name = message[at : at + size]
            else:
                value = message[at : at + size]
            at += size
        headers[name] = value
    return headers


def set_header(name: bytes, value: bytes) -> bytes:
    """One entry of HeaderMutation.set_headers."""
    return nested(0x0A, nested(0x0A, nested(0x0A, name) + nested(0x1A, value)))


def struct_field(name: bytes, value: bytes) -> bytes:
    """One entry of google.protobuf.Struct."""
    return nested(0x0A, nested(0x0A, name) + nested(0x12, value))


class Choice:
    """An endpoint as a reply: in a header and in dynamic metadata of ``envoy.lb``; the route is to be chosen anew."""

    __slots__ = ("header", "metadata")

    def __init__(self, endpoint: bytes) -> None:
        chosen = nested(0x2A, struct_field(DESTINATION, nested(0x1A, endpoint)))
        self.header = set_header(DESTINATION, endpoint)
        self.metadata = nested(0x42, struct_field(b"envoy.lb", chosen))

    def reply(self, size_bytes: int) -> bytes:
        """The answer to request headers, with the length of the body that follows."""
        mutation = self.header + set_header(b"content-length", b"%d" % size_bytes)
        return nested(0x0A, nested(0x0A, nested(0x12, mutation) + b"\x28\x01")) + self.metadata


RESPONSE_HEADERS_REPLY = nested(0x12, nested(0x0A, nested(0x12, set_header(b"x-went-into-resp-headers", b"true"))))


def body_reply(kind: int, body: bytes, *, end: bool) -> bytes:
    """CommonResponse.body_mutation.streamed_response; the envelopes are made from the inside outwards."""
    size = len(body)
    head = b"\x0a" + varint(size) if size else b""
    tail = b"\x10\x01" if end else b""
    for tag in (b"\x1a", b"\x1a", b"\x0a", _KINDS[kind]):  # streamed_response, body_mutation, response
        head = tag + varint(size + len(head) + len(tail)) + head
    return b"".join((head, body, tail))


def body_replies(body: bytes) -> list[bytes]:
    """The request's body, given back."""
    last = max(0, len(body) - 1) // PIECE_BYTES * PIECE_BYTES
    return [body_reply(REQUEST_BODY, body[at : at + PIECE_BYTES], end=at == last) for at in range(0, last + 1, PIECE_BYTES)]
