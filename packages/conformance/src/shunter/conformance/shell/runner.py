"""The engine: runs cases one after the other against a target and yields what happened."""

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

import msgspec

from shunter.conformance.core.case import Case
from shunter.conformance.core.events import CaseFinished, CaseStarted, Event, Finished, Planned, Started
from shunter.conformance.core.exchange import evidence
from shunter.conformance.core.profile import Profile, Role, Signal, find_profile
from shunter.conformance.core.verdict import Verdict, judge
from shunter.conformance.core.waivers import Waiver, apply_waivers
from shunter.conformance.errors import Mismatch, Skip, Unanswered, UsageError
from shunter.conformance.sections import CASES
from shunter.conformance.shell.survey import Plan, SurveyedTarget, survey
from shunter.conformance.shell.wire import ANSWER_TIMEOUT_S, Wire, base_url, check_url, unreachable

__all__ = ["examine"]

# A case that samples under load makes hundreds of exchanges; what it found in one of them stands in `actual`.
MAX_EVIDENCE = 4


def examine(
    url: str,
    *,
    cases: Sequence[Case] = CASES,
    profile: Profile | str | None = None,
    model: str | None = None,
    metrics_url: str | None = None,
    health_path: str | None = None,
    signals: Mapping[Role, Signal] | None = None,
    waivers: Sequence[Waiver] = (),
    timeout_s: float = ANSWER_TIMEOUT_S,
) -> AsyncGenerator[Event]:
    """Examine the server at `url`; whatever is None is found out. Raises UsageError at once, or never.

    A caller that may stop early wraps the events in `contextlib.aclosing`, which closes the connections.
    """
    if not 0 < timeout_s < math.inf:
        raise UsageError(f"timeout {timeout_s:g} s: want a number of seconds above 0")
    if health_path and not health_path.startswith("/"):
        raise UsageError(f"health path {health_path!r}: want a path that begins with /")
    plan = Plan(
        url=base_url(url),
        profile=find_profile(profile) if isinstance(profile, str) else profile,
        model=model,
        metrics_url=check_url(metrics_url) if metrics_url else None,
        health_path=health_path,
        signals=dict(signals or {}),
    )
    return _run(plan, cases, waivers, timeout_s)


async def _run(plan: Plan, cases: Sequence[Case], waivers: Sequence[Waiver], timeout_s: float) -> AsyncGenerator[Event]:
    clock = asyncio.get_running_loop().time
    start_s = clock()
    async with Wire(timeout_s) as wire:
        gone = await unreachable(plan.url)
        target = SurveyedTarget(wire, plan) if gone else await survey(wire, plan)
        target.profile = apply_waivers(target.profile, waivers, datetime.now(UTC).date())
        yield _started(target, cases)
        verdicts: dict[str, Verdict] = {}
        for case in cases:
            yield CaseStarted(id=case.id)
            wire.transcript.clear()
            target.timelines.clear()
            case_start_s = clock()
            finished = await _judge(case, target, verdicts, gone)
            verdicts[case.id] = finished.verdict
            if finished.verdict is Verdict.ERROR:
                gone = finished.reason
            yield msgspec.structs.replace(finished, duration_s=round(clock() - case_start_s, 3))
        yield Finished(duration_s=round(clock() - start_s, 3))


async def _judge(case: Case, target: SurveyedTarget, verdicts: Mapping[str, Verdict], gone: str | None) -> CaseFinished:
    """Run a case unless something forbids it, and say what came of it."""
    finish = partial(CaseFinished, id=case.id, level=case.level)
    if gone:
        return finish(verdict=Verdict.ERROR, reason=gone)
    if lack := target.profile.lack(case.features):
        return finish(verdict=Verdict.NOT_SUPPORTED, reason=lack)
    for need in case.needs:
        if not verdicts.get(need, Verdict.PASSED).met:
            return finish(verdict=Verdict.SKIPPED, reason=f"needs {need} ({verdicts[need]})")
    met = False
    observed = expected = actual = ""
    try:
        observed = await case.run(target)
        met = True
    except Skip as skip:
        return finish(verdict=Verdict.SKIPPED, reason=str(skip))
    except Mismatch as mismatch:
        expected, actual = mismatch.expected, mismatch.actual
    except Unanswered as failure:
        if reason := await unreachable(target.url):
            return finish(verdict=Verdict.ERROR, reason=reason)
        expected, actual = "a complete answer", str(failure)
    known = target.profile.known_failure(case.id)
    return finish(
        verdict=judge(met=met, known=known is not None),
        observed=observed,
        expected=expected,
        actual=actual,
        reason=f"{known.reason} ({known.reference})" if known else "",
        evidence=tuple(evidence(exchange) for exchange in target.wire.transcript[-MAX_EVIDENCE:]),
        timelines=tuple(target.timelines),
    )


def _started(target: SurveyedTarget, cases: Sequence[Case]) -> Started:
    try:
        model = target.model
    except Skip:
        model = ""
    return Started(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        url=target.url,
        metrics_url=target.metrics_url,
        model=model,
        profile=target.profile.name,
        profile_reason=target.profile_reason,
        step_s=target.calibration.step_s,
        scale=round(target.calibration.scale, 2),
        calibration=target.calibration.note,
        cases=tuple(Planned(case.id, case.level, case.requirement) for case in cases),
    )
