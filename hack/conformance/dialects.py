"""Write docs/conformance/dialects.md: which dialects a lab server speaks, and how true they are to the real servers.

    python -m hack.conformance.dialects [--check]

Each report of a real server under packages/conformance/reports is set beside an exam of the lab's dialect of it, which takes
seconds because the clock leaps. ``--check`` writes nothing and fails if the page is not what comes out.
"""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from shunter.conformance.core.comparison import Finding, read_findings
from shunter.conformance.core.events import CaseFinished
from shunter.conformance.core.exchange import clip
from shunter.conformance.core.narration import LABELS
from shunter.conformance.core.verdict import Verdict
from shunter.conformance.shell.servers.exam import examine
from shunter.lab.dialects import DIALECTS, Dialect
from shunter.lab.testing import Control, LeapingLoop, lab_server

ROOT = Path(__file__).resolve().parents[2]
REPORTS = ROOT / "packages" / "conformance" / "reports"
PAGE = ROOT / "docs" / "conformance" / "dialects.md"
TEXT = Path(__file__).with_suffix(".md")

# Dialects that are not called as their profile is.
DIALECT_OF = {"llama.cpp": "llamacpp"}

# As the real ones were started, as far as that shows: few seats, a small cache, about 12 ms a token.
SERVER = {"models": ["tiny"], "max_num_seqs": 4, "num_blocks": 256, "max_model_len": 2048, "speed": 2.3}

# SGLang tells the cache in hundredths, so that a prompt must be one to be seen.
SMALLER = {"sglang": {"num_blocks": 130}}

# So much of what was seen fits into a table.
MOST_CHARS = 160

JUDGED = {Verdict.PASSED, Verdict.UNEXPECTED_PASS, Verdict.FAILED, Verdict.KNOWN_FAILURE}


async def examine_dialect(name: str) -> dict[str, Finding]:
    """The findings on a lab server of a dialect."""
    async with lab_server(dialect=name, **{**SERVER, **SMALLER.get(name, {})}) as server:
        apart = server.dialect.metrics_port is not None
        events = examine(server.url, metrics_url=server.metrics_url if apart else None, control=Control(server), tries=1)
        return {
            event.id: Finding(event.level, event.verdict, event.actual or event.reason)
            async for event in events
            if isinstance(event, CaseFinished)
        }


def compared(report: Path) -> list[str]:
    """One section: a real server beside its dialect."""
    text = report.read_text()
    profile = yaml.safe_load(text)["profiles"][-1]["name"].rpartition("/")[2]
    name = DIALECT_OF.get(profile, profile)
    if name not in DIALECTS or report.parent.name.startswith("lab"):
        return []
    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        ours = runner.run(examine_dialect(name))
    real = read_findings(text, str(report))
    judged = [case_id for case_id in real if real[case_id].verdict in JUDGED]
    both = [case_id for case_id in judged if case_id in ours and ours[case_id].verdict in JUDGED]
    differ = [case_id for case_id in both if real[case_id].verdict.met != ours[case_id].verdict.met]
    alone = [case_id for case_id in judged if case_id not in both]
    link = f"../../{report.relative_to(ROOT)}"
    lines = [
        f"\n### `{name}` and [{report.parent.name} {report.stem.removesuffix('-report')}]({link})\n",
        f"{len(both) - len(differ)} of the {len(both)} cases that were judged on both have the same verdict"
        + (f"; {len(alone)} were judged on the real one only ({', '.join(f'`{each}`' for each in alone)})." if alone else "."),
    ]
    if differ:
        lines += ["\n| case | real | dialect | what was seen |\n|---|---|---|---|"]
        lines += [row(case_id, real, ours) for case_id in differ]
    return lines


def row(case_id: str, real: Mapping[str, Finding], ours: Mapping[str, Finding]) -> str:
    """One difference."""
    seen = clip([real, ours][real[case_id].verdict.met][case_id].grounds, MOST_CHARS).replace("|", "&#124;")
    verdicts = (LABELS[side[case_id].verdict] for side in (real, ours))
    return f"| `{case_id}` | {' | '.join(f'`{each}`' for each in verdicts)} | {seen} |"


def described(dialect: Dialect) -> str:
    """One row of the table of dialects."""
    metrics = next(path.partition(" ")[2] for path, deed in dialect.paths.items() if deed == "metrics")
    where = f"`{metrics}`" + (f" on port {dialect.metrics_port}" if dialect.metrics_port else "")
    asked = [path.partition(" ")[2] for path, deed in dialect.paths.items() if deed in {"complete", "chat", "generate"}]
    paths = ", ".join(f"`{path.replace(':.+', '')}`" for path in asked)
    quirks = "; ".join(fault.breaks for fault in dialect.quirks)
    return f"| `{dialect.name}` | {dialect.basis} | {paths} | {where} | {quirks} |"


def page() -> str:
    """The whole page."""
    table = "\n".join(
        [
            "| name | basis | generates at | metrics | faults that it always has |",
            "|---|---|---|---|---|",
            *map(described, DIALECTS.values()),
        ]
    )
    reports = [report for report in sorted(REPORTS.glob("*/*-report.yaml")) if not report.parent.name.startswith("lab-")]
    sections = [line for report in reports for line in compared(report)]
    unseen = [f"`{name}`" for name, dialect in DIALECTS.items() if "from its source" in dialect.basis]
    return TEXT.read_text().format(dialects=table, comparison="\n".join(sections), unseen=", ".join(unseen))


def main() -> None:
    """Write the page, or check it."""
    text = page()
    if "--check" not in sys.argv:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        sys.exit(f"{PAGE.relative_to(ROOT)} is not what comes out; run: make conformance-dialects")


if __name__ == "__main__":
    main()
