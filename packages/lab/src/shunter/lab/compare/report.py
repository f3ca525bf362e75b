"""The report in files: every row as JSON, a page to look at with plots, and the same tables as Markdown."""

import io
from collections.abc import Sequence
from html import escape
from math import inf, isfinite
from pathlib import Path
from typing import Any

import msgspec

from shunter.lab.compare.sweep import FIGURES, Row
from shunter.lab.compare.table import best_first, cells, complaints, conditions
from shunter.lab.compare.verdict import Verdict, verdicts
from shunter.lab.errors import LabError
from shunter.lab.policies import BOUND, OURS

__all__ = ["joined", "markdown", "page", "prepare", "read", "write"]

# The plots of a workload: figure, title.
PANELS = (
    ("knee_qps", "knee, requests/s"),
    ("ttft_p90_ms", "TTFT p90, ms"),
    ("tpot_p90_ms", "TPOT p90, ms"),
    ("goodput_rps", "good requests/s"),
    ("hit_share", "hits of those possible"),
)

# A page is sent to people who have nothing else.
LEGEND = """<details open><summary>What the figures are</summary><dl>
<dt>TTFT, TPOT, E2E<dd>time to the first token, for each token after it, to the last: percentiles of a run, meant over
seeds
<dt>good/s<dd>requests a second that met both objectives of the workload, one for TTFT and one for TPOT
<dt>knee/s<dd>the highest rate at which 90 % of the requests do, searched on one seed to within 2 %: it has no interval
<dt>hits<dd>cached prompt tokens, as a part of those that one infinite cache shared by all engines would have had
<dt>Jain<dd>Jain's index over sessions of the rate at which each one's answers came: 1 if all are served alike
<dt>±, thin lines<dd>half the 95 % confidence interval over seeds (Student's t); of one seed there is none
<dt>holds<dd>better than all others, worse by at most 2 %, or by no more than the interval of the difference, seed by seed
</dl><p>Engines are simulated, choices are the real picker's; every policy met the same traffic. docs/lab-calibration.md has the
engine model beside a real vLLM.</p></details>"""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-size: 13px; margin: 1em 0 }
td, th { padding: 2px 8px; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
td:first-child, th:first-child { text-align: left }
.behind { color: #b00; font-weight: bold }
dt { font-weight: bold; float: left; clear: left; width: 10em }
dd { margin-left: 10em }
svg { max-width: 100%; height: auto }
"""


def prepare(directory: Path) -> None:
    """Make the directory of a report: what cannot be written is better known before an hour of simulation. Raises LabError."""
    _drawing()
    directory.mkdir(parents=True, exist_ok=True)


def write(rows: Sequence[Row], directory: Path, command: str = "shunter lab compare") -> None:
    """Write compare.json, compare.html and compare.md; raises LabError if the plots' library is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = b",\n".join(msgspec.json.encode(row) for row in rows)
    (directory / "compare.json").write_bytes(b"[\n" + lines + b"\n]\n")
    (directory / "compare.md").write_text(markdown(rows, command))
    (directory / "compare.html").write_text(page(rows, command))


def read(path: Path) -> list[Row]:
    """Return the rows of a compare.json (or of a file with a row in each line); raises LabError."""
    try:
        content = path.read_bytes().strip()
        found: Any = msgspec.json.decode(content if content.startswith(b"[") else b"[%b]" % b",".join(content.splitlines()))
        rows = [msgspec.convert(_with_never(row), Row) for row in found]
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise LabError(f"{path}: not the rows of a comparison: {error}") from error
    if not rows:
        raise LabError(f"{path}: no rows; a comparison that was ended early leaves none")
    return rows


def joined(parts: Sequence[Sequence[Row]]) -> list[Row]:
    """Return the rows of several comparisons as those of one; raises LabError where policies did not meet the same traffic."""
    rows = [row for part in parts for row in part]
    met: dict[str, tuple[float, int]] = {}
    seen: set[tuple[str, str]] = set()
    for row in rows:
        qps, seeds = met.setdefault(row.workload, (row.qps, row.seeds))
        if (row.qps, row.seeds) != (qps, seeds):
            here = f"at {qps:.6g} requests a second with {seeds} seeds"
            there = f"{row.policy} at {row.qps:.6g} with {row.seeds}"
            raise LabError(f"{row.workload}: {here}, and {there}: compare them at one rate (--qps, --seeds)")
        if (row.workload, row.policy) in seen:
            raise LabError(f"{row.workload}: two rows of {row.policy}")
        seen.add((row.workload, row.policy))
    return rows


def _with_never(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: what never came is null in a file."""
    figures = {name: inf if row.get(name) is None else row[name] for name in FIGURES}
    half = {name: inf if value is None else value for name, value in row.get("half", {}).items()}
    runs = {name: [inf if value is None else value for value in values] for name, values in row.get("runs", {}).items()}
    return row | figures | {"half": half, "runs": runs}


def markdown(rows: Sequence[Row], command: str) -> str:
    """Return the tables as Markdown."""
    parts = [f"# Policies compared\n\n`{command}` wrote this page; [the lab](lab.md) says what the figures mean.\n"]
    judged = verdicts(rows)
    if judged:
        parts.append(f"## {OURS} beside the best of the others\n")
        parts.append(_grid([_VERDICT_HEAD, *(_verdict_cells(each) for each in judged)]))
    for name in _workloads(rows):
        mine = [row for row in rows if row.workload == name]
        parts.append(f"## {name}\n\nAt {conditions(mine[0])}.\n\n{_grid(cells(mine))}")
        parts += [f"{each}.\n" for each in complaints(mine)]
    return "\n".join(parts)


def page(rows: Sequence[Row], command: str) -> str:
    """Return one HTML page that needs nothing else."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Policies compared</title><style>{STYLE}</style>",
        f"<h1>Policies compared</h1><p><code>{escape(command)}</code></p>{LEGEND}",
    ]
    judged = verdicts(rows)
    if judged:
        parts.append(f"<h2>{OURS} beside the best of the others</h2>")
        parts.append(_table([_VERDICT_HEAD, *(_verdict_cells(each) for each in judged)]))
    for name in _workloads(rows):
        mine = [row for row in rows if row.workload == name]
        parts.append(f"<h2>{escape(name)}</h2><p>At {conditions(mine[0])}.</p>")
        parts += [_plots(best_first(mine)), _table(cells(mine))]
        parts += [f"<p class=behind>{escape(each)}.</p>" for each in complaints(mine)]
    return "\n".join(parts)


def _workloads(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.workload for row in rows))


_VERDICT_HEAD = ["workload", "figure", "ours", "best other", "its figure", "ours / its", "bound", "ours / bound", "verdict"]


def _verdict_cells(each: Verdict) -> list[str]:
    return [
        each.workload,
        each.figure,
        _number(each.ours),
        each.best,
        _number(each.theirs),
        _ratio(each.ours, each.theirs),
        "–" if each.bound is None else _number(each.bound),
        "–" if each.bound is None else _ratio(each.ours, each.bound),
        "holds" if each.holds else "**behind**",
    ]


def _number(value: float) -> str:
    """Write four digits, or all before the point."""
    if not isfinite(value):
        return "never"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def _ratio(one: float, other: float) -> str:
    return f"{one / other:.2f}" if other and isfinite(one) and isfinite(other) else "–"


def _grid(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = ["| " + " | ".join(line) + " |" for line in lines]
    rule = "|---" + "|---:" * (len(lines[0]) - 1) + "|"
    return "\n".join([head, rule, *rest]) + "\n"


def _table(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = lines
    row = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(map(_data, line))}</tr>" for line in rest)
    return f"<table><tr>{row}</tr>{body}</table>"


def _data(cell: str) -> str:
    return f"<td class=behind>{escape(cell.strip('*'))}</td>" if cell.startswith("**") else f"<td>{escape(cell)}</td>"


def _plots(rows: Sequence[Row]) -> str:
    """Bars for each policy with the confidence intervals, as one inline SVG."""
    library, figure_of = _drawing()
    shown: list[tuple[str, str]] = [
        (name, title) for name, title in PANELS if any(getattr(row, name) is not None for row in rows)
    ]
    figure: Any = figure_of(figsize=(3 * len(shown), 0.6 + 0.24 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    names = [row.policy for row in rows][::-1]
    colours = ["#c33" if name == OURS else "#bbb" if name == BOUND else "#58a" for name in names]
    for panel, (name, title) in zip(panels, shown, strict=True):
        values = [_finite(getattr(row, name)) for row in rows][::-1]
        halves = [_finite(row.half.get(name, 0.0)) for row in rows][::-1]
        panel.barh(names, values, xerr=halves, color=colours, error_kw={"elinewidth": 0.8})
        panel.set_title(title, fontsize=9)
        panel.tick_params(labelsize=8)
        known = [value for row, value in zip(rows[::-1], values, strict=True) if row.policy != BOUND and value > 0]
        if name.endswith("_ms") and known and max(known) > 20 * min(known):
            panel.set_xscale("log")
    out = io.StringIO()
    with library.rc_context({"svg.hashsalt": "the same rows are the same bytes"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue().partition("<svg")[1] + out.getvalue().partition("<svg")[2]


def _drawing() -> tuple[Any, Any]:
    try:
        import matplotlib as mpl  # noqa: PLC0415  an extra: simulating does not need it
        from matplotlib.figure import Figure  # noqa: PLC0415  as above
    except ImportError as error:
        raise LabError("the report needs matplotlib; install shunter-lab[report]") from error
    return mpl, Figure


def _finite(value: float | None) -> float:
    return value if value is not None and isfinite(value) else 0.0
