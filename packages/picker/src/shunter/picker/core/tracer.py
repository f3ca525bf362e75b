"""Who watches the sampled requests: begins their spans when they are decided and sends them when it is known how they ended.

Whoever comes first decides whether a request is traced, and that decision holds: the gateway's if it traces, else the client's.
Where neither says anything a part of the requests is drawn, each the root of a trace, and the engine is told of it in the
request's ``traceparent``; so it is where the client began the trace, lest the engine's spans hang beside ours. A gateway that
traces tells engines itself. Of requests that are not traced one character is looked at.

Where the gateway shows no responses the end of the stream is the request's end, and what else there is to know, status, tokens
and times, comes a little later by Envoy's record (``core.records``): it is waited for, and done without if it does not come.
"""

import heapq
from collections.abc import Callable, Sequence

import msgspec

from shunter.picker.core.decisions import Ended, Entry
from shunter.picker.core.judgement import Outcome, ResponseHeader
from shunter.picker.core.kinds import Dice, Header, Verdict
from shunter.picker.core.request import Request
from shunter.picker.core.spans import Attribute, Span, describe_decision, describe_end, describe_profile, describe_request
from shunter.picker.core.tracecontext import TRACEPARENT, TraceContext, is_sampled, read_traceparent, write_traceparent

__all__ = ["MOST_OPEN", "PATIENCE_S", "RECORD_S", "Tracer"]

# Traced requests in flight. Each is some 3 KB here; beyond that the oldest is sent as far as it is known.
MOST_OPEN = 4_096

# Envoy sends a record with the end of its request or within its flush of 0.15 s; a collector that is started again is told
# what was kept meanwhile.
RECORD_S = 5.0

# A request that lasts on after its stream has ended is told of by its record alone; most answers take less than that.
PATIENCE_S = 600.0


class _Place(msgspec.Struct, frozen=True):
    """Where a request's span is in its trace."""

    context: TraceContext
    parent_id: str | None


class _Open(msgspec.Struct):
    """A request whose end is awaited."""

    place: _Place
    began_s: float
    attributes: dict[str, Attribute]
    inner: list[Span]
    first_choice: str | None = None
    error: str | None = None
    outcome: Outcome | None = None
    ended_s: float | None = None
    awaited: bool = False  # until some time


class Tracer:
    """A Witness of decisions, and a Follower among the plugins for what it has to tell the engine."""

    name = "the tracer"  # no plugin of a configuration is called that

    def __init__(self, dice: Dice, share: float, clock: Callable[[], float], send: Callable[[Sequence[Span]], None]) -> None:
        """Draw the part ``share``, 0 to 1, of requests that nobody has decided of; ``clock`` is monotonic, in seconds."""
        self._dice = dice
        self._share = share
        self._clock = clock
        self._send = send
        self._open: dict[int, _Open] = {}  # by ticket, the oldest first
        self._due: list[tuple[float, int]] = []  # a heap: until when the end is waited for, ticket
        self._places: dict[int, _Place] = {}  # of traced requests that the scheduler has just chosen for, by ticket

    def __len__(self) -> int:
        """Requests whose end is awaited."""
        return len(self._open)

    def picked(self, request: Request, verdict: Verdict) -> tuple[Sequence[Header], Sequence[ResponseHeader]]:  # noqa: ARG002  a Follower's signature
        """Tell the engine where in the trace it is, unless the gateway does."""
        told = request.traceparent
        place = self._find_place(told)
        if place is None:
            return (), ()
        self._places[request.ticket] = place
        if told is not None and told != request.headers.get(TRACEPARENT):
            return (), ()
        return ((TRACEPARENT, write_traceparent(place.context)),), ()

    def follow(self, decided: Sequence[Entry], ended: Sequence[Ended]) -> None:
        """Begin the spans of requests that are traced, and end those of others; of a refused one both."""
        for entry in decided:
            place = self._places.pop(entry.ticket, None)
            if place is None and entry.decision is None:  # so the scheduler was not asked, or came to nothing
                place = self._find_place(entry.traceparent)
            if place is not None:
                self._begin(entry, place)
        for ticket, outcome, at_s in ended:
            if ticket in self._open:
                self._end(ticket, outcome, at_s)

    def expire(self, now_s: float) -> None:
        """Send the spans of whose end was waited for long enough."""
        while self._due and self._due[0][0] <= now_s:
            _, ticket = heapq.heappop(self._due)
            opened = self._open.pop(ticket, None)
            if opened is not None:
                self._finish(opened, now_s)

    def finish(self) -> None:
        """Send the spans of all requests, as far as they are known."""
        now_s = self._clock()
        while self._open:
            self._finish(self._open.pop(next(iter(self._open))), now_s)

    def _find_place(self, told: str | None) -> _Place | None:
        """Return where a request belongs if it is traced. What is no context is nobody's wish to be traced."""
        if told is None:
            if not self._share or self._dice.random() >= self._share:
                return None
            return _Place(TraceContext(self._draw(32), self._draw(16), sampled=True), None)
        caller = read_traceparent(told) if is_sampled(told) else None
        if caller is None:
            return None
        return _Place(TraceContext(caller.trace_id, self._draw(16), sampled=True), caller.span_id)

    def _begin(self, entry: Entry, place: _Place) -> None:
        if place.parent_id is None:
            entry.traceparent = write_traceparent(place.context)  # whoever logs it knows the trace too
        decision = entry.decision
        opened = _Open(
            place,
            entry.at_s if entry.began_s is None else entry.began_s,
            describe_request(entry),
            self._describe_inside(entry, place.context),
            first_choice=decision.candidates[decision.chosen[0]].authority if decision and decision.chosen else None,
        )
        if entry.refusal is not None:
            opened.error = entry.refusal.message
            self._finish(opened, entry.at_s)
            return
        if len(self._open) >= MOST_OPEN:
            self._finish(self._open.pop(next(iter(self._open))), self._clock())
        self._open[entry.ticket] = opened

    def _end(self, ticket: int, outcome: Outcome, at_s: float) -> None:
        """Note how a request went; send its spans if that is all there is to know."""
        opened = self._open[ticket]
        opened.outcome = outcome
        told_all = outcome.sent_bytes is not None
        if outcome.duration_s is not None and opened.ended_s is None:
            # A record tells how long it took; the end of a stream is the end itself.
            opened.ended_s = min(at_s, opened.began_s + outcome.duration_s) if told_all else at_s
        if told_all:
            del self._open[ticket]
            self._finish(opened, at_s)
        elif not opened.awaited:
            opened.awaited = True
            heapq.heappush(self._due, (at_s + (PATIENCE_S if opened.ended_s is None else RECORD_S), ticket))
            if len(self._due) > 2 * MOST_OPEN:  # most are of those that have ended
                self._due = [each for each in self._due if each[1] in self._open]
                heapq.heapify(self._due)

    def _draw(self, digits: int) -> str:
        """Return an id; one of zeros would be none."""
        return f"{self._dice.getrandbits(4 * digits) or 1:0{digits}x}"

    def _describe_inside(self, entry: Entry, root: TraceContext) -> list[Span]:
        chosen_s = entry.at_s + (entry.took_s or 0.0)

        def span(name: str, parent: TraceContext, began_s: float, ended_s: float, attributes: dict[str, Attribute]) -> Span:
            context = TraceContext(root.trace_id, self._draw(16), sampled=True)
            return Span(
                name=name,
                context=context,
                parent_id=parent.span_id,
                began_s=began_s,
                ended_s=ended_s,
                attributes=attributes,
            )

        spans: list[Span] = []
        if entry.waited_s is not None:
            spans.append(span("shunter.queue", root, entry.at_s - entry.waited_s, entry.at_s, {}))
        if entry.decision is not None:
            deciding = span("gateway.request_orchestration", root, entry.at_s, chosen_s, describe_decision(entry))
            spans.append(deciding)
            for name, decision in {entry.profile: entry.decision, **entry.others}.items():
                described = describe_profile(entry, name, decision)
                spans.append(span("run_scheduler_profile", deciding.context, entry.at_s, chosen_s, described))
        return spans

    def _finish(self, opened: _Open, now_s: float) -> None:
        outcome, events = opened.outcome, list[tuple[float, str]]()
        if outcome is not None:
            opened.attributes |= describe_end(outcome, opened.first_choice)
            if outcome.first_token_s is not None:
                events.append((opened.began_s + outcome.first_token_s, "first token"))
            if outcome.status is not None and outcome.status >= 500:
                opened.error = f"status {outcome.status}"
        root = Span(
            name="gateway.request",
            kind="server",
            context=opened.place.context,
            parent_id=opened.place.parent_id,
            began_s=opened.began_s,
            ended_s=max(opened.began_s, now_s if opened.ended_s is None else opened.ended_s),
            attributes=opened.attributes,
            events=events,
            error=opened.error,
        )
        self._send([root, *opened.inner])
