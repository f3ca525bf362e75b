"""Verdicts, and what they mean for the exit code."""

from collections.abc import Collection
from enum import StrEnum

from shunter.conformance.core.case import Level

__all__ = ["EXIT_FAILED", "EXIT_PASSED", "EXIT_UNREACHABLE", "EXIT_USAGE", "Verdict", "exit_code", "judge"]

EXIT_PASSED = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3


class Verdict(StrEnum):
    """The outcome of one case."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """It could not be judged: something that it needs was missing or had failed."""
    NOT_SUPPORTED = "not-supported"
    """The profile says that this kind of server lacks the feature."""
    KNOWN_FAILURE = "known-failure"
    """It failed, as the profile foretold."""
    UNEXPECTED_PASS = "unexpected-pass"  # noqa: S105 – no secret, a verdict
    """It passed against the profile, which should be corrected."""
    ERROR = "error"
    """The target could not be reached."""

    @property
    def met(self) -> bool:
        """Whether the requirement was seen to be met."""
        return self in {Verdict.PASSED, Verdict.UNEXPECTED_PASS}


def judge(*, met: bool, known: bool) -> Verdict:
    """Weigh what a case found against what the profile foretold."""
    if met:
        return Verdict.UNEXPECTED_PASS if known else Verdict.PASSED
    return Verdict.KNOWN_FAILURE if known else Verdict.FAILED


def exit_code(findings: Collection[tuple[Level, Verdict]]) -> int:
    """The exit code answers "is something newly broken?": known failures and broken SHOULDs do not raise it.

    An exam in which nothing could be judged has not been passed either.
    """
    if any(verdict is Verdict.ERROR for _, verdict in findings):
        return EXIT_UNREACHABLE
    if all(verdict in {Verdict.SKIPPED, Verdict.NOT_SUPPORTED} for _, verdict in findings):
        return EXIT_FAILED
    return EXIT_FAILED if (Level.MUST, Verdict.FAILED) in findings else EXIT_PASSED
