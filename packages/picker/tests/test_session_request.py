"""The request side of a session: when it asks the judge, and what goes on to the upstream."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.answers import CHUNK_BYTES, CONTROL_HEADERS
from shunter.picker.core.events import BodyMode, BodyReply, HeadersReply, Protocol, RequestBody, RequestHeaders
from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.testing import JSON_POST, FakeEnvoy, StubJudge

MODES = list(BodyMode)
SEES_BODY = [BodyMode.FULL_DUPLEX_STREAMED, BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL]
BLIND = [BodyMode.STREAMED, BodyMode.NONE]
BODY = b'{"model": "m", "prompt": "hello"}'
REWRITTEN = b'{"model": "another", "prompt": "hello"}'


@pytest.mark.parametrize("trailers", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_routes_and_leaves_the_body_intact(mode, trailers):
    judge = StubJudge(("10.0.0.1:8000", "10.0.0.2:8000"))
    envoy = FakeEnvoy.before(judge, mode)
    envoy.request(pieces=[BODY[:5], BODY[5:]], trailers=trailers)
    assert envoy.endpoints == ("10.0.0.1:8000", "10.0.0.2:8000")
    assert envoy.upstream_body == BODY
    assert len(judge.asks) == 1


@pytest.mark.parametrize("mode", SEES_BODY)
def test_the_judge_sees_the_body(mode):
    judge = StubJudge()
    FakeEnvoy.before(judge, mode).request(pieces=[BODY[:5], BODY[5:]])
    (ask,) = judge.asks
    assert (ask.body, ask.has_body) == (BODY, True)


@pytest.mark.parametrize("mode", BLIND)
def test_the_judge_is_told_that_the_mode_hides_the_body(mode):
    judge = StubJudge()
    FakeEnvoy.before(judge, mode).request(pieces=[BODY])
    (ask,) = judge.asks
    assert (ask.body, ask.has_body) == (b"", False)


@pytest.mark.parametrize("mode", MODES)
def test_a_request_without_body_is_decided_at_its_headers(mode):
    judge = StubJudge()
    envoy = FakeEnvoy.before(judge, mode)
    envoy.request([(":method", "GET"), (":path", "/v1/models")])
    assert envoy.endpoints == ("127.0.0.1:8000",)
    (ask,) = judge.asks
    assert not ask.has_body
    assert len(envoy.replies) == 1


@pytest.mark.parametrize("mode", SEES_BODY)
def test_a_rewritten_body_goes_on_with_its_length(mode):
    envoy = FakeEnvoy.before(StubJudge(body=REWRITTEN), mode)
    envoy.request([*JSON_POST, ("content-length", str(len(BODY)))], pieces=[BODY])
    assert envoy.upstream_body == REWRITTEN
    assert envoy.upstream_headers["content-length"] == str(len(REWRITTEN))


def test_full_duplex_says_nothing_before_the_body_is_complete():
    envoy = FakeEnvoy.before(StubJudge())
    assert envoy.send(RequestHeaders([*JSON_POST])) == []
    assert envoy.send(RequestBody(BODY)) == []
    headers, body = envoy.send(RequestBody(b"", end_of_stream=True))
    assert isinstance(headers, HeadersReply)
    assert headers.mutation.clear_route_cache
    assert isinstance(body, BodyReply)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode is not BodyMode.NONE])
def test_the_only_piece_of_a_body_may_carry_its_end(mode):
    envoy = FakeEnvoy.before(StubJudge(), mode)
    envoy.send(RequestHeaders([*JSON_POST], protocol=Protocol(mode, BodyMode.NONE)))
    envoy.send(RequestBody(BODY, end_of_stream=True))
    assert envoy.upstream_body == BODY
    assert envoy.endpoints


def test_full_duplex_goes_on_in_chunks_that_gateways_accept():
    body = bytes(range(256)) * 1000
    envoy = FakeEnvoy.before(StubJudge())
    envoy.request(pieces=[body])
    chunks = [reply.streamed for reply in envoy.replies if isinstance(reply, BodyReply)]
    assert envoy.upstream_body == body
    assert max(map(len, chunks)) == CHUNK_BYTES
    assert [reply.end_of_stream for reply in envoy.replies if isinstance(reply, BodyReply)] == [False] * 4 + [True]


def test_a_body_ended_by_trailers_has_no_length():
    envoy = FakeEnvoy.before(StubJudge())
    envoy.request(pieces=[BODY], trailers=True)
    assert "content-length" not in envoy.upstream_headers


def test_an_empty_body_in_full_duplex_still_ends():
    envoy = FakeEnvoy.before(StubJudge())
    envoy.request(pieces=[b""])
    assert [reply.streamed for reply in envoy.replies if isinstance(reply, BodyReply)] == [b""]


def test_half_a_body_is_neither_read_nor_rewritten():
    judge = StubJudge(body=REWRITTEN)
    envoy = FakeEnvoy.before(judge, BodyMode.BUFFERED_PARTIAL)
    envoy.request([*JSON_POST, ("content-length", str(len(BODY)))], pieces=[BODY], partial_bytes=10)
    (ask,) = judge.asks
    assert (ask.body, ask.has_body) == (b"", False)
    assert envoy.upstream_body == BODY
    assert envoy.endpoints


def test_without_announcement_the_mode_is_full_duplex():
    envoy = FakeEnvoy.before(StubJudge(), announce=False)
    envoy.request(pieces=[BODY])
    envoy.respond(pieces=[b"{}"])
    assert (envoy.upstream_body, envoy.client_body) == (BODY, b"{}")


def test_control_headers_do_not_reach_the_upstream():
    sent = [(name, "x") for name in sorted(CONTROL_HEADERS)]
    envoy = FakeEnvoy.before(StubJudge())
    envoy.request([*JSON_POST, *sent, ("authorization", "Bearer t")], body=BODY)
    assert not CONTROL_HEADERS & envoy.upstream_headers.keys()
    assert envoy.upstream_headers["authorization"] == "Bearer t"


def test_a_client_cannot_name_its_endpoint():
    envoy = FakeEnvoy.before(StubJudge(("10.0.0.1:8000",)))
    envoy.request([*JSON_POST, ("x-gateway-destination-endpoint", "6.6.6.6:80")], body=BODY)
    assert envoy.endpoints == ("10.0.0.1:8000",)


def test_a_missing_request_id_is_added_and_a_given_one_kept():
    envoy = FakeEnvoy.before(StubJudge(request_id="made"))
    envoy.request(body=BODY)
    assert envoy.upstream_headers["x-request-id"] == "made"
    envoy = FakeEnvoy.before(StubJudge(request_id="made"))
    envoy.request([*JSON_POST, ("x-request-id", "given")], body=BODY)
    assert envoy.upstream_headers["x-request-id"] == "given"
    envoy = FakeEnvoy.before(StubJudge(request_id="made"))
    envoy.request([*JSON_POST, ("x-request-id", "")], body=BODY)
    assert envoy.upstream_headers["x-request-id"] == "made"


def test_plugins_add_headers_and_metadata_and_the_ticket_is_the_id():
    scores = {"127.0.0.1:8000": 0.5}
    envoy = FakeEnvoy.before(StubJudge(set_headers=(("x-prefiller-host-port", "p:1"),), metadata={"scores": scores}))
    envoy.request(body=BODY)
    assert envoy.upstream_headers["x-prefiller-host-port"] == "p:1"
    assert envoy.metadata["envoy.lb"]["scores"] == scores
    assert envoy.metadata["envoy.lb"]["id"] == "1"


def test_a_plugin_cannot_unmake_the_choice():
    name = "x-gateway-destination-endpoint"
    envoy = FakeEnvoy.before(StubJudge(set_headers=((name, "6.6.6.6:80"),), metadata={name: "6.6.6.6:80"}))
    envoy.request(body=BODY)
    assert envoy.endpoints == ("127.0.0.1:8000",)


def test_of_a_repeated_header_the_judge_sees_the_first():
    judge = StubJudge()
    FakeEnvoy.before(judge).request([*JSON_POST, ("x-a", "1"), ("x-a", "2")], body=BODY)
    assert judge.asks[0].headers["x-a"] == "1"


HINT = "x-gateway-destination-endpoint-subset"


@pytest.mark.parametrize(
    ("values", "subset"),
    [
        ({}, None),
        ({HINT: 3.0}, None),
        ({HINT: []}, ()),
        ({HINT: ""}, ()),
        ({HINT: ["10.0.0.1:8000", 7.0, "10.0.0.2"]}, ("10.0.0.1:8000", "10.0.0.2")),
        ({HINT: "10.0.0.1:8000, 10.0.0.2"}, ("10.0.0.1:8000", "10.0.0.2")),
    ],
)
def test_the_subset_hint_in_every_form(values, subset):
    judge = StubJudge()
    FakeEnvoy.before(judge).request(body=BODY, metadata={"envoy.lb.subset_hint": values})
    assert judge.asks[0].subset == subset


def test_the_hint_of_the_completing_message_wins_over_that_of_the_headers():
    judge = StubJudge()
    envoy = FakeEnvoy.before(judge)
    envoy.send(RequestHeaders([*JSON_POST], metadata={"envoy.lb.subset_hint": {HINT: ["10.0.0.1"]}}))
    envoy.send(RequestBody(BODY, end_of_stream=True, metadata={"envoy.lb.subset_hint": {HINT: ["10.0.0.2"]}}))
    assert judge.asks[0].subset == ("10.0.0.2",)


@given(cuts=st.lists(st.integers(0, len(BODY)), max_size=8), mode=st.sampled_from(SEES_BODY))
def test_however_a_body_is_cut_the_judge_and_the_upstream_see_the_same(cuts, mode):
    edges = [0, *sorted(cuts), len(BODY)]
    judge = StubJudge()
    envoy = FakeEnvoy.before(judge, mode)
    envoy.request(pieces=[BODY[a:b] for a, b in itertools.pairwise(edges)])
    assert judge.asks[0].body == BODY
    assert envoy.upstream_body == BODY


@pytest.mark.parametrize(
    ("gateways", "clients", "heeded"),
    [(None, None, None), (None, "client", "client"), ("gateway", None, "gateway"), ("gateway", "client", "gateway")],
)
def test_a_gateway_that_traces_knows_better_than_its_client_where_a_request_belongs(gateways, clients, heeded):
    judge = StubJudge()
    envoy = FakeEnvoy.before(judge, BodyMode.BUFFERED)
    envoy.session.traceparent = gateways
    envoy.request([*JSON_POST, ("traceparent", clients)] if clients else JSON_POST, b"{}")
    assert [ask.traceparent for ask in judge.asks] == [heeded]


def test_a_request_begins_with_its_first_message():
    judge = StubJudge()
    session = Session(judge, Limits(), Budget(Limits().buffered_bytes))
    session.feed(RequestHeaders(JSON_POST, protocol=Protocol(BodyMode.BUFFERED, BodyMode.NONE)), 7.0)
    session.feed(RequestBody(b"{}", end_of_stream=True), 9.0)
    assert [ask.began_s for ask in judge.asks] == [7.0]
