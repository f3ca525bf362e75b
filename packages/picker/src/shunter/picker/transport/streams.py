"""The streams of an HTTP/2 connection: one that lives, and who ended those that do not (RFC 9113 section 5.1)."""

from shunter.picker.transport.frames import Code, ConnectionFault, StreamFault
from shunter.picker.transport.outbox import Outgoing

__all__ = ["Past", "Stream"]

# Ended streams that are remembered: more than can be under way while a frame of ours travels.
_REMEMBERED = 4000


class Stream(Outgoing):
    """One request and its answer, as far as HTTP/2 is concerned; it lives until the answer has ended."""

    __slots__ = ("expected_bytes", "open", "receivable")

    def __init__(self, stream_id: int, receivable: int, sendable: int) -> None:
        super().__init__(stream_id, sendable)
        self.open = True  # the peer may send
        self.receivable = receivable  # bytes of the window it has for that
        self.expected_bytes: int | None = None  # left of content-length

    def take_content(self, size: int, *, end_stream: bool) -> None:
        """Hold the request to its content-length (section 8.1.1), if it has one."""
        if self.expected_bytes is None:
            return
        self.expected_bytes -= size
        if self.expected_bytes < 0 or (end_stream and self.expected_bytes):
            raise StreamFault(self.id, Code.PROTOCOL_ERROR, "content-length is not the length of the content")


class Past:
    """The streams that ended lately. What the peer sent on one that we ended, before it learned that, is no fault."""

    def __init__(self) -> None:
        self._by_us: dict[int, bool] = {}

    def remember(self, stream_id: int, *, by_us: bool) -> None:
        """Note who ended a stream: we, before the peer had, or the peer."""
        self._by_us[stream_id] = by_us
        if len(self._by_us) > 2 * _REMEMBERED:
            self._by_us = dict([*self._by_us.items()][_REMEMBERED:])

    def judge(self, stream_id: int) -> None:
        """Judge a frame of a stream that is over: let it pass, or raise what it deserves."""
        by_us = self._by_us.get(stream_id)
        if by_us is None:
            raise ConnectionFault(Code.PROTOCOL_ERROR, f"stream {stream_id}, which was passed over or is long gone")
        if not by_us:
            raise ConnectionFault(Code.STREAM_CLOSED, f"a frame of stream {stream_id} after its end")
