"""Promise: any bytes are an event or a ProtocolError, and every reply that a session makes of them can be written."""

from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.errors import ProtocolError
from shunter.picker.testing import StubJudge
from shunter.picker.transport.wire import decode, encode

LIMITS = Limits(body_bytes=1 << 16, buffered_bytes=1 << 17)

CORPUS = [
    # request_headers {headers {headers {key: ":path" raw_value: "/v1/completions"}}} protocol_config {BUFFERED, STREAMED}
    b"\x12\x1c\x0a\x1a\x0a\x18\x0a\x05:path\x1a\x0f/v1/completions\x5a\x04\x08\x02\x10\x01",
    # the same with value instead of raw_value, end_of_stream and an empty metadata_context
    b"\x12\x1e\x0a\x1a\x0a\x18\x0a\x05:path\x12\x0f/v1/completions\x18\x01\x42\x00",
    # request_body {body: "{}" end_of_stream: true}
    b"\x22\x06\x0a\x02{}\x10\x01",
    # response_body {body: "{}"} with metadata envoy.lb {x: "a", y: 1.0, z: [null, true]}
    (
        b"\x2a\x04\x0a\x02{}\x42\x39\x0a\x37\x0a\x08envoy.lb\x12\x2b\x0a\x08\x0a\x01x\x12\x03\x1a\x01a"
        b"\x0a\x0e\x0a\x01y\x12\x09\x11\x00\x00\x00\x00\x00\x00\xf0\x3f"
        b"\x0a\x0f\x0a\x01z\x12\x0a\x32\x08\x0a\x02\x08\x00\x0a\x02\x20\x01"
    ),
    # trailers of both sides
    b"\x32\x00",
    b"\x3a\x00",
]


def target(data: bytes) -> None:
    session = Session(StubJudge(), LIMITS, Budget(LIMITS.buffered_bytes))
    try:
        for reply in session.feed(decode(data), 0.0):
            encode(reply)
    except ProtocolError:
        pass
    session.close(1.0)
