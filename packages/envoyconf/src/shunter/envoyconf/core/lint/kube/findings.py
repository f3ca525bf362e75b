"""What rules about Kubernetes objects are made of: the objects together, and findings at places in them."""

from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches

from shunter.envoyconf.core.cursor import Cursor
from shunter.envoyconf.core.kube.manifests import Manifests
from shunter.envoyconf.core.lint.rule import Finding, Fix, Subject

__all__ = ["found", "looking_at", "meant"]


def found(at: Cursor, message: str, remedy: str, *fixes: Fix) -> Finding:
    """Return a finding at a place."""
    return Finding(at.document, at.path, message, remedy, fixes)


def looking_at(check: Callable[[Manifests], Iterable[Finding]]) -> Callable[[Subject], Iterator[Finding]]:
    """Return the check of a rule that looks at Kubernetes objects only."""

    def examine(subject: Subject) -> Iterator[Finding]:
        yield from check(subject.manifests)

    return examine


def meant(name: str, known: list[str]) -> str:
    """Return which of the known names was probably meant, as the end of a sentence."""
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(sorted(known))}"
