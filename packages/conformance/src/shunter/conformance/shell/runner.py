"""The engine: runs cases one after the other against a target of any side and yields what happened."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial

import msgspec

from shunter.conformance.core.case import AnyCase
from shunter.conformance.core.events import CaseFinished, CaseStarted, Event, Finished, Side, unstarted
from shunter.conformance.core.examined import Examined
from shunter.conformance.core.profile import KnownFailure
from shunter.conformance.core.verdict import Verdict, judge
from shunter.conformance.core.waivers import Waiver, waived
from shunter.conformance.errors import Disturbed, LaunchError, Mismatch, Skip, TooShort, Unanswered

__all__ = ["TRIES", "attend", "napping", "tell_unstarted"]

# A case that samples under load makes hundreds of exchanges; what it found in one of them stands in `actual`.
MAX_EVIDENCE = 4

# A busy machine makes anybody late once. Who is late in two of three is slow. A case that was disturbed is tried as often.
TRIES = 3

# A machine that wakes the examiner so late from so short a nap keeps the target waiting, too, and makes one chunk of many that
# came one by one: what was missed meanwhile says nothing, as long as there is another try.
NAP_S, OVERSLEPT_S = 0.05, 0.1

# Whoever dies closes his connections first, and his ear a moment later.
DYING_S = 0.1


class Nap(msgspec.Struct):
    """By how many seconds the examiner was woken too late, at most."""

    late_s: float = 0.0


@asynccontextmanager
async def napping() -> AsyncGenerator[Nap]:
    """Sleep again and again while a block runs."""
    clock, nap = asyncio.get_running_loop().time, Nap()

    async def sleep() -> None:
        while True:
            due_s = clock() + NAP_S
            await asyncio.sleep(NAP_S)
            nap.late_s = max(nap.late_s, clock() - due_s)

    sleeper = asyncio.create_task(sleep())
    try:
        yield nap
    finally:
        sleeper.cancel()


async def attend(
    opened: AbstractAsyncContextManager[Examined],
    cases: Sequence[AnyCase],
    *,
    waivers: Sequence[Waiver] = (),
    tries: int = TRIES,
) -> AsyncGenerator[Event]:
    """Open a target, run the cases in their order, and close it.

    A caller that may stop early wraps the events in `contextlib.aclosing`, which closes the target.
    """
    clock = asyncio.get_running_loop().time
    start_s = clock()
    today = datetime.now(UTC).date()
    async with opened as target:
        gone = await target.unreachable()
        yield target.started(datetime.now(UTC).isoformat(timespec="seconds"), cases)
        verdicts: dict[str, Verdict] = {}
        for case in cases:
            yield CaseStarted(id=case.id)
            known = target.profile.known_failure(case.id) or waived(case.id, waivers, today)
            case_start_s = clock()
            finished = await _judge(case, target, verdicts, known, gone, tries)
            verdicts[case.id] = finished.verdict
            if finished.verdict is Verdict.ERROR:
                gone = finished.reason
            yield msgspec.structs.replace(finished, duration_s=round(clock() - case_start_s, 3))
        yield Finished(duration_s=round(clock() - start_s, 3))


async def _judge(
    case: AnyCase,
    target: Examined,
    verdicts: Mapping[str, Verdict],
    known: KnownFailure | None,
    gone: str | None,
    tries: int,
) -> CaseFinished:
    """Run a case unless something forbids it, again if it was late, and say what came of it."""
    finish = partial(CaseFinished, id=case.id, level=case.level)
    if gone:
        return finish(verdict=Verdict.ERROR, reason=gone)
    if lack := target.profile.lack(case.features):
        return finish(verdict=Verdict.NOT_SUPPORTED, reason=lack)
    for need in case.needs:
        # What a kind of server lacks is no defect of this one: whether the case can do without, its own features say.
        if not (verdicts.get(need, Verdict.PASSED).met or verdicts[need] is Verdict.NOT_SUPPORTED):
            return finish(verdict=Verdict.SKIPPED, reason=f"needs {need} ({verdicts[need]})")
    patient = known is None and tries > 1
    most = tries if case.bounds and patient else 1
    met = missed = disturbed = 0
    short = False
    observed = expected = actual = ""
    while 2 * max(met, missed) <= most and met + missed < most:
        if missed or disturbed:
            await target.adapt(longer=short)
        short = False
        target.forget()
        nap = Nap()
        try:
            async with napping() if patient else nullcontext(nap) as nap:
                observed = await case.run(target)
            met += 1
            if not missed:
                break
        except Skip as skip:
            if isinstance(skip, Disturbed) and (disturbed := disturbed + 1) < tries:
                short = isinstance(skip, TooShort)
                continue
            return finish(verdict=Verdict.SKIPPED, reason=str(skip))
        except LaunchError as error:  # a case that ends its server starts it again
            return finish(verdict=Verdict.ERROR, reason=str(error).partition("\n")[0])
        except (Mismatch, Unanswered) as failure:
            if isinstance(failure, Unanswered):
                await asyncio.sleep(DYING_S)
                if reason := await target.unreachable():
                    return finish(verdict=Verdict.ERROR, reason=reason)
            expected, actual = (
                (failure.expected, failure.actual) if isinstance(failure, Mismatch) else ("a complete answer", str(failure))
            )
            if patient and nap.late_s > OVERSLEPT_S and disturbed + 1 < tries:
                disturbed += 1
            else:
                missed += 1
    passed = met > missed
    return finish(
        verdict=judge(met=passed, known=known is not None),
        observed=observed if passed else "",
        expected="" if passed else expected,
        actual="" if passed else actual,
        reason=f"{known.reason} ({known.reference})" if known else "",
        evidence=tuple(target.evidence()[-MAX_EVIDENCE:]),
        timelines=tuple(target.timelines()),
        tries=met + missed + disturbed,
        missed=missed,
    )


async def tell_unstarted(
    events: AsyncGenerator[Event], cases: Sequence[AnyCase], side: Side = Side.MODEL_SERVER
) -> AsyncGenerator[Event]:
    """Say of what does not come up for its exam what it was to be asked; then raise its LaunchError."""
    started = False
    try:
        async with aclosing(events):
            async for event in events:
                started = True
                yield event
    except LaunchError as error:
        if started:
            raise
        yield unstarted(cases, side, datetime.now(UTC).isoformat(timespec="seconds"), "it did not come up")
        reason = str(error).partition("\n")[0]
        for case in cases:
            yield CaseFinished(id=case.id, level=case.level, verdict=Verdict.ERROR, reason=reason)
        yield Finished(duration_s=0.0)
        raise
