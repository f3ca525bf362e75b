"""All mechanical corrections of some texts, round after round until nothing is left to correct."""

from collections.abc import Callable, Iterable, Mapping

from shunter.envoyconf.core.documents import Document, Path, load_documents
from shunter.envoyconf.core.edit import change
from shunter.envoyconf.core.lint.rule import Finding, Rule
from shunter.envoyconf.core.lint.suppress import sort_out, suppressions

__all__ = ["Look", "correct"]

# A correction may bring another finding to light, not a chain of them.
MAX_ROUNDS = 10

Look = Callable[[tuple[Document, ...]], Iterable[tuple[Rule, Finding]]]


def correct(texts: Mapping[str, str], look: Look) -> tuple[dict[str, str], list[tuple[Rule, Finding]]]:
    """Return the texts by file, corrected, and which findings were.

    ``look`` examines documents; what comments in the texts let be stays. Raises IntentError if a text cannot be read.
    """
    current = dict(texts)
    done: list[tuple[Rule, Finding]] = []
    for _ in range(MAX_ROUNDS):
        documents = {file: load_documents(text, file) for file, text in current.items()}
        places = {id(each): (file, index) for file, read in documents.items() for index, each in enumerate(read)}
        changed: list[tuple[str, int, Path]] = []
        found = look(tuple(each for read in documents.values() for each in read))
        standing, _ = sort_out(found, [each for file, text in current.items() for each in suppressions(text, file)])
        # From the last to the first, so that the paths of those before stay true.
        findings = [each for each in standing if each[1].fixes]
        for rule, finding in sorted(findings, key=lambda each: _order(each[1]), reverse=True):
            file, index = places.get(id(finding.document), ("", 0))
            paths = [(file, index, fix.path) for fix in finding.fixes]
            if file and not any(_meet(one, other) for one in paths for other in changed):
                text = _apply(current[file], index, finding)
                if text is not None:
                    current[file] = text
                    changed += paths
                    done.append((rule, finding))
        if not changed:
            break
    return current, done


def _apply(text: str, index: int, finding: Finding) -> str | None:
    edited: str | None = text
    for fix in finding.fixes:
        edited = change(edited, index, fix.path, fix.value) if edited is not None else None
    return edited


def _order(finding: Finding) -> tuple[tuple[bool, int, str], ...]:
    """Return what paths are sorted by: items by number, fields by name."""
    return tuple((isinstance(step, int), step if isinstance(step, int) else 0, str(step)) for step in finding.fixes[0].path)


def _meet(one: tuple[str, int, Path], other: tuple[str, int, Path]) -> bool:
    """Say whether a change could stand in the other's way: one is inside of the other."""
    shorter = min(len(one[2]), len(other[2]))
    return one[:2] == other[:2] and one[2][:shorter] == other[2][:shorter]
