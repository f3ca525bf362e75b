"""The documentation says what the code says."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from shunter.envoyconf.core.reading import load_intent
from shunter.scraper.shell.files import Files
from shunter.stack.core.fleet import Fleet, table

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("packages/*/README.md")]
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)  # what is printed holds brackets and hashes that mean nothing


@pytest.mark.parametrize("generator", ["gen_docs.py", "gen_chart.py"])
def test_the_reference_is_what_the_code_says(generator):
    command = [sys.executable, str(ROOT / "hack" / generator), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_first_page_shows_the_columns_of_top():
    head, *_ = table(Fleet())
    assert any(line.split() == head.split() for line in (ROOT / "README.md").read_text().splitlines()), head


def anchors(page):
    """Return what a link can name of a page: its headings as GitHub writes them, the second of a name with a 1, and so on."""
    seen = Counter()
    for heading in re.findall(r"^#+ (.*)", FENCED.sub("", page.read_text()), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower()).strip().replace(" ", "-")
        yield f"{words}-{seen[words]}" if seen[words] else words
        seen[words] += 1


def links(page):
    """Yield the links of a page that stay in the house: as written, the file, the anchor."""
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        if "://" not in link:
            yield link, (page.parent / path).resolve() if path else page, anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link, target, anchor in links(page):
        assert target.exists(), link
        assert not anchor or target.suffix != ".md" or anchor in anchors(target), link


def test_each_page_is_two_clicks_from_the_first():
    reached = {ROOT / "README.md"}
    for _ in range(2):
        reached |= {
            target / "README.md" if target.is_dir() else target
            for page in reached
            if page.suffix == ".md" and page.exists()
            for _, target, _ in links(page)
        }
    assert [page for page in ROOT.glob("docs/**/*.md") if page not in reached] == []


def test_the_first_page_and_the_index_of_decisions_name_each_page_once():
    lists = (ROOT / "README.md").read_text().partition("## Reading on")[2], (ROOT / "docs/decisions/README.md").read_text()
    for each in lists:
        found = re.findall(r"\]\(([^)#\s]+)", each)
        assert [page for page, times in Counter(found).items() if times > 1] == []


def test_the_files_for_an_envoy_of_ones_own_name_the_same_servers(tmp_path):
    files = dict(
        re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", (ROOT / "docs/own-envoy.md").read_text(), re.DOTALL | re.MULTILINE)
    )
    (tmp_path / "endpoints.yaml").write_text(files["endpoints.yaml"])
    servers = {f"{each.host}:{each.port}" for each in Files(tmp_path / "endpoints.yaml").load().members}
    (pool,) = load_intent(files["intent.yaml"]).pools
    assert servers == set(pool.endpoints)


def test_make_targets_named_in_the_docs_exist():
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"(?:^|`)make ([a-z0-9-]+)", page.read_text(), re.MULTILINE):
            assert target in targets, f"{page.relative_to(ROOT)}: make {target}"
