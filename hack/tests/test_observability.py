"""Rules, alerts, dashboards and the runbook say what the code says, and speak of metrics that there are."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hack.observability.grafana import read_dashboards, render
from hack.observability.prometheus import Missing, find, hasten

from shunter.picker.core.families import families
from shunter.picker.core.rules import rules

ROOT = Path(__file__).resolve().parents[2]
RULES = [rule for group in rules()["groups"] for rule in group["rules"]]
DASHBOARDS = read_dashboards()
PANELS = [(name, panel) for name, dashboard in DASHBOARDS.items() for panel in dashboard.panels]
QUERIES = [
    *(pytest.param(rule["expr"], id=rule.get("alert", rule.get("record"))) for rule in RULES),
    *(
        pytest.param(expression, id=f"{name}: {panel.title}")
        for name, panel in PANELS
        for expression in panel.by_legend.values()
    ),
]

SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
OURS = {f"{family.name}{suffix}" for family in families() for suffix in SUFFIXES.get(family.kind, ("",))}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
# Envoy's own name for it, as 1.36 to 1.40 have it at /stats/prometheus.
ENVOYS = {"envoy_http_ext_proc_failure_mode_allowed"}


def test_what_is_deployed_is_what_the_code_says():
    command = [sys.executable, "-m", "hack.observability", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_hastened_rules_wait_and_look_back_for_shorter():
    rule = {"alert": "A", "expr": "rate(a_total[5m]) > 5 and a offset 1h > b:rate6h", "for": "10m"}
    (quick,) = hasten({"groups": [{"name": "g", "rules": [rule]}]}, 60)["groups"][0]["rules"]
    assert quick == rule | {"expr": "rate(a_total[5000ms]) > 5 and a offset 60000ms > b:rate6h", "for": "10000ms"}


@pytest.fixture
def read_as_grafana(tmp_path):
    """Read a dashboard with Grafana's own types; return what is wrong with it."""
    try:
        program = find("dashboard-schema")
    except Missing as missing:
        pytest.skip(str(missing))

    def read(dashboard):
        (tmp_path / "dashboard.json").write_text(json.dumps(dashboard))
        done = subprocess.run([program, tmp_path / "dashboard.json"], capture_output=True, text=True, check=False)
        assert bool(done.stderr) == bool(done.returncode)
        return done.stderr

    return read


@pytest.mark.parametrize("name", DASHBOARDS)
def test_grafana_knows_everything_in_a_dashboard_and_misses_nothing(name, read_as_grafana):
    dashboard = render(name, DASHBOARDS[name])
    assert not read_as_grafana(dashboard)
    dashboard["panels"][1]["targets"][0]["legend"] = "not so"
    assert "legend" in read_as_grafana(dashboard)


@pytest.mark.parametrize("expression", QUERIES)
def test_every_series_in_a_query_is_one_of_a_known_family(expression):
    names = set(re.findall(r"\b(?:shunter_picker|llm_d_epp|envoy|level_signal:\w+)_\w+(?::\w+)?", expression))
    names -= set(re.findall(r"by \(([^)]*)\)", expression))
    assert names <= OURS | RECORDED | ENVOYS
    assert names or "shunter_scraper_" in expression  # which are looked for on a real one


def test_every_alert_has_its_section_of_the_runbook_and_every_section_its_alert():
    text = (ROOT / "docs" / "runbook.md").read_text()
    sections = dict(re.findall(r"^## (\w+)\n\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    alerts = list(dict.fromkeys(rule["alert"] for rule in RULES if "alert" in rule))
    assert list(sections) == alerts
    for name, section in sections.items():
        for part in ("**Means**", "**See**", "**Do**"):
            assert part in section, (name, part)


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule["alert"]) for rule in RULES if "alert" in rule])
def test_every_alert_says_how_grave_it_is_and_where_to_read_on(rule):
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
    assert rule["annotations"]["summary"].endswith(".")


def test_panels_are_told_apart_by_what_they_say():
    titles = [(name, panel.title) for name, panel in PANELS]
    assert len(titles) == len({*titles})
    for _, panel in PANELS:
        assert sum(map(bool, (panel.query, panel.queries, panel.quantiles))) == 1, panel.title
        assert panel.about.endswith("."), panel.title
