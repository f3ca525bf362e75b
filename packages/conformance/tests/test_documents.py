"""What the README shows is what the program says, and committed reports are about cases and failures that exist."""

from pathlib import Path

import pytest
import yaml

from shunter.conformance.core.case import find
from shunter.conformance.core.narration import LABELS, explain
from shunter.conformance.sections.servers import CASES
from shunter.conformance.sections.servers.profiles import PROFILES, find_profile

PACKAGE = Path(__file__).parents[1]
README = (PACKAGE / "README.md").read_text(encoding="utf-8")
REPORTS = sorted((PACKAGE / "reports").glob("*/*-report.yaml"))


def test_the_readme_lists_every_case():
    rows = "\n".join(f"| `{case.id}` | {case.requirement} |" for case in CASES)
    assert rows in README


def test_the_readme_shows_what_explain_prints():
    assert "\n".join(explain(find(CASES, "ms.metrics.kv-idle"), PROFILES)) in README


def test_the_readme_names_every_verdict_and_profile():
    assert all(f"| `{label}` | {verdict} |" in README for verdict, label in LABELS.items())
    assert all(f"`{profile.name}`" in README for profile in PROFILES)


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.name)
def test_a_committed_report_is_complete_and_its_failures_are_known(path):
    report = yaml.safe_load(path.read_text(encoding="utf-8"))
    profile = find_profile(report["profiles"][0]["name"].removeprefix("model-server/"))
    assert [case["id"] for case in report["cases"]] == [case.id for case in CASES]
    assert set(report["profiles"][0]["core"]["failedTests"]) == {known.case for known in profile.known_failures}
    assert report["implementation"].keys() >= {"organization", "project", "version"}
