"""The response side of a session: what the client gets, and what the judge learns."""

import msgspec
import pytest

from shunter.picker.core.events import (
    BodyMode,
    Protocol,
    RequestHeaders,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    Side,
    TrailersReply,
)
from shunter.picker.core.judgement import Refusal
from shunter.picker.testing import JSON_POST, FakeEnvoy, StubJudge

MODES = list(BodyMode)
SHOWN = [mode for mode in BodyMode if mode is not BodyMode.NONE]
USAGE = b'{"id": "1", "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}}'
JSON = (("content-type", "application/json"),)
SSE = (("content-type", "text/event-stream"),)
REWRITE = {"model": "public", "target_model": "engine-v2"}


def after_request(judge, request=BodyMode.BUFFERED, response=BodyMode.FULL_DUPLEX_STREAMED, **settings):
    envoy = FakeEnvoy.before(judge, request, response, **settings)
    envoy.request(body=b'{"model": "public"}')
    return envoy


@pytest.mark.parametrize("trailers", [False, True])
@pytest.mark.parametrize("headers", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_passes_the_response_on(mode, headers, trailers):
    judge = StubJudge()
    envoy = after_request(judge, response=mode, send_response_headers=headers)
    envoy.respond(pieces=[b'{"a": ', b"1}"], trailers=trailers)
    envoy.close()
    assert envoy.client_body == b'{"a": 1}'
    assert judge.outcome.complete
    if headers:
        assert envoy.client_headers["x-went-into-resp-headers"] == "true"


@pytest.mark.parametrize("headers", [False, True])
@pytest.mark.parametrize("mode", SHOWN)
def test_a_response_in_one_message_ends_with_it(mode, headers):
    judge = StubJudge()
    envoy = after_request(judge, response=mode)
    if headers:
        envoy.send(ResponseHeaders([(":status", "200")]))
    envoy.send(ResponseBody(b"{}", end_of_stream=True))
    assert envoy.client_body == b"{}"
    assert judge.outcome.complete


@pytest.mark.parametrize("headers", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_response_may_be_all_trailers(mode, headers):
    judge = StubJudge()
    envoy = after_request(judge, response=mode)
    if headers:
        envoy.send(ResponseHeaders([(":status", "200")]))
    assert envoy.send(ResponseTrailers()) == [TrailersReply(Side.RESPONSE)]
    assert judge.outcome.complete


@pytest.mark.parametrize("mode", MODES)
def test_a_response_may_be_all_headers(mode):
    judge = StubJudge()
    envoy = after_request(judge, response=mode)
    envoy.respond(204)
    assert judge.outcome.status == 204
    assert judge.outcome.complete


@pytest.mark.parametrize(("headers", "streamed"), [(JSON, False), (SSE, True)])
@pytest.mark.parametrize("mode", SHOWN)
def test_the_outcome_tells_what_was_seen(mode, headers, streamed):
    judge = StubJudge()
    envoy = FakeEnvoy.before(judge, BodyMode.BUFFERED, mode)
    envoy.now_s = 100.0
    envoy.request(body=b"{}")
    envoy.now_s = 100.25
    envoy.respond(201, headers=headers, pieces=[USAGE], served="10.0.0.2:8000")
    assert judge.outcome.complete
    assert judge.outcome.status == 201
    assert judge.outcome.served == "10.0.0.2:8000"
    assert judge.told == [(judge.picked[0], "10.0.0.2:8000")]
    assert judge.outcome.first_byte_s == pytest.approx(0.25)
    assert judge.outcome.first_token_s == (judge.outcome.first_byte_s if streamed else None)  # a plain one has none to tell
    assert judge.outcome.duration_s == pytest.approx(0.25)
    assert (judge.outcome.prompt_tokens, judge.outcome.completion_tokens) == (5, 7)
    assert judge.outcome.sent_bytes == len(USAGE)


@pytest.mark.parametrize("begins", [ResponseHeaders([(":status", "200")]), ResponseBody(b"{")])
@pytest.mark.parametrize("served", ["10.0.0.2:8000", None])
def test_what_a_response_begins_with_tells_who_served(begins, served):
    judge = StubJudge()
    envoy = after_request(judge)
    first, later = ({"envoy.lb": {"x-gateway-destination-endpoint-served": each}} for each in (served, "10.0.0.3:8000"))
    envoy.send(msgspec.structs.replace(begins, metadata=first if served else {}))
    envoy.send(ResponseBody(b"}", end_of_stream=True, metadata=later))
    assert judge.outcome.served == served


def test_an_empty_piece_is_not_a_token():
    judge = StubJudge()
    envoy = after_request(judge)
    envoy.respond(headers=SSE, pieces=[b"", b""])
    assert judge.outcome.first_token_s is None


@pytest.mark.parametrize("cut", range(1, len(USAGE)))
def test_usage_is_found_wherever_a_chunk_ends(cut):
    judge = StubJudge()
    after_request(judge).respond(headers=SSE, pieces=[b"data: " + USAGE[:cut], USAGE[cut:] + b"\n\n"])
    assert (judge.outcome.prompt_tokens, judge.outcome.completion_tokens) == (5, 7)


def test_a_compressed_body_is_neither_read_nor_changed():
    judge = StubJudge(**REWRITE)
    envoy = after_request(judge)
    body = b'"model":"engine-v2"' + USAGE
    envoy.respond(headers=[("content-type", "application/json"), ("content-encoding", "gzip")], pieces=[body])
    assert envoy.client_body == body
    assert judge.outcome.prompt_tokens is None


RESPONSE = b'{"id": 1, "model": "engine-v2", "text": "\\"model\\": \\"engine-v2\\""}'
RESTORED = b'{"id": 1, "model": "public", "text": "\\"model\\": \\"engine-v2\\""}'


@pytest.mark.parametrize("mode", SHOWN)
def test_the_client_sees_its_own_model_name(mode):
    envoy = after_request(StubJudge(**REWRITE), response=mode)
    length = ("content-length", str(len(RESPONSE)))
    envoy.respond(headers=[("content-type", "application/json"), length], pieces=[RESPONSE])
    assert envoy.client_body == RESTORED


@pytest.mark.parametrize("trailers", [False, True])
@pytest.mark.parametrize("cut", range(1, len(RESPONSE)))
def test_in_full_duplex_the_name_is_restored_even_if_it_is_cut(cut, trailers):
    envoy = after_request(StubJudge(**REWRITE))
    envoy.respond(pieces=[RESPONSE[:cut], RESPONSE[cut:]], trailers=trailers)
    assert envoy.client_body == RESTORED


@pytest.mark.parametrize("cut", range(1, len(RESPONSE)))
def test_in_streamed_mode_no_byte_is_lost_before_trailers(cut):
    envoy = after_request(StubJudge(**REWRITE), response=BodyMode.STREAMED)
    envoy.respond(pieces=[RESPONSE[:cut], RESPONSE[cut:]], trailers=True)
    assert envoy.client_body in {RESTORED, RESPONSE}


@pytest.mark.parametrize("mode", SHOWN)
def test_a_body_without_headers_is_not_changed_since_nobody_said_what_it_is(mode):
    envoy = after_request(StubJudge(**REWRITE), response=mode, send_response_headers=False)
    envoy.respond(pieces=[RESPONSE])
    assert envoy.client_body == RESPONSE


def test_a_response_of_an_unchanged_model_is_not_touched():
    envoy = after_request(StubJudge(model="m", target_model="m"))
    envoy.respond(pieces=[b'{"model":"m"}'])
    assert envoy.client_body == b'{"model":"m"}'


@pytest.mark.parametrize("mode", MODES)
def test_a_local_reply_before_the_choice_passes(mode):
    """E.g. the 504 of a timeout: it goes through the filter while the request still waits for its body."""
    judge = StubJudge()
    envoy = FakeEnvoy.before(judge, BodyMode.FULL_DUPLEX_STREAMED, mode)
    envoy.send(RequestHeaders([*JSON_POST], protocol=Protocol(BodyMode.FULL_DUPLEX_STREAMED, mode)))
    envoy.respond(504, [("content-type", "text/plain")], pieces=[b"too late"])
    envoy.close()
    assert envoy.client_body == b"too late"
    assert judge.asks == judge.released == []


@pytest.mark.parametrize("mode", MODES)
def test_a_local_reply_may_open_the_stream(mode):
    """E.g. the 401 of a filter before the picker's: the request never came here."""
    envoy = FakeEnvoy.before(StubJudge(), BodyMode.BUFFERED, mode)
    envoy.respond(401, [("content-type", "text/plain")], pieces=[b"who are you?"])
    assert envoy.client_body == b"who are you?"


@pytest.mark.parametrize("status", ["", "abc", "99999", "²00", "-12"])
def test_a_strange_status_is_no_status(status):
    judge = StubJudge()
    envoy = after_request(judge)
    envoy.send(ResponseHeaders([(":status", status)], end_of_stream=True))
    assert judge.outcome.status is None


@pytest.mark.parametrize("mode", MODES)
def test_a_stream_that_breaks_is_released_once_and_complete_only_if_nothing_was_to_come(mode):
    judge = StubJudge()
    envoy = after_request(judge, response=mode)
    envoy.close()
    envoy.close()
    assert judge.outcome.complete == (mode is BodyMode.NONE)


def test_a_refused_request_has_nothing_to_release():
    judge = StubJudge(verdict=Refusal(503, "ServiceUnavailable", "nobody"))
    envoy = FakeEnvoy.before(judge)
    envoy.request(body=b"{}")
    envoy.close()
    assert envoy.immediate is not None
    assert judge.released == []


@pytest.mark.parametrize("mode", MODES)
def test_how_large_a_response_was_is_told_by_who_has_seen_it(mode):
    judge = StubJudge()
    envoy = after_request(judge, response=mode)
    envoy.respond(pieces=[b"12", b"345"])
    envoy.close()
    assert judge.outcome.sent_bytes == (None if mode is BodyMode.NONE else 5)
