"""The verdict: who is best at what on each workload, whether the difference is more than noise, and how far the bound is.

Two policies had the same traffic in each seed, so their difference is taken seed by seed; only what the policies themselves
make different is left in it. A policy *holds* a figure against the best other one if it is better, or worse by no more than
2 %, or if the 95 % confidence interval of the difference contains nought.

Times are compared with those of policies that are in good order at that rate. One that keeps most requests waiting lets the few
that run have the engines to themselves: its tokens come quickly, and nobody would have it.
"""

from collections.abc import Sequence
from math import inf, isfinite

import msgspec

from shunter.lab.compare.knee import ATTAINMENT
from shunter.lab.compare.sweep import Row
from shunter.lab.core.statistics import estimate
from shunter.lab.policies import BOUND, OURS

__all__ = ["JUDGED", "Verdict", "verdicts"]

# A difference that nobody would change a fleet for.
MARGIN = 0.02

JUDGED = {"knee_qps": +1, "goodput_rps": +1, "ttft_p90_ms": -1, "tpot_p90_ms": -1, "e2e_p90_ms": -1}
"""What is judged, and whether more of it is better (+1) or worse (-1)."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One figure on one workload: ours beside the best of the others that is no bound."""

    workload: str
    figure: str
    ours: float
    best: str
    """The policy that is best of the others."""
    theirs: float
    half: float
    """Half the width of the confidence interval of the difference; infinite if nothing is known of it."""
    holds: bool
    bound: float | None
    """The same figure of the clairvoyant bound, if that was run."""


def verdicts(rows: Sequence[Row], ours: str = OURS) -> list[Verdict]:
    """Return the verdicts on every workload on which `ours` and another policy were run."""
    found: list[Verdict] = []
    for name in dict.fromkeys(row.workload for row in rows):
        meeting = {row.policy: row for row in rows if row.workload == name}
        mine, bound = meeting.pop(ours, None), meeting.pop(BOUND, None)
        if mine is None or not meeting:
            continue
        for figure, sign in JUDGED.items():
            others = [row for row in meeting.values() if getattr(row, figure) is not None]
            if figure.endswith("_ms"):
                others = [row for row in others if row.attainment >= ATTAINMENT] or others
            if others and getattr(mine, figure) is not None:
                found.append(_judge(figure, sign, mine, others, bound))
    return found


def _judge(figure: str, sign: int, mine: Row, others: Sequence[Row], bound: Row | None) -> Verdict:
    best = max(others, key=lambda row: sign * getattr(row, figure))
    ours, theirs = getattr(mine, figure), getattr(best, figure)
    pairs = zip(mine.runs.get(figure, ()), best.runs.get(figure, ()), strict=True)
    behind = [sign * (its - my) for my, its in pairs]
    half = estimate(behind).half if behind and all(map(isfinite, behind)) else inf
    difference = sign * (theirs - ours)
    within = difference <= MARGIN * abs(theirs) if isfinite(theirs) else True
    return Verdict(
        workload=mine.workload,
        figure=figure,
        ours=ours,
        best=best.policy,
        theirs=theirs,
        half=half,
        holds=within or (isfinite(half) and difference <= half),
        bound=getattr(bound, figure) if bound else None,
    )
