"""An exam as one HTML file for people: what conforms at a glance, and everything behind each verdict folded beneath it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby

from shunter.conformance.core.events import CaseFinished, Event, Finished, Planned, Side, Started
from shunter.conformance.core.exchange import Evidence, printable
from shunter.conformance.core.narration import LABELS
from shunter.conformance.core.plot import draw
from shunter.conformance.core.suites import answers
from shunter.conformance.core.verdict import Verdict

__all__ = ["page"]

STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--pass:#2a7;--fail:#d33;--known:#c80;--none:#888}
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}p{margin:.3rem 0}
.matrix{display:flex;flex-wrap:wrap;gap:3px;margin:1rem 0}
.matrix a{width:1.1rem;height:1.1rem;border-radius:3px;background:var(--c)}
.matrix a:focus,.matrix a:hover{outline:2px solid currentColor}
details{border-top:1px solid var(--line);padding:.35rem 0}summary{cursor:pointer;display:grid;gap:.6rem;
grid-template-columns:4.2rem 4.2rem 17rem 1fr 4rem;align-items:baseline}summary>*{overflow-wrap:anywhere}
.tag{background:var(--c);color:#fff;border-radius:3px;padding:0 .4rem;text-align:center;font-weight:600;font-size:.85rem}
.passed,.unexpected-pass{--c:var(--pass)}.failed,.error{--c:var(--fail)}.known-failure{--c:var(--known)}
.skipped,.not-supported{--c:var(--none)}.level,.time{color:var(--none);font-size:.85rem}.time{text-align:right}
dl{display:grid;grid-template-columns:8rem 1fr;gap:.2rem .8rem;margin:.6rem 0 .6rem 1rem}dt{color:var(--none)}dd{margin:0}
pre{background:var(--soft);padding:.5rem;border-radius:4px;overflow:auto;max-height:24rem;white-space:pre-wrap;
overflow-wrap:anywhere}code,pre{font:13px/1.4 ui-monospace,monospace}
svg{width:100%;max-width:44rem;margin-left:1rem}svg text{font-size:11px;fill:currentColor}.axis{stroke:var(--line);fill:none}
.line{fill:none;stroke-width:1.6}.line-0{stroke:#37c}.line-1{stroke:#d62}.line-2{stroke:#2a7}.line-3{stroke:#a3c}
@media(max-width:50rem){summary{grid-template-columns:4.2rem 4.2rem 1fr 4rem}summary>.said{grid-column:1/-1;order:1}}
"""

SECTION_PARTS = 2  # of an id: the side, and the section of its protocol


def page(events: Sequence[Event], implementation: Mapping[str, str]) -> str:
    """Return the file; it loads nothing, and a browser without scripts shows all of it."""
    started = next(event for event in events if isinstance(event, Started))
    findings = [event for event in events if isinstance(event, CaseFinished)]
    planned = {case.id: case for case in started.cases}
    name = " ".join(implementation[key] for key in ("organization", "project", "version") if key in implementation)
    title = f"Conformance of {name or started.url or 'nobody'}"
    what = f"Profile {started.profile}: {started.profile_reason}.{_pace(started)}"
    took = next((f", in {event.duration_s:.1f} s" for event in events if isinstance(event, Finished)), "")
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(title)}</title>',
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style>',
        f"<h1>{_text(title)}</h1>",
        *(f"<p><strong>{_text(str(answer))}</strong></p>" for answer in answers(events)),
        f"<p>{_text(_counts(findings))}{took}, {_text(started.date)}.</p>",
        f"<p>{_text(what if started.url else started.profile_reason)}</p>",
        '<div class="matrix">',
        *(
            f'<a class="{each.verdict}" href="#{each.id}" title="{_text(each.id)}: {each.verdict}"'
            f' aria-label="{_text(each.id)}: {each.verdict}"></a>'
            for each in findings
        ),
        "</div>",
    ]
    for section, members in groupby(findings, lambda each: ".".join(each.id.split(".")[:SECTION_PARTS])):
        parts.append(f"<h2>{_text(section)}</h2>")
        parts += [_case(each, planned.get(each.id)) for each in members]
    return "\n".join([*parts, "</html>", ""])


def _counts(findings: Sequence[CaseFinished]) -> str:
    counts = Counter(each.verdict for each in findings)
    return f"{len(findings)} cases: " + ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])


def _pace(started: Started) -> str:
    if started.side is not Side.MODEL_SERVER:
        return ""
    pace = "Pace unknown" if started.step_s is None else f"{started.step_s * 1000:.1f} ms a token"
    return f" {pace} ({started.calibration}); time limits × {started.scale:g}."


def _case(finding: CaseFinished, planned: Planned | None) -> str:
    rows = [("Requires", planned.requirement)] if planned else []
    rows += [
        (name.capitalize(), text) for name in ("observed", "expected", "actual", "reason") if (text := getattr(finding, name))
    ]
    rows += [("Tries", finding.repeats)] if finding.repeats else []
    said = finding.observed or finding.reason or finding.actual
    opened = " open" if finding.verdict in {Verdict.FAILED, Verdict.ERROR} else ""
    return "".join(
        [
            f'<details id="{_text(finding.id)}"{opened}><summary><span class="tag {finding.verdict}">{LABELS[finding.verdict]}',
            f'</span><span class="level">{finding.level}</span><code>{_text(finding.id)}</code>',
            f'<span class="said">{_text(said)}</span><span class="time">{finding.duration_s:.2f} s</span></summary><dl>',
            *(f"<dt>{name}</dt><dd>{_text(text)}</dd>" for name, text in rows),
            "</dl>",
            draw(finding.timelines),
            *(_evidence(each) for each in finding.evidence),
            "</details>",
        ]
    )


def _evidence(seen: Evidence) -> str:
    head = f"HTTP {seen.status} after {seen.elapsed_s:.3f} s" if seen.status else "no answer"
    headers = "\n".join(f"{name}: {value}" for name, value in seen.headers.items())
    answer = "\n\n".join(part for part in (f"{head}{': ' + seen.problem if seen.problem else ''}", headers, seen.body) if part)
    return f"<pre>$ {_text(seen.curl)}</pre><pre>{_text(answer)}</pre>"


def _text(text: str) -> str:
    return escape(printable(text))
