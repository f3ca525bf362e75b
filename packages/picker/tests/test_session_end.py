"""How a session ends otherwise: refusals, limits, drains, protocol errors; and that nothing else can happen."""

import itertools
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.events import (
    BodyMode,
    Immediate,
    Protocol,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    Side,
)
from shunter.picker.core.judgement import DropReason, Pick, Refusal
from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.errors import ConfigError, ProtocolError
from shunter.picker.testing import JSON_POST, FakeEnvoy, StubJudge

MODES = list(BodyMode)
NOBODY = Refusal(503, "ServiceUnavailable", "no endpoint is ready", DropReason.NO_ENDPOINTS)


@pytest.mark.parametrize("mode", MODES)
def test_a_refusal_is_an_openai_error_in_the_words_of_the_reference(mode):
    envoy = FakeEnvoy.before(StubJudge(verdict=NOBODY), mode)
    envoy.request(body=b"{}")
    assert envoy.immediate.status == 503
    assert dict(envoy.immediate.headers) == {
        "content-type": "application/json",
        "x-llm-d-request-dropped-reason": "rejected-no-endpoints",
        "retry-after": "1",
    }
    error = msgspec.json.decode(envoy.immediate.body)["error"]
    assert error["message"] == "inference error: ServiceUnavailable - no endpoint is ready"
    assert error["type"] == "service_unavailable_error"
    assert envoy.immediate.details == "picker_refused{rejected-no-endpoints}"
    assert envoy.session.ended


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (404, "not_found_error"), (429, "rate_limit_error"), (500, "server_error")],
)
def test_the_error_type_follows_the_status(status, kind):
    envoy = FakeEnvoy.before(StubJudge(verdict=Refusal(status, "Code", "why")))
    envoy.request(body=b"{}")
    assert msgspec.json.decode(envoy.immediate.body)["error"]["type"] == kind
    assert ("retry-after" in dict(envoy.immediate.headers)) == (status == 429)


@pytest.mark.parametrize("mode", [BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL])
def test_trailers_without_a_body_come_too_late_for_a_choice(mode):
    judge = StubJudge()
    envoy = FakeEnvoy.before(judge, mode)
    envoy.request(trailers=True)
    assert envoy.immediate.status == 400
    assert [refusal.status for refusal in judge.noted] == [400]


def test_what_envoy_sent_before_it_saw_the_refusal_is_ignored():
    envoy = FakeEnvoy.before(StubJudge(verdict=NOBODY), BodyMode.STREAMED)
    envoy.request(pieces=[b"{}"])
    assert envoy.session.feed(RequestBody(b"more"), 0.0) == []


@pytest.mark.parametrize("mode", [BodyMode.FULL_DUPLEX_STREAMED, BodyMode.BUFFERED])
def test_a_body_over_the_limit_is_413(mode):
    limits = Limits(body_bytes=10, buffered_bytes=100)
    judge = StubJudge()
    envoy = FakeEnvoy.before(judge, mode, limits=limits)
    envoy.request(pieces=[b"12345", b"67890"])
    assert envoy.immediate is None
    envoy = FakeEnvoy.before(judge, mode, limits=limits)
    envoy.request(pieces=[b"12345", b"678901"])
    assert envoy.immediate.status == 413
    assert len(judge.asks) == 1
    assert [refusal.status for refusal in judge.noted] == [413]


def test_sessions_share_a_budget_and_give_it_back():
    limits = Limits(body_bytes=10, buffered_bytes=10)
    budget = Budget(limits.buffered_bytes)
    judge = StubJudge()
    first, second = (FakeEnvoy(Session(judge, limits, budget)) for _ in range(2))
    first.send(RequestHeaders([*JSON_POST]))
    first.send(RequestBody(b"123456"))
    second.send(RequestHeaders([*JSON_POST]))
    second.send(RequestBody(b"12345"))
    assert second.immediate.status == 503
    assert [refusal.status for refusal in judge.noted] == [503]
    assert budget.taken_bytes == 6
    first.close()
    assert budget.taken_bytes == 0


def test_limits_that_let_nothing_pass_are_refused():
    with pytest.raises(ConfigError, match="a limit of 0 bytes for bodies"):
        Limits(body_bytes=0)
    with pytest.raises(ConfigError, match="a buffer of 9 bytes holds not even one body of 10"):
        Limits(body_bytes=10, buffered_bytes=9)


def test_a_drain_refuses_who_waits_for_a_choice():
    judge = StubJudge()
    envoy = FakeEnvoy.before(judge)
    envoy.send(RequestHeaders([*JSON_POST]))
    assert not envoy.session.idle
    (reply,) = envoy.session.drain(1.0)
    assert isinstance(reply, Immediate)
    assert (reply.status, reply.details) == (503, "picker_refused{rejected-shutting-down}")
    assert [refusal.reason for refusal in judge.noted] == [DropReason.SHUTTING_DOWN]
    assert envoy.session.ended
    assert envoy.session.drain(1.0) == []
    assert judge.asks == judge.released == []


def test_a_lean_stream_is_idle_after_the_choice_and_its_release_is_not_complete():
    judge = StubJudge()
    envoy = FakeEnvoy.before(judge, BodyMode.BUFFERED, BodyMode.NONE)
    assert not envoy.session.idle
    envoy.request(body=b"{}")
    assert envoy.session.idle
    assert envoy.session.drain(1.0) == []
    envoy.close()
    assert not judge.outcome.complete


def test_a_stream_that_carries_the_response_is_idle_only_at_its_end():
    envoy = FakeEnvoy.before(StubJudge(), BodyMode.BUFFERED, BodyMode.STREAMED)
    envoy.request(body=b"{}")
    assert not envoy.session.idle
    envoy.respond(pieces=[b"{}"])
    assert envoy.session.idle


def test_a_drain_lets_go_of_what_was_held_back():
    envoy = FakeEnvoy.before(StubJudge(model="public", target_model="engine"), BodyMode.BUFFERED)
    envoy.request(body=b"{}")
    envoy.send(ResponseHeaders([(":status", "200"), ("content-type", "application/json")]))
    envoy.send(ResponseBody(b'{"model":"eng'))
    (reply,) = envoy.session.drain(1.0)
    assert envoy.client_body + reply.streamed == b'{"model":"eng'


def test_a_protocol_error_names_state_and_mode_and_releases():
    judge = StubJudge()
    envoy = FakeEnvoy.before(judge, BodyMode.BUFFERED)
    envoy.request(body=b"{}")
    with pytest.raises(ProtocolError, match="request body in state DONE, body mode BUFFERED"):
        envoy.send(RequestBody(b"more"))
    assert not judge.outcome.complete
    assert envoy.session.feed(RequestBody(b"more"), 0.0) == []


def test_a_body_without_headers_says_what_to_configure():
    with pytest.raises(ProtocolError, match="set request_header_mode: SEND"):
        FakeEnvoy.before(StubJudge()).send(RequestBody(b"{}"))


# What may come, once more and independently of the table: H headers, B body, T trailers, small with the end of the stream.
PIECEWISE = {Side.REQUEST: r"(h|HB*[bT]?)?", Side.RESPONSE: r"h|H?B*[bT]?"}
WHOLE = {Side.REQUEST: r"(h|H(b|BT?|T)?)?", Side.RESPONSE: r"h|H?(b|BT?|T)?"}
HIDDEN = {Side.REQUEST: r"(h|HT?)?", Side.RESPONSE: r"h|H?T?"}
GRAMMAR = {
    BodyMode.FULL_DUPLEX_STREAMED: PIECEWISE,
    BodyMode.STREAMED: PIECEWISE,
    BodyMode.BUFFERED: WHOLE,
    BodyMode.BUFFERED_PARTIAL: WHOLE,
    BodyMode.NONE: HIDDEN,
}


def spell(side, letter, mode):
    first, body, trailers = (
        (RequestHeaders, RequestBody, RequestTrailers),
        (ResponseHeaders, ResponseBody, ResponseTrailers),
    )[side]
    match letter.upper():
        case "H":
            return first([], letter == "h", protocol=Protocol(mode, mode))
        case "B":
            return body(b"{}", letter == "b")
    return trailers()


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("mode", MODES)
def test_exactly_the_legal_orders_are_accepted(mode, side):
    for word in map("".join, itertools.product("HhBbT", repeat=4)):
        session = Session(StubJudge(), Limits(), Budget(1000))
        if side is Side.RESPONSE:
            session.feed(RequestHeaders([], protocol=Protocol(mode, mode)), 0.0)
        legal = True
        for length, letter in enumerate(word, start=1):
            try:
                session.feed(spell(side, letter, mode), 0.0)
            except ProtocolError:
                legal = False
            assert legal == bool(re.fullmatch(GRAMMAR[mode][side], word[:length])), word[:length]
            if session.ended:  # by the error, or by its last word
                break
        session.close(0.0)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("closes", ["close", "drain"])
def test_a_request_that_outlasts_its_stream_is_not_over_with_it(told, closes):
    judge = StubJudge()
    envoy = FakeEnvoy.before(judge, BodyMode.FULL_DUPLEX_STREAMED, BodyMode.NONE)
    envoy.request(body=b"{}", metadata={"shunter": {"end": "record"}} if told else None)
    getattr(envoy.session, closes)(1.0)
    assert judge.outcome.lasts is told


headers = st.sampled_from(
    [
        [*JSON_POST],
        [],
        [(":status", "200"), ("content-type", "application/json")],
        [(":status", "200"), ("content-type", "text/event-stream")],
    ]
)
data = (
    st.sampled_from([b"", b"{}", b'{"model":"engi', b'ne"}', b'"usage":{"prompt_tokens":1}', b"x" * 70_000, b'"']) | st.binary()
)
ends = st.booleans()
metadata = st.sampled_from(
    [
        {},
        {"envoy.lb": {"x-gateway-destination-endpoint-served": 3.0}},
        {"envoy.lb.subset_hint": {"x-gateway-destination-endpoint-subset": [None, {}]}},
        {"shunter": {"end": "record"}},
    ]
)
protocols = st.none() | st.builds(Protocol, st.sampled_from(BodyMode), st.sampled_from(BodyMode))
events = st.one_of(
    st.builds(RequestHeaders, headers, ends, protocols, metadata),
    st.builds(RequestBody, data, ends, metadata),
    st.builds(RequestTrailers, metadata),
    st.builds(ResponseHeaders, headers, ends, metadata, protocols),
    st.builds(ResponseBody, data, ends, metadata),
    st.builds(ResponseTrailers, metadata),
)
verdicts = st.sampled_from(
    [
        NOBODY,
        lambda ask: Pick(("10.0.0.1:8000",), 1, "id"),
        lambda ask: Pick(("10.0.0.1:8000",), 1, "id", "public", "engine", b'{"model":"engine"}'),
    ]
)


@given(script=st.lists(events, max_size=12), verdict=verdicts, closes=st.sampled_from(["close", "drain"]))
def test_any_sequence_of_events_ends_in_replies_or_a_protocol_error_and_one_release(script, verdict, closes):
    judge = StubJudge(verdict=verdict)
    limits = Limits(body_bytes=100_000, buffered_bytes=150_000)
    budget = Budget(limits.buffered_bytes)
    session = Session(judge, limits, budget)
    try:
        for event in script:
            session.feed(event, 0.0)
    except ProtocolError:
        assert session.ended
    getattr(session, closes)(1.0)
    session.close(2.0)
    assert len(judge.asks) + len(judge.noted) <= 1
    assert [ticket for ticket, _ in judge.released] == judge.picked
    assert budget.taken_bytes == 0


@given(data=st.data(), verdict=verdicts, request_mode=st.sampled_from(BodyMode), response_mode=st.sampled_from(BodyMode))
def test_every_legal_exchange_is_answered_as_envoy_wants(data, verdict, request_mode, response_mode):
    pieces = st.lists(st.binary(max_size=200), max_size=4)
    judge = StubJudge(verdict=verdict)
    envoy = FakeEnvoy.before(judge, request_mode, response_mode, send_response_headers=data.draw(st.booleans()))
    sent, came = data.draw(pieces), data.draw(pieces)
    envoy.request(pieces=sent, trailers=data.draw(st.booleans()))
    if envoy.immediate is None:
        envoy.respond(pieces=came, trailers=data.draw(st.booleans()))
        assert envoy.client_body == b"".join(came)
        assert envoy.upstream_body in {b"".join(sent), b'{"model":"engine"}'}
    envoy.close()
    assert [ticket for ticket, _ in judge.released] == judge.picked
