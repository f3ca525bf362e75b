"""The events of an exam: all that a report, a terminal or a test ever learns about it.

Started, then for each case CaseStarted and CaseFinished, then Finished. The engine prints nothing; whoever wants to
show or to keep something reads the events.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum

import msgspec

from shunter.conformance.core.case import AnyCase, Level
from shunter.conformance.core.exchange import Evidence
from shunter.conformance.core.verdict import Verdict

__all__ = [
    "CaseFinished",
    "CaseStarted",
    "Event",
    "Finished",
    "Planned",
    "Side",
    "Started",
    "Timeline",
    "conclude",
    "unstarted",
]


class _Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event"):
    pass


class Side(StrEnum):
    """Who is examined."""

    MODEL_SERVER = "model-server"
    PICKER = "picker"
    GATEWAY = "gateway"


class Planned(msgspec.Struct, frozen=True, omit_defaults=True):
    """A case that this exam will come to."""

    id: str
    level: Level
    requirement: str
    suites: tuple[str, ...] = ()


class Started(_Event, frozen=True, tag="started"):
    """What is examined, as what, and how fast it is.

    `url` is a picker's address where a picker is examined. Of a model server `step_s` is the measured time of one generated
    token (None: it could not be measured); `scale` is the factor on every bound that scales, and `calibration` says where it
    comes from. `version` is what whoever started the target knows of it. `left_out` counts, by suite, the MUSTs that this exam
    does not ask.
    """

    date: str
    url: str
    profile: str
    profile_reason: str
    cases: tuple[Planned, ...]
    side: Side = Side.MODEL_SERVER
    metrics_url: str = ""
    model: str = ""
    step_s: float | None = None
    scale: float = 1.0
    calibration: str = "not measured"
    version: str = ""
    left_out: dict[str, int] = {}


class CaseStarted(_Event, frozen=True, tag="case-started"):
    """A case begins."""

    id: str


class Timeline(msgspec.Struct, frozen=True):
    """What a gauge said while a case ran: seconds since the case began, and the value."""

    name: str
    points: tuple[tuple[float, float], ...]


class CaseFinished(_Event, frozen=True, tag="case-finished"):
    """A verdict and its grounds: `observed` when met, `expected` and `actual` when not, `reason` for all others.

    A case with time limits that is not met is tried again, and so is one that was disturbed: of so many `tries`, the
    requirement was not met in `missed`. The majority of those that say anything decides.
    """

    id: str
    level: Level
    verdict: Verdict
    duration_s: float = 0.0
    observed: str = ""
    expected: str = ""
    actual: str = ""
    reason: str = ""
    evidence: tuple[Evidence, ...] = ()
    timelines: tuple[Timeline, ...] = ()
    tries: int = 1
    missed: int = 0

    @property
    def repeats(self) -> str:
        """What is to be known of its tries; empty if one was enough."""
        if self.missed and self.tries > 1:
            return f"missed in {self.missed} of {self.tries} tries"
        return f"judged in try {self.tries}, for those before it were disturbed" if self.tries > 1 else ""


class Finished(_Event, frozen=True, tag="finished"):
    """The exam is over."""

    duration_s: float


Event = Started | CaseStarted | CaseFinished | Finished


def unstarted(cases: Sequence[AnyCase], side: Side, date: str, reason: str) -> Started:
    """The first event of an exam that does not come to its target: what it was to ask."""
    planned = tuple(Planned(case.id, case.level, case.requirement, case.suites) for case in cases)
    return Started(date=date, url="", profile="", profile_reason=reason, cases=planned, side=side)


def conclude(events: Sequence[Event], reason: str) -> Iterator[Event]:
    """What is missing at the end of an exam that was cut short: the cases without a verdict are skipped."""
    planned = [case for event in events if isinstance(event, Started) for case in event.cases]
    findings = {event.id: event for event in events if isinstance(event, CaseFinished)}
    for case in planned:
        if case.id not in findings:
            yield CaseFinished(id=case.id, level=case.level, verdict=Verdict.SKIPPED, reason=reason)
    if planned and not any(isinstance(event, Finished) for event in events):
        yield Finished(duration_s=round(sum(finding.duration_s for finding in findings.values()), 3))
