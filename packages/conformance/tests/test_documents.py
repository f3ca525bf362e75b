"""What the README shows is what the program says, and committed reports are about cases and failures that exist."""

import re
from pathlib import Path

import pytest
import yaml

from shunter.conformance.core.case import find
from shunter.conformance.core.narration import LABELS, explain
from shunter.conformance.sections.servers import CASES
from shunter.conformance.sections.servers.profiles import PROFILES, find_profile

PACKAGE = Path(__file__).parents[1]
README = (PACKAGE / "README.md").read_text(encoding="utf-8")
PAGES = PACKAGE.parents[1] / "docs" / "conformance"
REPORTS = sorted((PACKAGE / "reports").glob("*/*-report.yaml"))


def test_the_readme_shows_what_explain_prints():
    assert "\n".join(explain(find(CASES, "ms.metrics.kv-idle"), PROFILES)) in README


def test_the_readme_names_every_verdict_and_profile():
    assert all(f"| `{label}` | {verdict} |" in README for verdict, label in LABELS.items())
    assert all(f"`{profile.name}`" in README for profile in PROFILES)


@pytest.mark.parametrize("path", [PACKAGE / "README.md", *PAGES.glob("*.md")], ids=lambda path: path.name)
def test_what_a_page_imports_is_there(path):
    for line in re.findall(r"^from shunter.* import .*$", path.read_text(encoding="utf-8"), re.MULTILINE):
        exec(line, {})


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.name)
def test_a_committed_report_is_of_cases_that_exist_and_what_it_calls_known_is(path):
    """It may be older than some cases, and than failures of those."""
    report = yaml.safe_load(path.read_text(encoding="utf-8"))
    (name,) = (each["name"] for each in report["profiles"] if each["name"].startswith("model-server/"))
    known = {known.case for known in find_profile(name.removeprefix("model-server/")).known_failures}
    verdicts = {case["id"]: case["verdict"] for case in report["cases"]}
    assert verdicts.keys() <= {case.id for case in CASES}
    assert {case_id for case_id, verdict in verdicts.items() if verdict == "known-failure"} <= known
    assert "unexpected-pass" not in verdicts.values()
    assert report["implementation"].keys() >= {"organization", "project", "version"}
