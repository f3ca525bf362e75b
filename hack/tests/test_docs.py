"""The documentation says what the code says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from shunter.stack.core.fleet import Fleet, table

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("generator", ["gen_docs.py", "gen_chart.py"])
def test_the_reference_is_what_the_code_says(generator):
    command = [sys.executable, str(ROOT / "hack" / generator), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_first_page_shows_the_columns_of_top():
    head, *_ = table(Fleet())
    assert any(line.split() == head.split() for line in (ROOT / "README.md").read_text().splitlines()), head


def test_links_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("packages/*/README.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} → {target}"


def test_make_targets_named_in_the_docs_exist():
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("packages/*/README.md")]:
        for target in re.findall(r"(?:^|`)make ([a-z0-9-]+)", page.read_text(), re.MULTILINE):
            assert target in targets, f"{page.relative_to(ROOT)}: make {target}"
