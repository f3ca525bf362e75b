"""What a response tells the judge, and how it goes on to the client."""

from shunter.picker.core.answers import answer_body, answer_response_headers, read_served, stream
from shunter.picker.core.events import (
    BodyMode,
    Reply,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    Side,
    TrailersReply,
)
from shunter.picker.core.judgement import Outcome, Pick
from shunter.picker.core.restore import Restorer
from shunter.picker.core.usage import NO_USAGE, UsageReader

__all__ = ["Response"]

# Of other bodies (audio, images, a compressed one) nothing is read and nothing is changed.
_READABLE = ("application/json", "text/event-stream")

_RESPONSE = Side.RESPONSE
_NONE, _STREAMED, _PARTIAL, _DUPLEX = BodyMode.NONE, BodyMode.STREAMED, BodyMode.BUFFERED_PARTIAL, BodyMode.FULL_DUPLEX_STREAMED


class Response:
    """One response on its way; the order of its events is the session's business."""

    __slots__ = (
        *("_begun", "_duplex", "_first_byte_s", "_mode", "_pick", "_reader", "_restorer", "_sent_bytes"),
        *("_status", "_streamed", "served", "started_s", "unchanged"),
    )

    def __init__(self, mode: BodyMode, started_s: float) -> None:
        self._mode = mode
        self._duplex = mode is _DUPLEX
        self.unchanged = self._duplex
        """Whether pieces of the body go on as they come, each answered by itself."""
        self.started_s = started_s
        """When the exchange began."""
        self._reader: UsageReader | None = None if mode is _NONE else UsageReader()
        self._restorer: Restorer | None = None
        self._begun = False
        self._pick: Pick | None = None
        self._status: int | None = None
        self.served: str | None = None
        """Who answered; what a response begins with tells it (GIE's protocol 1.0), or nothing does."""
        self._streamed = False
        self._first_byte_s: float | None = None
        self._sent_bytes = 0

    def expect(self, pick: Pick) -> None:
        """Learn whose response it will be; if the model was rewritten, its name is put back."""
        self._pick = pick

    def feed(self, event: ResponseHeaders | ResponseBody | ResponseTrailers, now_s: float) -> list[Reply]:
        """Return the answers to the next event."""
        if not self._begun:
            self._begun = True
            self.served = read_served(event.metadata)
        if isinstance(event, ResponseBody):
            data, last = event.data, event.end_of_stream
            if data:
                self.see(data, now_s)
            if self._restorer is not None:
                return self._put_back(self._restorer, data, last=last)
            return (
                stream(_RESPONSE, data, end_of_stream=last) if self._duplex else answer_body(_RESPONSE, self._mode, data, data)
            )
        if isinstance(event, ResponseTrailers):
            return [*self.flush(), TrailersReply(_RESPONSE)]
        self._read_headers(event)
        changes = self._restorer is not None and not event.end_of_stream
        piecemeal = self._duplex or self._mode is _STREAMED
        return [answer_response_headers(self._added(), drop_length=changes and piecemeal)]

    def flush(self) -> list[Reply]:
        """Return what was held back, because nothing follows it."""
        if self._restorer is None or not self._duplex:
            return []
        return stream(_RESPONSE, self._restorer.feed(b"", last=True), end_of_stream=False)

    def conclude(self, now_s: float, *, complete: bool) -> Outcome:
        """Return everything that was learnt."""
        usage = self._reader.usage if self._reader else NO_USAGE
        return Outcome(
            complete,
            self._status,
            self.served,
            self._first_byte_s if self._streamed else None,  # a plain response begins when all of it has been computed
            now_s - self.started_s,
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.cached_tokens,
            self._first_byte_s,
            None if self._mode is _NONE else self._sent_bytes,
        )

    def _added(self) -> tuple[tuple[str, str], ...]:
        """Return the headers to add, as they are for whoever serves."""
        pick = self._pick
        if pick is None or not pick.response_headers:
            return ()
        server, first = self.served or "", next(iter(pick.endpoints), "")
        told = [
            (name, value if isinstance(value, str) else value.get(server if server or "" in value else first))
            for name, value in pick.response_headers
        ]
        return tuple([(name, value) for name, value in told if value is not None])

    def _read_headers(self, event: ResponseHeaders) -> None:
        headers = dict(event.headers)
        status = headers.get(":status", "")
        self._status = int(status) if len(status) == 3 and status.isascii() and status.isdigit() else None
        encoding, content = headers.get("content-encoding", "identity"), headers.get("content-type", "").lower()
        self._streamed = content.startswith("text/event-stream")
        if encoding != "identity" or not content.startswith(_READABLE):
            self._reader = None
        elif (pick := self._pick) and pick.model and pick.target_model and pick.model != pick.target_model:
            self._restorer = Restorer(pick.target_model, pick.model)
            self.unchanged = False

    def see(self, data: bytes, now_s: float) -> None:
        """Learn what a piece of the body tells."""
        if self._first_byte_s is None and data:
            self._first_byte_s = now_s - self.started_s
        self._sent_bytes += len(data)
        if self._reader is not None:
            self._reader.feed(data)

    def _put_back(self, restorer: Restorer, data: bytes, *, last: bool) -> list[Reply]:
        wanted = data
        if last or self._mode is not _PARTIAL:
            wanted = restorer.feed(data, last=last or not self._duplex)
        if self._duplex:
            return stream(_RESPONSE, wanted, end_of_stream=last)
        return answer_body(_RESPONSE, self._mode, data, wanted)
