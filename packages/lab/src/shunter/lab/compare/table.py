"""Rows as text: one table for each workload, the best policy first."""

from collections.abc import Sequence
from math import inf, isfinite

from shunter.lab.compare.sweep import Row
from shunter.lab.policies import BOUND

__all__ = ["best_first", "cells", "complaints", "conditions", "tables"]

# Heading, the figure, and how it is written.
COLUMNS = (
    ("TTFT p50", "ttft_p50_ms", "ms"),
    ("p90", "ttft_p90_ms", "ms"),
    ("p99 ms", "ttft_p99_ms", "ms"),
    ("TPOT p50", "tpot_p50_ms", "fine"),
    ("p90", "tpot_p90_ms", "fine"),
    ("p99 ms", "tpot_p99_ms", "fine"),
    ("E2E p50", "e2e_p50_ms", "s"),
    ("p90", "e2e_p90_ms", "s"),
    ("p99 s", "e2e_p99_ms", "s"),
    ("good/s", "goodput_rps", "rate"),
    ("hits", "hit_share", "share"),
    ("Jain", "fairness", "index"),
    ("knee/s", "knee_qps", "rate"),
)

# Of fewer requests the 99th percentile is the longest one.
FEW = 100

WITH_INTERVAL = frozenset({"ttft_p90_ms", "tpot_p90_ms", "goodput_rps"})


def tables(rows: Sequence[Row]) -> str:
    """Return a table for each workload, in their order."""
    names = dict.fromkeys(row.workload for row in rows)
    return "\n\n".join(_table([row for row in rows if row.workload == name]) for name in names)


def best_first(rows: Sequence[Row]) -> list[Row]:
    """Sort by knee where one was looked for, then by requests served well, then by p90 of the time to first token."""
    return sorted(rows, key=lambda row: (row.policy == BOUND, -(row.knee_qps or 0.0), -row.goodput_rps, row.ttft_p90_ms))


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """Return the rows of one workload as text, headings first, the best policy after them."""
    head = ["policy", *(heading for heading, _, _ in COLUMNS)]
    return [head, *([row.policy, *(_cell(row, name, kind) for _, name, kind in COLUMNS)] for row in best_first(rows))]


def conditions(row: Row) -> str:
    """Return at what rate a row was measured, how often, and whether that was of too few requests."""
    few = f", of {row.requests} requests only" if row.requests is not None and row.requests < FEW else ""
    return f"{row.qps:.3g} requests a second, {row.seeds} seed{'s' * (row.seeds != 1)}{few}"


def complaints(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each plugin that did not do its work: the figures of its policy are those of the rest of it."""
    return [f"{row.policy}: {each}" for row in rows for each in row.complaints]


def _table(rows: Sequence[Row]) -> str:
    lines = cells(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    return "\n".join([f"{rows[0].workload} at {conditions(rows[0])}", *text, *complaints(rows)])


def _cell(row: Row, name: str, kind: str) -> str:
    value: float | None = getattr(row, name)
    text = _text(value, kind)
    half = row.half.get(name, inf)
    return f"{text} ±{_text(half, kind)}" if name in WITH_INTERVAL and isfinite(half) else text


def _text(value: float | None, kind: str) -> str:
    if value is None:
        return "-"
    if not isfinite(value):
        return "never"
    if kind == "ms":
        return f"{value:,.0f}"
    if kind == "s":
        return f"{value / 1000:.1f}"
    if kind == "share":
        return f"{value:.1%}"
    if kind == "index":
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"
