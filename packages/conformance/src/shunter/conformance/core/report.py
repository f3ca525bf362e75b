"""Reports as pure functions of the events: ConformanceReport (YAML), JUnit (XML), every event (NDJSON), and the others."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from xml.etree import ElementTree as ET

import msgspec
import yaml

from shunter.conformance.core.case import Level
from shunter.conformance.core.events import CaseFinished, Event, Finished, Planned, Started
from shunter.conformance.core.exchange import printable
from shunter.conformance.core.page import page
from shunter.conformance.core.step_summary import step_summary
from shunter.conformance.core.suites import Answer, answers
from shunter.conformance.core.verdict import Verdict
from shunter.conformance.errors import UsageError

__all__ = ["IMPLEMENTATION_KEYS", "REPORTS", "conformance_report", "junit", "ndjson", "parse_implementation"]

API_VERSION = "conformance.shunter/v1alpha1"

# Who is being examined, in the words of the Gateway API's report.
IMPLEMENTATION_KEYS = ("organization", "project", "url", "version", "contact")

_GROUNDS = ("expected", "actual", "reason")
_FAILED = frozenset({Verdict.FAILED, Verdict.KNOWN_FAILURE})


def parse_implementation(pairs: Sequence[str]) -> dict[str, str]:
    """Read `KEY=VALUE` pairs; raises UsageError for a key that the report does not have."""
    about: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in IMPLEMENTATION_KEYS:
            raise UsageError(f"--implementation {pair!r}: want KEY=VALUE with KEY one of {', '.join(IMPLEMENTATION_KEYS)}")
        about[key] = value
    return about


def conformance_report(events: Sequence[Event], implementation: Mapping[str, str]) -> str:
    """The exam in the shape of the Gateway API's ConformanceReport: MUSTs are core, the rest is extended.

    Each suite that cases belong to is a profile of its own, before that of the whole exam.

    A known failure counts as failed here: the exit code tells whether something is newly broken, the report whether
    the server conforms.
    """
    started = _started(events)
    findings = [event for event in events if isinstance(event, CaseFinished)]
    profiles = [_suite(answer) for answer in answers(events)]
    profiles.append(_profile(f"{started.side}/{started.profile}", findings))
    about = ({"version": started.version} if started.version else {}) | dict(implementation)
    report = {
        "apiVersion": API_VERSION,
        "kind": "ConformanceReport",
        "date": started.date,
        "implementation": {key: about[key] for key in IMPLEMENTATION_KEYS if key in about},
        "mode": "default",
        "profiles": profiles,
        "calibration": {"secondsPerToken": started.step_s and round(started.step_s, 6), "scale": started.scale},
        "cases": [_entry(finding) for finding in findings],
    }
    return yaml.safe_dump(report, sort_keys=False, allow_unicode=True, width=110)


def _suite(answer: Answer) -> dict[str, object]:
    """A suite as a profile; what a server lacks that the suite demands has failed here."""
    met = answer.asked - len(answer.unmet) - len(answer.unjudged)
    core = _counted(answer.unmet, answer.unjudged, met)
    if answer.word == "undecided":
        core["result"] = "partial"
    return {"name": answer.suite, "core": core, "summary": str(answer)}


def _profile(name: str, findings: Sequence[CaseFinished]) -> dict[str, object]:
    core = [finding for finding in findings if finding.level is Level.MUST]
    extended = [finding for finding in findings if finding.level is not Level.MUST]
    profile: dict[str, object] = {"name": name, "core": _tally(core)}
    if extended:
        profile["extended"] = _tally(extended)
    return profile | {"summary": _summary(core)}


def _tally(findings: Sequence[CaseFinished]) -> dict[str, object]:
    counts = Counter(finding.verdict for finding in findings)
    failed = [finding.id for finding in findings if finding.verdict in _FAILED]
    unjudged = [finding.id for finding in findings if not finding.verdict.met and finding.verdict not in _FAILED]
    return _counted(failed, unjudged, counts[Verdict.PASSED] + counts[Verdict.UNEXPECTED_PASS])


def _counted(failed: Sequence[str], unjudged: Sequence[str], met: int) -> dict[str, object]:
    tally: dict[str, object] = {
        "result": "failure" if failed else "partial" if unjudged else "success",
        "statistics": {"Passed": met, "Failed": len(failed), "Skipped": len(unjudged)},
    }
    if failed:
        tally["failedTests"] = list(failed)
    if unjudged:
        tally["skippedTests"] = list(unjudged)
    return tally


def _summary(core: Sequence[CaseFinished]) -> str:
    failed = sum(finding.verdict in _FAILED for finding in core)
    met = sum(finding.verdict.met for finding in core)
    return f"{met} of {len(core)} core tests succeeded, {failed} failed, {len(core) - met - failed} were not judged."


def _entry(finding: CaseFinished) -> dict[str, object]:
    entry: dict[str, object] = {"id": finding.id, "level": str(finding.level), "verdict": str(finding.verdict)}
    if finding.tries > 1:
        entry |= {"tries": finding.tries, "missed": finding.missed}
    entry |= {name: printable(text) for name in ("observed", *_GROUNDS) if (text := getattr(finding, name))}
    if finding.verdict in _FAILED and finding.evidence:
        entry["reproduce"] = printable(finding.evidence[-1].curl)
    return entry


def junit(events: Sequence[Event]) -> str:
    """The exam as JUnit XML: what met its requirement passes, known failures and the unjudged are skipped."""
    started = _started(events)
    requirements = {case.id: case for case in started.cases}
    findings = [event for event in events if isinstance(event, CaseFinished)]
    counts = Counter(_junit_kind(finding.verdict) for finding in findings)
    suite = ET.Element(
        "testsuite",
        name=f"shunter conformance {started.profile}",
        timestamp=started.date,
        tests=str(len(findings)),
        failures=str(counts["failure"]),
        errors=str(counts["error"]),
        skipped=str(counts["skipped"]),
        time=f"{sum(event.duration_s for event in events if isinstance(event, Finished)):.3f}",
    )
    for finding in findings:
        group, _, name = finding.id.rpartition(".")
        case = ET.SubElement(suite, "testcase", classname=group, name=name, time=f"{finding.duration_s:.3f}")
        if kind := _junit_kind(finding.verdict):
            outcome = ET.SubElement(case, kind, message=printable(finding.actual or finding.reason))
            outcome.text = printable(_junit_text(finding, requirements[finding.id]))
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _junit_kind(verdict: Verdict) -> str:
    if verdict.met:
        return ""
    return {Verdict.FAILED: "failure", Verdict.ERROR: "error"}.get(verdict, "skipped")


def _junit_text(finding: CaseFinished, case: Planned) -> str:
    lines = [case.requirement, f"Verdict: {finding.verdict}"]
    lines += [f"{name.capitalize()}: {text}" for name in _GROUNDS if (text := getattr(finding, name))]
    lines += [f"Reproduce: {finding.evidence[-1].curl}"] if finding.evidence else []
    return "\n".join(lines)


def ndjson(events: Sequence[Event]) -> str:
    """Every event as one line of JSON, evidence included."""
    return "".join(f"{msgspec.json.encode(event).decode()}\n" for event in events)


def _started(events: Sequence[Event]) -> Started:
    return next(event for event in events if isinstance(event, Started))


Report = Callable[[Sequence[Event], Mapping[str, str]], str]

REPORTS: dict[str, Report] = {
    ".yaml": conformance_report,
    ".xml": lambda events, _: junit(events),
    ".ndjson": lambda events, _: ndjson(events),
    ".html": page,
    ".md": step_summary,
}
"""What a file's suffix asks for."""
