"""A check is a value: its id never changes, its question is one that a person asks, and it answers from facts alone."""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple

import msgspec

from shunter.stack.core.doctor.facts import Facts

__all__ = ["Answer", "Check", "Finding", "Verdict", "fail", "ok", "skipped", "some", "warn"]

# Of many things of one kind that are wrong, so many are named.
NAMED = 4


class Verdict(Enum):
    """Fail: requests fail or go where they should not. Warn: they will, or something is not as it was meant."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


class Finding(NamedTuple):
    """What a check found: the verdict, what it goes by, and what to do about it."""

    verdict: Verdict
    evidence: str
    remedy: str = ""


class Check(msgspec.Struct, frozen=True):
    """``judge`` is total: whatever the facts are, it returns a finding."""

    id: str
    question: str
    judge: Callable[[Facts], Finding]


class Answer(msgspec.Struct, frozen=True):
    """What one check says of one installation."""

    id: str
    question: str
    verdict: Verdict
    evidence: str
    remedy: str = ""


def ok(evidence: str) -> Finding:
    """All is well."""
    return Finding(Verdict.OK, evidence)


def warn(evidence: str, remedy: str) -> Finding:
    """Something is not as it was meant."""
    return Finding(Verdict.WARN, evidence, remedy)


def fail(evidence: str, remedy: str) -> Finding:
    """Something does not work."""
    return Finding(Verdict.FAIL, evidence, remedy)


def skipped(why: str) -> Finding:
    """There was nothing to examine, or no way to it."""
    return Finding(Verdict.SKIPPED, why)


def some(things: Sequence[str]) -> str:
    """Name things that are wrong; of many the first."""
    named = "; ".join(things[:NAMED])
    return f"{named}; and {len(things) - NAMED} more" if len(things) > NAMED else named
