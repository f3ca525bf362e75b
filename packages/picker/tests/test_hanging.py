"""An engine that hangs fails nobody: its clients leave. In virtual time, with outcomes as records tell them."""

import heapq
import itertools
import json
import random

import pytest

from shunter.picker.core.judgement import Ask, Outcome
from shunter.picker.core.policy import Named, Policy, Profile
from shunter.picker.core.request import Request
from shunter.picker.core.schedule import Scheduler
from shunter.picker.plugins.outliers import OutlierEjection
from shunter.picker.plugins.pickers import MaxScore

HUNG, OTHER = 1, 0
HANGS_S, WELL_S, END_S = 130.0, 290.0, 440.0
PREFILL_PER_S, ANSWER_S, RECORD_S, SCRAPE_S = 8000.0, 3.0, 0.5, 0.1


class Yard:
    """Four engines that compute one prompt after the other, and clients who leave when they have waited too long."""

    def __init__(self, judge, make_view, *, patience_s, early=False):
        self.judge, self.make_view, self.patience_s = judge, make_view, patience_s
        self.early = early  # whether the status comes before an answer does
        self.dice, self.number = random.Random(1), itertools.count()
        self.events = []
        self.free_s = [0.0] * 4
        self.sent, self.left = [], 0  # when, and where to
        self.hangs = lambda _now_s: False

    def at(self, when_s, what, *facts):
        heapq.heappush(self.events, (when_s, next(self.number), what, facts))

    def run(self, per_s):
        now_s = 100.0
        while now_s < END_S:
            now_s += self.dice.expovariate(per_s)
            self.at(now_s, self.ask)
        for tenth in range(int((END_S - 100.0) / SCRAPE_S)):
            self.at(100.0 + tenth * SCRAPE_S, self.scrape)
        while self.events:
            now_s, _, what, facts = heapq.heappop(self.events)
            what(now_s, *facts)
        assert not self.judge.complaints

    def scrape(self, now_s):
        self.judge.see(self.make_view(*[{"running": 0.0, "waiting": 0.0}] * 4, now_ns=int(now_s * 1e9)))
        self.judge.catch_up(now_s)

    def ask(self, now_s):
        tokens = self.dice.randint(200, 2000)
        prompt = f"{self.dice.random()} " + "word " * tokens
        pick = self.judge.decide(
            Ask({":path": "/v1/completions"}, json.dumps({"model": "m", "prompt": prompt}).encode()), now_s
        )
        slot = int(pick.endpoints[0].partition(":")[0].rpartition(".")[2]) - 1
        self.sent.append((now_s, slot))
        begins_s = max(now_s, self.free_s[slot]) + tokens / PREFILL_PER_S
        if (slot == HUNG and self.hangs(now_s)) or begins_s > now_s + self.patience_s:
            self.at(now_s + self.patience_s, self.leave, pick, now_s)
        else:
            self.free_s[slot] = begins_s
            self.at(begins_s + ANSWER_S, self.answer, pick, now_s, begins_s - now_s)

    def answer(self, now_s, pick, sent_s, begun_s):
        self.judge.release(pick.ticket, Outcome(complete=True), now_s)
        told = Outcome(complete=True, status=200, first_byte_s=begun_s, duration_s=now_s - sent_s, sent_bytes=9)
        self.at(now_s + RECORD_S, self.record, pick, told)

    def leave(self, now_s, pick, sent_s):
        self.left += 1
        self.judge.release(pick.ticket, Outcome(complete=False), now_s)
        told = Outcome(complete=False, status=200 if self.early else 0, duration_s=now_s - sent_s, sent_bytes=0)
        self.at(now_s + RECORD_S, self.record, pick, told)

    def record(self, now_s, pick, outcome):
        self.judge.measured(pick.ticket, outcome, now_s)

    def share(self, from_s, to_s):
        """The part of the requests of a time that went to the one that hangs, or did."""
        there = [slot == HUNG for now_s, slot in self.sent if from_s <= now_s < to_s]
        return sum(there) / len(there)


@pytest.mark.parametrize("early", [False, True], ids=["silent", "status first"])
def test_who_hangs_is_left_out_more_and_more_and_comes_back_when_it_answers(make_judge, make_view, early):
    yard = Yard(make_judge({}, {}, {}, {}), make_view, patience_s=10.0, early=early)
    yard.hangs = lambda now_s: HANGS_S <= now_s < WELL_S
    yard.run(per_s=4)
    assert yard.share(0, HANGS_S) > 0.15
    assert yard.share(HANGS_S + 30, WELL_S) < 0.04  # 0.11 if it were never left out
    assert yard.share(WELL_S + 80, END_S) > 0.15


@pytest.mark.parametrize(("patience_s", "per_s"), [(0.5, 34), (2.0, 36)])
def test_clients_who_leave_everywhere_have_nobody_left_out(make_judge, make_view, patience_s, per_s):
    yard = Yard(make_judge({}, {}, {}, {}), make_view, patience_s=patience_s)
    yard.run(per_s)
    assert yard.left > len(yard.sent) / 10
    assert not yard.judge._scheduler.crew.find("outlier-ejection-filter")._all_back_ns


def answers(waited_s=1.0, slot=OTHER):
    return slot, Outcome(complete=True, status=200, first_byte_s=1.0, duration_s=waited_s, sent_bytes=9)


def leaves(waited_s=10.0, slot=HUNG):
    return slot, Outcome(complete=False, status=0, duration_s=waited_s, sent_bytes=0)


ELSEWHERE = [answers()] * 5
ROW = [leaves(), *ELSEWHERE] * 5
STATUS_FIRST = HUNG, Outcome(complete=False, status=200, duration_s=10.0, sent_bytes=0)
BEGUN = HUNG, Outcome(complete=False, status=200, first_byte_s=1.0, duration_s=10.0, sent_bytes=9)
REFUSED = HUNG, Outcome(complete=True, status=404, duration_s=0.1, sent_bytes=9)


@pytest.mark.parametrize(
    ("ends", "hangs"),
    [
        (ROW, True),
        ([STATUS_FIRST, *ELSEWHERE] * 5, True),
        ([leaves(), REFUSED, *ELSEWHERE] * 5, True),
        ([leaves(), leaves(0.5), *ELSEWHERE] * 5, True),
        (ROW[:-6], False),
        ([BEGUN, *ELSEWHERE] * 9, False),
        ([leaves(2.0), *ELSEWHERE] * 5, False),
        ([leaves(0.5), *ELSEWHERE] * 99, False),
        ([leaves(), *[answers(), leaves(slot=OTHER)] * 2] * 9, False),
        ([leaves()] * 40, False),
        ([*[leaves()] * 40, *ELSEWHERE], False),
        ([*ROW[:-6], answers(slot=HUNG), *ROW[:-6]], False),
        ([*ELSEWHERE, answers(slot=HUNG), *ROW], False),
    ],
    ids=[
        "nobody is answered",
        "statuses come, answers do not",
        "it refuses at its door",
        "some are impatient, too",
        "four are few",
        "it has begun to answer",
        "not for long yet",
        "who types on is impatient",
        "half leave elsewhere",
        "nobody else is there",
        "all left at once",
        "it has answered between them",
        "all were sent before it answered",
    ],
)
def test_what_is_a_hanging_endpoint(make_fleet, ends, hangs):
    """A tenth of a second apart each; the last one who leaves convicts or does not."""
    profile = Profile("default", MaxScore(), (Named("outliers", OutlierEjection()),), ())
    run, fleet = Scheduler(Policy(profiles=(profile,)), random.Random(1), lambda _name, _data: None), make_fleet({}, {}, {}, {})
    for ticket, (slot, outcome) in enumerate(ends):
        now_s = 100.0 + ticket / 10
        run.run(Request(headers={}, prompt_tokens=9, ticket=ticket, at_ns=int(now_s * 1e9), facts={}), fleet.narrow([slot]))
        run.observe(ticket, outcome, now_s)
    ask = Request(headers={}, prompt_tokens=9, ticket=9_999, at_ns=int((now_s + 1) * 1e9), facts={})
    assert (HUNG not in run.crew.find("outliers").keep(ask, fleet)) == hangs
