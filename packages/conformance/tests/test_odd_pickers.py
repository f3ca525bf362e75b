"""Pickers that answer oddly: every case comes to a verdict, and obedience by luck is no obedience."""

import random

import msgspec
import pytest

from shunter.conformance.core.case import select
from shunter.conformance.core.events import CaseFinished
from shunter.conformance.core.verdict import Verdict
from shunter.conformance.sections.pickers import CASES
from shunter.conformance.sections.pickers.messages import Part, Reply
from shunter.conformance.shell.pickers.exam import examine
from shunter.conformance.testing.pickers.fake import FakePicker
from shunter.conformance.testing.pickers.seams import NO_FAULT, narrow

# A hundredth of the limits on what never comes; what does comes within milliseconds.
PATIENCE = 0.01

change = msgspec.structs.replace

SECTIONS = ["stream", "headers", "subset", "response", "refusal", "malformed", "modes", "load", "metrics"]


async def hold(fault, cases, patience=PATIENCE, **options):
    picker = FakePicker()
    picker.fault = fault
    events = [event async for event in examine(picker, cases=cases, patience=patience, tries=1, **options)]
    return {event.id: event for event in events if isinstance(event, CaseFinished)}


def all_refused(_, replies):
    return [Reply(part=Part.IMMEDIATE, status=413, body=b"too large")] if replies else []


def metadata_of(value):
    return lambda _, replies: [change(each, metadata={"envoy.lb": value}) for each in replies]


def out_of_turn(_, replies):
    return [change(each, part=Part.RESPONSE_TRAILERS, sets=(), metadata={}) for each in replies]


ODD = {
    "refuses all": all_refused,
    "says nothing": lambda _, replies: replies[:0],
    "answers out of turn": out_of_turn,
    "has a text for metadata": metadata_of("127.0.0.1:1"),
    "has a number that JSON has not": metadata_of({"load": float("nan")}),
    "has no bodies": lambda _, replies: [each for each in replies if each.part is not Part.REQUEST_BODY],
}


@pytest.mark.parametrize("tongue", ODD.values(), ids=ODD)
async def test_whatever_a_picker_answers_each_case_comes_to_a_verdict(tongue):
    """Also the cases that would not be asked after what has failed before."""
    cases = [change(case, needs=()) for case in select(CASES, [f"ep.{section}" for section in SECTIONS])]
    findings = await hold(change(NO_FAULT, tongue=tongue), cases)
    assert [*findings] == [case.id for case in cases]
    assert findings["ep.stream.metadata"].verdict is Verdict.FAILED


@pytest.mark.parametrize("case_id", ["ep.subset.honoured", "ep.subset.port", "ep.subset.first-message"])
async def test_who_heeds_the_hint_by_luck_is_found_out(case_id):
    """Four of five times is more than luck gives to who pays no attention."""

    def often(talk, pool):
        return pool[:1] if talk.picker.requests % 5 == 4 else narrow(talk, pool)

    cases = [change(case, needs=()) for case in select(CASES, [case_id])]
    findings = await hold(change(NO_FAULT, allow=often), cases, patience=1.0)
    assert findings[case_id].verdict is Verdict.FAILED


async def test_who_draws_lots_among_the_good_is_not_called_late():
    """Of ten picks one or two go astray, as in pickers that weigh their chances."""

    def cost(what):
        return what if lots.random() > 0.05 else ()

    lots = random.Random(1)
    cases = [change(case, needs=()) for case in select(CASES, ["ep.choice.fresh"])]
    findings = await hold(change(NO_FAULT, cost=cost), cases, patience=1.0)
    assert findings["ep.choice.fresh"].verdict is Verdict.PASSED


async def test_of_a_pool_of_one_nobody_leaves():
    """A good picker of one server has nobody else to name."""
    findings = await hold(NO_FAULT, select(CASES, ["ep.stream", "ep.endpoints"]), patience=0.4, servers=["127.0.0.1:0"])
    assert findings["ep.endpoints.removed"].verdict is Verdict.SKIPPED
    assert "--servers" in findings["ep.endpoints.removed"].reason
    assert Verdict.FAILED not in {each.verdict for each in findings.values()}
