"""What becomes of a request: for each profile and failure mode, whatever state the picker is in.

The table is what docs/profiles.md tells in words. Sizes make no difference but one: above ``limits.bodyBytes``.
"""

from collections.abc import Iterator
from enum import Enum

import msgspec

from shunter.envoyconf import FailureMode, Profile

__all__ = [
    "KEYS_IN_BODIES_SINCE",
    "LIMIT_BYTES",
    "SIZES",
    "WAYS",
    "Cell",
    "Form",
    "Outcome",
    "State",
    "cells",
    "promise",
    "row_of",
    "since",
]

LIMIT_BYTES = 6_000_000
SIZES = {"1 KB": 1_000, "100 KB": 100_000, "5 MB": 5_000_000, "8 MB": 8_000_000}  # the last is above the limit


class State(Enum):
    """What the picker is at."""

    HEALTHY = "picker healthy"
    DEAD = "picker dead"  # and Envoy has had the time to see it, where it looks
    HUNG = "picker hung"  # takes connections and answers nothing
    KILLED = "picker killed meanwhile"  # after the model server has got the request


class Form(Enum):
    """How the response comes."""

    UNARY = "unary"  # nothing of it has come when the picker is killed
    EVENTS = "SSE"  # the first event has


class Outcome(Enum):
    """What the client gets."""

    PICKED = "picked"  # an answer of the picker's choice
    SERVED = "served"  # an answer of anybody's
    TOO_LARGE = "413"
    REFUSED = "503"
    TIMEOUT = "504"
    CUT = "cut"  # a part of an answer


class Cell(msgspec.Struct, frozen=True):
    """One request."""

    state: State
    form: Form
    size: str

    def __str__(self) -> str:
        return f"{self.state.value}, {self.size}, {self.form.value}"


_P, _S, _L, _R, _T, _C = Outcome

# By state; where a picker is killed meanwhile: before anything of the response has come, and after its first event.
Row = tuple[Outcome, Outcome, Outcome, tuple[Outcome, Outcome]]

WAYS: dict[tuple[Profile, FailureMode], Row] = {
    # In lean and usage a stream waits for the request's end: failing closed, Envoy cuts what hangs on it.
    (Profile.LEAN, FailureMode.OPEN): (_P, _S, _S, (_P, _P)),
    (Profile.LEAN, FailureMode.CLOSE): (_P, _R, _T, (_R, _C)),
    (Profile.USAGE, FailureMode.OPEN): (_P, _S, _S, (_P, _P)),
    (Profile.USAGE, FailureMode.CLOSE): (_P, _R, _T, (_R, _C)),
    # The stream is over when the request is picked.
    (Profile.STRICT, FailureMode.CLOSE): (_P, _R, _T, (_P, _P)),
    # It is over when the response's headers have come.
    (Profile.HEADERS, FailureMode.OPEN): (_P, _S, _T, (_R, _P)),
    (Profile.HEADERS, FailureMode.CLOSE): (_P, _R, _T, (_R, _P)),
    (Profile.FULL, FailureMode.OPEN): (_P, _S, _T, (_R, _C)),
    (Profile.FULL, FailureMode.CLOSE): (_P, _R, _T, (_R, _C)),
    # Nobody is asked.
    (Profile.NATIVE, FailureMode.OPEN): (_S, _S, _S, (_S, _S)),
}

# Before 1.37 a stream is over when the request is, whatever is left to ask.
UNTIL_THE_END = {(Profile.STRICT, FailureMode.CLOSE): (_P, _R, _T, (_R, _C))}
OVER_EARLY_SINCE = (1, 37)

# Before 1.38 a key can be in a header or cookie only; bodies are not kept for it.
KEYS_IN_BODIES_SINCE = (1, 38)

# In which Envoy keeps the body, for the picker or for the key in it.
KEEPS_BODIES = {Profile.LEAN, Profile.USAGE, Profile.NATIVE}


def row_of(profile: Profile, failure: FailureMode, version: str) -> Row:
    """Return the row of the table that holds for an Envoy."""
    return (WAYS if since(OVER_EARLY_SINCE, version) else WAYS | UNTIL_THE_END)[profile, failure]


def since(first: tuple[int, int], version: str) -> bool:
    """Say whether an Envoy is of this minor version or a later one."""
    major, minor, *_ = version.split(".")
    return (int(major), int(minor)) >= first


def promise(profile: Profile, failure: FailureMode, version: str, cell: Cell) -> tuple[Outcome, ...]:
    """Return what a request is promised: as a rule one outcome, several where it is a race."""
    healthy, dead, hung, killed = row_of(profile, failure, version)
    at = {State.HEALTHY: healthy, State.DEAD: dead, State.HUNG: hung, State.KILLED: killed[cell.form is Form.EVENTS]}[
        cell.state
    ]
    if SIZES[cell.size] <= LIMIT_BYTES:
        return (at,)
    if profile is Profile.NATIVE and not since(KEYS_IN_BODIES_SINCE, version):
        return (at,)
    if profile in KEEPS_BODIES:
        # Envoy keeps no more of a body once it has learnt that nobody will ask for it.
        return (Outcome.TOO_LARGE, at) if cell.state is State.DEAD else (Outcome.TOO_LARGE,)
    # Of a body that it is sent, the picker itself refuses what is above its limit.
    return (Outcome.TOO_LARGE,) if cell.state is State.HEALTHY else (at,)


def cells(profile: Profile) -> Iterator[Cell]:
    """Yield all requests of a profile; without a picker there is one state."""
    for state in State:
        if profile is Profile.NATIVE and state is not State.HEALTHY:
            continue
        for size, size_bytes in SIZES.items():
            if state is State.KILLED and size_bytes > LIMIT_BYTES:  # refused before anything could be killed
                continue
            for form in Form:
                yield Cell(state, form, size)
