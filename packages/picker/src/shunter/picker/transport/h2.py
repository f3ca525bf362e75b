"""The server's end of an HTTP/2 connection (RFC 9113), without IO: bytes in, calls of those who listen and bytes out.

Rules
-----
1. No socket, task or clock. ``receive`` takes what was read and tells what it means, frame by frame, to whom it concerns, who
   may answer at once; ``take`` returns what is to be written. Both are the same however the bytes are cut.
2. Nothing the peer sends raises: a fault of a stream becomes RST_STREAM, one of the connection GOAWAY and ``closed``.
3. Everything a peer can make grow has a bound in ``Terms`` or a constant below, and a code with which it ends.

Theory of operation
-------------------
A stream is in ``_streams`` until its answer has ended; of those that ended lately, the connection remembers who ended them,
because what the peer sent before it learned that is no fault (section 5.1). ``accept`` is called with each new stream and gives
it a listener, which is called until the stream is gone. The application answers with ``send_headers``, ``send_data`` and
``send_trailers``; what a window does not let through waits in the stream, and the end waits behind it. Sending on a stream that
is gone does nothing: its listener has lost it.

Windows of the peer are kept open by themselves, for what is received is consumed at once, with one exception: a stream whose
answers wait gets no more to send. That is the back-pressure against a peer that talks and does not listen.

What the peer can do to annoy, and what it costs it:

========================================== ===========================================================================
PING, SETTINGS, PRIORITY, WINDOW_UPDATE,   counted in bytes against those that carry work; ENHANCE_YOUR_CALM above
frames that are empty or unknown           CONTROL_BYTES more
requests reset before they are answered,   counted against those answered; ENHANCE_YOUR_CALM above RESETS more. (Envoy ends
or that we must reset or refuse            every normal stream by RST_STREAM: one that was answered counts for it)
a header block that goes on and on         BLOCK_BYTES, CONTINUATIONS, FIELDS_BYTES; ENHANCE_YOUR_CALM
more streams than allowed                  REFUSED_STREAM
more data than a window                    FLOW_CONTROL_ERROR
answers it does not take                   a budget of all connections; the stream is reset with ENHANCE_YOUR_CALM
========================================== ===========================================================================

The first two are counted in ``transport.patience``, windows and what waits for them are in ``transport.outbox``.
"""

from collections.abc import Callable
from itertools import repeat

import msgspec

from shunter.picker.core.limits import Budget
from shunter.picker.transport import fields, frames
from shunter.picker.transport.blocks import FIELDS_BYTES, Block, Blocks
from shunter.picker.transport.frames import (
    HEAD_BYTES,
    MAX_FRAME_BYTES,
    MAX_WINDOW_BYTES,
    PREFACE,
    Code,
    ConnectionFault,
    Flag,
    Kind,
    Setting,
    StreamFault,
    read_head,
)
from shunter.picker.transport.outbox import WINDOW_BYTES, Outbox
from shunter.picker.transport.patience import Patience
from shunter.picker.transport.streams import NOBODY, Listener, Past, Stream

__all__ = ["Accept", "Connection", "Terms"]

# Answers that wait on one stream until its sender is made to wait too.
_WAITING_BYTES = 256 * 1024

_LEAVING = b"leaving."  # the PING by whose answer we know that the peer has seen our first GOAWAY


class Terms(msgspec.Struct, frozen=True):
    """What the peer may do.

    ``streams``: open at once; every live request of a gateway holds one.
    ``stream_window_bytes``: under way on one stream; a 500 KB prompt should not have to wait for a WINDOW_UPDATE.
    ``window_bytes``: under way on the connection; sixteen such streams at full speed, whatever the socket holds.
    ``waiting_bytes``: answers of all streams that wait for the peer's windows, as they do when an Envoy's clients read slowly;
    a connection that has others beside it is given a budget for that, which they share.
    """

    streams: int = 65_536
    stream_window_bytes: int = 1 << 20
    window_bytes: int = 16 << 20
    waiting_bytes: int = 256 << 20


Accept = Callable[[Stream, dict[str, str], bool], None]
"""Called with a new stream, the fields of its request, which others share (look, don't touch), and whether that has ended."""


class Connection:
    """One connection, from its first byte. See the head of this file."""

    def __init__(self, accept: Accept, terms: Terms | None = None, waiting: Budget | None = None) -> None:
        self.greeted = False  # the peer has shown that it speaks HTTP/2
        self.closed = False  # the peer broke the protocol: write what is left and close
        self.fault = ""  # how
        self.leaving = False  # the peer has been told to go elsewhere
        self._accept = accept
        self._terms = terms = terms or Terms()
        self._patience = Patience()
        self._buffer = b""
        self.untold: list[Listener] = []
        """Who sent more than is taken, and does not know yet that its stream is gone."""
        self._streams: dict[int, Stream] = {}
        self._past = Past()
        self._last_id = 0
        self._blocks = Blocks()
        self._receivable = terms.window_bytes
        self._half_bytes, self._half_stream_bytes = terms.window_bytes >> 1, terms.stream_window_bytes >> 1
        self._final_id: int | None = None  # no stream above it will be served
        self._outbox = Outbox(
            self._patience,
            waiting or Budget(terms.waiting_bytes),
            on_end=self._end,
            on_room=self._replenish,
            on_excess=self._give_up,
        )
        self.send_headers = self._outbox.send_headers
        self.send_data = self._outbox.send_data
        self.send_trailers = self._outbox.send_trailers
        self.take_pieces = self._outbox.take
        """As ``take``, without copying what is large; of much a part, until ``drained``."""
        self._outbox.append(
            frames.settings(
                {
                    Setting.MAX_CONCURRENT_STREAMS: terms.streams,
                    Setting.INITIAL_WINDOW_SIZE: terms.stream_window_bytes,
                    Setting.MAX_HEADER_LIST_SIZE: FIELDS_BYTES,
                }
            )
        )
        self._outbox.append(frames.update_window(0, terms.window_bytes - WINDOW_BYTES))

    @property
    def done(self) -> bool:
        """Whether nothing more will happen here: write what is left and close."""
        return self.closed or (self._final_id is not None and not self._streams)

    @property
    def drained(self) -> bool:
        """Whether nothing is left to be written."""
        return self._outbox.empty

    def take(self) -> bytes:
        """Return what is to be written, once."""
        return b"".join([piece for pieces in iter(self._outbox.take, []) for piece in pieces])

    def forgive(self) -> None:
        """Begin to count anew what a peer may do only so often."""
        self._patience.forgive()

    def ping(self) -> None:
        """Ask the peer for a sign of life."""
        self._outbox.append(frames.head(Kind.PING, 0, 0, 8) + b"alive?  ")

    def leave(self) -> None:
        """Begin to go: the peer learns it at once, and one round trip later which stream was the last (section 6.8)."""
        if not self.leaving and not self.closed:
            self.leaving = True
            self._outbox.append(frames.go_away(MAX_WINDOW_BYTES, Code.NO_ERROR, "leaving"))
            self._outbox.append(frames.head(Kind.PING, 0, 0, 8) + _LEAVING)

    def receive(self, data: bytes) -> None:
        """Take what was read; tell what happens."""
        if self.closed:
            return
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        at, size = 0, len(data)
        blocks = self._blocks
        try:
            if not self.greeted:
                at = self._check_preface(data)
            while size - at >= HEAD_BYTES:
                high, low, kind, flags, stream_id = read_head(data, at)
                length = high << 8 | low
                if length > MAX_FRAME_BYTES or blocks.unfinished is not None or not self.greeted:
                    self._check_head(length, kind, flags)
                begin = at + HEAD_BYTES
                if begin + length > size:
                    break
                at = begin + length
                try:
                    self._HANDLERS[kind](self, flags, stream_id & MAX_WINDOW_BYTES, data[begin:at])
                except StreamFault as fault:
                    self._reset(fault.stream_id, fault.code)
        except ConnectionFault as fault:
            self._fail(fault)
        else:
            self._buffer = data[at:] if self.greeted else data  # what is not a whole frame
        if self.untold:
            self.tell()

    def tell(self) -> None:
        """Tell them: not while they send, but as soon as they have."""
        lost, self.untold = self.untold, []
        for listener in lost:
            listener.lose(Code.ENHANCE_YOUR_CALM)

    def lose(self, code: Code = Code.CANCEL) -> None:
        """Note that the connection is gone, and every stream with it."""
        for stream in [*self._streams.values()]:
            self._forget(stream, by_us=False).lose(code)

    def _check_preface(self, data: bytes) -> int:
        """Return where the frames begin."""
        if not data.startswith(PREFACE[: len(data)]):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "not the preface of HTTP/2")
        return len(PREFACE)

    def _check_head(self, length: int, kind: int, flags: int) -> None:
        """Judge the head of a frame where not just any frame may come."""
        if length > MAX_FRAME_BYTES:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
        if self._blocks.unfinished is not None and kind != Kind.CONTINUATION:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a header block is interrupted")
        if not self.greeted:
            if kind != Kind.SETTINGS or flags & Flag.ACK:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self.greeted = True

    # -- frames, each by flags, stream id and payload ----------------------------------------------------------------

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        self._receivable -= size
        if self._receivable < self._half_bytes:
            self._replenish_connection()
        end_stream = False
        if flags:
            end_stream = flags & Flag.END_STREAM != 0
            if flags & Flag.PADDED:
                payload = frames.unpad(payload, flags)
        if payload or end_stream:
            self._patience.worked_bytes += size
        else:
            self._patience.control(size)
        stream = self._streams.get(stream_id)
        if stream is None:
            self._refer_to_ended(stream_id)
            return
        if not stream.open:
            raise StreamFault(stream_id, Code.STREAM_CLOSED, "DATA after the end")
        stream.receivable -= size
        if stream.expected_bytes is not None:
            stream.take_content(len(payload), end_stream=end_stream)
        if end_stream:
            stream.open = False
        if stream.receivable < self._half_stream_bytes:
            self._replenish(stream)
        stream.listener.receive(payload, end_stream)

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id & 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, f"a request on stream {stream_id}")
        block = self._blocks.begin(flags, stream_id, payload)
        if block is not None:
            self._on_block(block)

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = self._blocks.go_on(flags, stream_id, payload)
        if block is not None:
            self._on_block(block)

    def _on_block(self, block: Block) -> None:
        """Take a whole header block: it opens a stream or ends it."""
        self._patience.worked_bytes += HEAD_BYTES + len(block.data)
        stream_id = block.stream_id
        if stream_id > self._last_id:
            self._last_id = stream_id
            self._open(block)
            return
        stream = self._streams.get(stream_id)
        pairs = self._blocks.decode(block)
        if stream is None:
            self._refer_to_ended(stream_id)
            return
        if not stream.open:
            raise StreamFault(stream_id, Code.STREAM_CLOSED, "HEADERS after the end")
        if not block.end_stream:
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR, "trailers that do not end the stream")
        stream.take_content(0, end_stream=True)
        try:
            trailers = fields.read_trailers(pairs)
        except fields.MalformedError as error:
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR, str(error)) from None
        stream.open = False
        stream.listener.finish(trailers)

    def _open(self, block: Block) -> None:
        stream_id = block.stream_id
        request = self._blocks.read_request(block)
        if block.depends_on == stream_id:
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR, "a stream that depends on itself")
        if self._final_id is not None or len(self._streams) >= self._terms.streams:
            raise StreamFault(stream_id, Code.REFUSED_STREAM, "too many streams, or too late")
        stream = Stream(stream_id, self._outbox.initial_sendable, self._terms.stream_window_bytes)
        self._streams[stream_id] = stream
        if "content-length" in request:
            stream.expected_bytes = int(request["content-length"])
            stream.take_content(0, end_stream=block.end_stream)
        stream.open = not block.end_stream
        self._accept(stream, request, block.end_stream)

    def _on_priority(self, _: int, stream_id: int, payload: bytes) -> None:
        """Check and ignore: RFC 9113 section 5.3.2 has no use for it; that a stream cannot depend on itself is RFC 7540's."""
        if not stream_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "PRIORITY of the connection")
        self._patience.control(len(payload))
        if len(payload) != 5:
            raise StreamFault(stream_id, Code.FRAME_SIZE_ERROR, f"PRIORITY of {len(payload)} bytes")
        if int.from_bytes(payload[:4], "big") & MAX_WINDOW_BYTES == stream_id:
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR, "a stream that depends on itself")

    def _on_reset(self, _: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, f"RST_STREAM of {len(payload)} bytes")
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id, "RST_STREAM")
        self._patience.control(len(payload))
        if stream is None:
            self._past.remember(stream_id, by_us=False)  # now it knows
            return
        if stream.answered:
            self._patience.answers += 1
        else:
            self._patience.reset()
        self._forget(stream, by_us=False).lose(int.from_bytes(payload, "big"))

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "SETTINGS of a stream")
        self._patience.control(len(payload))
        if flags & Flag.ACK:
            if payload:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "SETTINGS that acknowledge and set")
            return
        values = frames.read_settings(payload)
        self._outbox.append(frames.head(Kind.SETTINGS, Flag.ACK, 0, 0))  # ahead of the data that a wider window lets through
        if Setting.INITIAL_WINDOW_SIZE in values:
            self._resize(values[Setting.INITIAL_WINDOW_SIZE])

    def _resize(self, initial_sendable: int) -> None:
        """Change the windows of all streams (section 6.9.2), which the peer pays for: a few bytes make us look at each."""
        self._patience.control(len(self._streams) >> 3)
        increment = initial_sendable - self._outbox.initial_sendable
        self._outbox.initial_sendable = initial_sendable
        for stream in [*self._streams.values()]:
            if not self._outbox.widen_stream(stream, increment):
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a window of more than 2^31 - 1 bytes")

    def _on_push_promise(self, _: int, __: int, ___: bytes) -> None:
        raise ConnectionFault(Code.PROTOCOL_ERROR, "PUSH_PROMISE of a client")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "PING of a stream")
        if len(payload) != 8:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, f"PING of {len(payload)} bytes")
        self._patience.control(len(payload))
        if not flags & Flag.ACK:
            self._outbox.append(frames.head(Kind.PING, Flag.ACK, 0, 8) + payload)
        elif payload == _LEAVING and self.leaving and self._final_id is None:
            self._final_id = self._last_id
            self._outbox.append(frames.go_away(self._last_id, Code.NO_ERROR, "leaving"))

    def _on_go_away(self, _: int, stream_id: int, payload: bytes) -> None:
        """The peer opens no more streams; those it has go on."""
        if stream_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "GOAWAY of a stream")
        if len(payload) < 8:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, f"GOAWAY of {len(payload)} bytes")
        self._patience.control(len(payload))

    def _on_window_update(self, _: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, f"WINDOW_UPDATE of {len(payload)} bytes")
        self._patience.control(len(payload))
        increment = int.from_bytes(payload, "big") & MAX_WINDOW_BYTES
        if not stream_id:
            if not increment:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "the connection's window grows by 0")
            if not self._outbox.widen(increment):
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, f"the connection's window grows by {increment}")
            return
        self._check_not_idle(stream_id, "WINDOW_UPDATE")
        if not increment:
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR, "the stream's window grows by 0")
        stream = self._streams.get(stream_id)
        if stream is not None and not self._outbox.widen_stream(stream, increment):
            raise StreamFault(stream_id, Code.FLOW_CONTROL_ERROR, f"the stream's window grows by {increment}")

    def _on_extension(self, _: int, __: int, payload: bytes) -> None:
        """Ignore what has no meaning to us (section 4.1)."""
        self._patience.control(len(payload))

    _HANDLERS = (
        *(_on_data, _on_headers, _on_priority, _on_reset, _on_settings),
        *(_on_push_promise, _on_ping, _on_go_away, _on_window_update, _on_continuation),
        *repeat(_on_extension, 0xFF - Kind.CONTINUATION),
    )

    # -- answers -----------------------------------------------------------------------------------------------------

    def reset(self, stream: Stream, code: Code) -> None:
        """Give a stream up; its listener is told nothing."""
        if stream.id in self._streams:
            self._outbox.append(frames.reset(stream.id, code))
            self._forget(stream, by_us=True)

    def _give_up(self, stream: Stream) -> None:
        """Reset a stream of which more waits than may."""
        self.untold.append(stream.listener)
        self.reset(stream, Code.ENHANCE_YOUR_CALM)

    def _replenish_connection(self) -> None:
        """Let the peer send more, half of the connection's window being used."""
        if self._receivable < 0:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "more data than the connection's window")
        self._outbox.append(frames.update_window(0, self._terms.window_bytes - self._receivable))
        self._receivable = self._terms.window_bytes

    def _replenish(self, stream: Stream) -> None:
        """Let the peer send more on a stream when half of its window is used, unless it does not take our answers."""
        if stream.receivable < 0:
            raise StreamFault(stream.id, Code.FLOW_CONTROL_ERROR, "more data than the stream's window")
        if stream.open and stream.receivable < self._half_stream_bytes and len(stream.waiting) <= _WAITING_BYTES:
            full_bytes = self._terms.stream_window_bytes
            self._outbox.append(frames.update_window(stream.id, full_bytes - stream.receivable))
            stream.receivable = full_bytes

    # -- ends --------------------------------------------------------------------------------------------------------

    def _end(self, stream: Stream) -> None:
        """Forget a stream whose answer is complete. A peer that is not ready is asked to stop, without blame (section 8.1)."""
        self._patience.answers += 1
        if stream.open:
            self._outbox.append(frames.reset(stream.id, Code.NO_ERROR))
        self._forget(stream, by_us=stream.open)

    def _forget(self, stream: Stream, *, by_us: bool) -> Listener:
        """Drop a stream; return who listened to it."""
        del self._streams[stream.id]
        self._past.remember(stream.id, by_us=by_us)
        if stream.waiting:
            self._outbox.forget(stream)
        stream.ending = b""
        listener, stream.listener = stream.listener, NOBODY  # each knows the other
        return listener

    def _reset(self, stream_id: int, code: Code) -> None:
        """End a stream for what the peer did with it."""
        self._patience.reset()
        self._outbox.append(frames.reset(stream_id, code))
        stream = self._streams.get(stream_id)
        if stream is None:
            self._past.remember(stream_id, by_us=True)
        else:
            self._forget(stream, by_us=True).lose(code)

    def _fail(self, fault: ConnectionFault) -> None:
        """End the connection for what the peer did with it."""
        self._outbox.append(frames.go_away(self._last_id, fault.code, str(fault)))
        self.closed, self.fault = True, f"{fault.code.name}: {fault}"
        self.lose(fault.code)

    def _check_not_idle(self, stream_id: int, what: str) -> None:
        if stream_id > self._last_id or not stream_id & 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, f"{what} of stream {stream_id}, which was never opened")

    def _refer_to_ended(self, stream_id: int) -> None:
        """Judge a frame of a stream that is not there."""
        self._check_not_idle(stream_id, "a frame")
        self._past.judge(stream_id)
