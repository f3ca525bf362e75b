"""Doubles for tests: an Envoy in process that is as strict about replies as the real one, and a judge that decides as told.

::

    judge = StubJudge(endpoints=("10.0.0.1:8000",))
    envoy = FakeEnvoy.before(judge, BodyMode.BUFFERED)
    envoy.request(body=b'{"model": "m"}')
    envoy.respond(pieces=[b"{}"])
    assert envoy.endpoints == ("10.0.0.1:8000",)

A reply in a form that the body mode does not allow raises EnvoyRejects, where the real Envoy answers its client with a 5xx or
stalls. ``send`` takes any event, so streams that no Envoy would send can be played as well.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from shunter.picker.core.events import (
    BodyMode,
    BodyReply,
    Event,
    HeadersReply,
    Immediate,
    Metadata,
    MoreTime,
    Mutation,
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
from shunter.picker.core.judgement import Ask, Judge, Outcome, Parked, Pick, Refusal
from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.errors import PickerError

__all__ = ["JSON_POST", "EnvoyRejects", "FakeEnvoy", "StubJudge"]

DESTINATION = "x-gateway-destination-endpoint"
JSON_POST = ((":method", "POST"), (":path", "/v1/chat/completions"), ("content-type", "application/json"))


class EnvoyRejects(PickerError):  # noqa: N818  reads as a sentence: with raises(EnvoyRejects)
    """The session answered as the real Envoy would not accept it."""


class StubJudge:
    """Says what it was told to, and remembers what it was asked and what came back.

    ``verdict`` may be a function of the Ask; else every request gets a Pick of ``endpoints`` with ``fields`` (of Pick) added.
    With ``park_s`` every request waits as long at most, until ``open`` is called: then ``dispatch`` tells what was told before.
    """

    def __init__(
        self,
        endpoints: Sequence[str] = ("127.0.0.1:8000",),
        verdict: Refusal | Callable[[Ask], Pick | Refusal] | None = None,
        park_s: float | None = None,
        **fields: object,
    ) -> None:
        self.asks: list[Ask] = []
        self.picked: list[int] = []
        self.noted: list[Refusal] = []
        self.released: list[tuple[int, Outcome]] = []
        self.told: list[tuple[int, str]] = []  # who served
        self.parked: dict[int, Ask] = {}  # by ticket
        self.left: list[int] = []  # tickets of those who waited no longer
        self.evicting: dict[int, Refusal] = {}  # what dispatch will tell of picks, by ticket
        self._endpoints = tuple(endpoints)
        self._verdict = verdict
        self._park_s = park_s
        self._fields: dict[str, object] = {"request_id": "stub-request", **fields}

    def decide(self, ask: Ask, now_s: float) -> Pick | Refusal | Parked:
        """Note the question and answer as told."""
        self.asks.append(ask)
        ticket = len(self.asks)
        if self._park_s is not None:
            self.parked[ticket] = ask
            return Parked(ticket, now_s + self._park_s)
        return self._settle(ticket, ask)

    def open(self) -> None:
        """Let those who wait go on with the next ``dispatch``, and nobody wait any longer."""
        self._park_s = None

    def dispatch(self, now_s: float) -> Sequence[tuple[int, Pick | Refusal]]:
        """Answer those who waited, if nobody has to any longer, and refuse the picks that are to be evicted."""
        del now_s
        evicted, self.evicting = self.evicting, {}
        if self._park_s is not None:
            return [*evicted.items()]
        parked, self.parked = self.parked, {}
        return [*evicted.items(), *((ticket, self._settle(ticket, ask)) for ticket, ask in parked.items())]

    def leave(self, ticket: int, now_s: float, refusal: Refusal | None = None) -> None:
        """Note who waits no longer, and why."""
        del now_s
        self.parked.pop(ticket, None)
        self.left.append(ticket)
        if refusal is not None:
            self.noted.append(refusal)

    def _settle(self, ticket: int, ask: Ask) -> Pick | Refusal:
        verdict = self._verdict(ask) if callable(self._verdict) else self._verdict
        if verdict is None:
            verdict = Pick(self._endpoints, ticket, **self._fields)  # type: ignore[arg-type]
        if isinstance(verdict, Pick):
            self.picked.append(verdict.ticket)
        return verdict

    def release(self, ticket: int, outcome: Outcome, now_s: float) -> None:
        """Note the outcome."""
        del now_s
        self.released.append((ticket, outcome))

    def served(self, ticket: int, endpoint: str) -> None:
        """Remember who served."""
        self.told.append((ticket, endpoint))

    def note(self, ask: Ask, refusal: Refusal, now_s: float) -> None:
        """Remember what the session refused."""
        del ask, now_s
        self.noted.append(refusal)

    def needs(self) -> Sequence[str]:
        """Need nothing."""
        return ()

    @property
    def outcome(self) -> Outcome:
        """The outcome of the only request there was."""
        ((_, outcome),) = self.released
        return outcome


class _Half:
    """One side of the exchange as Envoy keeps it: what it holds, and which of its messages wait for an answer."""

    def __init__(self, side: Side, mode: BodyMode) -> None:
        self.side = side
        self.mode = mode
        self.headers: dict[str, str] = {}
        self.body = b""
        self.ended = False  # the peer behind Envoy has seen the end
        self.trailers = False
        self._waiting: list[str] = []  # "headers", "body", "trailers", in the order in which they were sent
        self._held = b""  # BUFFERED, STREAMED: the piece that waits
        self._last = False  # the waiting piece is the last one
        self.patience_s: float | None = None  # asked for beyond the message timeout, for the message that waits

    def note(self, event: Event) -> None:
        """Remember what was sent and waits for an answer."""
        if isinstance(event, RequestHeaders | ResponseHeaders):
            self._waiting.append("headers")
            self.headers = dict(reversed(event.headers))
            self.ended = event.end_of_stream
            if self.mode is BodyMode.FULL_DUPLEX_STREAMED and not event.end_of_stream:
                self.headers.pop("content-length", None)
        elif isinstance(event, RequestBody | ResponseBody):
            self._last = event.end_of_stream
            if self.mode is not BodyMode.FULL_DUPLEX_STREAMED:
                self._held = event.data
                self._waiting.append("body")
        else:
            self._waiting.append("trailers")

    def apply(self, reply: HeadersReply | BodyReply | TrailersReply) -> None:
        """Do what the reply says; raise EnvoyRejects if it may not say so."""
        if isinstance(reply, HeadersReply):
            self._answered("headers")
            self._mutate(reply.mutation)
        elif isinstance(reply, TrailersReply):
            self._answered("trailers")
            self.trailers = self.ended = True
        elif self.mode is BodyMode.FULL_DUPLEX_STREAMED:
            self._stream(reply)
        else:
            self._replace(reply)

    def extend(self, reply: MoreTime) -> None:
        """Wait longer for the answer; raise EnvoyRejects where Envoy would not."""
        if self.mode is BodyMode.FULL_DUPLEX_STREAMED or not self._waiting:
            raise EnvoyRejects(f"{self._name}: no time is running")
        if self.patience_s is not None:
            raise EnvoyRejects(f"{self._name}: time is given once")
        self.patience_s = reply.timeout_s

    def check(self) -> None:
        """Raise EnvoyRejects if an answer is owed, or what went on is inconsistent."""
        if self._waiting:
            raise EnvoyRejects(f"{self._name}: no answer to {self._waiting[0]}: the request hangs until its timeout")
        if self._last and not self.ended:
            raise EnvoyRejects(f"{self._name}: the body never ends")
        length = self.headers.get("content-length")
        if length is not None and self.ended and int(length) != len(self.body):
            raise EnvoyRejects(f"{self._name}: content-length {length}, but {len(self.body)} bytes of body")

    @property
    def _name(self) -> str:
        return f"{self.side.name.lower()} in mode {self.mode.name}"

    def _answered(self, what: str) -> None:
        if not self._waiting or self._waiting[0] != what:
            waits = f"{self._waiting[0]} wait" if self._waiting else "nothing waits"
            raise EnvoyRejects(f"{self._name}: a spurious answer to {what}; {waits} for one")
        del self._waiting[0]
        self.patience_s = None

    def _mutate(self, mutation: Mutation | None) -> None:
        if mutation is not None:
            for name in mutation.remove_headers:
                self.headers.pop(name, None)
            self.headers.update(mutation.set_headers)

    def _stream(self, reply: BodyReply) -> None:
        if reply.streamed is None or reply.replaced is not None:
            raise EnvoyRejects(f"{self._name}: the body's answer must be a streamed_response")
        if "headers" in self._waiting:
            raise EnvoyRejects(f"{self._name}: a body's answer before the headers' answer")
        if self.ended:
            raise EnvoyRejects(f"{self._name}: a body's answer after the end of the stream")
        self.body += reply.streamed
        self.ended = reply.end_of_stream

    def _replace(self, reply: BodyReply) -> None:
        if reply.streamed is not None:
            raise EnvoyRejects(f"{self._name}: streamed_response is for FULL_DUPLEX_STREAMED only")
        if reply.mutation is not None and self.mode is BodyMode.STREAMED:
            raise EnvoyRejects(f"{self._name}: headers are gone when the body is answered")
        self._answered("body")
        self._mutate(reply.mutation)
        self.body += self._held if reply.replaced is None else reply.replaced
        self.ended = self._last


class FakeEnvoy:
    """One exchange between a client, Envoy and an upstream, with the session as the picker.

    If the session parks the request, ``resume`` brings the judge's verdict. After ``request``: ``upstream_headers`` and
    ``upstream_body`` are what the chosen ``endpoints`` would see, or ``immediate`` is the answer. After ``respond``:
    ``client_headers`` and ``client_body`` are what the client would see.
    """

    def __init__(
        self,
        session: Session,
        request_body: BodyMode = BodyMode.FULL_DUPLEX_STREAMED,
        response_body: BodyMode = BodyMode.FULL_DUPLEX_STREAMED,
        *,
        announce: bool = True,
        send_response_headers: bool = True,
    ) -> None:
        self.session = session
        self.now_s = 0.0
        self.replies: list[Reply] = []
        self.metadata: Metadata = {}
        self.immediate: Immediate | None = None
        self._announced = Protocol(request_body, response_body) if announce else None
        self._send_response_headers = send_response_headers
        self._unsent: list[Event] = []  # of the request
        self._unseen = b""  # of its body: what does not fit into a buffer goes on unseen
        self._halves = (_Half(Side.REQUEST, request_body), _Half(Side.RESPONSE, response_body))

    @classmethod
    def before(
        cls,
        judge: Judge,
        request_body: BodyMode = BodyMode.FULL_DUPLEX_STREAMED,
        response_body: BodyMode = BodyMode.FULL_DUPLEX_STREAMED,
        *,
        limits: Limits | None = None,
        announce: bool = True,
        send_response_headers: bool = True,
    ) -> "FakeEnvoy":
        """Put an Envoy before a judge, with a session of its own between them."""
        limits = limits or Limits()
        session = Session(judge, limits, Budget(limits.buffered_bytes))
        return cls(session, request_body, response_body, announce=announce, send_response_headers=send_response_headers)

    @property
    def upstream_headers(self) -> dict[str, str]:
        """What the upstream gets."""
        return self._halves[Side.REQUEST].headers

    @property
    def upstream_body(self) -> bytes:
        """What the upstream gets."""
        return self._halves[Side.REQUEST].body

    @property
    def client_headers(self) -> dict[str, str]:
        """What the client gets."""
        return self._halves[Side.RESPONSE].headers

    @property
    def client_body(self) -> bytes:
        """What the client gets."""
        return self._halves[Side.RESPONSE].body

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where the request goes, best first; header and metadata must name the same."""
        header = self.upstream_headers.get(DESTINATION)
        metadata = self.metadata.get("envoy.lb", {}).get(DESTINATION)
        if header != metadata:
            raise EnvoyRejects(f"the header names {header}, the metadata {metadata}")
        return tuple(header.split(",")) if header else ()

    def send(self, event: Event) -> list[Reply]:
        """Send one event, legal or not, and do what the replies say."""
        request = isinstance(event, RequestHeaders | RequestBody | RequestTrailers)
        self._halves[Side.REQUEST if request else Side.RESPONSE].note(event)
        return self._obey(self.session.feed(event, self.now_s))

    def resume(self, judge: Judge) -> list[Reply]:
        """Let the judge dispatch, do what the session says if it was its ticket's turn, and go on with the request."""
        replies: list[Reply] = []
        for ticket, verdict in judge.dispatch(self.now_s):
            replies += self._obey(self.session.resume(ticket, verdict, self.now_s))
        self._go_on()
        return replies

    def _go_on(self) -> None:
        """Send what is left of the request, as far as Envoy would not wait for an answer."""
        half = self._halves[Side.REQUEST]
        while self._unsent and self.immediate is None and not self.session.parked:
            self.send(self._unsent.pop(0))
        if self.immediate is None and not self.session.parked:
            half.body, self._unseen = half.body + self._unseen, b""
            half.check()

    def _obey(self, replies: list[Reply]) -> list[Reply]:
        for reply in replies:
            if self.immediate is not None:
                raise EnvoyRejects(f"{reply} after an immediate response")
            if isinstance(reply, Immediate):
                self.immediate = reply
            elif isinstance(reply, MoreTime):
                self._halves[Side.REQUEST].extend(reply)
            else:
                self._halves[reply.side].apply(reply)
                if not isinstance(reply, TrailersReply) and reply.dynamic_metadata:
                    for namespace, values in reply.dynamic_metadata.items():
                        self.metadata.setdefault(namespace, {}).update(values)
        self.replies += replies
        return replies

    def request(
        self,
        headers: Iterable[tuple[str, str]] = JSON_POST,
        body: bytes | None = None,
        *,
        pieces: Sequence[bytes] | None = None,
        trailers: bool = False,
        metadata: Mapping[str, Mapping[str, object]] | None = None,
        partial_bytes: int | None = None,
    ) -> None:
        """Send a whole request, as ``body`` or in ``pieces``; with ``partial_bytes`` Envoy's buffer holds no more than that."""
        pieces = [body] if body is not None else list(pieces or ())
        context: Metadata = {name: dict(values) for name, values in (metadata or {}).items()}
        bodiless = not pieces and not trailers
        self.send(RequestHeaders([*headers], bodiless, self._announced, context))
        half = self._halves[Side.REQUEST]
        cut = self._cut(half, pieces, trailers=trailers, partial_bytes=partial_bytes)
        self._unsent = [RequestBody(data, end, context) for data, end in cut]
        if trailers:
            self._unsent.append(RequestTrailers(context))
        self._unseen = b"".join(pieces)[partial_bytes:] if partial_bytes is not None else b""
        self._go_on()

    def respond(
        self,
        status: int = 200,
        headers: Iterable[tuple[str, str]] = (("content-type", "application/json"),),
        *,
        pieces: Sequence[bytes] = (),
        trailers: bool = False,
        served: str | None = None,
    ) -> None:
        """Let the upstream answer; ``served`` is the endpoint that Envoy reports."""
        context: Metadata = {"envoy.lb": {DESTINATION + "-served": served}} if served else {}
        bodiless = not pieces and not trailers
        protocol = None if self.replies else self._announced
        if self._send_response_headers:
            self.send(ResponseHeaders([(":status", str(status)), *headers], bodiless, context, protocol))
        half = self._halves[Side.RESPONSE]
        for data, end in self._cut(half, pieces, trailers=trailers, partial_bytes=None):
            self.send(ResponseBody(data, end, context))
        if trailers:
            self.send(ResponseTrailers(context))
        half.check()

    def close(self) -> None:
        """End the stream."""
        self.session.close(self.now_s)

    @staticmethod
    def _cut(half: _Half, pieces: Sequence[bytes], *, trailers: bool, partial_bytes: int | None) -> list[tuple[bytes, bool]]:
        """Return the body messages that Envoy sends in this mode, each with its end of stream."""
        if not pieces:
            return []
        match half.mode:
            case BodyMode.NONE:
                half.body = b"".join(pieces)
                return []
            case BodyMode.BUFFERED | BodyMode.BUFFERED_PARTIAL:
                body = b"".join(pieces)
                if partial_bytes is not None and len(body) > partial_bytes:
                    return [(body[:partial_bytes], False)]
                return [(body, not trailers)]
            case _:
                return [(data, False) for data in pieces] + ([] if trailers else [(b"", True)])
