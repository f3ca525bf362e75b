"""A slice of the long run, and proof that it would notice."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from shunter.picker.transport.h2 import Connection

HACK = Path(__file__).resolve().parents[1]


receive = Connection.receive


def lose_short_reads(connection, data):
    return receive(connection, data) if len(data) > 9 else ()


@pytest.fixture
def long_run(monkeypatch):
    monkeypatch.syspath_prepend(HACK)
    kept = set(sys.modules)
    yield SimpleNamespace(**runpy.run_path(HACK / "long_run.py", run_name="long_run"))
    for name in {"fuzz_h2", "bench_pick"} - kept:
        sys.modules.pop(name, None)


def test_five_thousand_streams_break_nothing_and_meet_everything(long_run):
    seen = long_run.run(5000, "slice")
    assert seen["streams"] == 5000
    assert all(seen[name] > 10 for name in (*long_run.ENDS, "picks", "refusals")), seen


@pytest.mark.parametrize(
    ("path", "broken", "complaint"),
    [
        ("shunter.picker.core.session.Session.close", lambda self, now_s: None, "on the books|budget"),
        ("shunter.picker.core.ledger.Ledger.release", lambda self, ticket: None, "on the books"),
        ("shunter.picker.core.limits.Budget.give", lambda self, size: None, "bytes of a budget are lost"),
        ("shunter.picker.transport.h2.Connection.receive", lose_short_reads, "mean something else"),
        ("shunter.picker.core.judge.FleetJudge.decide", lambda self, ask, now_s: 1 / 0, "a session of peer failed"),
    ],
)
def test_it_notices(long_run, monkeypatch, path, broken, complaint):
    monkeypatch.setattr(path, broken)
    said = []
    with pytest.raises(AssertionError, match=complaint):
        long_run.run(2000, "broken", said.append)
    assert "--only" in said[0]
