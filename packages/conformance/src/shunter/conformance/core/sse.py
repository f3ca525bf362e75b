"""A strict reader of server-sent events, for bodies that are complete.

WHATWG HTML §9.2.6 tells a browser how to make the best of any bytes. An exam wants to know whether others can rely on
them, so what a browser would silently drop is an error here: an unknown field (usually a forgotten `data:`), an event
that the end of the stream cuts off, bytes that are not UTF-8.
"""

import re
from collections.abc import Iterator

import msgspec

from shunter.conformance.core.exchange import clip
from shunter.conformance.errors import FormatError

__all__ = ["ServerSentEvent", "read_events"]

_FIELDS = frozenset({"data", "event", "id", "retry"})
_LINE_END = re.compile(r"\r\n|\n|\r")


class ServerSentEvent(msgspec.Struct, frozen=True):
    """One dispatched event; several data lines are joined by line feeds."""

    data: str
    name: str = "message"


def read_events(body: bytes) -> tuple[ServerSentEvent, ...]:
    """Read a whole stream; raises FormatError at the first line that breaks a rule."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"byte {error.start}: the stream is not UTF-8") from None
    return tuple(_read(text.removeprefix("\ufeff")))


def _read(text: str) -> Iterator[ServerSentEvent]:
    data: list[str] = []
    name = ""
    *lines, rest = _LINE_END.split(text)
    for number, line in enumerate(lines, 1):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield ServerSentEvent("\n".join(data), name or "message")
            elif name:
                raise FormatError(f"line {number}: an event without data")
            data, name = [], ""
        elif not field:
            continue  # a comment, often a heartbeat
        elif field not in _FIELDS:
            raise FormatError(f"line {number}: {clip(line)!r} is no field of an event stream (data:, event:, id:, retry:)")
        elif field == "data":
            data.append(value)
        elif field == "event":
            name = value
    if rest or data or name:
        raise FormatError(f"line {len(lines) + 1}: the stream ends inside an event: {clip(rest or ' '.join(data))!r}")
