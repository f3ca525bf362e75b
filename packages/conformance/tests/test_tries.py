"""A case that is missed, or over too soon, is tried again at the pace of then; the majority decides, and the report says so."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from shunter.conformance.core.case import Bound, Case, Level
from shunter.conformance.core.events import CaseFinished, Started
from shunter.conformance.core.profile import KnownFailure, Profile
from shunter.conformance.core.verdict import Verdict
from shunter.conformance.errors import Disturbed, LaunchError, Mismatch, Skip, TooShort, Unanswered
from shunter.conformance.shell import runner
from shunter.conformance.shell.runner import attend, napping, tell_unstarted

SOON = Bound("soon", 1.0, "a test")


class Still:
    """A target that nothing can be said of."""

    def __init__(self, *known: KnownFailure) -> None:
        self.profile = Profile(name="still", known_failures=known)
        self.adapted, self.patience = False, 1

    def started(self, date, cases):
        return Started(date=date, url="nowhere", profile=self.profile.name, profile_reason="a test", cases=())

    def forget(self):
        pass

    async def adapt(self, *, longer=False):
        self.adapted, self.patience = True, self.patience * (1 + longer)

    def evidence(self):
        return ()

    def timelines(self):
        return ()

    async def unreachable(self):
        return None


@pytest.fixture
def outcome():
    """Examine by one case that ends as told, try by try."""

    async def run(*ends, bounds=(SOON,), known=(), tries=3) -> CaseFinished:
        left = list(ends)

        async def end(target) -> str:
            assert target.adapted is (len(left) < len(ends)), "the pace is measured again before each further try"
            target.adapted = False
            now = left.pop(0)
            if isinstance(now, Exception):
                raise now
            return now(target) if callable(now) else now

        @asynccontextmanager
        async def opened():
            yield Still(*known)

        case = Case(id="ms.a.b", level=Level.MUST, requirement="", why="", source="", run=end, bounds=bounds)
        events = [event async for event in attend(opened(), [case], tries=tries)]
        assert not left
        return next(event for event in events if isinstance(event, CaseFinished))

    return run


LATE = Mismatch("soon", "late")


@pytest.mark.parametrize(
    ("ends", "verdict", "missed"),
    [
        (["in time"], Verdict.PASSED, 0),
        ([LATE, "in time", "in time"], Verdict.PASSED, 1),
        ([LATE, LATE], Verdict.FAILED, 2),
        ([LATE, "in time", LATE], Verdict.FAILED, 2),
        ([Unanswered("late"), Unanswered("late")], Verdict.FAILED, 2),
        ([LATE, Skip("too busy")], Verdict.SKIPPED, 0),
    ],
)
async def test_the_majority_of_three_tries_decides(outcome, ends, verdict, missed):
    found = await outcome(*ends)
    assert found.verdict is verdict
    assert found.missed == missed
    assert verdict is Verdict.SKIPPED or found.tries == len(ends)


@pytest.mark.parametrize("bounds", [(), (SOON,)])
@pytest.mark.parametrize("known", [(), (KnownFailure("ms.a.b", "shy", "its manual"),)])
async def test_a_disturbed_case_is_tried_again(outcome, bounds, known):
    noise = Disturbed("all over the place")
    found = await outcome(noise, noise, LATE if known else "in time", bounds=bounds, known=known)
    assert found.verdict is (Verdict.KNOWN_FAILURE if known else Verdict.PASSED)
    assert (found.tries, found.missed) == (3, bool(known))
    found = await outcome(noise, noise, noise, bounds=bounds, known=known)
    assert found.verdict is Verdict.SKIPPED
    assert found.reason == "all over the place; examine it on a machine that is less busy"


async def test_requests_that_did_not_last_do_so_longer(outcome):
    asked = []

    def patience(target):
        asked.append(target.patience)
        return "in time"

    await outcome(Disturbed("noise"), TooShort(), LATE, patience, patience)
    await outcome(LATE, TooShort(), patience, patience)
    assert asked == [2, 2, 2, 2]


@pytest.mark.parametrize(("ends", "missed"), [([LATE, LATE, "in time"], 0), ([LATE, LATE, LATE, LATE], 2)])
async def test_a_limit_that_is_missed_while_the_examiner_overslept_is_tried_again_but_not_for_ever(
    outcome, monkeypatch, ends, missed
):
    monkeypatch.setattr(runner, "OVERSLEPT_S", -1.0)  # always
    found = await outcome(*ends)
    assert (found.tries, found.missed) == (len(ends), missed)
    assert found.verdict is (Verdict.FAILED if missed else Verdict.PASSED)


async def test_who_was_kept_from_waking_knows_for_how_long():
    async with napping() as nap:
        await asyncio.sleep(0)
        time.sleep(runner.NAP_S + 0.1)  # noqa: ASYNC251 – nobody runs on a machine that has no time for anybody
        for _ in range(3):
            await asyncio.sleep(0)
    assert nap.late_s >= 0.1


async def test_what_depends_on_no_time_is_asked_once(outcome):
    assert (await outcome(LATE, bounds=())).tries == 1


async def test_a_known_failure_is_asked_once(outcome):
    found = await outcome(LATE, known=(KnownFailure("ms.a.b", "shy", "its manual"),))
    assert (found.verdict, found.tries) == (Verdict.KNOWN_FAILURE, 1)


async def test_what_is_met_after_all_says_nothing_of_what_was_expected(outcome):
    found = await outcome(LATE, "in time", "in time")
    assert (found.observed, found.expected, found.actual) == ("in time", "", "")


async def test_an_exam_of_what_came_up_is_not_told_anew_when_it_cannot_be_removed():
    async def events():
        yield CaseFinished(id="ms.a.b", level=Level.MUST, verdict=Verdict.PASSED)
        raise LaunchError("its container cannot be removed")

    told = tell_unstarted(events(), [])
    assert (await anext(told)).verdict is Verdict.PASSED
    with pytest.raises(LaunchError):
        await anext(told)


async def test_a_server_that_does_not_come_up_again_is_an_error_of_the_case(outcome):
    found = await outcome(LaunchError("vllm: its pod is still there\n  some log"))
    assert (found.verdict, found.reason) == (Verdict.ERROR, "vllm: its pod is still there")
