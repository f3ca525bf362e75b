"""Servers that are right in an unusual way pass, and what is broken elsewhere is not held against a case."""

import asyncio
import re
from contextlib import asynccontextmanager

import msgspec
import pytest
from aiohttp import web
from hack.conformance.mutants import PROFILE, equipped

from shunter.conformance.core.case import find
from shunter.conformance.core.verdict import Verdict
from shunter.conformance.sections.servers import CASES
from shunter.conformance.sections.servers.profiles import find_profile
from shunter.lab.faults.load import read, write
from shunter.lab.faults.seams import COMPLETIONS, DONE, KV, RUNNING, WAITING, answer, page, refuse, value
from shunter.lab.testing import FAULTS, Fault, LeapingLoop, lab_server


@asynccontextmanager
async def sized(**params):
    """A lab server of another size than those of the mutants, with its URL alone."""
    async with lab_server(**params) as server:
        yield server, {}


@pytest.fixture
def judge(exam):
    """The findings of some cases, and no others, on a server with some faults; `examiner`: what `examine` is told beside."""

    def run(*ids, server=equipped, fault=None, profile=PROFILE, examiner=None, **params):
        async def go():
            async with server(**params) as (lab, means):
                lab.faults = () if fault is None else (fault,)
                cases = [find(CASES, each) for each in ids]
                return await exam(lab.url, profile=profile, cases=cases, **means, **(examiner or {}))

        with asyncio.Runner(loop_factory=LeapingLoop) as runner:
            return runner.run(go())

    return run


@pytest.mark.parametrize("case_id", ["ms.load.running-bounded", "ms.freshness.ramp", "ms.cancel.queued"])
def test_a_case_that_is_asked_alone_finds_out_itself_how_many_requests_run_at_once(judge, case_id):
    assert judge(case_id, server=sized, max_num_seqs=8)[case_id].verdict is Verdict.PASSED


def test_a_server_that_shows_nobody_running_is_not_taken_for_one_with_room_for_none(judge):
    finding = judge("ms.load.queue-rises", server=sized, fault=FAULTS["running-frozen"])["ms.load.queue-rises"]
    assert (finding.verdict, finding.actual) == (Verdict.FAILED, "running 0")
    assert finding.expected.startswith("running at least 1 with 4 requests")


def test_who_runs_and_is_shown_waiting_at_first_does_not_make_a_server_seem_full(judge):
    def late(text, _):
        return write(write(text, RUNNING, 1), WAITING, 3) if read(text, RUNNING) + read(text, WAITING) == 4 else text

    fault = Fault(name="late", breaks="nothing", reply=page(late))
    finding = judge("ms.load.queue-rises", fault=fault, examiner={"tries": 3})["ms.load.queue-rises"]
    assert (finding.verdict, finding.missed) == (Verdict.PASSED, 1)
    assert finding.observed.startswith("4 run at once; with 8 ")


def test_the_ramp_is_over_before_a_client_loses_patience(judge):
    found = judge("ms.freshness.ramp", examiner={"timeout_s": 6.0})  # sixteen times 2 s, four at once
    assert found.ids(Verdict.PASSED) == {"ms.freshness.ramp"}


def test_those_of_the_ramp_come_one_after_the_other(judge):
    """A server that has a thread for each may read some of a crowd later, and its page's reader with them."""
    came_s = []

    def note(ask):
        came_s.append(asyncio.get_running_loop().time())
        return ask

    assert judge("ms.freshness.ramp", fault=Fault(name="notes", breaks="nothing", ask=note)).ids(Verdict.PASSED)
    ramp_s = came_s[-16:]
    assert len(set(ramp_s)) == len(ramp_s)


def test_a_rank_that_is_refused_is_not_waited_for(judge):
    """vLLM's hybrid load balancing has series for ranks 2 and 3, and wants them called 0 and 1."""
    fault = Fault(name="refuses", breaks="nothing", refuse=refuse(COMPLETIONS, 400))
    finding = judge("ms.ranks.pinned", fault=fault, data_parallel_size=2)["ms.ranks.pinned"]
    assert finding.verdict is Verdict.FAILED
    assert finding.actual.startswith("HTTP 400")


def test_a_gauge_that_is_late_does_not_keep_a_server_from_showing_how_it_drains(judge):
    cases = "ms.drain.unready", "ms.drain.in-flight"
    assert judge(*cases, fault=FAULTS["running-frozen"]).ids(Verdict.PASSED) == set(cases)


def test_a_server_that_lists_no_model_is_not_waited_for_when_it_has_been_started_again(judge):
    cases = "ms.drain.ready-when-able", "ms.drain.engine-dead"
    assert judge(*cases, fault=FAULTS["models-404"]).ids(Verdict.SKIPPED) == set(cases)


@pytest.mark.parametrize("fault", ["queue-family-missing", "idle-not-zero", "negative-queue"])
def test_gauges_that_were_wrong_before_are_no_consequence_of_mistakes(judge, fault):
    cases = "ms.robustness.mistakes", "ms.robustness.half-a-body"
    assert judge(*cases, fault=FAULTS[fault]).ids(Verdict.PASSED) == set(cases)


def test_a_number_of_slots_that_is_none_is_a_finding_of_whoever_reads_it(judge):
    finding = judge("ms.lora.slots", fault=FAULTS["lora-slots-missing"])["ms.lora.slots"]
    assert (finding.verdict, finding.actual) == (Verdict.FAILED, "'None'")


def test_a_model_that_says_nothing_cannot_be_told_from_its_adapter(judge):
    def hush(body):
        body["choices"][0]["text"] = ""

    silent = Fault(name="silent", breaks="nothing", reply=answer(hush, {COMPLETIONS}))
    assert judge("ms.lora.selected", fault=silent)["ms.lora.selected"].verdict is Verdict.SKIPPED


def test_where_a_block_is_a_token_what_begins_every_prompt_may_hit(judge):
    begin = Fault(
        name="begins", breaks="nothing", ask=lambda ask: {**ask, "prompt": f"<s> {ask['prompt']}"} if "prompt" in ask else ask
    )
    findings = judge("ms.prefix.hits", server=sized, fault=begin, block_size=1, num_blocks=8192)
    assert findings["ms.prefix.hits"].verdict is Verdict.PASSED


def test_a_prompt_that_fills_no_block_says_nothing_of_hits(judge):
    finding = judge("ms.prefix.hits", server=sized, block_size=1056)["ms.prefix.hits"]
    assert finding.verdict is Verdict.SKIPPED
    assert "fills no block of 1056" in finding.reason


def test_a_large_cache_of_which_a_gauge_tells_hundredths_does_not_show_a_few_requests(judge):
    profile = msgspec.structs.replace(PROFILE, kv_step=0.01)
    coarse = Fault(name="coarse", breaks="nothing", reply=value(KV, lambda was, _: round(was, 2)))
    finding = judge("ms.load.kv-follows", server=sized, fault=coarse, profile=profile, num_blocks=100_000)["ms.load.kv-follows"]
    assert finding.verdict is Verdict.SKIPPED
    assert "no less than 16000 of 1600000 tokens" in finding.reason


def test_a_cache_may_hold_millions_of_tokens(judge):
    profile = find_profile("sglang")
    found = judge("ms.cache.size", "ms.cache.capacity", server=sized, profile=profile, dialect="sglang", num_blocks=2_500_000)
    assert found.ids(Verdict.PASSED) == {"ms.cache.size", "ms.cache.capacity"}


def test_a_cache_that_would_take_longer_to_fill_than_a_client_waits_is_not_filled(judge):
    cases = "ms.cache.full", "ms.cache.nothing-lost"
    found = judge(*cases, server=sized, max_num_seqs=16, num_blocks=2000)
    assert found.ids(Verdict.SKIPPED) == set(cases)
    assert "would take" in found["ms.cache.full"].reason


def test_a_stream_that_was_drained_may_close_with_its_usage(judge):
    said = [b""]

    def count(_, event):
        if not event.startswith(DONE):
            said[0] = event
            return event
        usage = {**msgspec.json.decode(said[0].removeprefix(b"data: ")), "choices": []}
        return b"data: " + msgspec.json.encode(usage) + b"\n\n" + event

    finding = judge("ms.drain.in-flight", fault=Fault(name="counts", breaks="nothing", event=count))["ms.drain.in-flight"]
    assert finding.verdict is Verdict.PASSED


@pytest.mark.parametrize("start", ["NaN", "1e300", "none"])
def test_a_start_that_is_no_time_is_a_finding_or_the_business_of_who_reads_the_page(judge, start):
    lie = re.compile(r"^(process_start_time_seconds) .*$", re.MULTILINE)
    page_of = page(lambda text, _: lie.sub(rf"\g<1> {start}", text))
    found = judge("ms.reachability.process", fault=Fault(name="timeless", breaks="nothing", reply=page_of))
    assert found.ids(Verdict.SKIPPED if start == "none" else Verdict.FAILED) == set(found)


def test_a_version_may_stand_in_quotes(judge):
    def quote(reply):
        quoted = {"Content-Type": 'text/plain; version="0.0.4"'}
        return msgspec.structs.replace(reply, headers=quoted) if reply.path == "/metrics" else reply

    finding = judge("ms.scrape.content-type", fault=Fault(name="quotes", breaks="nothing", reply=quote))
    assert finding["ms.scrape.content-type"].verdict is Verdict.PASSED


@pytest.mark.parametrize(("said", "verdict"), [("", Verdict.PASSED), ("; see /data/models/log", Verdict.FAILED)])
async def test_a_model_that_is_called_by_its_path_may_stand_in_an_error(exam, serving, said, verdict):
    async def repeat(request):
        return web.json_response({"error": {"message": await request.text() + said, "type": "x"}}, status=400)

    case = find(CASES, "ms.errors.internals")
    async with serving(repeat) as url:
        assert (await exam(url, model="/data/models/tiny", cases=[case]))[case.id].verdict is verdict


@pytest.mark.parametrize(("together", "verdict"), [("TX", Verdict.PASSED), ("OT", Verdict.FAILED), ("T", Verdict.FAILED)])
async def test_in_a_batch_a_model_may_say_something_new_but_not_what_another_prompt_is_answered(
    exam, serving, together, verdict
):
    """Alone, a prompt is answered by its first character: T for the one, O for the other."""

    async def complete(request):
        asked = msgspec.json.decode(await request.read() or b"{}")
        texts = together if isinstance(asked.get("prompt"), list) else asked.get("prompt", "T")[:1]
        choices = [{"index": at, "text": text, "finish_reason": "length"} for at, text in enumerate(texts)]
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        whole = {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": choices, "usage": usage}
        return web.json_response(whole)

    case = find(CASES, "ms.requests.several-prompts")
    async with serving(complete) as url:
        assert (await exam(url, model="m", profile="generic", cases=[case]))[case.id].verdict is verdict
