"""Whatever clients and servers say, all who follow decisions bear it, for the process would end with them."""

import json
import logging
import math
import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shunter.picker import config
from shunter.picker.core.account_book import ACCOUNT_WORDS, AccountBook
from shunter.picker.core.accounts import Accounts
from shunter.picker.core.canonical import Canon, describe
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, Outcome, Pick
from shunter.picker.core.precedents import precedent, read, write
from shunter.picker.core.recorder import Recorder
from shunter.picker.core.service_levels import Level
from shunter.picker.core.tracer import Tracer
from shunter.snapshot.stderr import JsonLines

NOW_S = 100.0

texts = st.text(st.characters(), max_size=40) | st.sampled_from(["", "\0", "\ud800", "x" * 300, "é" * 300])
numbers = st.none() | st.floats() | st.sampled_from([0.0, -1.0, 1e308, math.nan])
counts = st.none() | st.integers(0, 2**53)
outcomes = st.builds(
    Outcome,
    complete=st.booleans(),
    status=st.none() | st.integers(0, 999),
    first_token_s=numbers,
    duration_s=numbers,
    prompt_tokens=counts,
    completion_tokens=counts,
    cached_tokens=counts,
    first_byte_s=numbers,
    sent_bytes=counts,
)
headers = st.fixed_dictionaries(
    {":path": st.sampled_from(["/v1/chat/completions", "/", ""])},
    optional={
        name: texts.map(lambda text: text.encode("utf-8", "replace").decode("latin-1"))  # as a transport reads it
        for name in ("x-request-id", "traceparent", "x-llm-d-inference-fairness-id", "x-llm-d-inference-objective")
    },
)
bodies = st.binary(max_size=40) | st.builds(
    lambda model, stream: json.dumps({"model": model, "messages": [], "stream": stream}).encode(), texts, st.booleans()
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])  # it makes values; a busy machine
@given(st.lists(st.tuples(headers, bodies, st.lists(outcomes, max_size=2)), max_size=6))
def test_whatever_is_said_is_borne(make_view, asked):
    view = make_view({"waiting": 0}, {"waiting": 1})
    judge = FleetJudge(config.load().policy, lambda _: view, random.Random(1))
    spans, lines = [], []
    book = AccountBook(memoryview(bytearray(8 * ACCOUNT_WORDS)).cast("Q"))
    book.levels.begin([Level(name="all", target=0.5, ttft_s=1.0, tpot_s=0.1, e2e_s=1.0)])
    canon, recorder = Canon(random.Random(1), 1.0), Recorder(random.Random(1), 1.0)
    tracer = Tracer(random.Random(1), 1.0, lambda: NOW_S, spans.extend)
    judge.decisions.witnesses += [tracer, Accounts(book, set), recorder, canon]
    for told, body, ends in asked:
        answer = judge.decide(Ask(told, body, traceparent=told.get("traceparent")), NOW_S)
        if isinstance(answer, Pick):
            for end in ends:
                judge.measured(answer.ticket, end, NOW_S)
    judge.decisions.tell()
    tracer.finish()
    assert all(span.began_s <= span.ended_s <= NOW_S for span in spans)
    form = JsonLines("worker-0")
    for entry in canon.take(None):
        record = logging.LogRecord("d", logging.INFO, "", 0, "decision", (), None)
        record.fields = describe(entry)
        lines.append(json.loads(form.format(record)))
    assert len(lines) == len(asked)
    held = recorder.take(math.inf, 1 << 30)
    written = write(found for entry in held if (found := precedent(entry)) is not None)
    assert len(list(read(written.splitlines()))) == len(held)
    tally = book.tally()
    assert all(math.isfinite(each.total) for row in tally.values() for each in row.figures.values())
