"""The receiving half of HTTP/1.1 for one GET of one page: a machine that is given bytes and says when the body is whole.

Written for one purpose, hence small: a page comes whole and plain or it is an error. Bodies are delimited by
``Content-Length``, by chunks or by the end of the connection (RFC 9112, section 6.3). Refused, with a reason to act on:
every status but 200 (redirects lead where nobody vouched for), every content coding (none was offered), anything larger
than the limit.

The socket is read straight into the machine's buffer, and the page can be read there: it need not be copied. Buffers are
lent by ``spare`` from the first byte until the page has been read (a fresh one costs more than all the parsing: the kernel
has to hand out its pages again), so that a thousand servers need as many as answer at the same moment::

    response = Response(limit_bytes, spare)
    while not response.done:
        response.received(sock.recv_into(response.room()))  # or response.ended()
    response.content[response.start:response.stop], response.reusable
    response.release()
"""

import re
from functools import lru_cache
from typing import NamedTuple

from shunter.scraper.core.excerpt import excerpt
from shunter.scraper.core.exposition import MAX_PAGE_BYTES
from shunter.scraper.errors import ResponseError

__all__ = ["Response"]

# Model servers send a few hundred bytes of header; 16 KiB is the most that common servers accept.
MAX_HEAD_BYTES = 16 << 10
# A chunk's size line, or a trailer: 16 digits and whatever extension somebody dreamt up.
MAX_LINE_BYTES = 1 << 10
# Reading less at a time costs more in system calls than it saves in memory.
MIN_ROOM_BYTES = 16 << 10
FIRST_ROOM_BYTES = 64 << 10
# What spare buffers may hold on to, 8 MiB in all: ordinary pages need 64 to 128 KiB, and a giant's buffer is let go.
MAX_SPARE_BYTES = 256 << 10
MAX_SPARES = 32

_STATUS = re.compile(rb"HTTP/1\.([01]) ([0-9]{3})(?: (.*))?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*)")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,12})[ \t]*(?:;.*)?")


class _Head(NamedTuple):
    """What a header means; the body has a ``length`` in bytes, or comes in chunks, or lasts to the end of the connection."""

    interim: bool = False
    reusable: bool = False
    chunked: bool = False
    length: int | None = None


@lru_cache(maxsize=256)  # a server's says the same for a second, then it has another date; 4 MiB if all are as long as allowed
def _read_head(head: bytes) -> _Head:
    """Read what stands before the empty line; raises ResponseError."""
    first, *lines = head.split(b"\r\n")
    status = _STATUS.fullmatch(first)
    if status is None:
        raise ResponseError(f"not HTTP/1.1: {excerpt(first)}")
    fields: dict[bytes, list[bytes]] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise ResponseError(f"not a header field: {excerpt(line)}")
        fields.setdefault(field[1].lower(), []).append(field[2].strip().lower())
    if status[2].startswith(b"1"):
        return _Head(interim=True)
    if status[2] != b"200":
        location = fields.get(b"location", [b""])[0]
        to = f" to {excerpt(location)} (redirects are not followed)" if location else ""
        raise ResponseError(f"status {status[2].decode()} {excerpt(status[3] or b'')}".rstrip() + to)
    codings = b",".join(fields.get(b"content-encoding", [b"identity"]))
    if codings != b"identity":
        raise ResponseError(f"content coding {excerpt(codings)}, though none was offered")
    reusable = status[1] == b"1" and b"close" not in b",".join(fields.get(b"connection", []))
    codings, lengths = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    if codings:
        if codings != [b"chunked"] or lengths:
            raise ResponseError("a transfer coding other than chunked, or a length beside it")
        return _Head(reusable=reusable, chunked=True)
    if lengths:
        if len(set(lengths)) > 1 or not _LENGTH.fullmatch(lengths[0]):
            raise ResponseError(f"not a content length: {excerpt(b', '.join(lengths))}")
        return _Head(reusable=reusable, length=int(lengths[0]))
    return _Head(reusable=reusable)


class Response:
    """One response, from its first byte to its last."""

    def __init__(self, limit_bytes: int = MAX_PAGE_BYTES, spare: list[bytearray] | None = None) -> None:
        """Refuse bodies over ``limit_bytes``; take the buffer from ``spare`` and give it back."""
        self.done = False
        self.content: bytes | bytearray = b""
        """When done: what the body is in, from ``start`` to ``stop``."""
        self.start = self.stop = 0
        self.reusable = False
        """Whether the connection may carry another request."""
        self._limit_bytes = limit_bytes
        self._spare: list[bytearray] = [] if spare is None else spare
        self._buffer = bytearray()
        self._filled = 0
        self._position = 0  # what lies before has been understood
        self._searched = 0  # up to here there is no end of the line, or head, that is wanted next
        self._step = self._head
        self._length = 0  # of the body, or of the chunk
        self._chunks: list[bytearray] = []

    @property
    def begun(self) -> bool:
        """Whether a byte has arrived."""
        return self._filled > 0

    @property
    def body(self) -> bytes:
        """A copy of the body, once done and before ``release``."""
        return bytes(self.content[self.start : self.stop])

    def release(self) -> None:
        """Give the buffer back; the content is no longer valid."""
        self.content = b""
        self.start = self.stop = 0
        if 0 < len(self._buffer) <= MAX_SPARE_BYTES and len(self._spare) < MAX_SPARES:
            self._spare.append(self._buffer)
        self._buffer = bytearray()

    def room(self) -> memoryview:
        """Return where to put what arrives next; valid until ``received``."""
        if not self._buffer:
            self._buffer = self._spare.pop() if self._spare else bytearray(FIRST_ROOM_BYTES)
        elif len(self._buffer) - self._filled < MIN_ROOM_BYTES:
            # A new buffer, not a longer one: whoever still holds a view of this one would forbid resizing it.
            self._buffer = self._buffer + bytearray(len(self._buffer))
        return memoryview(self._buffer)[self._filled :]

    def received(self, count: int) -> None:
        """Take note of ``count`` bytes in the room; raises ResponseError."""
        self._filled += count
        if self._filled > 2 * self._limit_bytes + MAX_HEAD_BYTES:  # chunks so small that they are mostly frame
            raise self._too_large()
        while not self.done and self._step():
            pass

    def ended(self) -> None:
        """Take note of the end of the connection; raises ResponseError unless that is what ends the body."""
        if self._step != self._until_end:
            where = "in the middle of the response" if self.begun else "without a response"
            raise ResponseError(f"the server closed the connection {where}")
        self._finish(self._buffer, self._position, self._filled)
        self.reusable = False

    # Each step returns whether it got further; if not, more bytes are needed.

    def _head(self) -> bool:
        head = self._take(b"\r\n\r\n", MAX_HEAD_BYTES, "header")
        if head is None:
            return False
        told = _read_head(head)
        if told.interim:
            return True  # the real one follows
        self.reusable = told.reusable
        if told.chunked:
            self._step = self._chunk_line
        elif told.length is None:
            self._step = self._until_end
        else:
            self._length = told.length
            if self._length > self._limit_bytes:
                raise self._too_large()
            self._step = self._fixed
        return True

    def _fixed(self) -> bool:
        end = self._position + self._length
        if self._filled < end:
            return False
        self.reusable = self.reusable and self._filled == end
        return self._finish(self._buffer, self._position, end)

    def _until_end(self) -> bool:
        if self._filled - self._position > self._limit_bytes:
            raise self._too_large()
        return False

    def _chunk_line(self) -> bool:
        line = self._take(b"\r\n", MAX_LINE_BYTES, "chunk size")
        if line is None:
            return False
        size = _CHUNK.fullmatch(line)
        if size is None:
            raise ResponseError(f"not a chunk size: {excerpt(line)}")
        self._length = int(size[1], 16)
        self._step = self._chunk if self._length else self._trailer
        return True

    def _chunk(self) -> bool:
        end = self._position + self._length
        if self._length > self._limit_bytes:
            raise self._too_large()
        if self._filled < end + 2:
            return False
        if not self._buffer.startswith(b"\r\n", end):
            raise ResponseError("a chunk is longer than its size")
        self._chunks.append(self._buffer[self._position : end])
        self._position = self._searched = end + 2
        self._step = self._chunk_line
        return True

    def _trailer(self) -> bool:
        line = self._take(b"\r\n", MAX_LINE_BYTES, "trailer")
        if line is None:
            return False
        if line:
            return True
        self.reusable = self.reusable and self._filled == self._position
        content = b"".join(self._chunks)
        return self._finish(content, 0, len(content))

    def _take(self, end: bytes, limit_bytes: int, what: str) -> bytes | None:
        """Return what comes before the next ``end`` and go behind it; None if that has not arrived."""
        found = self._buffer.find(end, self._searched, self._filled)
        stop = found if found >= 0 else self._filled
        if stop - self._position > limit_bytes:
            raise ResponseError(f"a {what} of more than {limit_bytes} bytes")
        if found < 0:
            self._searched = max(self._position, self._filled - len(end) + 1)
            return None
        taken = bytes(self._buffer[self._position : found])
        self._position = self._searched = found + len(end)
        return taken

    def _finish(self, content: bytes | bytearray, start: int, stop: int) -> bool:
        if stop - start > self._limit_bytes:
            raise self._too_large()
        self.content, self.start, self.stop, self.done = content, start, stop, True
        return True

    def _too_large(self) -> ResponseError:
        return ResponseError(f"the page is larger than {self._limit_bytes} bytes")
