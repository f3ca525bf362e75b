"""Each rule about Kubernetes objects finds its bad example, at the line that says so, and nothing in its good one."""

from pathlib import Path

import pytest

from shunter.envoyconf.core.documents import load_documents
from shunter.envoyconf.core.lint import RULES
from shunter.envoyconf.core.lint.correct import correct
from shunter.envoyconf.core.lint.examine import examine

EXAMPLES = Path(__file__).parent / "lint" / "kube"
CODES = sorted(path.name for path in EXAMPLES.iterdir())
MARK = "# here"


def findings(path):
    return examine(load_documents(path.read_text(), str(path)))


@pytest.mark.parametrize("code", CODES)
def test_bad_example_breaks_this_rule_only_and_there_only(code):
    bad = EXAMPLES / code / "bad.yaml"
    places = [(rule.code, finding.document.line(finding.path)) for rule, finding in findings(bad)]
    lines = [number for number, line in enumerate(bad.read_text().splitlines(), 1) if line.endswith(MARK)]
    assert places == [(code, line) for line in lines]


@pytest.mark.parametrize("code", CODES)
def test_good_example_breaks_no_rule(code):
    assert [(rule.code, finding.message) for rule, finding in findings(EXAMPLES / code / "good.yaml")] == []


@pytest.mark.parametrize("code", CODES)
def test_correction_leaves_nothing_to_correct(code):
    bad = EXAMPLES / code / "bad.yaml"
    found = findings(bad)
    texts, done = correct({"bad.yaml": bad.read_text()}, examine)
    left = examine(load_documents(texts["bad.yaml"], ""))
    assert [rule.code for rule, _ in left] == [rule.code for rule, finding in found if not finding.fixes]
    assert len(done) == sum(bool(finding.fixes) for _, finding in found)


def test_each_rule_about_kubernetes_has_an_example():
    ours = {rule.code for rule in RULES if ".lint.kube" in getattr(rule.check, "__module__", "")}
    assert ours == set(CODES)


def test_no_code_is_given_twice():
    codes = [rule.code for rule in RULES]
    assert len(set(codes)) == len(codes)
    numbers = [code[1:] for code in codes]
    assert len(set(numbers)) == len(numbers)
