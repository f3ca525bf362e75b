"""The calls that the native transport answers: ext_proc's Process, and those of the health service."""

import logging
from collections.abc import Callable, Sequence

from shunter.picker.core.events import ResponseBody, ResponseHeaders
from shunter.picker.core.judgement import Pick, Refusal
from shunter.picker.core.session import Session
from shunter.picker.errors import ProtocolError
from shunter.picker.transport.grpc import Exchange, Message, StatusCode, StatusError
from shunter.picker.transport.health import Health, UnknownServiceError
from shunter.picker.transport.parking import Parking
from shunter.picker.transport.wire import encode_pieces, opening, read, read_piece, write_piece

__all__ = ["Process", "Unary", "Watch"]

_FAILED = "the picker failed; its log says why"

# What tells who serves, if anything does: behind the pieces of the body that follow there is nothing new.
_TELLING = frozenset({ResponseHeaders, ResponseBody})

log = logging.getLogger(__name__)


class Process:
    """A session behind a stream. ``on_close`` is called with it once, when the stream is over.

    Without ``parking`` there must be no judge who lets requests wait. ``flush`` makes the connection write.
    """

    __slots__ = (
        *("_exchange", "_flush", "_on_close", "_opening", "_parking", "_peer", "_rest_bytes"),
        *("ended", "leaving", "session"),
    )

    def __init__(
        self,
        session: Session,
        exchange: Exchange,
        peer: str,
        on_close: Callable[["Process"], None],
        flush: Callable[[], None] = lambda: None,
        parking: Parking | None = None,
    ) -> None:
        self.session = session
        self.ended = False
        self.leaving = False  # the picker drains: end as soon as nobody loses anything by it
        self._exchange = exchange
        self._opening: bytes | None = None  # of what stands behind the event in messages of the response, once one has come
        self._rest_bytes = 0  # of that
        self._peer = peer
        self._on_close = on_close
        self._flush = flush
        self._parking = parking

    def receive(self, message: bytes, now_s: float) -> Sequence[Message]:
        """Let the session answer."""
        session = self.session
        try:
            piece = None if self._opening is None else read_piece(message, self._opening, self._rest_bytes)
            if piece is None:
                event, rest = read(message)
                if type(event) in _TELLING and not event.end_of_stream:
                    self._opening, self._rest_bytes = opening(rest), len(rest)
            else:
                data, last = piece
                if data and not last and not self.leaving and session.passes(data, now_s):
                    return (write_piece(data),)
                event = ResponseBody(data, last)
            replies = session.feed(event, now_s)
            if self.leaving and session.idle:
                replies = [*replies, *session.drain(now_s)]
            self.ended = session.ended
            if session.ticket is not None and self._parking is not None:
                self._parking.follow(session, self.resume)
            return list(map(encode_pieces, replies)) if replies else ()
        except ProtocolError as error:
            log.warning("protocol error of %s: %s", self._peer, error)
            raise StatusError(StatusCode.INVALID_ARGUMENT, str(error)) from None
        except Exception:  # the boundary: what broke one stream is logged and the others go on
            log.exception("a session of %s failed", self._peer)
            raise StatusError(StatusCode.INTERNAL, _FAILED) from None

    def finish(self, now_s: float) -> Sequence[Message]:
        """The request is over: so is the stream."""
        del now_s
        self.ended = True
        return ()

    def resume(self, ticket: int, verdict: Pick | Refusal, now_s: float) -> None:
        """Say what is to be said now that the request need not wait any longer."""
        session, exchange = self.session, self._exchange
        try:
            replies = session.resume(ticket, verdict, now_s)
            if self.leaving and session.idle:
                replies = [*replies, *session.drain(now_s)]
            exchange.send(list(map(encode_pieces, replies)))
        except Exception:  # the boundary, as above
            log.exception("a session of %s failed after it had waited", self._peer)
            exchange.end(now_s, StatusCode.INTERNAL, _FAILED)
        else:
            if session.ended:
                exchange.end(now_s)
            elif self._parking is not None:
                self._parking.follow(session, self.resume)
        self._flush()

    def close(self, now_s: float) -> None:
        """Give back what the session holds."""
        if self._parking is not None:
            self._parking.leave(self.session)
        try:
            self.session.close(now_s)
        except Exception:  # the boundary, as above
            log.exception("a session of %s failed at its end", self._peer)
        self._on_close(self)

    def leave(self, now_s: float, *, at_once: bool) -> None:
        """End now if nobody loses anything by it, or anyway; else as soon as it is so."""
        self.leaving = True
        if at_once or self.session.idle:
            self._exchange.send(list(map(encode_pieces, self.session.drain(now_s))))
            self._exchange.end(now_s)


class Unary:
    """A call with one message each way; ``answer`` makes one of the other, or raises UnknownServiceError."""

    __slots__ = ("_answer", "_request", "ended")

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self.ended = False
        self._answer = answer
        self._request: bytes | None = None

    def receive(self, message: bytes, now_s: float) -> Sequence[Message]:
        """Keep it; more than one is too many."""
        del now_s
        if self._request is not None:
            raise StatusError(StatusCode.UNIMPLEMENTED, "more than one message")
        self._request = message
        return ()

    def finish(self, now_s: float) -> Sequence[Message]:
        """Answer."""
        del now_s
        if self._request is None:
            raise StatusError(StatusCode.UNIMPLEMENTED, "no message")
        self.ended = True
        try:
            return (self._answer(self._request),)
        except UnknownServiceError as error:
            raise StatusError(StatusCode.NOT_FOUND, str(error)) from None

    def close(self, now_s: float) -> None:
        """Nothing is held."""


class Watch:
    """The status of a service, now and after each change. ``flush`` makes the connection write."""

    __slots__ = ("_exchange", "_flush", "_health", "_now_s", "_request", "_told", "ended")

    def __init__(self, health: Health, exchange: Exchange, flush: Callable[[], None], now_s: Callable[[], float]) -> None:
        self.ended = False
        self._health = health
        self._exchange = exchange
        self._flush = flush
        self._now_s = now_s
        self._request = b""
        self._told = b""

    def receive(self, message: bytes, now_s: float) -> Sequence[Message]:
        """Tell the status, and go on doing so."""
        del now_s
        if self._told:
            raise StatusError(StatusCode.UNIMPLEMENTED, "more than one message")
        self._request = message
        self._told = self._health.status(message)
        self._health.watch(self._tell)
        self.ended = self._health.closed
        return (self._told,)

    def finish(self, now_s: float) -> Sequence[Message]:
        """Go on telling."""
        del now_s
        if not self._told:
            raise StatusError(StatusCode.UNIMPLEMENTED, "no message")
        return ()

    def close(self, now_s: float) -> None:
        """Tell no more."""
        del now_s
        self._health.unwatch(self._tell)

    def _tell(self) -> None:
        status = self._health.status(self._request)
        if status != self._told:
            self._told = status
            self._exchange.send((status,))
        if self._health.closed:
            self._exchange.end(self._now_s())
        self._flush()
