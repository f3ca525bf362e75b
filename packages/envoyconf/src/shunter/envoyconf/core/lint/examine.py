"""Documents and rules in, findings out, in the order in which somebody would correct them."""

from collections.abc import Iterable
from itertools import chain

import msgspec

from shunter.envoyconf.core.documents import Document, Path
from shunter.envoyconf.core.lint import RULES
from shunter.envoyconf.core.lint.embedded import embedded
from shunter.envoyconf.core.lint.rule import Finding, Rule, Subject
from shunter.envoyconf.core.versions import DEFAULT_VERSION, Version

__all__ = ["examine"]


def examine(
    documents: Iterable[Document],
    envoy_version: Version = DEFAULT_VERSION,
    rules: Iterable[Rule] = RULES,
    namespace: str = "default",
) -> list[tuple[Rule, Finding]]:
    """Return what breaks which rule, by file, line and code. A rule finds a place once, by however many ways it comes there.

    What is inside of a ConfigMap is examined for itself; a place in its text is not corrected as others are.
    """
    given = tuple(documents)
    inner = [*embedded(given)]
    inside = {id(document) for group in inner for document in group}
    # Each ConfigMap is for an Envoy of its own, but what Kubernetes objects are in them are for all.
    objects = tuple(each for group in inner for each in group if each.kind)
    groups = (given + objects, *(tuple(each for each in group if not each.kind) for group in inner))
    subjects = [Subject(group, envoy_version, namespace) for group in groups]
    found: dict[tuple[str, int, Path], tuple[Rule, Finding]] = {}
    for rule in rules:
        for each in chain.from_iterable(map(rule.check, subjects)):
            finding = msgspec.structs.replace(each, fixes=()) if id(each.document) in inside else each
            found.setdefault((rule.code, id(finding.document), finding.path), (rule, finding))
    return sorted(found.values(), key=_place)


def _place(found: tuple[Rule, Finding]) -> tuple[str, int, str]:
    rule, finding = found
    return finding.document.file, finding.document.line(finding.path), rule.code
