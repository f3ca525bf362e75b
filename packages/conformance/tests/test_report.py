"""Reports say what the events say, in the shapes that others read."""

import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shunter.conformance.core.case import Level
from shunter.conformance.core.comparison import read_events
from shunter.conformance.core.events import CaseFinished, CaseStarted, Finished, Planned, Started, Timeline, conclude
from shunter.conformance.core.exchange import EVIDENCE_BODY_CHARS, Exchange, evidence, printable
from shunter.conformance.core.narration import LABELS, narrate, summarise
from shunter.conformance.core.profile import GIE
from shunter.conformance.core.report import REPORTS, conformance_report, junit, ndjson, parse_implementation
from shunter.conformance.core.verdict import Verdict, exit_code
from shunter.conformance.errors import UsageError

GOLDEN = Path(__file__).parent / "golden"

SEEN = evidence(
    Exchange(
        method="POST",
        url="http://h:1/v1/completions",
        request_headers={"content-type": "application/json"},
        request_body=b'{"prompt": "it\'s"}',
        status=200,
        headers={"content-type": "application/json"},
        body=b'{"text": "\x05"}',
        elapsed_s=0.01,
    )
)
FINDINGS = (
    CaseFinished(
        id="ms.a.passed",
        level=Level.MUST,
        verdict=Verdict.PASSED,
        duration_s=0.01,
        observed="HTTP 200",
        timelines=(
            Timeline("queue <q>", ((0.0, 0.0), (0.5, 3.0), (1.0, 1.0))),
            Timeline("kv", ((0.0, 0.25),)),
            Timeline("none", ()),
        ),
    ),
    CaseFinished(
        id="ms.a.failed",
        level=Level.MUST,
        verdict=Verdict.FAILED,
        duration_s=0.02,
        tries=3,
        missed=2,
        expected="HTTP 400 & no <text>",
        actual="HTTP 200: '\x05'",
        evidence=(SEEN,),
    ),
    CaseFinished(
        id="ms.b.known",
        level=Level.MUST,
        verdict=Verdict.KNOWN_FAILURE,
        expected="a queue",
        actual="none",
        reason="it has none (manual)",
        evidence=(SEEN,),
    ),
    CaseFinished(id="ms.b.skipped", level=Level.MUST, verdict=Verdict.SKIPPED, reason="needs ms.a.failed (failed)"),
    CaseFinished(id="ms.b.lacking", level=Level.SHOULD, verdict=Verdict.NOT_SUPPORTED, reason="no such thing"),
    CaseFinished(id="ms.b.better", level=Level.SHOULD, verdict=Verdict.UNEXPECTED_PASS, observed="ok", reason="known bad"),
    CaseFinished(id="ms.b.gone", level=Level.MAY, verdict=Verdict.ERROR, reason="no connection to h port 1"),
)
STARTED = Started(
    date="2026-11-25T12:00:00+00:00",
    url="http://h:1",
    metrics_url="http://h:1/metrics",
    model="m",
    profile="vllm",
    profile_reason="its metrics page has vllm: families",
    step_s=0.0125,
    scale=1.0,
    calibration="median of 3",
    cases=tuple(Planned(f.id, f.level, f"The server {f.level} do {f.id}.", (GIE,) if ".a." in f.id else ()) for f in FINDINGS),
)
EVENTS = (
    STARTED,
    *(event for finding in FINDINGS for event in (CaseStarted(id=finding.id), finding)),
    Finished(duration_s=0.5),
)
ABOUT = {"organization": "lab", "project": "m-server", "version": "1.2"}


@pytest.mark.parametrize("suffix", REPORTS)
def test_reports_are_as_recorded(suffix):
    """To accept a change: delete the file, run the test twice, and read the difference before committing it."""
    golden = GOLDEN / f"report{suffix}"
    report = REPORTS[suffix](EVENTS, ABOUT)
    if not golden.exists():
        golden.write_text(report, encoding="utf-8")
        pytest.fail(f"{golden.name} was missing and has been written")
    assert report == golden.read_text(encoding="utf-8")


def test_a_known_failure_fails_in_the_report_but_not_in_the_exit_code():
    known = FINDINGS[2]
    report = yaml.safe_load(conformance_report([STARTED, known], {}))
    assert report["profiles"][-1]["core"]["result"] == "failure"
    assert report["profiles"][-1]["core"]["failedTests"] == [known.id]
    assert exit_code([(known.level, known.verdict)]) == 0


@pytest.mark.parametrize(
    ("verdicts", "result"),
    [
        ([Verdict.PASSED, Verdict.UNEXPECTED_PASS], "success"),
        ([Verdict.PASSED, Verdict.NOT_SUPPORTED], "partial"),
        ([Verdict.SKIPPED, Verdict.KNOWN_FAILURE], "failure"),
    ],
)
def test_the_result_is_the_worst_of_its_cases(verdicts, result):
    findings = [CaseFinished(id=f"ms.x.{i}", level=Level.MUST, verdict=verdict) for i, verdict in enumerate(verdicts)]
    assert yaml.safe_load(conformance_report([STARTED, *findings], {}))["profiles"][-1]["core"]["result"] == result


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([], 1),
        ([(Level.MUST, Verdict.SKIPPED)], 1),
        ([(Level.MUST, Verdict.PASSED), (Level.MUST, Verdict.SKIPPED), (Level.MUST, Verdict.KNOWN_FAILURE)], 0),
        ([(Level.MUST, Verdict.NOT_SUPPORTED), (Level.MUST, Verdict.SKIPPED)], 1),
        ([(Level.SHOULD, Verdict.FAILED), (Level.MUST, Verdict.NOT_SUPPORTED)], 0),
        ([(Level.MUST, Verdict.FAILED), (Level.MUST, Verdict.PASSED)], 1),
        ([(Level.MUST, Verdict.FAILED), (Level.MAY, Verdict.ERROR)], 3),
    ],
)
def test_the_exit_code_says_whether_something_is_newly_broken(findings, code):
    assert exit_code(findings) == code


@given(st.text(), st.text())
def test_any_text_a_server_sends_makes_well_formed_reports(expected, actual):
    finding = CaseFinished(id="ms.a.failed", level=Level.MUST, verdict=Verdict.FAILED, expected=expected, actual=actual)
    events = [STARTED, finding]
    assert ET.fromstring(junit(events)).get("failures") == "1"
    assert yaml.safe_load(conformance_report(events, {}))["cases"][0].get("actual", "") == printable(actual)
    assert json.loads(ndjson(events).split("\n")[1]).get("actual", "") == actual


def test_an_exam_cut_short_still_has_a_finding_for_each_case():
    cut = EVENTS[:5]
    whole = [*cut, *conclude(cut, "interrupted")]
    assert [event.id for event in whole if isinstance(event, CaseFinished)] == [finding.id for finding in FINDINGS]
    assert isinstance(whole[-1], Finished)
    assert list(conclude(whole, "interrupted")) == []
    assert {event.reason for event in whole[5:-1]} == {"interrupted"}


def test_evidence_keeps_both_ends_of_a_long_body():
    body = evidence(Exchange(method="GET", url="u", body=b"head" + b"x" * 10_000 + b"tail")).body
    assert body.startswith("head")
    assert body.endswith("tail")
    assert len(body) < EVIDENCE_BODY_CHARS + 100


def test_a_person_reads_each_verdict_in_one_line_and_a_failure_in_four():
    for finding in FINDINGS:
        lines = narrate(finding)
        assert lines[0].startswith(LABELS[finding.verdict])
        assert len(lines) == (4 if finding.verdict is Verdict.FAILED else 1)
    assert summarise(EVENTS)[1] == (
        "7 cases: 1 passed, 1 failed, 1 skipped, 1 not-supported, 1 known-failure, 1 unexpected-pass, 1 error in 0.5 s"
    )


@pytest.mark.parametrize(
    ("tries", "missed", "said"),
    [
        (1, 0, "well"),
        (3, 1, "(missed in 1 of 3 tries)"),
        (3, 0, "(judged in try 3, for those before it were disturbed)"),
    ],
)
def test_a_person_reads_why_a_case_was_tried_again(tries, missed, said):
    finding = CaseFinished(id="ms.a", level=Level.MUST, verdict=Verdict.PASSED, observed="well", tries=tries, missed=missed)
    [line] = narrate(finding)
    assert line.endswith(said)


def test_what_a_server_sends_cannot_drive_the_terminal():
    wild = CaseFinished(id="ms.a", level=Level.MUST, verdict=Verdict.PASSED, observed="model \x1b[2J\x9b31m\r")
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for line in narrate(wild) for character in line)


def test_an_exam_that_never_began_has_nothing_to_conclude():
    assert list(conclude([], "interrupted")) == []


@given(st.text() | st.sampled_from(["\x85", "\u2028", "\x1c\x0b"]))
def test_events_survive_the_way_through_ndjson(said):
    """Whatever a server has said: Python would take more for the end of a line than JSON does."""
    events = [*EVENTS, CaseFinished(id="ms.a.failed", level=Level.MUST, verdict=Verdict.FAILED, actual=said)]
    assert read_events(ndjson(events), "run.ndjson") == tuple(events)


@pytest.mark.parametrize("pair", ["version", "versoin=1"])
def test_what_an_implementation_has_not_is_refused(pair):
    with pytest.raises(UsageError, match="want KEY=VALUE"):
        parse_implementation([pair])


class Tags(HTMLParser):
    """The elements of a page, as a browser finds them."""

    def __init__(self, text):
        super().__init__()
        self.seen = Counter()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen[tag] += 1
        self.seen.update(f"@{name}" for name, _ in attrs)


@given(st.text(), st.text())
def test_no_text_of_a_server_becomes_an_element_of_the_page(said, body):
    def seen(said, body):
        finding = msgspec.structs.replace(
            FINDINGS[1], actual=said, expected="x", evidence=(msgspec.structs.replace(SEEN, body=body),)
        )
        return Tags(REPORTS[".html"]([STARTED, finding], {"project": f"p{said}"})).seen

    assert seen(f"x{said}", f"x{body}") == seen("x", "x")
