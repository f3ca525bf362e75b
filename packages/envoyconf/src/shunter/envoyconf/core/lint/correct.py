"""All mechanical corrections of some texts, round after round until nothing is left to correct."""

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise

from shunter.envoyconf.core.documents import Document, Path, load_documents
from shunter.envoyconf.core.edit import change
from shunter.envoyconf.core.lint.rule import Finding, Rule
from shunter.envoyconf.core.lint.suppress import sort_out, suppressions
from shunter.envoyconf.errors import IntentError

__all__ = ["Look", "correct"]

# A correction may bring another finding to light, not a chain of them.
MAX_ROUNDS = 10

SEPARATOR = re.compile(r"^---(?=\s|$)", re.MULTILINE)

Look = Callable[[tuple[Document, ...]], Iterable[tuple[Rule, Finding]]]


def correct(texts: Mapping[str, str], look: Look) -> tuple[dict[str, str], list[tuple[Rule, Finding]]]:
    """Return the texts by file, corrected, and which findings were.

    ``look`` examines documents; what comments in the texts let be stays. Raises IntentError if a text cannot be read.
    """
    current = dict(texts)
    done: list[tuple[Rule, Finding]] = []
    for _ in range(MAX_ROUNDS):
        documents = {file: load_documents(text, file) for file, text in current.items()}
        found = look(tuple(each for read in documents.values() for each in read))
        standing, _ = sort_out(found, [each for file, text in current.items() for each in suppressions(text, file)])
        corrected = 0
        for file, read in documents.items():
            mine = {id(each): index for index, each in enumerate(read)}
            findings = [
                (mine[id(each[1].document)], each) for each in standing if each[1].fixes and id(each[1].document) in mine
            ]
            current[file], made = _correct_file(current[file], findings)
            done += made
            corrected += len(made)
        if not corrected:
            break
    return current, done


def _correct_file(text: str, findings: list[tuple[int, tuple[Rule, Finding]]]) -> tuple[str, list[tuple[Rule, Finding]]]:
    """Return a text with the findings in its documents corrected, as far as they do not meet, and those that were.

    It is edited piece by piece: each edit reads what it has changed, and a file may be long.
    """
    pieces = _pieces(text)
    try:
        homes = _homes(pieces)
    except IntentError:  # a directive (%YAML) belongs to what is behind its separator
        pieces = [text]
        homes = _homes(pieces)
    changed: list[tuple[int, Path]] = []
    made: list[tuple[Rule, Finding]] = []
    # From the last to the first, so that the paths of those before stay true.
    for number, (rule, finding) in sorted(findings, key=lambda each: _order(each[1][1]), reverse=True):
        paths = [(number, fix.path) for fix in finding.fixes]
        if any(_meet(one, other) for one in paths for other in changed):
            continue
        piece, index = homes[number]
        if (edited := _apply(pieces[piece], index, finding)) is not None:
            pieces[piece] = edited
            changed += paths
            made.append((rule, finding))
    return "".join(pieces), made


def _homes(pieces: list[str]) -> list[tuple[int, int]]:
    """Return for each document in which piece it is, and which of its documents it is."""
    return [(number, index) for number, piece in enumerate(pieces) for index in range(len(load_documents(piece, "")))]


def _pieces(text: str) -> list[str]:
    """Return a text cut before each separator of documents: three hyphens where a line begins (YAML 1.2, section 9.1.2)."""
    starts = [0, *(found.start() for found in SEPARATOR.finditer(text)), len(text)]
    return [text[start:end] for start, end in pairwise(starts)]


def _apply(text: str, index: int, finding: Finding) -> str | None:
    edited: str | None = text
    for fix in finding.fixes:
        edited = change(edited, index, fix.path, fix.value) if edited is not None else None
    return edited


def _order(finding: Finding) -> tuple[tuple[bool, int, str], ...]:
    """Return what paths are sorted by: items by number, fields by name."""
    return tuple((isinstance(step, int), step if isinstance(step, int) else 0, str(step)) for step in finding.fixes[0].path)


def _meet(one: tuple[int, Path], other: tuple[int, Path]) -> bool:
    """Say whether a change could stand in the other's way: one is inside of the other."""
    shorter = min(len(one[1]), len(other[1]))
    return one[0] == other[0] and one[1][:shorter] == other[1][:shorter]
