"""Prometheus rules of a picker as plain data: its alerts, and how fast each service level uses up its error budget.

A service level promises that a share of requests (its target) is good in one signal, such as the time to the first token. The
rest is its *error budget*: of a target of 0.99, one request in a hundred over 30 days. The *burn rate* is the share that is bad
as a multiple of that: at 1 the budget lasts for exactly 30 days, at 14.4 for two. An alert looks at a long window, so that it
is about something, and at a short one, so that it ends when the trouble does (the Google SRE workbook's "multiwindow,
multi-burn-rate alerts"; the windows and factors are the workbook's).

Targets are read from the picker's own metrics, so the rules are the same for every level, and right at once when one changes.
"""

from typing import Any

import msgspec

from shunter.picker.core.alerts import ALERTS, Alert, Severity
from shunter.picker.core.families import LEVEL_GOOD, LEVEL_REQUESTS, LEVEL_TARGET

__all__ = ["BURNS", "RUNBOOK", "Burn", "prometheus_rule", "rules"]

Groups = dict[str, Any]
Rule = dict[str, Any]

RUNBOOK = "docs/runbook.md"
"""Where an alert's link leads unless told: the page's path in a checkout."""

# What the budget is for.
PERIOD = "30d"

# A ratio of few requests says little: at night one slow answer of two would wake somebody. So many have to be bad; and where
# fewer may be in the whole period (of a target of 0.99: with fewer than 1,000 requests), chance alone spends the budget.
FEWEST_BAD = 10

_BY = "by (level, signal)"
_BUDGET = f"(1 - max {_BY} ({LEVEL_TARGET.name}))"
_RECORDED = "level_signal:shunter_picker_service_level"
_SPENT = Alert(
    "BudgetSpent",
    Severity.WARNING,
    "",
    f"{_RECORDED}_budget_left:ratio_{PERIOD} < 0"
    f" and sum {_BY} (increase({LEVEL_REQUESTS.name}[{PERIOD}])) * {_BUDGET} >= {FEWEST_BAD}",
    "The level {{ $labels.level }} has missed its {{ $labels.signal }} more often than it may in 30 days.",
)


class Burn(msgspec.Struct, frozen=True):
    """The budget is used up so many times too fast, over both windows."""

    factor: float
    long: str
    short: str
    spent: str  # of the budget, by the end of the long window
    severity: Severity


BURNS = (
    Burn(14.4, "1h", "5m", "2 %", Severity.CRITICAL),
    Burn(6, "6h", "30m", "5 %", Severity.CRITICAL),
    Burn(3, "1d", "2h", "10 %", Severity.WARNING),
    Burn(1, "3d", "6h", "10 %", Severity.WARNING),
)

# By severity: one section of the runbook for what wakes somebody, one for what waits.
_BURNING = {Severity.CRITICAL: "BudgetBurnsFast", Severity.WARNING: "BudgetBurns"}


def rules(runbook: str = RUNBOOK) -> Groups:
    """Return all rules, as a rule file of Prometheus has them; ``runbook`` is where the runbook can be read."""
    return {
        "groups": [
            {"name": "shunter-picker", "rules": [_alert(each, runbook) for each in ALERTS]},
            {"name": "shunter-service-levels", "rules": _records()},
            {"name": "shunter-error-budgets", "rules": [_alert(_SPENT, runbook), *(_burning(each, runbook) for each in BURNS)]},
        ]
    }


def prometheus_rule(groups: Groups, name: str = "shunter-picker") -> dict[str, Any]:
    """Return them as an object for the Prometheus Operator."""
    return {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": name}, "spec": groups}


def _records() -> list[Rule]:
    """Return what is recorded: the burn rate by window, and of the whole period what was kept and what is left."""
    windows = dict.fromkeys(window for burn in BURNS for window in (burn.short, burn.long))
    recorded = {f"burn:rate{window}": f"(1 - {_share('rate', window)}) / {_BUDGET}" for window in windows}
    recorded[f"attainment:ratio_{PERIOD}"] = _share("increase", PERIOD)
    recorded[f"budget_left:ratio_{PERIOD}"] = f"1 - (1 - {_RECORDED}_attainment:ratio_{PERIOD}) / {_BUDGET}"
    return [{"record": f"{_RECORDED}_{name}", "expr": expr} for name, expr in recorded.items()]


def _share(function: str, window: str) -> str:
    good, requests = (f"sum {_BY} ({function}({family.name}[{window}]))" for family in (LEVEL_GOOD, LEVEL_REQUESTS))
    return f"{good} / {requests}"


def _burning(burn: Burn, runbook: str) -> Rule:
    over = [f"{_RECORDED}_burn:rate{window} > {burn.factor:g}" for window in (burn.long, burn.short)]
    counted = [f"increase({family.name}[{burn.long}])" for family in (LEVEL_REQUESTS, LEVEL_GOOD)]
    enough = f"sum {_BY} ({' - '.join(counted)}) >= {FEWEST_BAD}"
    alert = Alert(
        _BURNING[burn.severity],
        burn.severity,
        "",
        " and ".join((*over, enough)),
        "The level {{ $labels.level }} misses its {{ $labels.signal }} {{ $value | humanize }}× as often as it may:"
        f" at {burn.factor:g}×, {burn.spent} of its error budget is gone in {burn.long}.",
    )
    return _alert(alert, runbook) | {"labels": {"severity": burn.severity.value, "window": burn.long}}


def _alert(alert: Alert, runbook: str) -> Rule:
    rule: Rule = {"alert": alert.name, "expr": alert.expr}
    if alert.lasts:
        rule["for"] = alert.lasts
    return rule | {
        "labels": {"severity": alert.severity.value},
        "annotations": {"summary": alert.summary, "runbook_url": f"{runbook}#{alert.anchor}"},
    }
