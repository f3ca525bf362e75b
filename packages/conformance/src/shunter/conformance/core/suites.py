"""Suites: named questions that several cases answer together, such as whether a server may stand in an InferencePool."""

from collections.abc import Sequence

import msgspec

from shunter.conformance.core.case import Level
from shunter.conformance.core.events import CaseFinished, Event, Started
from shunter.conformance.core.profile import GIE, GIE_LORA
from shunter.conformance.core.verdict import Verdict

__all__ = ["QUESTIONS", "Answer", "answers"]

QUESTIONS = {
    GIE: "May this server stand in an InferencePool?",
    GIE_LORA: "Can a picker send requests where their LoRA adapter is?",
}
"""What each suite asks."""

# What a server lacks that a suite demands is not met either.
_UNMET = frozenset({Verdict.FAILED, Verdict.KNOWN_FAILURE, Verdict.NOT_SUPPORTED})


class Answer(msgspec.Struct, frozen=True):
    """What an exam says to a suite's question: the ids of the MUSTs that are not met, and of those that could not be judged.

    `left_out` of its MUSTs were not asked at all, because the examiner chose others.
    """

    suite: str
    asked: int
    unmet: tuple[str, ...]
    unjudged: tuple[str, ...]
    left_out: int = 0

    @property
    def word(self) -> str:
        """Yes, no or undecided."""
        return "no" if self.unmet else "undecided" if self.unjudged or self.left_out else "yes"

    def __str__(self) -> str:
        """The question, its answer and the grounds, in one line."""
        grounds = f"{self.asked - len(self.unmet) - len(self.unjudged)} of {self.asked + self.left_out} MUSTs met"
        grounds += f"; not met: {', '.join(self.unmet)}" if self.unmet else ""
        unjudged = f"all {self.asked}" if len(self.unjudged) == self.asked else ", ".join(self.unjudged)
        grounds += f"; not judged: {unjudged}" if self.unjudged else ""
        grounds += f"; not asked: {self.left_out}" if self.left_out else ""
        return f"{QUESTIONS.get(self.suite, self.suite)} {self.word.capitalize()} ({self.suite}: {grounds})"


def answers(events: Sequence[Event]) -> tuple[Answer, ...]:
    """Return what an exam answers: a suite of which every MUST is lacking for one reason, not supported, is not asked about."""
    started = [event for event in events if isinstance(event, Started)]
    suites = {case.id: case.suites for event in started for case in event.cases}
    left_out = {suite: count for event in started for suite, count in event.left_out.items()}
    musts = [event for event in events if isinstance(event, CaseFinished) and event.level is Level.MUST]
    found: list[Answer] = []
    for suite in dict.fromkeys(name for names in suites.values() for name in names):
        members = [each for each in musts if suite in suites.get(each.id, ())]
        if all(each.verdict is Verdict.NOT_SUPPORTED for each in members):
            continue
        unmet = tuple(each.id for each in members if each.verdict in _UNMET)
        unjudged = tuple(each.id for each in members if not each.verdict.met and each.verdict not in _UNMET)
        found.append(Answer(suite, len(members), unmet, unjudged, left_out.get(suite, 0)))
    return tuple(found)
