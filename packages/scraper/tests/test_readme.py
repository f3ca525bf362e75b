"""What the README shows is what happens."""

import re
from pathlib import Path

import pytest

from shunter.scraper.core.assembly import assemble
from shunter.scraper.core.cluster import Cluster
from shunter.scraper.core.dialect import DIALECTS
from shunter.scraper.core.documents import read_documents
from shunter.scraper.errors import ConfigError

README = (Path(__file__).parents[1] / "README.md").read_text()
FILE, CUSTOM = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)


def read(text: str) -> Cluster:
    return assemble(read_documents("endpoints.yaml", text.encode()))


def test_the_files_are_read():
    assert [(one.name, one.dialect.name) for one in read(FILE).members] == [("vllm-0", "vllm"), ("sglang-0", "sglang")]
    assert read(CUSTOM).members[0].dialect.waiting[0].spec.labels == {"state": "queued"}


def test_a_mistyped_field_is_answered_as_shown():
    with pytest.raises(ConfigError) as refused:
        read(FILE.replace("engine:", "engnie:"))
    assert f"{refused.value}; the state before stays in force\n" in README


def test_the_dialects_are_those_listed():
    assert f": {', '.join(DIALECTS)}." in " ".join(README.split())


@pytest.mark.parametrize(
    ("path", "options"), [("http://{}/metrics", []), ("{}", ["--engine", "sglang"]), ("{}/stats", []), ("127.0.0.1:1", [])]
)
def test_probe_prints_what_is_shown(probed, path, options):
    """But for the time it took, and that the address is another."""
    output = re.sub(r"bytes in \d+ ms", "bytes in 5 ms", probed(path, *options))
    assert re.search(rf"^\$ shunter scraper probe .*\n{re.escape(output)}", README, re.MULTILINE)
