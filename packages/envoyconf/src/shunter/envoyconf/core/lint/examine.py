"""Documents and rules in, findings out, in the order in which somebody would correct them."""

from collections.abc import Iterable

from shunter.envoyconf.core.documents import Document, Path
from shunter.envoyconf.core.lint import RULES
from shunter.envoyconf.core.lint.rule import Finding, Rule, Subject
from shunter.envoyconf.core.versions import DEFAULT_VERSION, Version

__all__ = ["examine"]


def examine(
    documents: Iterable[Document],
    envoy_version: Version = DEFAULT_VERSION,
    rules: Iterable[Rule] = RULES,
    namespace: str = "default",
) -> list[tuple[Rule, Finding]]:
    """Return what breaks which rule, by file, line and code. A rule finds a place once, by however many ways it comes there."""
    subject = Subject(tuple(documents), envoy_version, namespace)
    found: dict[tuple[str, int, Path], tuple[Rule, Finding]] = {}
    for rule in rules:
        for finding in rule.check(subject):
            found.setdefault((rule.code, id(finding.document), finding.path), (rule, finding))
    return sorted(found.values(), key=_place)


def _place(found: tuple[Rule, Finding]) -> tuple[str, int, str]:
    rule, finding = found
    return finding.document.file, finding.document.line(finding.path), rule.code
