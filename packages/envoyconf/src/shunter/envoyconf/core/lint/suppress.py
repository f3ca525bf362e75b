"""Findings that somebody has looked at and lets be, with the reason.

A comment ``# shunter-lint: ignore=W45 why`` holds for the line that it stands on, or for the next one if it has a line of its
own, and for everything nested in that. An annotation ``shunter-lint/W45: why`` of a Kubernetes object holds for all of the
object. Several codes are separated by commas. Without a reason nothing is let be, and that is a finding.
"""

import re
from collections.abc import Iterable, Iterator

import msgspec

from shunter.envoyconf.core.cursor import Cursor
from shunter.envoyconf.core.documents import Document
from shunter.envoyconf.core.lint.rule import Finding, Rule, Subject

__all__ = ["ANNOTATION", "RULES", "Silenced", "Suppression", "sort_out", "suppressions"]

ANNOTATION = "shunter-lint/"
COMMENT = re.compile(r"(?:^|\s)#\s*shunter-lint:\s*ignore=(\S*)[ \t]*(.*)$")
CODES = re.compile(r"[EWX]\d{1,3}(,[EWX]\d{1,3})*")


class Suppression(msgspec.Struct, frozen=True):
    """A comment that lets findings be, in some lines of a file."""

    file: str
    line: int  # of the comment
    first: int
    last: int
    codes: frozenset[str]  # none if they cannot be read
    reason: str

    def covers(self, rule: Rule, finding: Finding) -> bool:
        """Say whether it is meant for a finding, and gives a reason."""
        line = finding.document.line(finding.path)
        return (
            bool(self.reason)
            and rule.code in self.codes
            and finding.document.file == self.file
            and self.first <= line <= self.last
        )


class Silenced(msgspec.Struct, frozen=True):
    """A finding that is let be."""

    rule: Rule
    finding: Finding
    reason: str


def suppressions(text: str, file: str) -> tuple[Suppression, ...]:
    """Return the comments of a text that let findings be."""
    lines = text.split("\n")
    return tuple(_suppressions(lines, file))


def _suppressions(lines: list[str], file: str) -> Iterator[Suppression]:
    for index, line in enumerate(lines):
        if not (found := COMMENT.search(line)):
            continue
        codes = frozenset(found[1].split(",")) if CODES.fullmatch(found[1]) else frozenset[str]()
        first = index
        while first < len(lines) and not _content(lines[first]):
            first += 1
        yield Suppression(file, index + 1, first + 1, _last(lines, first) + 1, codes, found[2].strip())


def _content(line: str) -> str:
    """Return a line unless it is empty or nothing but a comment."""
    return "" if line.lstrip().startswith("#") else line.strip()


def _last(lines: list[str], first: int) -> int:
    """Return the last line of what begins on a line: those that follow and are indented further."""
    if first >= len(lines):
        return first
    start = lines[first]
    indent = len(start) - len(start.lstrip())
    # A sequence may be indented no further than the key that it belongs to.
    outdented = not start.lstrip().startswith("-")
    last = first
    for index in range(first + 1, len(lines)):
        if not _content(lines[index]):
            continue
        here = len(lines[index]) - len(lines[index].lstrip())
        if here > indent or (here == indent and outdented and lines[index].lstrip().startswith("- ")):
            last = index
            continue
        break
    return last


def sort_out(
    found: Iterable[tuple[Rule, Finding]],
    comments: Iterable[Suppression],
) -> tuple[list[tuple[Rule, Finding]], list[Silenced]]:
    """Divide findings into those that stand and those that are let be; a comment without a reason is a finding, too."""
    comments = tuple(comments)
    standing: list[tuple[Rule, Finding]] = []
    silenced: list[Silenced] = []
    for rule, finding in found:
        reason = next((each.reason for each in comments if each.covers(rule, finding)), "") or _annotated(rule, finding)
        if reason:
            silenced.append(Silenced(rule, finding, reason))
        else:
            standing.append((rule, finding))
    standing += [(UNREASONED, finding) for each in comments if (finding := _complaint(each))]
    return standing, silenced


def _annotated(rule: Rule, finding: Finding) -> str:
    annotations = Cursor.root(finding.document).at("metadata", "annotations").labels
    return annotations.get(f"{ANNOTATION}{rule.code}", "").strip() if rule.code != "W89" else ""


def _complaint(comment: Suppression) -> Finding | None:
    place = Document({}, comment.file, {(): comment.line})
    if not comment.codes:
        return Finding(place, (), "this comment names no rule, so it lets nothing be", "write ignore=CODE, such as ignore=W45")
    if not comment.reason:
        codes = ", ".join(sorted(comment.codes))
        return Finding(place, (), f"{codes} is to be let be without a reason, and is not", "write the reason behind the code")
    return None


def _unreasoned_annotations(subject: Subject) -> Iterator[Finding]:
    for document in subject.documents:
        for name, field in Cursor.root(document).at("metadata", "annotations").fields():
            if not name.startswith(ANNOTATION):
                continue
            code = name.removeprefix(ANNOTATION)
            if not CODES.fullmatch(code):
                yield Finding(document, field.path, f"{name} names no rule", f"write {ANNOTATION}CODE, such as {ANNOTATION}W45")
            elif not field.text.strip():
                yield Finding(
                    document,
                    field.path,
                    f"{code} is to be let be without a reason, and is not",
                    "write the reason as the value",
                )


UNREASONED = Rule(
    code="W89",
    title="A finding that is to be let be without a reason",
    why="Whoever reads the configuration next cannot know whether the reason still holds.",
    check=_unreasoned_annotations,
)

RULES: tuple[Rule, ...] = (UNREASONED,)
