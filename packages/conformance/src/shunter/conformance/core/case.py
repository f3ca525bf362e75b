"""A case of the exam as a value: what is required, who says so, and how to find out.

Rule 1: an id never changes and is never used again; reports of different years are compared by it.
Rule 2: a level is declared on the case, never derived.
Rule 3: every time limit is a `Bound` on the case, with its reason; there are no others in the body of a case.
Rule 4: a case that has not been seen to fail on a server broken in exactly that way is not finished.
"""

import difflib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any, Generic, TypeVar

import msgspec

from shunter.conformance.errors import UsageError

__all__ = ["AnyCase", "Bound", "Case", "Level", "find", "near", "select"]

Target = TypeVar("Target", contravariant=True)  # noqa: PLC0105 – what a case may do with what it examines


class Level(StrEnum):
    """The weight of a requirement, in the sense of RFC 2119."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"


class Bound(msgspec.Struct, frozen=True):
    """The longest time that a conformant server may take.

    A bound that `scales` is multiplied by the calibration of the target, so that a slow machine is not taken for a
    broken server; one that does not is a promise to somebody who will not wait longer either.
    """

    name: str
    seconds: float
    why: str
    scales: bool = True


class Case(msgspec.Struct, Generic[Target], frozen=True, kw_only=True):
    """One requirement and the way to check it.

    `run` returns what was observed, as one line, or raises Mismatch (not met), Unanswered (no complete answer, which is
    not met either) or Skip. `needs` are cases without whose success this one cannot be judged: it is skipped then, so
    that one defect is one failure; one that the kind of server cannot be asked stands in nobody's way. `suites` are the
    named questions that this case helps to answer, such as `GIE`.
    """

    id: str
    level: Level
    requirement: str
    why: str
    source: str
    run: Callable[[Target], Awaitable[str]]
    features: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    bounds: tuple[Bound, ...] = ()
    suites: tuple[str, ...] = ()


AnyCase = Case[Any]
"""A case of whatever side."""

Chosen = TypeVar("Chosen", bound=AnyCase)


def find(cases: Iterable[Chosen], case_id: str) -> Chosen:
    """Look a case up by its id; a near miss is named in the error."""
    by_id = {case.id: case for case in cases}
    if case_id not in by_id:
        raise UsageError(f"no case {case_id!r}{near(case_id, by_id)}; `list` shows all")
    return by_id[case_id]


def select(
    cases: Sequence[Chosen],
    prefixes: Iterable[str] = (),
    level: Level = Level.MAY,
    *,
    suite: str | None = None,
    features: Iterable[str] = (),
) -> tuple[Chosen, ...]:
    """Choose cases by dotted id prefixes, suite, features (none means all) and the weakest level wanted, in their order."""
    prefixes, features = tuple(prefixes), frozenset(features)

    def under(case: AnyCase, prefix: str) -> bool:
        return f"{case.id}.".startswith(prefix.rstrip(".") + ".")

    for prefix in prefixes:
        if not any(under(case, prefix) for case in cases):
            groups = {case.id.rpartition(".")[0] for case in cases}
            raise UsageError(
                f"no case begins with {prefix!r}{near(prefix, [*groups, *(case.id for case in cases)])}; `list` shows all"
            )
    known = {feature for case in cases for feature in case.features}
    for feature in features - known:
        raise UsageError(f"no case needs the feature {feature!r}{near(feature, known)}; there are {', '.join(sorted(known))}")
    order = list(Level)
    return tuple(
        case
        for case in cases
        if order.index(case.level) <= order.index(level)
        and (not prefixes or any(under(case, prefix) for prefix in prefixes))
        and (suite is None or suite in case.suites)
        and (not features or features.intersection(case.features))
    )


def near(word: str, known: Iterable[str]) -> str:
    """Ask whether a word was to be one of those that are known, if it is like any."""
    matches = difflib.get_close_matches(word, list(known))
    return f" (did you mean {' or '.join(matches)}?)" if matches else ""
