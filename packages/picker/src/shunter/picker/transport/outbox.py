"""The sending half of an HTTP/2 connection: what may go out now, and what waits for a window (RFC 9113 section 5.2)."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from shunter.picker.core.limits import Budget
from shunter.picker.transport import frames
from shunter.picker.transport.frames import MAX_FRAME_BYTES, MAX_WINDOW_BYTES, Flag, Kind
from shunter.picker.transport.patience import Patience
from shunter.picker.transport.streams import Stream

__all__ = ["WINDOW_BYTES", "Outbox", "Piece"]

# A window before anybody said anything (section 6.9.2).
WINDOW_BYTES = 65_535

# Our first header block says that we use no dynamic table. It would have to be said after the peer allows us a smaller one than
# ours (RFC 7541 section 4.2); so it is true before, and stays so.
_TABLE_OF_NOTHING = b"\x20"

# Taken at once where there are large answers. A kernel would take ten megabytes, in 5 ms.
_PART_BYTES = 512 << 10

# Pieces no larger than this on average are joined: a frame more for each of larger ones is cheaper than their bytes once more.
_SMALL_BYTES = MAX_FRAME_BYTES // 2


Piece = bytes | bytearray | memoryview


class Outbox:
    """All frames on their way to the peer.

    ``waiting`` is the budget of what waits in streams. ``on_end`` is called with a stream whose end has been written,
    ``on_room`` when some of what waited in it has been, ``on_excess`` when the budget does not have what it wants to say.
    """

    def __init__(
        self,
        patience: Patience,
        waiting: Budget,
        *,
        on_end: Callable[[Stream], None],
        on_room: Callable[[Stream], None],
        on_excess: Callable[[Stream], None],
    ) -> None:
        self._frames: list[Piece] = []
        self._much = False  # there are large ones among them
        self._waiting = waiting
        self._patience = patience
        self.initial_sendable = WINDOW_BYTES
        self._sendable = WINDOW_BYTES
        self._blocked: OrderedDict[int, Stream] = OrderedDict()  # by the connection's window, longest first
        self._table_size = _TABLE_OF_NOTHING
        self._on_end = on_end
        self._on_room = on_room
        self._on_excess = on_excess

    def append(self, frame: bytes) -> None:
        """Write any frame that no window holds back."""
        self._frames.append(frame)

    @property
    def empty(self) -> bool:
        """Whether nothing is left to be taken."""
        return not self._frames

    def take(self) -> list[Piece]:
        """Return what is to be written, once: in one piece, or if it is much a part as it is, for joining would copy it."""
        out = self._frames
        if self._much:
            size = count = 0
            while count < len(out) and size < _PART_BYTES:
                size += len(out[count])
                count += 1
            self._frames = out[count:]
            self._much = bool(self._frames)
            return out[:count]
        self._frames = []
        return [b"".join(out)] if out else out

    def send_headers(self, stream: Stream, block: bytes) -> None:
        """Begin the answer, with an encoded block of less than MAX_FRAME_BYTES."""
        if stream.ending is None:
            self._write_block(stream, block, Flag.END_HEADERS)

    def send_data(self, stream: Stream, pieces: Sequence[Piece], *, end_stream: bool = False) -> None:
        """Go on with the answer, as far as the windows allow; the rest follows by itself."""
        if stream.ending is not None:
            return
        size = sum(map(len, pieces))
        self._patience.worked_bytes += size
        if not stream.waiting and ((size <= self._sendable and size <= stream.sendable) or not size):
            self._sendable -= size
            stream.sendable -= size
            if size <= MAX_FRAME_BYTES:
                self._frames.append(frames.pack_head(size >> 8, size & 0xFF, Kind.DATA, end_stream, stream.id))
                self._frames += pieces
            else:
                self._write_much(stream, pieces, size, end_stream=end_stream)
            if end_stream:
                self._on_end(stream)
            return
        if not self._waiting.take(size):
            self._on_excess(stream)
            return
        for piece in pieces:
            stream.waiting += piece
        if end_stream:
            stream.ending = b""
        self.flush(stream)

    def _write_much(self, stream: Stream, pieces: Sequence[Piece], size: int, *, end_stream: bool) -> None:
        """Write more than a frame holds."""
        if size <= _SMALL_BYTES * len(pieces):
            pieces = (b"".join(pieces),)
        self._much = True
        for piece in pieces:
            view = memoryview(piece)
            for at in range(0, len(piece), MAX_FRAME_BYTES):
                part = view[at : at + MAX_FRAME_BYTES]
                size -= len(part)
                self._frames += (frames.head(Kind.DATA, int(end_stream and not size), stream.id, len(part)), part)

    def send_trailers(self, stream: Stream, block: bytes) -> None:
        """End the answer after all data, with an encoded block of less than MAX_FRAME_BYTES."""
        if stream.ending is None:
            if stream.waiting:
                stream.ending = block
            else:
                self._write_end(stream, block)

    def _write_end(self, stream: Stream, block: bytes) -> None:
        self._write_block(stream, block, Flag.END_HEADERS | Flag.END_STREAM)
        self._on_end(stream)

    def _write_block(self, stream: Stream, block: bytes, flags: int) -> None:
        if self._table_size:
            block, self._table_size = self._table_size + block, b""
        stream.answered = True
        size = len(block)
        self._frames += (frames.pack_head(size >> 8, size & 0xFF, Kind.HEADERS, flags, stream.id), block)

    def flush(self, stream: Stream) -> None:
        """Write what waits in a stream as far as the windows allow."""
        waiting = stream.waiting
        while waiting:
            size = min(len(waiting), MAX_FRAME_BYTES, self._sendable, stream.sendable)
            if size <= 0:
                if self._sendable <= 0:
                    self._blocked[stream.id] = stream
                break
            self._sendable -= size
            stream.sendable -= size
            self._waiting.give(size)
            last = stream.ending == b"" and size == len(waiting)
            self._frames.append(frames.head(Kind.DATA, int(last), stream.id, size) + waiting[:size])
            self._much |= size == MAX_FRAME_BYTES
            del waiting[:size]
        if waiting or stream.ending is None:
            self._on_room(stream)
        elif stream.ending:
            self._write_end(stream, stream.ending)
        else:
            self._on_end(stream)

    def forget(self, stream: Stream) -> None:
        """Throw away what waits in a stream that is gone."""
        self._waiting.give(len(stream.waiting))
        self._blocked.pop(stream.id, None)

    def widen(self, increment: int) -> bool:
        """Widen the connection's window and let flow what waited for it; return False if it would be too wide."""
        self._sendable += increment
        if self._sendable > MAX_WINDOW_BYTES:
            return False
        while self._blocked and self._sendable > 0:
            _, stream = self._blocked.popitem(last=False)
            self.flush(stream)
        return True

    def widen_stream(self, stream: Stream, increment: int) -> bool:
        """Do the same for a stream. The increment may be negative (section 6.9.2)."""
        stream.sendable += increment
        if stream.sendable > MAX_WINDOW_BYTES:
            return False
        if stream.waiting:
            self.flush(stream)
        return True
