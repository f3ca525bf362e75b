"""A sampled decision has one line, when it is known how the request went; no line says what was asked."""

import json
import logging
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker import config
from shunter.picker.core.canonical import RECORD_S, Canon, describe
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, Outcome, Pick
from shunter.snapshot import Endpoint, Health, Load, LoadRow, Pool, Topology, View
from shunter.snapshot.stderr import LONGEST_BYTES, JsonLines

CHAT = {":path": "/v1/chat/completions", "x-request-id": "r-1"}
BODY = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"confidential"}]}'
OPEN = Outcome(complete=True, duration_s=1.0)  # in lean that is all a worker sees
DONE = Outcome(complete=True, status=200, served="10.0.0.1:8000", first_token_s=0.1, duration_s=1.0, completion_tokens=7)
NOW_S = 100.0


@pytest.fixture
def judge(make_view):
    view = make_view({"waiting": 0}, {"waiting": 1})
    return FleetJudge(config.load().policy, lambda _: view, random.Random(1), keep=2)


@pytest.fixture
def canon(judge):
    canon = Canon(random.Random(1), 1.0)
    judge.decisions.witnesses.append(canon)
    return canon


def take(judge, canon, *how):
    judge.decisions.tell()
    return canon.take(*how)


def decide(judge, body=BODY, **more):
    return judge.decide(Ask(CHAT, body, **more), NOW_S)


def test_a_line_tells_who_was_chosen_why_and_what_came_of_it(judge, canon):
    trace = "0af7651916cd43dd8448eb211c80319c"
    judge.release(decide(judge, traceparent=f"00-{trace}-b7ad6b7169203331-01").ticket, DONE, NOW_S)
    (told,) = map(describe, take(judge, canon, NOW_S))
    scores = told.pop("scores")
    assert told == {
        "request_id": "r-1",
        "ticket": "1.1",
        "trace_id": trace,
        "model": "m",
        "priority": 0,
        "estimated_tokens": told["estimated_tokens"],
        "candidates": 2,
        "profile": "default",
        "endpoint": "10.0.0.1:8000",
        "cached_share": 0.0,
        "total": told["total"],
        "why": told["why"],
        "status": 200,
        "complete": True,
        "served": "10.0.0.1:8000",
        "first_token_s": 0.1,
        "duration_s": 1.0,
        "completion_tokens": 7,
    }
    assert told["why"].startswith("10.0.0.1:8000 won by")
    assert scores
    assert all(0 <= score <= 1 for score in scores.values())


def test_a_request_is_told_when_its_record_has_come_or_does_not(judge, canon):
    first, second, third = (decide(judge).ticket for _ in range(3))
    judge.release(first, OPEN, NOW_S)
    judge.release(second, OPEN, NOW_S)
    assert take(judge, canon, NOW_S) == []
    judge.measured(first, DONE, NOW_S)
    assert [(entry.ticket, entry.outcome) for entry in take(judge, canon, NOW_S)] == [(first, DONE)]
    assert [(entry.ticket, entry.outcome) for entry in take(judge, canon, NOW_S + RECORD_S)] == [(second, OPEN)]
    judge.measured(second, DONE, NOW_S)
    assert take(judge, canon, NOW_S + 10 * RECORD_S) == []
    assert [(entry.ticket, entry.outcome) for entry in take(judge, canon, None)] == [(third, None)]


def test_a_refusal_is_told_at_once_with_its_reason(judge, canon):
    decide(judge, b"no JSON")
    (told,) = map(describe, take(judge, canon, NOW_S))
    assert (told["refused"], "endpoint" in told) == ("BadRequest", False)
    assert told["why"].startswith("request body is not the JSON expected here")


def test_only_a_sample_is_told(judge):
    canon = Canon(random.Random(1), 0.25)
    judge.decisions.witnesses.append(canon)
    for _ in range(200):
        judge.release(decide(judge).ticket, DONE, NOW_S)
    assert 25 < len(take(judge, canon, NOW_S)) < 75


@pytest.mark.parametrize(("limit", "value"), [("KEEP_CANDIDATES", 4), ("MOST_HELD", 2)])
def test_what_never_ends_is_told_before_there_is_too_much_of_it(judge, canon, monkeypatch, limit, value):
    monkeypatch.setattr(f"shunter.picker.core.canonical.{limit}", value)
    tickets = [decide(judge).ticket for _ in range(5)]  # of two candidates each
    assert [entry.ticket for entry in take(judge, canon, NOW_S)] == tickets[:3]


SECRET = "n0b0dy-sh4ll-r3ad-th1s"
SHOUTED = st.text(st.characters(codec="utf-8"), max_size=2000)
PROMPTS = st.sampled_from(("messages", "prompt", "input", "text", "input_ids"))


@st.composite
def requests(draw):
    """Anything a client may send with a prompt in it, also broken."""
    content = draw(SHOUTED) + SECRET + draw(SHOUTED)
    prompt = draw(st.sampled_from((content, [content], [{"role": "user", "content": content}], {"a": content})))
    members = {draw(PROMPTS): prompt, "model": draw(SHOUTED | st.integers() | st.none())}
    body = json.dumps(members | draw(st.dictionaries(PROMPTS, st.just(SECRET), max_size=1))).encode()
    body = body[: draw(st.integers(0, len(body)))] if draw(st.booleans()) else body
    path = draw(st.sampled_from(("/v1/chat/completions", "/v1/completions", "/v1/messages", "/generate", "/v1/embeddings")))
    names = st.sampled_from(("x-request-id", "traceparent", "x-gateway-inference-objective", "x-gateway-model-name-rewrite"))
    return Ask({":path": path} | draw(st.dictionaries(names, SHOUTED)), body, traceparent=draw(st.none() | SHOUTED))


@given(requests(), st.booleans())
def test_whatever_a_client_sends_its_line_is_one_of_json_bounded_and_without_its_prompt(ask, ends):
    endpoint = Endpoint(slot=0, incarnation=1, name="pod", address="10.0.0.1", port=8000)
    topology = Topology(epoch=1, generation=1, pools=(Pool(name="pool"),), endpoints=(endpoint,))
    row = LoadRow(slot=0, incarnation=1, health=Health.FRESH, sampled_ns=int(NOW_S * 1e9))
    view = View(topology, Load.of([row], epoch=1, topology_generation=1, published_ns=int(NOW_S * 1e9)))
    judge = FleetJudge(config.load().policy, lambda _: view, random.Random(1))
    canon = Canon(random.Random(1), 1.0)
    judge.decisions.witnesses.append(canon)
    answer = judge.decide(ask, NOW_S)
    if isinstance(answer, Pick) and ends:
        judge.release(answer.ticket, DONE, NOW_S)
    (entry,) = take(judge, canon, None)
    record = logging.LogRecord("decisions", logging.INFO, "", 0, "decision", (), None)
    record.fields = describe(entry)
    line = JsonLines("worker-0").format(record)
    assert json.loads(line)["ticket"] == "1.1"
    assert len(line.encode()) < LONGEST_BYTES
    assert "\n" not in line
    assert SECRET not in line
