"""Decisions reach a file with what became of them, and the file is bounded."""

import asyncio
import random
import resource
from fractions import Fraction
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from shunter.picker import config
from shunter.picker.core.decisions import KEEP_CANDIDATES
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, Outcome
from shunter.picker.core.precedents import read
from shunter.picker.core.recorder import PATIENCE_S, Recorder
from shunter.picker.shell import recording
from shunter.picker.shell.recording import Recording

CHAT = {":path": "/v1/chat/completions"}
BODY = b'{"model":"m","messages":[{"role":"user","content":"confidential"}]}'
DONE = Outcome(complete=True, status=200, first_token_s=0.1)
NOW_S = 100.0
PLENTY = 1 << 30


@pytest.fixture
def judge(make_view):
    view = make_view({"waiting": 0}, {"waiting": 1})
    return FleetJudge(config.load().policy, lambda _: view, random.Random(1), keep=2)


@pytest.fixture
def recorder(judge):
    recorder = Recorder(random.Random(1), 1.0)
    judge.decisions.witnesses.append(recorder)
    return recorder


def take(judge, recorder, *how):
    judge.decisions.tell()
    return recorder.take(*how)


def decide(judge, count=1):
    tickets = [judge.decide(Ask(CHAT, BODY), NOW_S).ticket for _ in range(count)]
    judge.decisions.tell()
    return tickets


def test_a_decision_is_held_until_it_is_known_how_it_went(judge, recorder):
    first, second = decide(judge, 2)
    judge.release(first, Outcome(complete=True, duration_s=1.0), NOW_S)  # in lean that is all a worker sees
    assert take(judge, recorder, NOW_S, PLENTY) == []
    judge.measured(first, DONE, NOW_S)
    assert [(entry.ticket, entry.outcome) for entry in take(judge, recorder, NOW_S, PLENTY)] == [(first, DONE)]
    assert [entry.ticket for entry in take(judge, recorder, NOW_S + PATIENCE_S, PLENTY)] == [second]


def test_what_was_read_in_the_response_is_recorded_though_its_record_has_less(judge, recorder):
    (ticket,) = decide(judge)
    judge.release(ticket, replace(DONE, completion_tokens=4, cached_tokens=8), NOW_S)
    judge.measured(ticket, replace(DONE, duration_s=1.0), NOW_S)
    (entry,) = take(judge, recorder, NOW_S, PLENTY)
    assert entry.outcome == replace(DONE, completion_tokens=4, cached_tokens=8, duration_s=1.0)


def test_what_the_log_has_forgotten_is_still_recorded_with_its_end(judge, recorder):
    tickets = decide(judge, 5)  # the log keeps two
    for ticket in tickets:
        judge.measured(ticket, DONE, NOW_S)
    assert [entry.outcome for entry in take(judge, recorder, NOW_S, PLENTY)] == [DONE] * 5


def test_only_a_sample_is_held_and_a_refusal_never(judge):
    recorder = Recorder(random.Random(1), 0.25)
    judge.decisions.witnesses.append(recorder)
    decide(judge, 200)
    judge.decide(Ask(CHAT, b"no JSON"), NOW_S)
    assert 25 < len(take(judge, recorder, NOW_S + PATIENCE_S, PLENTY)) < 75


def test_more_than_is_kept_is_written_before_its_time(judge, recorder, monkeypatch):
    assert KEEP_CANDIDATES > 4
    monkeypatch.setattr("shunter.picker.core.recorder.KEEP_CANDIDATES", 4)
    tickets = decide(judge, 5)  # of two candidates each
    assert [entry.ticket for entry in take(judge, recorder, NOW_S, PLENTY)] == tickets[:3]


def test_a_portion_is_bounded_by_candidates(judge, recorder):
    decide(judge, 5)
    assert [len(take(judge, recorder, NOW_S + PATIENCE_S, 4)) for _ in range(4)] == [2, 2, 1, 0]


async def test_lines_are_appended_and_the_file_is_turned(judge, recorder, tmp_path, monkeypatch):
    written = Recording(tmp_path, 3, recorder)
    monkeypatch.setattr(recording, "FILE_BYTES", 1)
    for _ in range(3):
        decide(judge)
        await written.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["decisions-3.1.ndjson", "decisions-3.ndjson"]
    lines = [line for path in sorted(tmp_path.iterdir()) for line in path.read_bytes().splitlines()]
    assert [each.ticket & 0xFF for each in read(lines)] == [2, 3]
    assert not any(b"confidential" in line for line in lines)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


async def test_a_full_disk_leaves_no_half_line_that_would_spoil_the_next(judge, recorder, tmp_path, caplog):
    written, path = Recording(tmp_path, 0, recorder), tmp_path / "decisions-0.ndjson"
    (first,) = decide(judge)
    await written.finish()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, hard))
    try:
        decide(judge)
        await written.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "decisions are not recorded" in caplog.text
    (third,) = decide(judge)
    await written.finish()
    assert [each.ticket for each in read(path.read_bytes().splitlines())] == [first, third]


async def test_it_writes_by_itself_and_says_once_what_hinders_it(judge, recorder, tmp_path, monkeypatch, caplog, eventually):
    monkeypatch.setattr(recording, "LOOK_S", 0.01)
    written = Recording(tmp_path / "absent", 0, recorder)
    writing = asyncio.create_task(written.run())

    async def record(told):
        judge.measured(decide(judge)[0], DONE, NOW_S)
        return told()

    await eventually(lambda: record(lambda: "No such file or directory" in caplog.text))
    (tmp_path / "absent").mkdir()
    await eventually(lambda: record((tmp_path / "absent" / "decisions-0.ndjson").exists))
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert caplog.text.count("decisions are not recorded") == 1


async def test_a_score_that_nobody_can_write_down_is_said_and_ends_nothing(judge, tmp_path, caplog):
    """As NumPy's numbers are."""
    decide(judge)
    (plain,) = judge.decisions.latest()
    strange = replace(plain, decision=replace(plain.decision, totals=(Fraction(1, 2), 0.0)))
    portions = [[strange], [plain], []]
    await Recording(tmp_path, 0, SimpleNamespace(take=lambda *_: portions.pop(0))).finish()
    assert "Encoding objects of type Fraction is unsupported" in caplog.text
    assert [each.ticket for each in read((tmp_path / "decisions-0.ndjson").read_bytes().splitlines())] == [plain.ticket]
