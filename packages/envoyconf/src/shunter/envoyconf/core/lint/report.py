"""Findings as people, programs and code scanners read them."""

import json
from collections import Counter
from collections.abc import Sequence
from textwrap import fill
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import UNSET

from shunter.envoyconf.core.documents import spell
from shunter.envoyconf.core.lint.rule import Finding, Rule, Severity
from shunter.envoyconf.core.lint.suppress import Silenced

__all__ = ["Report", "as_json", "as_sarif", "as_text", "describe", "summary"]

COLUMNS = 120

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


class Report(msgspec.Struct, frozen=True):
    """What was found, and what of it is let be."""

    found: Sequence[tuple[Rule, Finding]]
    silenced: Sequence[Silenced] = ()

    def worst(self) -> Severity | None:
        """Return how bad it is."""
        severities = {rule.severity for rule, _ in self.found}
        return next((each for each in Severity if each in severities), None)


def as_text(report: Report) -> str:
    """Return one paragraph for each finding; what is behind a rule is told the first time."""
    told: set[str] = set()
    paragraphs: list[str] = []
    for rule, finding in report.found:
        lines = [f"{_place(finding)}: {rule.severity.value} {rule.code}: {finding.message}"]
        if rule.code not in told:
            lines.append(_folded("why", rule.why))
        lines.append(_folded("do", f"{finding.remedy}{' (--fix does)' if finding.fixes else ''}"))
        told.add(rule.code)
        paragraphs.append("\n".join(lines))
    return "".join(f"{paragraph}\n" for paragraph in paragraphs)


def _folded(label: str, text: str) -> str:
    """Return what is said about a finding; the finding itself is one line, which editors and grep take apart."""
    return fill(text, COLUMNS, initial_indent=f"    {label + ':':5}", subsequent_indent=" " * 9, break_on_hyphens=False)


def summary(report: Report) -> str:
    """Return one line for a person at a terminal."""
    counts = Counter(rule.severity for rule, _ in report.found)
    text = ", ".join(f"{counts[each]} {each.value}{'' if counts[each] == 1 else 's'}" for each in Severity)
    if mechanical := sum(1 for _, finding in report.found if finding.fixes):
        text += f"; {mechanical} can be corrected by --fix"
    if report.silenced:
        text += f"; {len(report.silenced)} let be for a reason"
    return text


def as_json(report: Report) -> str:
    """Return all there is to know, for programs."""
    entries = [_entry(rule, finding) for rule, finding in report.found]
    entries += [_entry(each.rule, each.finding) | {"ignored": each.reason} for each in report.silenced]
    return json.dumps({"findings": entries}, indent=2) + "\n"


def _entry(rule: Rule, finding: Finding) -> dict[str, Any]:
    return {
        "code": rule.code,
        "severity": rule.severity.value,
        "file": finding.document.file,
        "line": finding.document.line(finding.path),
        "path": spell(finding.path),
        "title": rule.title,
        "message": finding.message,
        "remedy": finding.remedy,
        "fixes": [{"path": spell(fix.path)} | ({} if fix.value is UNSET else {"value": fix.value}) for fix in finding.fixes],
    }


def as_sarif(report: Report, version: str) -> str:
    """Return a SARIF 2.1.0 log, for code scanners; ``version`` is that of the tool."""
    everything = [*report.found, *((each.rule, each.finding) for each in report.silenced)]
    rules = {rule.code: rule for rule, _ in everything}
    numbers = {code: number for number, code in enumerate(sorted(rules))}
    results = [_result(rule, finding, numbers) for rule, finding in report.found]
    results += [
        _result(each.rule, each.finding, numbers) | {"suppressions": [{"kind": "inSource", "justification": each.reason}]}
        for each in report.silenced
    ]
    driver = {
        "name": "shunter envoyconf lint",
        "version": version,
        "rules": [_described(rules[code]) for code in sorted(rules)],
    }
    log = {"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}
    return json.dumps(log, indent=2) + "\n"


def _described(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.why},
        "defaultConfiguration": {"level": rule.severity.value},
    }


def _result(rule: Rule, finding: Finding, numbers: dict[str, int]) -> dict[str, Any]:
    location = {
        "artifactLocation": {"uri": quote(finding.document.file)},
        "region": {"startLine": finding.document.line(finding.path)},
    }
    return {
        "ruleId": rule.code,
        "ruleIndex": numbers[rule.code],
        "level": rule.severity.value,
        "message": {"text": f"{finding.message}. Remedy: {finding.remedy}."},
        "locations": [{"physicalLocation": location}],
    }


def describe(rule: Rule) -> str:
    """Return what a rule is about, for whoever asks for it by its code."""
    source = f"\nSource: {rule.source}" if rule.source else ""
    return f"{rule.code} ({rule.severity.value}): {rule.title}\n\n{rule.why}{source}\n"


def _place(finding: Finding) -> str:
    return f"{finding.document.file}:{finding.document.line(finding.path)}"
