"""Which requests are traced, what their spans say, and when these are sent."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.decisions import Entry
from shunter.picker.core.judgement import DropReason, Outcome, Refusal
from shunter.picker.core.kinds import Decision, Verdict, Weighted
from shunter.picker.core.prefix import Match
from shunter.picker.core.request import Request
from shunter.picker.core.spans import split_authority
from shunter.picker.core.tracecontext import read_traceparent
from shunter.picker.core.tracer import MOST_OPEN, PATIENCE_S, RECORD_S, Tracer
from shunter.snapshot import Endpoint

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"

ENDPOINTS = [Endpoint(slot=at, incarnation=1, name=f"pod-{at}", address=f"10.0.0.{at + 1}", port=8000) for at in range(3)]
SCORER = Weighted("queue-scorer", None, 2.0)
NOTHING = {}
DECISION = Decision(ENDPOINTS[:2], (1, 0), (0.5, 1.5), [(SCORER, (0.25, 0.75))], [("by-label", ENDPOINTS)])
ENDED = Outcome(complete=True, duration_s=3.0)
RECORD = Outcome(
    complete=True,
    status=200,
    served="10.0.0.1:8000",
    first_token_s=1.0,
    duration_s=3.0,
    prompt_tokens=40,
    completion_tokens=5,
    cached_tokens=32,
    sent_bytes=100,
)


class Watch:
    """A tracer, its clock and what it sent: one list of spans for each request."""

    def __init__(self, share=0.0):
        self.now_s = 100.0
        self.sent = []
        self.tracer = Tracer(random.Random(1), share, lambda: self.now_s, self.sent.append)

    def pick(self, ticket=1, traceparent=SAMPLED, headers=NOTHING, **fields):
        entry = Entry(ticket=ticket, at_s=self.now_s, request_id="r", traceparent=traceparent, **fields)
        if entry.decision is None and entry.refusal is None:
            entry.decision, entry.profile = DECISION, "default"
            request = Request(headers=headers, ticket=ticket, traceparent=traceparent)
            self.told_engine, self.told_client = self.tracer.picked(request, Verdict(DECISION))
        self.tracer.follow([entry], [])
        return entry

    def close(self, outcome, ticket=1, after_s=3.0):
        self.now_s += after_s
        self.tracer.follow([], [(ticket, outcome, self.now_s)])

    @property
    def root(self):
        ((root, *_),) = self.sent
        return root


@pytest.fixture
def watch():
    return Watch()


def test_the_spans_of_a_request_whose_response_is_seen(watch):
    prefix = Match((1, 2), tokens=128, blocks={1: 1}, share={1: 0.5})
    watch.pick(
        began_s=99.5,
        waited_s=0.25,
        suffix="/chat/completions",
        model="m",
        target_model="m-v2",
        max_output_tokens=9,
        stream=True,
        pool="llama",
        priority=3,
        prefix=prefix,
        others={"prefill": Decision(ENDPOINTS, (0,))},
    )
    watch.close(RECORD)
    ((root, queue, deciding, *profiles),) = watch.sent
    assert {span.context.trace_id for span in watch.sent[0]} == {TRACE}
    assert len({span.context.span_id for span in watch.sent[0]} | {CALLER}) == 6
    assert root.parent_id == CALLER
    assert {queue.parent_id, deciding.parent_id} == {root.context.span_id}
    assert {span.parent_id for span in profiles} == {deciding.context.span_id}
    assert [span.name for span in watch.sent[0]] == [
        "gateway.request",
        "shunter.queue",
        "gateway.request_orchestration",
        "run_scheduler_profile",
        "run_scheduler_profile",
    ]
    assert (root.began_s, root.ended_s, root.events, root.error) == (99.5, 102.5, [(100.5, "first token")], None)
    assert (queue.began_s, queue.ended_s) == (99.75, 100.0)
    assert root.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.id": "r",
        "gen_ai.request.model": "m",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.stream": True,
        "gen_ai.usage.input_tokens": 40,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 32,
        "gen_ai.response.time_to_first_chunk": 1.0,
        "shunter.time_per_output_token_s": 0.5,
        "http.response.status_code": 200,
        "server.address": "10.0.0.1",
        "server.port": 8000,
        "shunter.complete": True,
        "shunter.fairness_id": "default-flow",
        "shunter.fallback": True,
        "shunter.pool": "llama",
        "shunter.queue_s": 0.25,
        "shunter.ticket": 1,
    }
    assert deciding.attributes == {
        "target_model": "m-v2",
        "request_prio": 3,
        "shunter.prompt_tokens": 0,
        "shunter.prefix_blocks": 2,
    }
    assert profiles[0].attributes == {
        "llm_d.epp.scheduling.profile.name": "default",
        "llm_d.epp.filter.candidate_endpoints": 3,
        "llm_d.epp.filter.filtered_endpoints": 2,
        "llm_d.epp.picker.top_endpoints": ["10.0.0.2:8000", "10.0.0.1:8000"],
        "llm_d.epp.picker.top_scores": [1.5, 0.5],
        "shunter.cached_tokens": 64,
        "shunter.score.queue-scorer": 0.75,
        "shunter.reason": "10.0.0.2:8000 won by 1.00 over 10.0.0.1:8000: queue-scorer +1.00; "
        "it had 50 % of the prompt cached against 0 %; by-label left 2 of 3.",
    }
    assert profiles[1].attributes["llm_d.epp.scheduling.profile.name"] == "prefill"


def test_a_refusal_is_sent_at_once(watch):
    watch.pick(refusal=Refusal(429, "ResourceExhausted", "too much", DropReason.SATURATED))
    ((root,),) = watch.sent
    assert root.error == "too much"
    assert root.attributes["http.response.status_code"] == 429
    assert root.attributes["shunter.refusal"] == "rejected-saturated"
    assert not len(watch.tracer)


def test_where_the_response_is_not_seen_its_record_is_waited_for(watch):
    watch.pick()
    watch.close(ENDED)
    assert not watch.sent
    watch.close(RECORD, after_s=0.2)
    assert watch.root.ended_s == 103.0
    assert watch.root.attributes["gen_ai.usage.output_tokens"] == 5
    watch.tracer.expire(watch.now_s + RECORD_S)
    assert len(watch.sent) == 1


def test_a_record_that_does_not_come_is_done_without(watch):
    watch.pick()
    watch.close(ENDED)
    watch.tracer.expire(watch.now_s + RECORD_S - 0.1)
    assert not watch.sent
    watch.tracer.expire(watch.now_s + RECORD_S)
    assert watch.root.ended_s == 103.0
    assert "http.response.status_code" not in watch.root.attributes


def test_of_a_request_that_lasts_on_after_its_stream_the_record_tells_the_end(watch):
    watch.pick()
    watch.close(Outcome(complete=False), after_s=5.0)
    watch.tracer.expire(watch.now_s + PATIENCE_S - 1)
    assert not watch.sent
    watch.close(Outcome(complete=True, status=200, duration_s=30.0, sent_bytes=9), after_s=26.0)
    assert watch.root.ended_s == 130.0


def test_no_record_makes_a_request_end_in_the_future(watch):
    watch.pick()
    watch.close(Outcome(complete=True, status=200, duration_s=1e6, sent_bytes=9))
    assert watch.root.ended_s == watch.now_s


def test_an_error_of_the_engine_is_one_of_the_request(watch):
    watch.pick()
    watch.close(Outcome(complete=False, status=503, duration_s=1.0, sent_bytes=0))
    assert (watch.root.error, watch.root.attributes["error.type"]) == ("status 503", "503")


@pytest.mark.parametrize("traceparent", [UNSAMPLED, "", "01" * 40, f"00-{'0' * 32}-{CALLER}-01"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_who_is_not_sampled_leaves_nothing(traceparent, share):
    watch = Watch(share)
    watch.pick(traceparent=traceparent)
    watch.close(RECORD)
    assert not watch.sent


@pytest.mark.parametrize(("share", "fewest", "most"), [(0.0, 0, 0), (1.0, 1000, 1000), (0.1, 70, 130)])
def test_where_nobody_says_anything_a_part_is_drawn(share, fewest, most):
    watch = Watch(share)
    for ticket in range(1000):
        watch.pick(ticket, None)
        watch.close(RECORD, ticket)
    assert fewest <= len(watch.sent) <= most
    assert len({root.context.trace_id for root, *_ in watch.sent}) == len(watch.sent)
    assert all(root.parent_id is None for root, *_ in watch.sent)


@pytest.mark.parametrize(
    ("told", "clients", "tells"),
    [
        (SAMPLED, None, False),
        (SAMPLED, UNSAMPLED, False),
        (SAMPLED, SAMPLED, True),
        (UNSAMPLED, UNSAMPLED, False),
        (None, None, True),
    ],
)
def test_the_engine_is_told_unless_the_gateway_does(told, clients, tells):
    watch = Watch(share=1.0)
    headers = {"traceparent": clients} if clients else {}
    entry = watch.pick(traceparent=told, headers=headers)
    watch.close(RECORD)
    assert not watch.told_client
    assert [name for name, _ in watch.told_engine] == ["traceparent"] * tells
    if tells:  # of the very span that is sent, once drawn
        assert read_traceparent(watch.told_engine[0][1]) == watch.root.context
        assert entry.traceparent in {watch.told_engine[0][1], told}


def test_the_trace_that_was_drawn_is_known_to_whoever_follows(watch):
    watch = Watch(share=1.0)
    entry = watch.pick(traceparent=None)
    watch.close(RECORD)
    assert read_traceparent(entry.traceparent) == watch.root.context


def test_beyond_the_bound_the_oldest_is_sent_as_far_as_it_is_known(watch):
    for ticket in range(MOST_OPEN + 1):
        watch.pick(ticket)
    assert watch.root.attributes["shunter.ticket"] == 0
    assert len(watch.tracer) == MOST_OPEN


def test_at_the_end_all_are_sent(watch):
    for ticket in range(3):
        watch.pick(ticket)
    watch.tracer.finish()
    assert [root.attributes["shunter.ticket"] for root, *_ in watch.sent] == [0, 1, 2]
    assert not len(watch.tracer)


def test_a_request_ends_no_sooner_than_it_began(watch):
    watch.pick()
    watch.close(Outcome(complete=True, status=200, duration_s=-5.0, sent_bytes=9))
    assert watch.root.ended_s == watch.root.began_s


@pytest.mark.parametrize(
    ("authority", "place"),
    [
        ("10.0.0.1:8000", ("10.0.0.1", 8000)),
        ("[fd00::1]:8000", ("fd00::1", 8000)),
        ("10.0.0.1:" + "9" * 5000, ("10.0.0.1", None)),
        ("10.0.0.1:٣", ("10.0.0.1", None)),
        ("", ("", None)),
    ],
)
def test_what_is_no_port_is_left_out(authority, place):
    assert split_authority(authority) == place


steps = st.one_of(
    st.tuples(st.just("pick"), st.integers(0, 9), st.sampled_from([SAMPLED, UNSAMPLED, None])),
    st.tuples(st.just("close"), st.integers(0, 9), st.sampled_from([ENDED, RECORD, Outcome(complete=False)])),
    st.tuples(st.just("expire"), st.floats(0, 700)),
)


@given(st.lists(steps, max_size=60))
def test_whatever_happens_each_traced_request_is_sent_once(story):
    watch, traced, seen = Watch(), 0, 0
    for kind, *rest in story:
        if kind == "pick":
            seen += 1
            watch.pick(100 * seen + rest[0], rest[1])  # a ticket is used once
            traced += rest[1] == SAMPLED
        elif kind == "close":
            watch.close(rest[1], 100 * seen + rest[0], after_s=0.1)
        else:
            watch.now_s += rest[0]
            watch.tracer.expire(watch.now_s)
    watch.tracer.finish()
    assert len(watch.sent) == traced
    assert len({root.attributes["shunter.ticket"] for root, *_ in watch.sent}) == traced
    assert all(span.began_s <= span.ended_s for spans in watch.sent for span in spans)
