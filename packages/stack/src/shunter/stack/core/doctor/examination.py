"""Facts in, answers out, and how they are printed."""

from collections import Counter
from collections.abc import Iterable, Sequence
from textwrap import fill

import msgspec

from shunter.stack.core.doctor.check import Answer, Check, Verdict
from shunter.stack.core.doctor.facts import Facts
from shunter.stack.core.screen import printable

__all__ = ["as_json", "as_text", "examine", "exit_code"]

COLUMNS = 120


def examine(facts: Facts, checks: Iterable[Check]) -> tuple[Answer, ...]:
    """Return the answer of each check."""
    return tuple(Answer(check.id, check.question, *check.judge(facts)) for check in checks)


def exit_code(answers: Sequence[Answer]) -> int:
    """Return 1 if a check failed, 2 if there was nothing to examine, else 0."""
    verdicts = {each.verdict for each in answers}
    if Verdict.FAIL in verdicts:
        return 1
    return 2 if verdicts <= {Verdict.SKIPPED} else 0


def as_text(answers: Sequence[Answer]) -> str:
    """Return a paragraph for each answer; those that were skipped for one reason share one."""
    paragraphs: list[str] = []
    for each in answers:
        if each.verdict is not Verdict.SKIPPED:
            paragraphs.append(_folded(f"{each.question} {each.evidence}", f"{each.verdict.value:<6}", "      "))
            paragraphs += [_folded(f"→ {each.remedy}", "      ", "        ")] if each.remedy else []
    skipped = [each for each in answers if each.verdict is Verdict.SKIPPED]
    for reason in dict.fromkeys(each.evidence for each in skipped):
        ids = ", ".join(each.id for each in skipped if each.evidence == reason)
        paragraphs.append(_folded(f"{ids}: {reason}", "skipped ", "        "))
    counts = Counter(each.verdict for each in answers)
    return "\n".join([*paragraphs, ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict)])


def as_json(answers: Sequence[Answer]) -> str:
    """Return the answers as one JSON array."""
    return msgspec.json.format(msgspec.json.encode(answers), indent=2).decode()


def _folded(text: str, first: str, rest: str) -> str:
    return fill(
        printable(text),
        COLUMNS,
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
        break_long_words=False,
    )
