"""A case of the exam as a value: what is required, who says so, and how to find out.

Rule 1: an id never changes and is never used again; reports of different years are compared by it.
Rule 2: a level is declared on the case, never derived.
Rule 3: every time limit is a `Bound` on the case, with its reason; there are no others in the body of a case.
Rule 4: a case that has not been seen to fail on a server broken in exactly that way is not finished.
"""

import difflib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from shunter.conformance.core.exchange import Exchange
from shunter.conformance.core.profile import Profile
from shunter.conformance.errors import UsageError

__all__ = ["Bound", "Case", "Level", "Target", "find", "select"]


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


class Target(Protocol):
    """What a case may do with the server under exam; every exchange is recorded as evidence."""

    capacity: int | None
    """How many requests run at once, as far as a case has found out."""

    @property
    def profile(self) -> Profile:
        """What kind of server this is taken for."""
        ...

    @property
    def model(self) -> str:
        """The model to ask for; raises Skip when the server names none and the examiner did not either."""
        ...

    @property
    def served(self) -> tuple[str, ...]:
        """Every name in the server's model list."""
        ...

    @property
    def step_s(self) -> float | None:
        """Seconds that the target takes for one token, as calibrated; None if it could not be measured."""
        ...

    def seconds(self, bound: Bound) -> float:
        """A bound in seconds, scaled by the calibration where it scales."""
        ...

    async def get(self, path: str) -> Exchange:
        """GET a path of the server; raises Unanswered."""
        ...

    async def post(self, path: str, body: bytes | dict[str, object]) -> Exchange:
        """POST JSON, or raw bytes that claim to be JSON; raises Unanswered."""
        ...

    def first_metrics(self) -> Exchange:
        """The metrics page from before this exam made the server generate anything; raises Skip if there was none."""
        ...

    async def metrics(self) -> Exchange:
        """GET the metrics page, wherever the profile or the examiner says it is; raises Unanswered."""
        ...

    def plot(self, name: str, points: Sequence[tuple[float, float]]) -> None:
        """Keep what a gauge said over time, in seconds since the case began, for whoever reads the report."""
        ...


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One requirement and the way to check it.

    `run` returns what was observed, as one line, or raises Mismatch (not met), Unanswered (no complete answer, which is
    not met either) or Skip. `needs` are cases without whose success this one cannot be judged: it is skipped then, so
    that one defect is one failure.
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


def find(cases: Iterable[Case], case_id: str) -> Case:
    """Look a case up by its id; a near miss is named in the error."""
    by_id = {case.id: case for case in cases}
    if case_id not in by_id:
        raise UsageError(f"no case {case_id!r}{_near(case_id, by_id)}; `list` shows all")
    return by_id[case_id]


def select(cases: Sequence[Case], prefixes: Iterable[str] = (), level: Level = Level.MAY) -> tuple[Case, ...]:
    """Choose cases by dotted id prefixes (none means all) and by the weakest level wanted, in their order."""
    prefixes = tuple(prefixes)

    def under(case: Case, prefix: str) -> bool:
        return f"{case.id}.".startswith(prefix.rstrip(".") + ".")

    for prefix in prefixes:
        if not any(under(case, prefix) for case in cases):
            groups = {case.id.rpartition(".")[0] for case in cases}
            raise UsageError(
                f"no case begins with {prefix!r}{_near(prefix, [*groups, *(case.id for case in cases)])}; `list` shows all"
            )
    order = list(Level)
    return tuple(
        case
        for case in cases
        if order.index(case.level) <= order.index(level) and (not prefixes or any(under(case, prefix) for prefix in prefixes))
    )


def _near(word: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, list(known))
    return f" (did you mean {' or '.join(matches)}?)" if matches else ""
