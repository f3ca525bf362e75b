"""An exam as Markdown for a CI's step summary: the counts, what failed and how to see it again, the rest folded."""

from collections import Counter
from collections.abc import Mapping, Sequence

from shunter.conformance.core.events import CaseFinished, Event, Started
from shunter.conformance.core.exchange import printable
from shunter.conformance.core.narration import LABELS
from shunter.conformance.core.suites import answers
from shunter.conformance.core.verdict import Verdict

__all__ = ["step_summary"]

_TROUBLE = (Verdict.FAILED, Verdict.ERROR, Verdict.UNEXPECTED_PASS, Verdict.KNOWN_FAILURE)


def step_summary(events: Sequence[Event], implementation: Mapping[str, str]) -> str:
    """Return the Markdown, as GitHub renders it."""
    started = next(event for event in events if isinstance(event, Started))
    findings = [event for event in events if isinstance(event, CaseFinished)]
    counts = Counter(each.verdict for each in findings)
    name = " ".join(implementation[key] for key in ("organization", "project", "version") if key in implementation)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    lines = [
        f"### Conformance of {_cell(name or started.url)} as {_cell(started.profile)}",
        "",
        f"{len(findings)} cases: {told}",
        "",
        *(line for answer in answers(events) for line in (_cell(str(answer)), "")),
    ]
    trouble = [each for verdict in _TROUBLE for each in findings if each.verdict is verdict]
    if trouble:
        lines += ["| verdict | level | case | expected | actual |", "|---|---|---|---|---|"]
        lines += [
            f"| {LABELS[each.verdict]} | {each.level} | `{each.id}` | {_cell(each.expected)} | "
            f"{_cell(each.actual or each.reason)} |"
            for each in trouble
        ]
        lines.append("")
        for each in trouble:
            if each.evidence and each.verdict is Verdict.FAILED:
                lines += ["```console", f"$ {printable(each.evidence[-1].curl)}".replace("```", "` ` `"), "```", ""]
    lines += ["<details><summary>All cases</summary>", "", "| verdict | level | case | |", "|---|---|---|---|"]
    lines += [
        f"| {LABELS[each.verdict]} | {each.level} | `{each.id}` | {_cell(each.observed or each.reason or each.actual)} |"
        for each in findings
    ]
    return "\n".join([*lines, "", "</details>", ""])


def _cell(text: str) -> str:
    """Text that can break neither out of a table's cell nor into HTML."""
    clean = printable(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return " ".join(clean.split())
