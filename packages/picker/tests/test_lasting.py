"""A request whose stream is over right after its pick, as in profile strict, runs in every account until Envoy's record."""

import json
import random

import pytest

from shunter.picker.core.accounts import Accounts
from shunter.picker.core.adoption import LEASE_S, Adoption
from shunter.picker.core.canonical import RECORD_S, Canon, describe
from shunter.picker.core.journal import Journal, Peers
from shunter.picker.core.judgement import Ask, Outcome
from shunter.picker.core.learned import Learned
from shunter.picker.core.outcomes import outcome_of
from shunter.picker.core.records import Record
from shunter.picker.core.tables import COUNTERS_BYTES, Counters, fold
from shunter.snapshot import LogReader, LogWriter

WORKER, COLLECTOR = 1, 2
NOW_S = 100.0
IDLE = {"waiting": 0.0, "running": 1.0, "kv_usage": 0.1}
CHAT = {":path": "/v1/chat/completions"}
BODY = json.dumps({"model": "m", "max_tokens": 40, "messages": [{"role": "user", "content": "hello " * 100}]}).encode()
KEYS = {"10.0.0.1:8000": (0, 1), "10.0.0.2:8000": (1, 1)}


class Strict:
    """A worker with one request, whose stream is over, and the collector."""

    def __init__(self, make_judge):
        logs = [bytearray(1 << 17), bytearray(1 << 17)]
        counters = [Counters(bytearray(COUNTERS_BYTES)) for _ in logs]
        for life, each in zip((WORKER, COLLECTOR), counters, strict=True):
            each.begin(life, 1, 0)
        journals = [Journal(LogWriter(log), life) for log, life in zip(logs, (WORKER, COLLECTOR), strict=True)]
        for journal in journals:
            journal.begun()
        peers = Peers([LogReader(log) for log in logs], WORKER)
        self.judge = make_judge(IDLE, IDLE, life=WORKER, counters=counters[0], journal=journals[0], peers=peers)
        self.canon = Canon(random.Random(1), 1.0)
        self.judge.decisions.witnesses += [Accounts(counters[0].accounts, lambda: {"m"}), self.canon]
        self.counters, self.journal = counters, journals[1]
        self.adoption = Adoption(COLLECTOR, self.journal, counters[1], Learned())
        self.pick = self.judge.decide(Ask(CHAT, BODY), NOW_S)
        self.judge.release(self.pick.ticket, Outcome(complete=True, lasts=True), NOW_S)
        self.host = self.pick.endpoints[0]
        self.lines = []

    def tell(self, at_s, **fields):
        """Let Envoy tell, and the worker follow."""
        kind = "DownstreamEnd" if "status" in fields else "DownstreamPeriodic"
        duration_ms = round(1e3 * (at_s - NOW_S))
        record = Record(type=kind, id=str(self.pick.ticket), host=self.host, duration_ms=duration_ms, releases="yes", **fields)
        self.adoption.take(record, KEYS[self.host], {WORKER, COLLECTOR}, int(1e9 * at_s))
        if record.over:
            self.journal.measured(record.ticket, outcome_of(record))
        self.follow(at_s)

    def follow(self, at_s):
        self.judge.catch_up(at_s)
        self.judge.decisions.tell()
        self.lines += [describe(entry) for entry in self.canon.take(at_s)]

    def tally(self):
        return fold(each.tally() for each in self.counters)

    def account(self, endpoint):
        return self.tally().by_endpoint.get(KEYS[endpoint])

    def running(self):
        (each,) = self.tally().classes.values()
        return each.running


@pytest.fixture
def strict(make_judge):
    return Strict(make_judge)


def test_it_runs_with_all_its_tokens_as_long_as_envoy_says_so(strict):
    before = strict.account(strict.host)
    assert before.tokens_in_flight > 0 < before.decode_tokens_in_flight
    for second in range(1, 300):
        strict.tell(NOW_S + second)
        assert strict.account(strict.host) == before
        assert (strict.running(), strict.tally().released, strict.lines) == (1, 0, [])


@pytest.mark.parametrize(("status", "incomplete"), [(200, 0), (503, 1)])
def test_its_end_is_told_once_with_all_that_is_known(strict, status, incomplete):
    for second in range(1, 30):
        strict.tell(NOW_S + second)
    strict.tell(NOW_S + 30, status=status, sent=100)
    strict.follow(NOW_S + 30 + RECORD_S)
    tally = strict.tally()
    assert (tally.released, tally.incomplete, strict.running()) == (1, incomplete, 0)
    assert strict.account(strict.host).in_flight == strict.account(strict.host).tokens_in_flight == 0
    (durations,) = [each.figures["duration"] for each in tally.classes.values()]
    assert (sum(durations.counts), durations.total) == (1, 30.0)
    (line,) = strict.lines
    assert (line["status"], line["complete"], line["duration_s"]) == (status, status == 200, 30.0)


def test_after_a_retry_elsewhere_it_counts_there_with_its_tokens(strict):
    strict.tell(NOW_S + 1)
    before, left = strict.account(strict.host), strict.host
    (strict.host,) = KEYS.keys() - {left}
    strict.tell(NOW_S + 2)
    assert strict.account(left).in_flight == strict.account(left).tokens_in_flight == 0
    assert strict.account(strict.host).in_flight == 1
    assert strict.account(strict.host).tokens_in_flight == before.tokens_in_flight


def test_one_that_envoy_stops_speaking_of_ends_incomplete(strict):
    strict.tell(NOW_S + 1)
    strict.adoption.look({WORKER, COLLECTOR}, int(1e9 * (NOW_S + 1 + LEASE_S)))
    strict.follow(NOW_S + 1 + LEASE_S)
    assert (strict.tally().released, strict.tally().incomplete, strict.running()) == (1, 1, 0)
