"""What one worker takes back the others take back, too."""

import json
import random

from shunter.picker import config
from shunter.picker.core.journal import Journal, Peers
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, Outcome
from shunter.picker.core.withdrawals import WITHDRAWN
from shunter.snapshot import LogReader, LogWriter

NOW_S = 100.0
IDLE = {"waiting": 0.0, "running": 1.0, "kv_usage": 0.1}


def test_all_workers_forget_a_prompt_that_one_of_them_saw_refused(make_view):
    buffers, view = [bytearray(1 << 17) for _ in range(2)], make_view(IDLE, IDLE)
    judges = []
    for at, buffer in enumerate(buffers):
        journal = Journal(LogWriter(buffer), at + 1)
        journal.begun()
        peers = Peers([LogReader(each) for each in buffers], life=at + 1)
        judges.append(
            FleetJudge(config.load().policy, lambda _: view, random.Random(1), life=at + 1, journal=journal, peers=peers)
        )
    one, other = judges
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "word " * 1000}]}).encode()

    def seen_by_the_other(last):
        one.release(one.decide(Ask({":path": "/v1/chat/completions"}, body), NOW_S).ticket, last, NOW_S)
        refusal = other.decide(Ask({":path": "/v1/chat/completions"}, body, subset=()), NOW_S)
        assert refusal.status == 503
        return sum(map(len, other._prefixes.values()))

    assert seen_by_the_other(Outcome(complete=True, status=404)) == 0
    assert seen_by_the_other(Outcome(complete=True, status=200)) > 0
    one._journal.told(WITHDRAWN, b"from another release")
    assert seen_by_the_other(Outcome(complete=True, status=200)) > 0


def test_a_prompt_is_forgotten_although_its_decision_is_not_remembered_any_more(make_view):
    view = make_view(IDLE, IDLE)
    judge = FleetJudge(config.load().policy, lambda _: view, random.Random(1), keep=1)
    tickets = [judge.decide(Ask({":path": "/v1/chat/completions"}, chat(number)), NOW_S).ticket for number in range(3)]
    (index,) = judge._prefixes.values()
    for ticket in tickets:
        assert len(index) > 0
        judge.release(ticket, Outcome(complete=True, status=500), NOW_S)
        judge.measured(ticket, Outcome(complete=True, status=500), NOW_S)  # the record says it again
    assert len(index) == 0


def chat(number):
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": f"{number} words " * 1000}]}).encode()
