"""What Envoy's access log sends in fluentd's forward protocol becomes records, however its bytes are cut.

A message is msgpack, ``[tag, [[seconds, {field: value}], ...]]`` with an optional map behind; messages follow each other
without a frame around them. So the end of each item has to be found before it can be decoded: elements are skipped by their
first byte, which tells their length or how many others they hold. Only entries are kept whole, and decoded by msgspec; a
message of a million entries is as cheap to hold as one of three.

An entry that is no record of ours is counted and passed over. Whatever else is wrong is a RecordsError, after which nothing
more can be read of that connection. Other modes of the protocol (one entry alone, packed, compressed) are refused too: Envoy
does not speak them.
"""

import contextlib
from enum import IntEnum
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from shunter.picker.core.usage import Usage
from shunter.picker.errors import RecordsError

__all__ = ["MAX_ITEM_BYTES", "Record", "Records"]

# Envoy's longest is about 400 bytes: nothing in it is a client's own text (a list of picks is the longest value).
MAX_ITEM_BYTES = 4096

# Of a text that goes on from here, into a journal and figures: an address, even a socket's path, has half of it. Of a list of
# picks, which has several.
Text = Annotated[str, Meta(max_length=256)]
Picks = Annotated[str, Meta(max_length=2048)]

# Beyond it a count is a mistake or a lie; it is also what JSON can carry exactly.
MOST_TOKENS = 2**53
MOST_TICKET = 2**53


class Record(msgspec.Struct, frozen=True, gc=False):
    """One request, at its end or, if it lasts, each second before. None: not known (yet)."""

    type: Literal["DownstreamEnd", "DownstreamPeriodic"]
    status: int = 0  # 0: no response (yet)
    id: Text | None = None  # the ticket
    # What the picker named: "ip:port", best first, with commas between; None: nothing, unset: it was not to be asked.
    pick: Picks | msgspec.UnsetType | None = msgspec.UNSET
    host: Text | None = None  # who got the request, in the end
    flags: Text = "-"  # Envoy's response flags: why it did not end well
    attempts: int | None = None
    sent: int = 0  # bytes
    content: Text | None = None  # the beginning of the response's content type
    first_us: int | None = None  # from the request's first byte to the first byte of the response's body
    duration_ms: int | None = None  # from there to the last byte
    prompt: float | None = None  # tokens, and so on
    completion: float | None = None
    cached: float | None = None  # of the prompt, in OpenAI's dialects, which count them as part of it
    cache_read: float | None = None  # the same in Anthropic's, which does not
    cache_write: float | None = None
    releases: str | None = None  # "yes": the picker's stream ended before the request

    @property
    def over(self) -> bool:
        """Whether the request has ended."""
        return self.type == "DownstreamEnd"

    @property
    def ticket(self) -> int | None:
        """The picker's number for the request; None if it was not asked, or another picker was."""
        text = self.id or ""
        if not (text.isascii() and text.isdecimal() and len(text) <= 16):
            return None
        ticket = int(text)
        return ticket if ticket < MOST_TICKET else None

    @property
    def streamed(self) -> bool:
        """Whether the response came in events."""
        return self.content is not None and self.content.startswith("text/event-stream")

    @property
    def usage(self) -> Usage:
        """Token counts, the prompt's with all that a cache served."""
        prompt, read, written = _tokens(self.prompt), _tokens(self.cache_read), _tokens(self.cache_write)
        if prompt is not None:
            prompt += (read or 0) + (written or 0)
        cached = _tokens(self.cached)
        return Usage(prompt, _tokens(self.completion), read if cached is None else cached)


def _tokens(value: float | None) -> int | None:
    return int(value) if value is not None and 0 <= value <= MOST_TOKENS else None


# First byte → bytes of an element that holds no other one and whose length stands in the first byte already; 0: see below.
_SIZES = bytearray(256)
_SIZES[0x00:0x80] = bytes([1]) * 128  # small numbers
_SIZES[0xE0:0x100] = bytes([1]) * 32
_SIZES[0xA0:0xC0] = bytes(range(1, 33))  # short strings
for _first, _size in {0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9}.items():  # nil, booleans, floats
    _SIZES[_first] = _size
_SIZES[0xCC:0xD4] = bytes([2, 3, 5, 9] * 2)  # integers
_SIZES[0xD4:0xD9] = bytes([3, 4, 6, 10, 18])  # extensions of fixed length

# First byte → bytes of the length that follows it, and what else is in front of the content.
_LENGTHS = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)} | {  # binary, strings
    0xC7: (1, 1),  # extensions
    0xC8: (2, 1),
    0xC9: (4, 1),
}
# First byte → bytes of the count that follows it, and how many elements each counts.
_COUNTS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}  # arrays, maps

_Entry: TypeAlias = tuple[Any, Record]
_decode = msgspec.msgpack.Decoder(_Entry).decode
_decode_message = msgspec.msgpack.Decoder(tuple[str, list[_Entry]]).decode
# What these raise: msgspec's own errors, text that is not UTF-8, bottomless nesting.
_UNREADABLE = (ValueError, RecursionError)


class _Phase(IntEnum):
    """What comes next; the last three are whole items, of the others only the head is looked at."""

    MESSAGE = 0
    ENTRIES = 1
    TAG = 2
    ENTRY = 3
    OPTIONS = 4


class Records:
    """One connection: feed it what comes, in pieces of any size."""

    def __init__(self) -> None:
        self.unread = 0  # entries that were no records
        self._buffer = bytearray()  # from the beginning of the item that is not complete
        self._at = 0  # how much of it is understood
        self._need = 1  # elements until the item is complete
        self._phase = _Phase.MESSAGE
        self._left = 0  # entries of the message
        self._options = False  # whether a map follows them

    def feed(self, data: bytes) -> list[Record]:
        """Return the records that are complete now; raise RecordsError if this is not the protocol."""
        if self._phase is _Phase.MESSAGE and not self._buffer:
            # As a rule one flush of Envoy's is one read: one call decodes it all, at an eighth of the cost (1 µs a record).
            with contextlib.suppress(*_UNREADABLE):
                return [record for _, record in _decode_message(data)[1]]
        self._buffer += data
        buffer, start, at = self._buffer, 0, self._at
        records: list[Record] = []
        while at < len(buffer):
            if self._phase <= _Phase.ENTRIES:
                size, children = _measure(buffer, at)
                if not size:
                    break
                self._open(buffer[at], children)
                at += size
            else:
                at, self._need = _skip(buffer, at, self._need, start + MAX_ITEM_BYTES)
                if self._need:
                    break
                if self._phase is _Phase.ENTRY:
                    self._take(bytes(buffer[start:at]), records)
                self._need = 1
                self._go_on()
            start = at
        del buffer[:start]
        self._at = at - start
        return records

    def _open(self, first: int, children: int) -> None:
        """Enter a message, or its list of entries, by its head."""
        if self._phase is _Phase.MESSAGE:
            if first not in {0x92, 0x93}:
                raise RecordsError(f"a message begins with byte {first:#04x}: not fluentd's forward protocol")
            self._options = first == 0x93
            self._phase = _Phase.TAG
        else:
            if not (0x90 <= first <= 0x9F or first in {0xDC, 0xDD}):
                raise RecordsError("a message without a list of entries: not the forward mode of fluentd's protocol")
            self._left = children
            self._phase = _Phase.ENTRY
            if not children:
                self._leave()

    def _take(self, entry: bytes, records: list[Record]) -> None:
        self._left -= 1
        try:
            records.append(_decode(entry)[1])
        except _UNREADABLE:
            self.unread += 1

    def _go_on(self) -> None:
        """Say what follows a whole item."""
        if self._phase is _Phase.TAG:
            self._phase = _Phase.ENTRIES
        elif self._phase is _Phase.OPTIONS:
            self._phase = _Phase.MESSAGE
        elif not self._left:
            self._leave()

    def _leave(self) -> None:
        self._phase = _Phase.OPTIONS if self._options else _Phase.MESSAGE


def _skip(data: bytearray, at: int, need: int, limit: int) -> tuple[int, int]:
    """Pass ``need`` elements from ``at`` on, and those that they hold; return how far that went and how many miss."""
    end = len(data)
    while need and at < end:
        size, children = _SIZES[data[at]], 0
        if not size:
            size, children = _measure(data, at)
        if at + size > limit:
            raise RecordsError(f"an item of more than {MAX_ITEM_BYTES} bytes")
        if not size or at + size > end:
            break
        at += size
        need += children - 1
    return at, need


def _measure(data: bytearray, at: int) -> tuple[int, int]:
    """Return how many bytes an element has, without what it holds, and how many others it holds; (0, 0): not known yet."""
    first = data[at]
    if size := _SIZES[first]:
        return size, 0
    if first < 0x90:
        return 1, 2 * (first & 0x0F)
    if first < 0xA0:
        return 1, first & 0x0F
    width, content = _LENGTHS.get(first) or _COUNTS.get(first) or (0, 0)
    if not width:
        raise RecordsError(f"byte {first:#04x}, which begins nothing in msgpack")
    if at + 1 + width > len(data):
        return 0, 0
    number = int.from_bytes(data[at + 1 : at + 1 + width], "big")
    if first in _COUNTS:
        return 1 + width, content * number
    return 1 + width + content + number, 0
