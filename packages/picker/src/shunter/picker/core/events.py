"""What Envoy tells a session and what a session answers, as values.

These are the messages of ``envoy.service.ext_proc.v3`` without their encoding: ``transport.wire`` turns bytes into events and
replies into bytes, ``core.session`` sees only these. Header names are lower case; values are ``str`` decoded as latin-1, so
that every byte survives the way there and back.
"""

from enum import IntEnum
from typing import ClassVar

import msgspec

__all__ = [
    "BodyMode",
    "BodyReply",
    "Event",
    "HeadersReply",
    "Immediate",
    "MoreTime",
    "Mutation",
    "Protocol",
    "Reply",
    "RequestBody",
    "RequestHeaders",
    "RequestTrailers",
    "ResponseBody",
    "ResponseHeaders",
    "ResponseTrailers",
    "Side",
    "TrailersReply",
]


class BodyMode(IntEnum):
    """``ProcessingMode.BodySendMode``: in which form Envoy sends a body and wants the answer."""

    NONE = 0
    STREAMED = 1
    BUFFERED = 2
    BUFFERED_PARTIAL = 3
    FULL_DUPLEX_STREAMED = 4


class Side(IntEnum):
    """Which half of the HTTP exchange a reply belongs to."""

    REQUEST = 0
    RESPONSE = 1


class Value(msgspec.Struct, frozen=True, gc=False):
    """Base of events and replies."""


class Protocol(Value, frozen=True, gc=False):
    """``ProtocolConfiguration`` of the first message: the body modes in force for this stream."""

    request_body: BodyMode = BodyMode.NONE
    response_body: BodyMode = BodyMode.NONE


Metadata = dict[str, dict[str, object]]
"""``metadata_context.filter_metadata``: namespace → key → plain value (str, float, bool, None, list, dict)."""


class RequestHeaders(Value, frozen=True):
    """The request's headers, pseudo headers included; ``protocol`` is None when the message carried none."""

    headers: list[tuple[str, str]]
    end_of_stream: bool = False
    protocol: Protocol | None = None
    metadata: Metadata = {}


class RequestBody(Value, frozen=True):
    """A piece of the request's body, or all of it in mode BUFFERED."""

    data: bytes
    end_of_stream: bool = False
    metadata: Metadata = {}


class RequestTrailers(Value, frozen=True):
    """The request's trailers: they end its body."""

    end_of_stream: ClassVar[bool] = True

    metadata: Metadata = {}


class ResponseHeaders(Value, frozen=True):
    """The response's headers; ``metadata`` holds the endpoint that served, if the gateway forwards it.

    ``protocol`` is not None when this is the first message of its stream: a local reply of a filter before the picker's.
    """

    headers: list[tuple[str, str]]
    end_of_stream: bool = False
    metadata: Metadata = {}
    protocol: Protocol | None = None


class ResponseBody(Value, frozen=True):
    """A piece of the response's body."""

    data: bytes
    end_of_stream: bool = False
    metadata: Metadata = {}


class ResponseTrailers(Value, frozen=True):
    """The response's trailers."""

    end_of_stream: ClassVar[bool] = True

    metadata: Metadata = {}


Event = RequestHeaders | RequestBody | RequestTrailers | ResponseHeaders | ResponseBody | ResponseTrailers


class Mutation(Value, frozen=True):
    """``CommonResponse``: what to change; ``clear_route_cache`` makes Envoy choose the route again."""

    set_headers: tuple[tuple[str, str], ...] = ()
    remove_headers: tuple[str, ...] = ()
    clear_route_cache: bool = False


class HeadersReply(Value, frozen=True):
    """The answer to headers. ``dynamic_metadata`` has the shape of ``Metadata``."""

    side: Side
    mutation: Mutation | None = None
    dynamic_metadata: Metadata | None = None


class BodyReply(Value, frozen=True):
    """The answer to a body.

    Exactly one form per mode: ``streamed`` (FULL_DUPLEX_STREAMED: the bytes that go on, with their ``end_of_stream``),
    ``replaced`` (BUFFERED, STREAMED: the new bytes) or neither (leave the body as it is).
    """

    side: Side
    mutation: Mutation | None = None
    streamed: bytes | bytearray | memoryview | None = None
    end_of_stream: bool = False
    replaced: bytes | None = None
    dynamic_metadata: Metadata | None = None


class TrailersReply(Value, frozen=True):
    """The answer to trailers: always empty."""

    side: Side


class Immediate(Value, frozen=True):
    """``ImmediateResponse``: Envoy answers the client itself; ends the stream."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    details: str = ""  # appears in Envoy's access log as %RESPONSE_CODE_DETAILS%


class MoreTime(Value, frozen=True):
    """``override_message_timeout``: the answer to what Envoy sent last takes up to ``timeout_s``.

    Envoy takes it once for each of its messages, and only up to its ``max_message_timeout``.
    """

    timeout_s: float


Reply = HeadersReply | BodyReply | TrailersReply | Immediate | MoreTime
