"""What a server should have × what it has → the calls to make now.

Identity is id and source: where the source has changed, the adapter is unloaded and loaded anew. What a server says of where
an adapter came from need not be the words it was loaded with, so what it said right after our own load is remembered, and only
a difference from that counts as another source.

A call that failed is made again after a while, longer each time, for each adapter by itself: one whose path is wrong does not
hold up the others. A list that could not be had is no list: nothing is loaded or unloaded by it.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec
from msgspec.structs import replace

from shunter.rollout.core.desired import Adapter, Desired

__all__ = [
    "FIRST_S",
    "LONGEST_S",
    "Known",
    "Standing",
    "Step",
    "Trouble",
    "hear",
    "plan",
    "settle",
    "standings",
    "wait_s",
]

# A server that is just starting is asked again soon; a path that is wrong stays so until somebody looks.
FIRST_S = 1.0
LONGEST_S = 60.0

Listed = Mapping[str, str | None]


class Trouble(msgspec.Struct, frozen=True):
    """Calls for one adapter that failed in a row, when to try again, and why the last one failed."""

    failures: int
    again_s: float
    reason: str


class Known(msgspec.Struct, frozen=True):
    """What is remembered of one server: the sources we loaded, and what it said of them afterwards; whose calls failed."""

    sources: dict[str, str] = {}
    echoes: dict[str, str | None] = {}
    troubles: dict[str, Trouble] = {}


class Step(msgspec.Struct, frozen=True):
    """One adapter's calls, in order: let go of it if ``unload``, load it if there is a ``load``."""

    id: str
    unload: bool = False
    load: Adapter | None = None


class Standing(StrEnum):
    """How one adapter stands on one server."""

    READY = "ready"
    ABSENT = "absent"  # as it should be
    MISSING = "missing"  # wanted and not there (yet)
    CHANGED = "changed"  # there, from another source
    LEFT = "left"  # there, and unwanted
    UNKNOWN = "unknown"  # nobody asked for it: it stays, unless pruning
    CONFLICT = "conflict"  # in both lists


def plan(desired: Desired, listed: Listed, known: Known, now_s: float, *, prune: bool = False) -> list[Step]:
    """Return the steps that are due on a server that lists these adapters."""
    due = {
        each: standing
        for each, standing in standings(desired, listed, known).items()
        if each not in known.troubles or known.troubles[each].again_s <= now_s
    }
    wanted = {adapter.id: adapter for adapter in desired.wanted}
    steps: list[Step] = []
    for each, standing in due.items():
        match standing:
            case Standing.MISSING:
                steps.append(Step(each, load=wanted[each]))
            case Standing.CHANGED:
                steps.append(Step(each, unload=True, load=wanted[each]))
            case Standing.LEFT:
                steps.append(Step(each, unload=True))
            case Standing.UNKNOWN if prune:
                steps.append(Step(each, unload=True))
            case _:
                pass
    return sorted(steps, key=lambda step: step.load is not None)  # room is made before it is needed


def settle(known: Known, step: Step, now_s: float, *, error: str | None, dice: float) -> Known:
    """Return what is known after a step was done or failed; ``dice`` from 0 to 1 keeps servers' retries apart."""
    troubles = {each: trouble for each, trouble in known.troubles.items() if each != step.id}
    sources = {each: source for each, source in known.sources.items() if each != step.id}
    echoes = {each: echo for each, echo in known.echoes.items() if each != step.id}
    if error is not None:
        failures = known.troubles[step.id].failures + 1 if step.id in known.troubles else 1
        troubles[step.id] = Trouble(failures, now_s + wait_s(failures, dice), error)
    elif step.load is not None:
        sources[step.id] = step.load.source
    return Known(sources, echoes, troubles)


def wait_s(failures: int, dice: float) -> float:
    """Return how long to wait after so many failures in a row (1 or more)."""
    return min(FIRST_S * 2.0 ** min(failures - 1, 32), LONGEST_S) * (0.5 + dice / 2)


def hear(known: Known, listed: Listed) -> Known:
    """Remember what a server says of the sources we loaded, the first time it says it, and forget what is gone."""
    sources = {each: source for each, source in known.sources.items() if each in listed}
    echoes = {each: known.echoes.get(each, listed[each]) for each in sources}
    return replace(known, sources=sources, echoes=echoes)


def standings(desired: Desired, listed: Listed, known: Known) -> dict[str, Standing]:
    """Return how each adapter stands that is asked for or there."""
    found: dict[str, Standing] = {}
    for adapter in desired.wanted:
        if adapter.id not in listed:
            found[adapter.id] = Standing.MISSING
        else:
            same = _is_from(adapter.source, listed[adapter.id], adapter.id, known)
            found[adapter.id] = Standing.READY if same else Standing.CHANGED
    for each in desired.unwanted:
        found[each] = Standing.LEFT if each in listed else Standing.ABSENT
    for each in desired.conflicts:
        found[each] = Standing.CONFLICT
    for each in listed:
        found.setdefault(each, Standing.UNKNOWN)
    return found


def _is_from(source: str, told: str | None, adapter: str, known: Known) -> bool:
    if adapter in known.sources and known.echoes.get(adapter, told) == told:
        return source == known.sources[adapter]
    return told is None or source == told
