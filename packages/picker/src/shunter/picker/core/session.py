"""The ext_proc state machine of one HTTP request: events in, replies out, in every body mode.

Rules
-----
1. Whatever decides which event may come when stands in TRANSITIONS; a pair that is not in it is the peer's error, and nothing
   else raises. Whatever decides the form of a reply stands in ``core.answers``.
2. The machine has no clock, no dice and no IO: ``now_s`` (monotonic) is an argument, the judge is given.
3. A pick is released exactly once, whatever comes: the end of the response, the end of the stream, a protocol error.

Theory of operation
-------------------
Envoy opens one stream per HTTP request, asks about the request's headers, body and trailers and then about the response's.
In its first message it announces, per side, in which mode it sends bodies; each mode wants answers in a form of its own:

===================== ================================== ================================================================
mode                  request: the choice is made        answers
===================== ================================== ================================================================
FULL_DUPLEX_STREAMED  when the body is complete, be it   nothing before the choice; then headers (destination, metadata,
                      by end of stream or by trailers    length), the body in chunks, trailers
BUFFERED              with the body, one message         headers at once, empty; destination, metadata and a rewritten body
                                                         with its length in the body's answer
BUFFERED_PARTIAL      with the body; blind if Envoy      as BUFFERED, but a body that is only a part is not read (half a
                      could not buffer all of it         JSON document would be a client's error) and not rewritten
STREAMED              at the headers, blind: Envoy       headers with destination and metadata; each piece of body answered
                      waits for their answer             by itself, unchanged
NONE                  at the headers, blind              headers with destination and metadata
===================== ================================== ================================================================

A request without a body (end of stream at the headers) is decided at the headers in every mode. "Blind" means
``Ask.has_body`` is False: the judge sees headers only. A first message without announcement counts as
FULL_DUPLEX_STREAMED, the only mode that the Endpoint Picker Protocol 1.0 knows; Envoy always announces.

In the BUFFERED modes Envoy sends an empty body only if nothing follows it. When trailers do, the headers are answered and
gone, perhaps with a destination of the client's own: the request is refused.

The response side answers each message by itself; it may begin anywhere (``response_header_mode: SKIP`` leaves out headers)
and even before the request was decided (a local reply, e.g. of a timeout, passes the filter too). The client's model name
is put back in a response whose headers say JSON or events: in mode BUFFERED and FULL_DUPLEX_STREAMED wherever it stands, in
mode STREAMED where one piece holds it whole, because each piece must be answered before the next comes, and if trailers
came next, bytes held back would be lost.

A request that has to wait for room is *parked*: the session says nothing until ``resume`` brings the verdict, and then what it
would have said at once. FULL_DUPLEX_STREAMED waits for ever; in every other mode Envoy is asked for the time first
(``override_message_timeout``), since it gives up on each of its messages after its ``message_timeout``. Who is gone by then, or
gets an answer from elsewhere, is taken out of the queue.

In mode NONE the end of the stream is the only end there is and counts as a complete response; unless the gateway says in its
first message that its requests outlast their streams (Envoy closes one that has nothing more to ask). Then the judge is told
that the request goes on, and learns of its end elsewhere.
"""

from enum import IntEnum
from typing import TypeAlias

import msgspec

from shunter.picker.core.answers import (
    CHUNK_BYTES,
    pick_overflow,
    read_lasting,
    read_subset,
    refuse,
    stream,
    tell_metadata,
    tell_mutation,
)
from shunter.picker.core.events import (
    BodyMode,
    BodyReply,
    Event,
    HeadersReply,
    Metadata,
    MoreTime,
    Protocol,
    Reply,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    Side,
    TrailersReply,
)
from shunter.picker.core.judgement import Ask, DropReason, Judge, Overflow, Parked, Pick, Refusal
from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.response import Response
from shunter.picker.core.tracecontext import TRACEPARENT
from shunter.picker.errors import ProtocolError

__all__ = ["ASSUMED", "TRANSITIONS", "Session", "Sight", "State", "Step"]


class Sight(IntEnum):
    """What an event is to the machine; *_END carries the end of the stream."""

    HEADERS = 0
    HEADERS_END = 1
    BODY = 2
    BODY_END = 3
    TRAILERS = 4


class State(IntEnum):
    """How far one side is."""

    FRESH = 0  # nothing came
    OPEN = 1  # more of the body may come
    TAIL = 2  # nothing but trailers may come
    DONE = 3  # nothing may come


class Step(IntEnum):
    """What to do about a request's event. (A response's event has one step: pass it on.)"""

    HOLD = 0  # answer nothing yet
    ACKNOWLEDGE = 1  # answer headers with nothing to change
    CHOOSE = 2  # blind, answer in the headers
    COLLECT = 3  # keep the piece, answer nothing yet
    CHOOSE_STREAM = 4  # the body is complete: headers, chunks and, if they completed it, trailers
    CHOOSE_BODY = 5  # this is all of the body: answer in the body
    CHOOSE_PART = 6  # this is a part of the body: blind, answer in the body
    REFUSE = 7  # too late to choose
    PASS = 8  # answer with nothing to change


_FRESH, _OPEN, _TAIL, _DONE = State
_HEADERS, _HEADERS_END, _BODY, _BODY_END, _TRAILERS = Sight

Row: TypeAlias = dict[tuple[State, Sight], tuple[State, Step]]

TRANSITIONS: dict[tuple[Side, BodyMode], Row] = {
    (Side.REQUEST, BodyMode.FULL_DUPLEX_STREAMED): {
        (_FRESH, _HEADERS): (_OPEN, Step.HOLD),
        (_FRESH, _HEADERS_END): (_DONE, Step.CHOOSE),
        (_OPEN, _BODY): (_OPEN, Step.COLLECT),
        (_OPEN, _BODY_END): (_DONE, Step.CHOOSE_STREAM),
        (_OPEN, _TRAILERS): (_DONE, Step.CHOOSE_STREAM),
    },
    (Side.REQUEST, BodyMode.BUFFERED): {
        (_FRESH, _HEADERS): (_OPEN, Step.ACKNOWLEDGE),
        (_FRESH, _HEADERS_END): (_DONE, Step.CHOOSE),
        (_OPEN, _BODY): (_TAIL, Step.CHOOSE_BODY),
        (_OPEN, _BODY_END): (_DONE, Step.CHOOSE_BODY),
        (_OPEN, _TRAILERS): (_DONE, Step.REFUSE),
        (_TAIL, _TRAILERS): (_DONE, Step.PASS),
    },
    (Side.REQUEST, BodyMode.BUFFERED_PARTIAL): {
        (_FRESH, _HEADERS): (_OPEN, Step.ACKNOWLEDGE),
        (_FRESH, _HEADERS_END): (_DONE, Step.CHOOSE),
        (_OPEN, _BODY): (_TAIL, Step.CHOOSE_PART),
        (_OPEN, _BODY_END): (_DONE, Step.CHOOSE_BODY),
        (_OPEN, _TRAILERS): (_DONE, Step.REFUSE),
        (_TAIL, _TRAILERS): (_DONE, Step.PASS),
    },
    (Side.REQUEST, BodyMode.STREAMED): {
        (_FRESH, _HEADERS): (_OPEN, Step.CHOOSE),
        (_FRESH, _HEADERS_END): (_DONE, Step.CHOOSE),
        (_OPEN, _BODY): (_OPEN, Step.PASS),
        (_OPEN, _BODY_END): (_DONE, Step.PASS),
        (_OPEN, _TRAILERS): (_DONE, Step.PASS),
    },
    (Side.REQUEST, BodyMode.NONE): {
        (_FRESH, _HEADERS): (_TAIL, Step.CHOOSE),
        (_FRESH, _HEADERS_END): (_DONE, Step.CHOOSE),
        (_TAIL, _TRAILERS): (_DONE, Step.PASS),
    },
    (Side.RESPONSE, BodyMode.FULL_DUPLEX_STREAMED): {
        (_FRESH, _HEADERS): (_OPEN, Step.PASS),
        (_FRESH, _HEADERS_END): (_DONE, Step.PASS),
        (_FRESH, _BODY): (_OPEN, Step.PASS),
        (_FRESH, _BODY_END): (_DONE, Step.PASS),
        (_FRESH, _TRAILERS): (_DONE, Step.PASS),
        (_OPEN, _BODY): (_OPEN, Step.PASS),
        (_OPEN, _BODY_END): (_DONE, Step.PASS),
        (_OPEN, _TRAILERS): (_DONE, Step.PASS),
    },
    (Side.RESPONSE, BodyMode.BUFFERED): {
        (_FRESH, _HEADERS): (_OPEN, Step.PASS),
        (_FRESH, _HEADERS_END): (_DONE, Step.PASS),
        (_FRESH, _BODY): (_TAIL, Step.PASS),
        (_FRESH, _BODY_END): (_DONE, Step.PASS),
        (_FRESH, _TRAILERS): (_DONE, Step.PASS),
        (_OPEN, _BODY): (_TAIL, Step.PASS),
        (_OPEN, _BODY_END): (_DONE, Step.PASS),
        (_OPEN, _TRAILERS): (_DONE, Step.PASS),
        (_TAIL, _TRAILERS): (_DONE, Step.PASS),
    },
    (Side.RESPONSE, BodyMode.NONE): {
        (_FRESH, _HEADERS): (_TAIL, Step.PASS),
        (_FRESH, _HEADERS_END): (_DONE, Step.PASS),
        (_FRESH, _TRAILERS): (_DONE, Step.PASS),
        (_TAIL, _TRAILERS): (_DONE, Step.PASS),
    },
}
TRANSITIONS[Side.RESPONSE, BodyMode.STREAMED] = TRANSITIONS[Side.RESPONSE, BodyMode.FULL_DUPLEX_STREAMED]
TRANSITIONS[Side.RESPONSE, BodyMode.BUFFERED_PARTIAL] = TRANSITIONS[Side.RESPONSE, BodyMode.BUFFERED]

ASSUMED = Protocol(BodyMode.FULL_DUPLEX_STREAMED, BodyMode.FULL_DUPLEX_STREAMED)
"""What a first message without an announcement means."""

# Looking a member up takes several times as long as a name; these are looked up with each message.
_REQUEST, _RESPONSE = Side
_HOLD, _ACKNOWLEDGE, _CHOOSE, _COLLECT, _CHOOSE_STREAM, _CHOOSE_BODY, _CHOOSE_PART, _REFUSE, _PASS = Step
_NONE = BodyMode.NONE

# What an event is, without and with the end of the stream.
_SIGHTS = {
    RequestHeaders: (_REQUEST, _HEADERS, _HEADERS_END),
    RequestBody: (_REQUEST, _BODY, _BODY_END),
    RequestTrailers: (_REQUEST, _TRAILERS, _TRAILERS),
    ResponseHeaders: (_RESPONSE, _HEADERS, _HEADERS_END),
    ResponseBody: (_RESPONSE, _BODY, _BODY_END),
    ResponseTrailers: (_RESPONSE, _TRAILERS, _TRAILERS),
}

# What Envoy is asked for beyond the longest wait, for the last word to be our answer and not its timeout; and what it can be
# asked for at all (``max_message_timeout`` is at most an hour).
_GRACE_S = 1.0
_LONGEST_S = 3600.0

_SHORT_OF_MEMORY = Refusal(
    503, "ServiceUnavailable", "the picker holds as much of unfinished bodies as it may", DropReason.SATURATED
)
_NO_BODY = Refusal(400, "BadRequest", "a request with trailers needs a body")
_SHUTTING_DOWN = Refusal(503, "ServiceUnavailable", "the picker is shutting down", DropReason.SHUTTING_DOWN)


class Session:
    """One HTTP request, from Envoy's first message to the end of its stream.

    Feed it events and send what it returns, in order; when ``ended`` is set, end the stream with status 0. Call ``close``
    when the stream is gone, however that came. ``feed`` raises nothing but ProtocolError, after which the session is closed.
    When the judge dispatches its ``ticket``, call ``resume``.
    """

    __slots__ = (
        *("_body", "_budget", "_headers", "_judge", "_limits", "_metadata", "_pick", "_protocol"),
        *("_released", "_response", "_rows", "_states", "_waits"),
        *("ended", "evictable", "overflow", "parked", "pool", "ticket", "traceparent"),
    )

    def __init__(self, judge: Judge, limits: Limits, budget: Budget) -> None:
        self.ended = False
        self.pool: str | None = None
        """Whose request it is, if the gateway said so when it opened the stream."""
        self.overflow: Overflow | None = None
        """Where the gateway would rather send what is refused, if it said so then."""
        self.traceparent: str | None = None
        """Of the gateway's trace, if it said so then."""
        self.ticket: int | None = None
        """Of a request that has waited, or may be evicted; of others the judge has nothing more to say."""
        self.parked = False
        """Whether the request waits for room."""
        self.evictable = False
        """Whether it was picked and may still be refused."""
        self._waits = _CHOOSE, False  # how a parked request will be answered: step, end of stream
        self._judge = judge
        self._limits = limits
        self._budget = budget
        self._protocol = ASSUMED
        self._rows: tuple[Row, ...] = ()  # of TRANSITIONS, by Side; empty before the first event
        self._states = [_FRESH, _FRESH]  # by Side
        self._headers: dict[str, str] = {}
        self._metadata: Metadata = {}
        self._body: bytes | bytearray = b""
        self._pick: Pick | None = None
        self._released = False
        self._response: Response | None = None

    @property
    def idle(self) -> bool:
        """Whether the stream may end with status 0 and nobody loses anything.

        Before the choice Envoy would forward an empty body; while it sends bodies, the pieces under way would be lost.
        """
        request, response = self._states
        shown = self._protocol.response_body is not _NONE
        return response is _DONE or (self._pick is not None and request >= _TAIL and not shown)

    def feed(self, event: Event, now_s: float) -> list[Reply]:
        """Return the answers to the next event, in the order in which they must be sent; ``now_s`` is monotonic."""
        if self.ended:
            return []  # what Envoy sent before it saw our last word
        response = self._response or self._begin(event, now_s)
        side, sight, last_sight = _SIGHTS[type(event)]
        if event.end_of_stream:
            sight = last_sight
        move = self._rows[side].get((self._states[side], sight))
        if move is None:
            raise self._object(side, sight, now_s)
        self._states[side], step = move
        if isinstance(event, RequestBody):
            return self._answer_body(event, step, now_s)
        if isinstance(event, RequestHeaders):
            return self._answer_headers(event, step, now_s)
        if isinstance(event, RequestTrailers):
            return self._answer_trailers(event, step, now_s)
        if self.parked:
            self._leave(now_s)
        replies = response.feed(event, now_s)
        if response.served and isinstance(event, ResponseHeaders) and self._pick and not self._released:
            self._judge.served(self._pick.ticket, response.served)
        if move[0] is _DONE:
            self._release(now_s, complete=True)
        return replies

    def passes(self, data: bytes, now_s: float) -> bool:
        """Take a piece of the response's body that is not its last; return True if the answer is to let it go on as it is.

        That is what most messages of a stream of events are about, and all that ``feed`` would do about them. If it is False,
        nothing has been taken, and ``feed`` will say what is to be done.
        """
        response = self._response
        if response is None or self.ended or self._states[_RESPONSE] is not _OPEN:
            return False
        if not response.unchanged or len(data) > CHUNK_BYTES:
            return False
        response.see(data, now_s)
        return True

    def resume(self, ticket: int, verdict: Pick | Refusal, now_s: float) -> list[Reply]:
        """Return what a parked request is answered, now that the judge has dispatched its ticket, or the end of an evicted one.

        An evicted one's client gets the refusal, or loses the connection if its response has begun; that one is released.
        """
        if ticket != self.ticket:
            return []
        if self.parked:
            self.parked = False
            return self._tell(verdict, *self._waits)
        if self.ended or self._released or not self.evictable or isinstance(verdict, Pick):
            return []
        replies = [*(self._response.flush() if self._response else ()), refuse(verdict)]
        self._end(now_s, complete=False)
        return replies

    def drain(self, now_s: float) -> list[Reply]:
        """Return the last words of a picker that has to go; the session is ended.

        Who waits for a choice gets a clear refusal, since a stream that just ends would make Envoy forward an empty body.
        """
        if self.ended:
            return []
        replies = self._response.flush() if self._response else []
        if self._pick is None and self._states[_RESPONSE] is _FRESH:
            replies = self._refuse(_SHUTTING_DOWN, now_s)
        self._end(now_s, complete=False)
        return replies

    def close(self, now_s: float) -> None:
        """Note that the stream is gone: give everything back. May be called more than once."""
        self._end(now_s, complete=self._protocol.response_body is _NONE and not self.ended)

    def _begin(self, event: Event, now_s: float) -> Response:
        self._protocol = protocol = getattr(event, "protocol", None) or ASSUMED
        self._rows = TRANSITIONS[_REQUEST, protocol.request_body], TRANSITIONS[_RESPONSE, protocol.response_body]
        self._response = Response(protocol.response_body, now_s)
        return self._response

    def _object(self, side: Side, sight: Sight, now_s: float) -> ProtocolError:
        """End, and say what must not come now."""
        self._end(now_s, complete=False)
        state = self._states[side]
        mode = self._protocol.request_body if side is _REQUEST else self._protocol.response_body
        remedy = "; set request_header_mode: SEND" if (side, state) == (_REQUEST, _FRESH) else ""
        return ProtocolError(f"{side.name.lower()} {sight.name.lower()} in state {state.name}, body mode {mode.name}{remedy}")

    def _answer_headers(self, event: RequestHeaders, step: Step, now_s: float) -> list[Reply]:
        self._headers = dict(reversed(event.headers))  # of a repeated header the first wins
        self._metadata = event.metadata
        if step is _HOLD:
            return []
        if step is _ACKNOWLEDGE:
            return [HeadersReply(_REQUEST)]
        return self._choose(step, None, event.metadata, now_s, end_of_stream=event.end_of_stream)

    def _answer_body(self, event: RequestBody, step: Step, now_s: float) -> list[Reply]:
        if step is _PASS:
            return [BodyReply(_REQUEST)]
        if step is _CHOOSE_PART:
            return self._choose(step, None, event.metadata, now_s, end_of_stream=False)
        data = event.data
        if len(self._body) + len(data) > self._limits.body_bytes:
            words = f"the request body is larger than {self._limits.body_bytes} bytes"
            return self._refuse(Refusal(413, "PayloadTooLarge", words), now_s)
        if step is _CHOOSE_BODY:
            return self._choose(step, data, event.metadata, now_s, end_of_stream=event.end_of_stream)
        if data:
            if not self._budget.take(len(data)):
                return self._refuse(_SHORT_OF_MEMORY, now_s)
            self._body = self._body or bytearray()
            self._body += data
        if step is _COLLECT:
            return []
        return self._choose(step, self._body, event.metadata, now_s, end_of_stream=True)

    def _answer_trailers(self, event: RequestTrailers, step: Step, now_s: float) -> list[Reply]:
        if step is _REFUSE:
            return self._refuse(_NO_BODY, now_s)
        if step is _PASS:
            return [TrailersReply(_REQUEST)]
        return self._choose(step, self._body, event.metadata, now_s, end_of_stream=False)

    def _choose(
        self, step: Step, body: bytes | bytearray | None, metadata: Metadata, now_s: float, *, end_of_stream: bool
    ) -> list[Reply]:
        subset = read_subset(metadata) if metadata else None
        if subset is None and self._metadata:
            subset = read_subset(self._metadata)  # a gateway may attach its hint to the first message only
        verdict = self._judge.decide(self._ask(body, subset), now_s)
        if isinstance(verdict, Parked):
            return self._park(verdict, step, body, now_s, end_of_stream=end_of_stream)
        return self._tell(verdict, step, end_of_stream)

    def _park(
        self, parked: Parked, step: Step, body: bytes | bytearray | None, now_s: float, *, end_of_stream: bool
    ) -> list[Reply]:
        """Wait; of the body, the whole of which is kept meanwhile, the budget knows."""
        self.ticket, self.parked, self._waits = parked.ticket, True, (step, end_of_stream)
        if body is not None and step is not _CHOOSE_STREAM:
            if not self._budget.take(len(body)):
                return self._refuse(_SHORT_OF_MEMORY, now_s)
            self._body = body
        if self._protocol.request_body is BodyMode.FULL_DUPLEX_STREAMED:
            return []
        return [MoreTime(min(parked.until_s - now_s + _GRACE_S, _LONGEST_S))]

    def _tell(self, verdict: Pick | Refusal, step: Step, end_of_stream: bool) -> list[Reply]:
        """Return the answer in the form that belongs to the step."""
        body = self._body
        self._forget_body()
        if isinstance(verdict, Refusal):
            if self.overflow is None or verdict.status not in self.overflow.statuses:
                return self._turn_away(verdict)
            verdict, self._released = pick_overflow(self.overflow), True  # nothing was booked
        elif self._response:
            self._response.expect(verdict)
        self._pick = verdict
        if verdict.evictable:
            self.ticket, self.evictable = verdict.ticket, True
        rewritten = verdict.body
        if step is _CHOOSE:
            return [HeadersReply(_REQUEST, tell_mutation(verdict, self._headers), tell_metadata(verdict))]
        if step is _CHOOSE_STREAM:
            body = body if rewritten is None else rewritten
            # With a length HTTP/1 has no place for trailers.
            mutation = tell_mutation(verdict, self._headers, len(body) if body and end_of_stream else None)
            headers = HeadersReply(_REQUEST, mutation, tell_metadata(verdict))
            pieces = stream(_REQUEST, body, end_of_stream=end_of_stream)
            return [headers, *pieces] if end_of_stream else [headers, *pieces, TrailersReply(_REQUEST)]
        if step is _CHOOSE_PART:
            rewritten = None
        mutation = tell_mutation(verdict, self._headers, None if rewritten is None else len(rewritten))
        return [BodyReply(_REQUEST, mutation, replaced=rewritten, dynamic_metadata=tell_metadata(verdict))]

    def _ask(self, body: bytes | bytearray | None, subset: tuple[str, ...] | None = None) -> Ask:
        traceparent = self.traceparent or self._headers.get(TRACEPARENT)  # where the gateway traces it knows better
        began_s = self._response.started_s if self._response else None
        return Ask(self._headers, body or b"", subset, body is not None, self.pool, traceparent, began_s)

    def _leave(self, now_s: float, refusal: Refusal | None = None) -> None:
        """Wait no longer."""
        if self.parked and self.ticket is not None:
            self.parked = False
            self._judge.leave(self.ticket, now_s, refusal)

    def _refuse(self, refusal: Refusal, now_s: float) -> list[Reply]:
        """Refuse what the judge has not decided."""
        if self.parked:
            self._leave(now_s, refusal)
        else:
            self._judge.note(self._ask(None), refusal, now_s)
        return self._turn_away(refusal)

    def _turn_away(self, refusal: Refusal) -> list[Reply]:
        self._forget_body()
        self.ended = True
        return [refuse(refusal)]

    def _forget_body(self) -> None:
        if self._body:
            self._budget.give(len(self._body))
            self._body = b""

    def _release(self, now_s: float, *, complete: bool) -> None:
        if self._pick is not None and self._response is not None and not self._released:
            self._released = True
            outcome = self._response.conclude(now_s, complete=complete)
            if self._metadata and read_lasting(self._metadata):
                outcome = msgspec.structs.replace(outcome, lasts=True)
            self._judge.release(self._pick.ticket, outcome, now_s)

    def _end(self, now_s: float, *, complete: bool) -> None:
        self.ended = True
        if self.parked:
            self._leave(now_s)
        self._forget_body()
        if not self._released:
            self._release(now_s, complete=complete)
