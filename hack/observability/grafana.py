"""Dashboards as people write them, in `dashboards/*.yaml`, and as Grafana reads them.

A panel has one ``query``, several ``queries`` by legend, or the ``quantiles`` of a histogram; in all of them ``$rate`` is the
range of rates. ``sparse`` says when it is empty although all is well; without that an empty panel is a mistake, and a test
finds it.
"""

import re
from pathlib import Path
from typing import Any, Literal

import msgspec

__all__ = ["RATE", "Dashboard", "Panel", "Row", "read_dashboards", "render", "scope"]

SOURCES = Path(__file__).with_name("dashboards")

# Grafana's grid: 24 columns, rows of about 30 pixels. Two graphs stand beside each other, or four numbers.
COLUMNS = 24
SIZES = {"timeseries": (12, 8), "stat": (6, 4)}

# Grafana's own range: four scrapes at least, so that a rate has two samples even if one is missing.
RATE = "$__rate_interval"

QUANTILES = (50, 95, 99)

# The picker's and the scraper's metrics have a job each; recorded ones have none left, and Envoy's are somebody else's.
_SCOPED = re.compile(r"(?<![\w:])((?:shunter_picker|shunter_scraper|llm_d_epp)_\w+)(\{)?")
_JOBS = 'label_values({__name__=~"shunter_picker_worker_up|shunter_scraper_snapshot_age_seconds"}, job)'
# To the other dashboards.
_LINK = {
    "type": "dashboards",
    "tags": ["shunter"],
    "title": "Shunter",
    "tooltip": "",
    "icon": "external link",
    "asDropdown": True,
    "includeVars": True,
    "keepTime": True,
    "targetBlank": False,
}
_SOURCE = {"type": "prometheus", "uid": "${source}"}


class Panel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question, and what its answer tells."""

    title: str
    about: str
    kind: Literal["timeseries", "stat"] = "timeseries"
    unit: str = "short"
    sparse: str = ""
    query: str = ""
    queries: dict[str, str] = {}
    quantiles: str = ""

    @property
    def by_legend(self) -> dict[str, str]:
        """PromQL by legend."""
        if self.quantiles:
            name, _, labels = self.quantiles.partition("{")
            buckets = f"sum by (le) (rate({name}_bucket{'{' * bool(labels)}{labels}[$rate]))"
            return {f"p{share}": f"histogram_quantile(0.{share}, {buckets})" for share in QUANTILES}
        return self.queries or {"": self.query}


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


class Dashboard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A page."""

    title: str
    about: str
    rows: tuple[Row, ...]

    @property
    def panels(self) -> list[Panel]:
        """All of them."""
        return [panel for row in self.rows for panel in row.panels]


def read_dashboards() -> dict[str, Dashboard]:
    """Return all dashboards by name."""
    return {path.stem: msgspec.yaml.decode(path.read_bytes(), type=Dashboard) for path in sorted(SOURCES.glob("*.yaml"))}


def render(name: str, dashboard: Dashboard) -> dict[str, Any]:
    """Return what Grafana imports; its uid is the name, so that a new version replaces the former one."""
    return {
        "uid": f"shunter-{name}",
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["shunter"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [*_variables()]},
        "annotations": {"list": []},
        "links": [_LINK],
        "panels": [*_lay_out(dashboard)],
    }


def _variables():
    yield {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    yield {
        "name": "job",
        "label": "Job",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": _JOBS, "refId": "job"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _lay_out(dashboard: Dashboard):
    """Yield headings and panels from left to right and from top to bottom, each with its place."""
    number, top = 0, 0
    for row in dashboard.rows:
        number += 1
        place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}
        top, left, tallest = top + 1, 0, 0
        for panel in row.panels:
            number += 1
            width, height = SIZES[panel.kind]
            if left + width > COLUMNS:
                top, left, tallest = top + tallest, 0, 0
            yield _panel(panel) | {"id": number, "gridPos": {"x": left, "y": top, "w": width, "h": height}}
            left, tallest = left + width, max(tallest, height)
        top += tallest


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": f"{panel.about} (Empty: {panel.sparse}.)" if panel.sparse else panel.about,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": _SOURCE,
                "expr": scope(expression),
                "legendFormat": legend or panel.title,
            }
            for at, (legend, expression) in enumerate(panel.by_legend.items())
        ],
    }


def scope(expression: str) -> str:
    """Return a query in Grafana's words, about the dashboard's jobs only."""

    def scoped(found: re.Match[str]) -> str:
        return f'{found[1]}{{job=~"$job"' + (", " if found[2] else "}")

    return _SCOPED.sub(scoped, expression).replace("$rate", RATE)
