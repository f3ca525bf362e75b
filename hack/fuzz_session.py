"""Promise: whatever comes in whatever order, a session answers or raises ProtocolError, and gives back all it took, once.

An input is a script: each event is a byte for its kind, one for flags and modes, one for the length of its data, the data. Two
kinds are no events of Envoy's: the judge lets those go on who wait, or evicts whom it picked. PARKS in the first kind makes
requests wait.
"""

from shunter.picker.core.events import (
    BodyMode,
    Protocol,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)
from shunter.picker.core.judgement import DropReason, Refusal
from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.errors import ProtocolError
from shunter.picker.testing import StubJudge
from shunter.picker.transport.wire import encode

LIMITS = Limits(body_bytes=1 << 10, buffered_bytes=1 << 11)
JSON = [(":status", "200"), ("content-type", "application/json")]
END, ANNOUNCES, REFUSES, REWRITES = 1, 2, 4, 8
PARKS = 128
GO_ON, EVICT = 6, 7
EVICTED = Refusal(429, "ResourceExhausted", "evicted", DropReason.EVICTED)


def say(kind: int, flags: int = 0, data: bytes = b"") -> bytes:
    return bytes((kind, flags, len(data))) + data


# The modes of a headers event: the request's is the upper half of the flags, the response's the length of the data.
CORPUS = [
    # FULL_DUPLEX_STREAMED both ways
    say(0, ANNOUNCES | 4 << 4, b"1234") + say(1, 0, b"{}") + say(1, END) + say(3) + say(4, 0, b"{}") + say(4, END),
    # BUFFERED and STREAMED, the model rewritten and its name cut in two
    say(0, ANNOUNCES | REWRITES | 2 << 4, b"1")
    + say(1, END, b"{}")
    + say(3)
    + say(4, 0, b'{"model":"engine')
    + say(4, 0, b'"}')
    + say(5),
    # STREAMED and FULL_DUPLEX_STREAMED with trailers, usage cut in two
    say(0, ANNOUNCES | 1 << 4, b"1234")
    + say(1, 0, b"x")
    + say(2)
    + say(3)
    + say(4, 0, b'"usage":{"prompt_tokens":1')
    + say(4, 0, b"}")
    + say(5),
    say(0, REFUSES | END) + say(3, END),
    # each mode, parked: it goes on, or the response comes from elsewhere; and evicted in the midst of it
    *(
        say(PARKS, ANNOUNCES | mode << 4, b"1234") + say(1, END, b"{}") + middle + say(3) + say(EVICT)
        for mode in range(5)
        for middle in (say(GO_ON), b"")
    ),
    # brackets enough for any recursion
    say(0, ANNOUNCES | 4 << 4, b"1234") + say(1, END) + say(3) + say(4, 0, b'"usage":{"x":') + say(4, 0, b"[" * 255) * 8,
]


def events(script: bytes):
    """Yield events, and in between GO_ON and EVICT."""
    at = 0
    while at + 3 <= len(script):
        kind, flags, size = script[at : at + 3]
        data = script[at + 3 : at + 3 + size]
        at += 3 + len(data)
        end = bool(flags & END)
        modes = Protocol(BodyMode((flags >> 4) % 5), BodyMode(size % 5)) if flags & ANNOUNCES else None
        hint = {"envoy.lb.subset_hint": {"x-gateway-destination-endpoint-subset": data.decode("latin-1")}}
        yield (
            RequestHeaders([(":path", "/v1/completions")], end, modes, hint),
            RequestBody(data, end, hint),
            RequestTrailers(hint),
            ResponseHeaders(JSON, end, hint, modes),
            ResponseBody(data, end),
            ResponseTrailers(),
            GO_ON,
            EVICT,
        )[kind % 8]


def target(data: bytes) -> None:
    flags = data[1] if len(data) > 1 else 0
    park_s = 9.0 if data and data[0] & PARKS else None
    if flags & REFUSES:
        judge = StubJudge(verdict=Refusal(503, "ServiceUnavailable", "nobody", DropReason.NO_ENDPOINTS), park_s=park_s)
    elif flags & REWRITES:
        judge = StubJudge(park_s=park_s, evictable=True, model="public", target_model="engine", body=b"rewritten")
    else:
        judge = StubJudge(park_s=park_s, evictable=True)
    budget = Budget(LIMITS.buffered_bytes)
    session = Session(judge, LIMITS, budget)
    try:
        for event in events(data):
            if isinstance(event, int):
                if event == GO_ON:
                    judge.open()
                else:
                    judge.evicting = dict.fromkeys(judge.picked, EVICTED)
                replies = [reply for told in judge.dispatch(0.0) for reply in session.resume(*told, 0.0)]
            else:
                replies = session.feed(event, 0.0)
            for reply in replies:
                encode(reply)
    except ProtocolError:
        assert session.ended
    session.close(1.0)
    assert budget.taken_bytes == 0, "bytes of the budget are lost"
    assert not judge.parked, "a request waits for nobody"
    assert [ticket for ticket, _ in judge.released] == judge.picked, "a pick is not released exactly once"
