"""The streams of an HTTP/2 connection: one that lives, and who ended those that do not (RFC 9113 section 5.1)."""

from typing import Protocol

import msgspec

from shunter.picker.transport.frames import Code, ConnectionFault, StreamFault

__all__ = ["NOBODY", "Listener", "Past", "Stream"]

# Ended streams that are remembered: more than can be under way while a frame of ours travels.
_REMEMBERED = 4000


class Listener(Protocol):
    """Whom a stream is for: is told what comes of it, in order, and may answer meanwhile."""

    def receive(self, data: bytes, end_stream: bool) -> None:
        """Take a piece of the request's content."""
        ...

    def finish(self, trailers: dict[str, str]) -> None:
        """Take the trailers of the request, which end it."""
        ...

    def lose(self, code: int) -> None:
        """Note that the stream is gone, by the peer's will or by its fault: nothing more comes of it, nothing can be sent."""
        ...


class _Nobody:
    """Listens to streams that are of no interest, any more or yet."""

    def receive(self, data: bytes, end_stream: bool) -> None:
        pass

    def finish(self, trailers: dict[str, str]) -> None:
        pass

    def lose(self, code: int) -> None:
        pass


NOBODY = _Nobody()


class Stream(msgspec.Struct, eq=False):
    """One request and its answer, as far as HTTP/2 is concerned; it lives until the answer has ended."""

    id: int
    sendable: int
    """Bytes that the peer's window lets through; below 0 after it made that smaller."""
    receivable: int = 0
    """Bytes of the window that the peer has."""
    listener: Listener = NOBODY
    open: bool = True
    """The peer may send."""
    expected_bytes: int | None = None
    """Left of content-length."""
    answered: bool = False
    waiting: bytearray = bytearray()
    """Data of the answer that no window let through."""
    ending: bytes | None = None
    """What follows that data: the block of the trailers, empty if just the end. Once it is said, nothing more can be."""

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
