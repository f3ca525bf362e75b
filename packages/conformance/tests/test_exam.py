"""A good server passes everything; for each case there is a server, broken in exactly that way, that fails exactly it."""

import asyncio
import os
from contextlib import aclosing

import msgspec
import pytest
from aiohttp import web
from hack.conformance.mutants import MUTANTS, PROFILE, equipped, examine_mutant, listens, related

from shunter.conformance.core.case import Case, Level, find
from shunter.conformance.core.events import CaseFinished, CaseStarted, Finished, Started
from shunter.conformance.core.profile import KnownFailure
from shunter.conformance.core.verdict import Verdict
from shunter.conformance.errors import UsageError
from shunter.conformance.sections.servers import CASES, events
from shunter.conformance.sections.servers.asking import ask_completion
from shunter.conformance.sections.servers.profiles import find_profile
from shunter.conformance.shell.servers import survey
from shunter.conformance.shell.servers.exam import examine
from shunter.conformance.shell.servers.survey import SurveyedTarget
from shunter.lab.testing import LeapingLoop, lab_server

# A machine on which an exam without load takes a part of a second.
SPEED = 100.0

# A quarter of a minute of the processor's for each server to be asked everything.
EVERYTHING = "SHUNTER_EVERY_CASE" in os.environ

# What the cases are about that cannot be examined with a URL alone.
NEED_MORE = ("ms.lora.", "ms.prefix.adapter", "ms.kv-events.", "ms.pd.", "ms.drain.")


@pytest.fixture
def leaping():
    """Run a coroutine on a clock that leaps over all waiting: the whole exam, with its real time limits, in seconds."""
    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        yield runner.run


@pytest.fixture
def in_a_hurry(monkeypatch):
    """Who listens to KV events cannot leap over the time in which none come."""
    monkeypatch.setattr(events, "QUIET", msgspec.structs.replace(events.QUIET, seconds=0.2))


@pytest.fixture
def timed(monkeypatch):
    """The cases, and the names of the time limits that each has looked at."""
    looked: dict[str, set[str]] = {case.id: set() for case in CASES}
    asked = [CASES[0].id]
    seconds = SurveyedTarget.seconds

    def look(target, bound):
        looked[asked[-1]].add(bound.name)
        return seconds(target, bound)

    def watched(case):
        async def run(target):
            asked.append(case.id)
            return await case.run(target)

        return msgspec.structs.replace(case, run=run)

    monkeypatch.setattr(SurveyedTarget, "seconds", look)
    return [watched(case) for case in CASES], looked


def test_a_good_server_passes_everything_within_the_limits_that_are_declared(leaping, exam, timed):
    cases, looked = timed

    async def examine_it():
        async with equipped() as (server, means):
            return await exam(server.url, profile=PROFILE, cases=cases, **means)

    findings = leaping(examine_it())
    unasked = {case.id for case in CASES if listens(case.id) or case.id.startswith("ms.ranks.")}
    assert findings.ids(*{*Verdict} - {Verdict.PASSED}) == findings.ids(Verdict.SKIPPED) == unasked
    assert list(findings) == [case.id for case in CASES]
    declared = {case.id: {bound.name for bound in case.bounds} for case in CASES if case.id not in unasked}
    assert {case_id: looked[case_id] for case_id in declared} == declared


def test_a_pace_that_was_measured_in_a_busy_moment_costs_no_verdict(leaping, exam, monkeypatch):
    """Requests that were to last for seconds by it end before anybody has looked."""
    measured = survey._calibrate
    paces = iter([survey.Calibration(step_s=0.6)])

    async def calibrate(target):
        return next(paces, None) or await measured(target)

    monkeypatch.setattr(survey, "_calibrate", calibrate)

    async def examine_it():
        async with equipped() as (server, means):
            return await exam(server.url, profile=PROFILE, cases=related("ms.load.queue-rises"), **means)

    findings = leaping(examine_it())
    assert not findings.ids(*{*Verdict} - {Verdict.PASSED})
    assert not list(paces)


def test_who_was_asked_for_the_pace_is_gone_before_a_case_looks(leaping, exam, monkeypatch):
    """Gauges show a request for a while after its answer."""
    measured, lingering = survey._calibrate, []

    async def calibrate(target):
        lingering.append(asyncio.ensure_future(ask_completion(target, max_tokens=64, ignore_eos=True)))
        return await measured(target)

    monkeypatch.setattr(survey, "_calibrate", calibrate)

    async def examine_it():
        async with equipped() as (server, means):
            findings = await exam(server.url, profile=PROFILE, cases=related("ms.robustness.health-unseen"), **means)
            await asyncio.gather(*lingering, return_exceptions=True)
            return findings

    assert leaping(examine_it())["ms.robustness.health-unseen"].verdict is Verdict.PASSED


def test_a_good_server_passes_what_is_asked_of_several_engines(leaping, exam):
    async def examine_it():
        async with equipped(data_parallel_size=2) as (server, means):
            return await exam(server.url, profile=PROFILE, cases=related("ms.ranks.series"), **means)

    assert not leaping(examine_it()).ids(*{*Verdict} - {Verdict.PASSED})


async def test_a_good_server_passes_what_is_asked_of_kv_events(exam, in_a_hurry):
    cases = [case for case in CASES if listens(case.id)]
    async with equipped(listen=True) as (server, means):
        findings = await exam(server.url, profile=PROFILE, cases=cases, **means)
    assert findings.ids(Verdict.PASSED) == {case.id for case in cases}


def test_a_server_that_sheds_load_fails_nothing(leaping, exam):
    async def examine_it():
        async with equipped(max_num_queued_reqs=1) as (server, means):
            return await exam(server.url, profile=PROFILE, **means)

    findings = leaping(examine_it())
    assert "refuses some (HTTP 429 or 503)" in findings["ms.load.queue-rises"].reason
    assert findings.ids(Verdict.PASSED, Verdict.SKIPPED) == set(findings)


@pytest.mark.parametrize("fault", MUTANTS, ids=lambda fault: fault.name)
def test_a_broken_server_fails_exactly_one_case(in_a_hurry, note, fault):
    """Of those that could notice; `make conformance-mutants` asks all the others, too."""
    real = listens(fault.case)  # and so is asked no more than needs it: in real time a busy machine is late
    with asyncio.Runner(loop_factory=None if real else LeapingLoop) as runner:
        findings = runner.run(examine_mutant(fault.name, CASES if EVERYTHING and not real else related(fault.case)))
    if EVERYTHING and real:
        others = [case for case in CASES if case.id not in findings]
        with asyncio.Runner(loop_factory=LeapingLoop) as runner:
            findings |= runner.run(examine_mutant(fault.name, others, listen=False))
    note(fault.case, fault.breaks, findings)
    assert {case_id for case_id, finding in findings.items() if finding.verdict is Verdict.FAILED} == {fault.case}
    assert {finding.verdict for finding in findings.values()} <= {Verdict.PASSED, Verdict.FAILED, Verdict.SKIPPED}
    finding = findings[fault.case]
    assert finding.expected
    assert finding.actual
    assert finding.evidence
    assert all(each.curl.startswith("curl ") for each in finding.evidence)


def test_each_case_has_been_seen_to_fail():
    assert {fault.case for fault in MUTANTS} == {case.id for case in CASES}


async def test_with_a_url_alone_a_case_that_needs_more_says_which_option_gives_it(exam):
    async with lab_server(speed=SPEED) as server:
        findings = await exam(server.url, cases=[case for case in CASES if case.id.startswith(NEED_MORE)], profile=PROFILE)
    assert findings
    assert findings.ids(Verdict.SKIPPED) == set(findings)
    assert all("--" in finding.reason or finding.reason.startswith("needs ms.") for finding in findings.values())


async def test_events_come_in_order(exam):
    async with lab_server(speed=SPEED) as server:
        told = (await exam(server.url, cases=CASES[:2])).events
    assert [type(event) for event in told] == [Started, CaseStarted, CaseFinished, CaseStarted, CaseFinished, Finished]
    started = told[0]
    assert started.profile == "lab"
    assert started.model == "lab/llama-3-8b"
    assert started.step_s > 0
    assert started.scale == 1


async def test_a_slow_target_gets_more_time(exam):
    async with lab_server(step_s=0.07) as server:
        started = (await exam(server.url, cases=())).events[0]
    assert started.scale > 1


async def test_a_server_that_is_not_there_is_an_error_for_every_case(exam, unused_tcp_port):
    findings = await exam(f"http://127.0.0.1:{unused_tcp_port}")
    assert findings.ids(Verdict.ERROR) == {case.id for case in CASES}
    assert "no connection to 127.0.0.1" in findings["ms.reachability.health"].reason
    assert findings.events[0].profile_reason == "nobody answered"


async def test_a_server_that_dies_on_the_way_leaves_verdicts_and_errors(exam):
    async with lab_server(speed=SPEED) as server:

        async def stop(_) -> str:
            await server.stop()
            return "stopped"

        killer = Case(id="ms.test.killer", level=Level.MUST, requirement="", why="", source="", run=stop)
        findings = await exam(server.url, cases=(CASES[0], killer, *CASES[1:]))
    assert findings.ids(Verdict.PASSED) == {CASES[0].id, killer.id}
    assert findings.ids(Verdict.ERROR) == {case.id for case in CASES[1:]}


async def test_a_server_that_resets_every_connection_fails_and_is_not_called_unreachable(exam):
    async with lab_server(speed=SPEED, faults=["refuse-new"]) as server:
        findings = await exam(server.url)
    assert findings.ids(Verdict.FAILED) >= {"ms.reachability.health", "ms.reachability.models", "ms.reachability.metrics"}
    assert not findings.ids(Verdict.ERROR, Verdict.PASSED)


async def test_a_known_failure_is_known_and_a_known_failure_that_passes_is_unexpected(exam):
    profile = msgspec.structs.replace(
        find_profile("vllm"),
        known_failures=(
            KnownFailure("ms.reachability.health", "it is shy", "its manual"),
            KnownFailure("ms.reachability.models", "it is vain", "its manual"),
        ),
    )
    async with lab_server(speed=SPEED, faults=["health-503"]) as server:
        findings = await exam(server.url, profile=profile, cases=CASES[:3])
    assert findings["ms.reachability.health"].verdict is Verdict.KNOWN_FAILURE
    assert findings["ms.reachability.health"].reason == "it is shy (its manual)"
    assert findings["ms.reachability.models"].verdict is Verdict.UNEXPECTED_PASS
    assert findings["ms.reachability.metrics"].verdict is Verdict.PASSED


def test_what_a_profile_lacks_is_not_supported(leaping, exam):
    async def examine_it():
        async with equipped() as (server, means):
            return await exam(server.url, profile="generic", **means)

    findings = leaping(examine_it())
    unsupported = findings.ids(Verdict.NOT_SUPPORTED)
    assert unsupported == {case.id for case in CASES if find_profile("generic").lack(case.features)}
    assert findings.ids(Verdict.PASSED) == {case_id for case_id in findings if not listens(case_id)} - unsupported


async def test_a_page_of_html_fails_with_its_first_words(exam, serving):
    async def handler(_):
        return web.Response(text="<html><body>Welcome to nginx!</body></html>", content_type="text/html")

    async with serving(handler) as url:
        findings = await exam(url)
    assert "<html>" in findings["ms.reachability.models"].actual
    assert findings["ms.openai.completion-fields"].verdict is Verdict.SKIPPED
    assert "--model" in findings["ms.openai.completion-fields"].reason
    assert findings["ms.metrics.exposition"].verdict is Verdict.FAILED


async def test_a_model_can_be_named_when_the_list_is_broken(exam):
    async with lab_server(speed=SPEED, faults=["models-404"]) as server:
        case = find(CASES, "ms.openai.completion-fields")
        findings = await exam(server.url, cases=[case], model="lab/llama-3-8b")
    assert findings[case.id].verdict is Verdict.PASSED


async def test_health_is_asked_for_where_the_examiner_says(exam):
    async with lab_server(speed=SPEED, faults=["health-503"]) as server:
        findings = await exam(server.url, cases=CASES[:1], health_path="/ping")
    assert findings["ms.reachability.health"].observed == "GET /ping → 200"


async def test_an_exam_that_is_left_closes_its_connections():
    async with lab_server(speed=SPEED) as server, aclosing(examine(server.url)) as events:
        async for event in events:
            if isinstance(event, CaseFinished):
                break
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("localhost:8000", "want http://HOST:PORT"),
        ("ftp://a", "want http://HOST:PORT"),
        ("http://a:99999", "99999|65535"),
        ("http://a/?x=1", "no query"),
        ("http://[::1", "IPv6"),
    ],
)
async def test_a_url_that_is_none_is_refused_before_anything_happens(exam, url, problem):
    with pytest.raises(UsageError, match=problem):
        await exam(url)


async def test_the_base_url_of_an_openai_client_will_do(exam):
    async with lab_server(speed=SPEED) as server:
        findings = await exam(f"{server.url}/v1/", cases=CASES[:2])
    assert findings.ids(Verdict.PASSED) == {case.id for case in CASES[:2]}
