"""What a proxy says to a picker over ext_proc and what that answers, as plain values.

Both directions have the same six parts, so both are called by them; an immediate response is the seventh, of answers only.
"""

from enum import StrEnum
from typing import Any

import msgspec

__all__ = ["Ended", "Message", "Mode", "Part", "Reply", "Set"]


class Part(StrEnum):
    """Which part of a request or a response; the names are those of the protocol's fields."""

    NOTHING = ""
    REQUEST_HEADERS = "request_headers"
    REQUEST_BODY = "request_body"
    REQUEST_TRAILERS = "request_trailers"
    RESPONSE_HEADERS = "response_headers"
    RESPONSE_BODY = "response_body"
    RESPONSE_TRAILERS = "response_trailers"
    IMMEDIATE = "immediate_response"


class Mode(StrEnum):
    """How a proxy sends bodies, as it announces in its first message. The Endpoint Picker Protocol demands the first."""

    FULL_DUPLEX_STREAMED = "FULL_DUPLEX_STREAMED"
    BUFFERED = "BUFFERED"
    STREAMED = "STREAMED"
    NONE = "NONE"


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What the proxy says. `end` is the end of the stream; `metadata` are filter metadata by namespace."""

    part: Part
    headers: tuple[tuple[str, bytes], ...] = ()
    body: bytes = b""
    end: bool = False
    metadata: dict[str, dict[str, Any]] = {}


class Set(msgspec.Struct, frozen=True):
    """A header that the picker sets. `appends`: it stands beside what the client sent, instead of in its place."""

    name: str
    value: str
    appends: bool = False


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What the picker answers.

    `form` is the field of the body mutation that is set: `streamed_response`, `body`, `clear_body` or none. `status` is that
    of an immediate response, whose body is `body`.
    """

    part: Part
    sets: tuple[Set, ...] = ()
    removes: tuple[str, ...] = ()
    clears_route: bool = False
    form: str = ""
    body: bytes = b""
    end: bool = False
    status: int = 0
    metadata: dict[str, Any] = {}

    def header(self, name: str) -> str | None:
        """The value that it sets a header to, or None."""
        return next((each.value for each in self.sets if each.name.lower() == name), None)


class Ended(msgspec.Struct, frozen=True):
    """The picker's end of the stream: a gRPC status by name, and its message."""

    status: str
    details: str = ""

    @property
    def ok(self) -> bool:
        """Whether it meant to end the stream."""
        return self.status == "OK"

    def __str__(self) -> str:
        """The status as one reads it."""
        return f"gRPC {self.status}" + (f" ({self.details})" if self.details else "")
