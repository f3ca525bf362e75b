"""W3C Trace Context: the header by which whoever asks says which trace a request belongs to.

::

    00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
    version, trace id, id of the span that asks, flags: the lowest bit of the last digit says that the trace is sampled

What does not read like that is no context (W3C Trace Context, level 1, section 3.2): upper case, version ff, an id of zeros.
A later version may have more behind a further dash, and means the same by what it has in common with this one.

Envoy says it in the metadata of the stream that it opens, and only if it traces; a client says it in a header of its request.
Where both do, Envoy's span is a child of the client's, and ours is to be a child of Envoy's.
"""

import re

import msgspec

__all__ = ["TRACEPARENT", "TraceContext", "is_sampled", "read_traceparent", "write_traceparent"]

TRACEPARENT = "traceparent"

_FORM = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)

# Where the digit with the flag stands, and what it is when the flag is set.
_LAST_DIGIT = 54
_ODD = frozenset("13579bdf")


class TraceContext(msgspec.Struct, frozen=True):
    """Where in which trace somebody is; the ids as they are written, 32 and 16 digits."""

    trace_id: str
    span_id: str
    sampled: bool


def is_sampled(text: str | None) -> bool:
    """Look at the flag alone, for a tenth of what reading costs: False is true of what is no context, True need not be."""
    return text is not None and text[_LAST_DIGIT : _LAST_DIGIT + 1] in _ODD


def read_traceparent(text: str | None) -> TraceContext | None:
    """Return what it says; None if it is no context. Never raises."""
    match = _FORM.fullmatch(text) if text is not None else None
    if match is None or (match[1] == "00" and match[5] is not None):
        return None
    return TraceContext(match[2], match[3], match[4][1] in _ODD)


def write_traceparent(context: TraceContext) -> str:
    """Return it as the next one is told."""
    return f"00-{context.trace_id}-{context.span_id}-{context.sampled:02x}"
