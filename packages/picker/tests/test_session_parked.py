"""A request that waits for room: what Envoy is told meanwhile, and that it loses nothing by it."""

import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.events import BodyMode, MoreTime, Protocol, RequestBody, RequestHeaders, ResponseHeaders
from shunter.picker.core.judgement import DropReason, Refusal
from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.testing import JSON_POST, EnvoyRejects, FakeEnvoy, StubJudge
from shunter.picker.transport.wire import encode

MODES = list(BodyMode)
TIMED = [mode for mode in MODES if mode is not BodyMode.FULL_DUPLEX_STREAMED]
BODY = b'{"model": "m", "prompt": "hello"}'
REWRITTEN = b'{"model": "another", "prompt": "hello"}'
EVICTED = Refusal(429, "ResourceExhausted", "request evicted by flow control", DropReason.EVICTED)
LATE = Refusal(429, "ResourceExhausted", "no capacity became free in time", DropReason.TTL_EXPIRED)


def exchange(mode, *, parked, pieces=(BODY,), trailers=False, **stub):
    judge = StubJudge(park_s=60.0 if parked else None, **stub)
    envoy = FakeEnvoy.before(judge, mode, BodyMode.NONE)
    envoy.request(pieces=pieces, trailers=trailers)
    if parked:
        assert envoy.session.parked
        assert all(isinstance(reply, MoreTime) or reply.mutation is None for reply in envoy.replies), "nothing is decided"
        judge.open()
        envoy.resume(judge)
    assert not envoy.session.parked
    return envoy


@pytest.mark.parametrize(("pieces", "trailers"), [((), False), ((BODY,), False), ((BODY[:9], BODY[9:]), True)])
@pytest.mark.parametrize("mode", MODES)
def test_who_waited_gets_what_it_would_have_got_at_once(mode, pieces, trailers):
    for stub in ({}, {"body": REWRITTEN}, {"verdict": LATE}):
        at_once, waited = (exchange(mode, parked=parked, pieces=pieces, trailers=trailers, **stub) for parked in (False, True))
        for each in ("upstream_headers", "upstream_body", "immediate", "metadata"):
            assert getattr(waited, each) == getattr(at_once, each)


@pytest.mark.parametrize("mode", TIMED)
def test_envoy_is_asked_for_the_time_once_where_it_counts(mode):
    judge = StubJudge(park_s=60.0)
    envoy = FakeEnvoy.before(judge, mode)
    envoy.request(pieces=[BODY])
    assert [reply for reply in envoy.replies if isinstance(reply, MoreTime)] == [MoreTime(61.0)]


def test_full_duplex_says_nothing_while_it_waits():
    envoy = FakeEnvoy.before(StubJudge(park_s=60.0))
    envoy.request(pieces=[BODY])
    assert envoy.replies == []


def test_time_is_asked_for_within_an_hour():
    envoy = FakeEnvoy.before(StubJudge(park_s=float("inf")), BodyMode.BUFFERED)
    envoy.request(pieces=[BODY])
    assert envoy.replies[-1] == MoreTime(3600.0)


def test_the_double_refuses_time_where_none_runs_or_a_second_time():
    envoy = FakeEnvoy.before(StubJudge(park_s=1.0), BodyMode.BUFFERED)
    envoy.request(pieces=[BODY])
    with pytest.raises(EnvoyRejects, match="given once"):
        envoy._obey([MoreTime(1.0)])
    with pytest.raises(EnvoyRejects, match="no time is running"):
        FakeEnvoy.before(StubJudge(), BodyMode.BUFFERED)._obey([MoreTime(1.0)])


@pytest.mark.parametrize("mode", MODES)
def test_who_goes_away_waits_no_longer(mode):
    judge = StubJudge(park_s=60.0)
    envoy = FakeEnvoy.before(judge, mode)
    envoy.request(pieces=[BODY])
    envoy.close()
    assert judge.left == [1]
    judge.open()
    assert judge.dispatch(0.0) == []
    assert judge.released == []


def test_an_answer_from_elsewhere_ends_the_wait():
    judge = StubJudge(park_s=60.0)
    envoy = FakeEnvoy.before(judge, BodyMode.BUFFERED)
    envoy.request(pieces=[BODY])
    envoy.session.feed(ResponseHeaders([(":status", "504")], end_of_stream=True), 1.0)
    assert judge.left == [1]
    envoy.close()
    assert judge.left == [1]


@pytest.mark.parametrize("mode", MODES)
def test_a_drain_refuses_who_waits(mode):
    judge = StubJudge(park_s=60.0)
    envoy = FakeEnvoy.before(judge, mode)
    envoy.request(pieces=[BODY])
    assert not envoy.session.idle
    (refusal,) = envoy.session.drain(5.0)
    assert (refusal.status, dict(refusal.headers)["x-llm-d-request-dropped-reason"]) == (503, "rejected-shutting-down")
    assert judge.left == [1]
    assert [each.reason for each in judge.noted] == [DropReason.SHUTTING_DOWN]


def test_the_verdict_on_another_ticket_changes_nothing():
    judge = StubJudge(park_s=60.0)
    envoy = FakeEnvoy.before(judge, BodyMode.BUFFERED)
    envoy.request(pieces=[BODY])
    assert envoy.session.resume(99, LATE, 1.0) == []
    assert envoy.session.parked


@pytest.mark.parametrize("mode", [BodyMode.FULL_DUPLEX_STREAMED, BodyMode.BUFFERED])
def test_bodies_that_wait_count_towards_the_memory_of_all_sessions(mode):
    budget = Budget(len(BODY))
    judges = [StubJudge(park_s=60.0), StubJudge(park_s=60.0)]
    first, second = (Session(judge, Limits(), budget) for judge in judges)
    for session in (first, second):
        session.feed(RequestHeaders([*JSON_POST], protocol=Protocol(mode, BodyMode.NONE)), 0.0)
        *_, last = session.feed(RequestBody(BODY, end_of_stream=True), 0.0) or [None]
    assert last.status == 503, "there is room for one body"
    assert not second.parked
    assert judges[1].left == ([1] if mode is BodyMode.BUFFERED else [])
    judges[0].open()
    ((ticket, verdict),) = judges[0].dispatch(1.0)
    first.resume(ticket, verdict, 1.0)
    assert budget.taken_bytes == 0


class TestEvicted:
    """Requests that were picked and are refused after all."""

    def evict(self, mode, response, *, respond=False, **stub):
        judge = StubJudge(evictable=True, **stub)
        envoy = FakeEnvoy.before(judge, mode, response)
        envoy.request(pieces=[BODY])
        if respond:
            envoy.send(ResponseHeaders([(":status", "200"), ("content-type", "text/event-stream")]))
        judge.evicting[envoy.session.ticket] = EVICTED
        for ticket, verdict in judge.dispatch(2.0):
            envoy._obey(envoy.session.resume(ticket, verdict, 2.0))
        return envoy, judge

    @pytest.mark.parametrize("respond", [False, True])
    @pytest.mark.parametrize("response", [BodyMode.FULL_DUPLEX_STREAMED, BodyMode.STREAMED])
    @pytest.mark.parametrize("mode", MODES)
    def test_the_client_is_told_and_the_endpoint_released(self, mode, response, respond):
        envoy, judge = self.evict(mode, response, respond=respond)
        assert envoy.immediate.status == 429
        assert ("x-llm-d-request-dropped-reason", "evicted") in envoy.immediate.headers
        assert envoy.session.ended
        envoy.close()
        assert not judge.outcome.complete

    def test_what_is_over_is_evicted_no_more(self):
        judge = StubJudge(evictable=True)
        envoy = FakeEnvoy.before(judge)
        envoy.request(pieces=[BODY])
        envoy.respond(pieces=[b"{}"])
        assert envoy.session.resume(1, EVICTED, 2.0) == []
        assert judge.outcome.complete


@given(st.floats(0.001, 3600.0))
def test_time_is_written_as_protobuf_reads_it(seconds):
    read = pb.ProcessingResponse.FromString(encode(MoreTime(seconds)))
    assert read.WhichOneof("response") is None
    assert read.override_message_timeout.ToNanoseconds() == pytest.approx(seconds * 1e9, abs=1)
