"""A fleet in virtual time does what real ones would, and the judge in it is the production one."""

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from shunter.lab.core.arrivals import Arrival, Segment
from shunter.lab.core.fleet import Crash, Fleet, Slowdown
from shunter.lab.core.judges import JudgeChooser, body_of
from shunter.lab.core.params import EngineParams
from shunter.lab.core.simulation import BEGINNING_S, NOWHERE, PARKED, Refused, Split, clock_ns, simulate
from shunter.lab.errors import LabError, ParamsError
from shunter.picker import config
from shunter.picker.core.judge import FleetJudge
from shunter.snapshot import Health

PARAMS = EngineParams(max_num_seqs=4, num_blocks=600)


def traffic(count, gap_s, *, groups=3, prompt=600, output=20, **fields):
    return [
        Arrival(
            at_s=gap_s * index,
            prompt=(Segment(index % groups, prompt), Segment(1000 + 2 * index, 40)),
            output=Segment(1001 + 2 * index, output),
            **fields,
        )
        for index in range(count)
    ]


def judged(arrivals, fleet, *, seed=1, text=None, knowledge="lean"):
    policy = config.load(text).policy if text else config.load().policy
    chooser = JudgeChooser(policy, fleet, random.Random(seed), knowledge, keep=100)
    return simulate(arrivals, fleet, chooser), chooser


def test_the_judge_is_the_production_class_not_a_copy():
    _, chooser = judged(traffic(1, 0.1), Fleet(engines=(PARAMS,)))
    assert type(chooser.judge) is FleetJudge
    assert FleetJudge.__module__ == "shunter.picker.core.judge"


def test_every_request_ends_and_keeps_its_place(bare_chooser):
    chooser = bare_chooser(lambda index: index % 2)
    run = simulate(traffic(30, 0.05), Fleet(engines=(PARAMS, PARAMS)), chooser)
    assert [each.index for each in run.finished] == list(range(30))
    assert [each.endpoint for each in run.finished] == [index % 2 for index in range(30)]
    assert all(each.output_tokens == 20 and not each.failed and each.refused is None for each in run.finished)
    for index, each in enumerate(run.finished):
        assert each.arrived_s == pytest.approx(0.05 * index)
        assert each.arrived_s < each.first_s < each.ended_s
        assert ("first", index, each.first_s) in chooser.told
        assert ("ended", index, each.ended_s) in chooser.told
    assert [told[2] for told in chooser.told] == sorted(told[2] for told in chooser.told)


def test_what_was_cached_is_counted(bare_chooser):
    run = simulate(traffic(2, 5.0, groups=1), Fleet(engines=(PARAMS,)), bare_chooser(lambda _: 0))
    assert [each.cached_tokens for each in run.finished] == [0, 592]
    assert run.finished[1].ttft_s < run.finished[0].ttft_s


def test_a_turn_comes_after_the_one_before_and_finds_its_answer_cached(bare_chooser):
    first = Arrival(at_s=1.0, prompt=(Segment(1, 160),), output=Segment(2, 100))
    then = Arrival(prompt=(Segment(1, 160), Segment(2, 100), Segment(3, 50)), output=Segment(4, 5), after=0, think_s=7.0)
    run = simulate([first, then], Fleet(engines=(PARAMS,)), bare_chooser(lambda _: 0))
    assert run.finished[1].arrived_s == run.finished[0].ended_s + 7.0
    assert run.finished[1].cached_tokens == 256


def test_a_turn_cannot_come_before_the_one_it_follows(bare_chooser):
    arrival = Arrival(prompt=(Segment(1, 16),), output=Segment(2, 1), after=0)
    with pytest.raises(LabError, match="arrival 0 comes after arrival 0, which is no earlier one"):
        simulate([arrival], Fleet(engines=(PARAMS,)), bare_chooser(lambda _: 0))


def test_one_id_cannot_be_two_texts(bare_chooser):
    arrivals = [Arrival(prompt=(Segment(1, 16),), output=Segment(2, 4)), Arrival(prompt=(Segment(2, 5),), output=Segment(3, 4))]
    with pytest.raises(LabError, match="arrival 1: segment 2 has 5 tokens here and 4 elsewhere; other tokens need another id"):
        simulate(arrivals, Fleet(engines=(PARAMS,)), bare_chooser(lambda _: 0))


def test_refusals_say_who_refused_what(bare_chooser):
    arrivals = [*traffic(3, 0.0), Arrival(prompt=(Segment(777, 9000),), output=Segment(778, 20))]
    engine = EngineParams(max_num_seqs=1, max_num_queued_reqs=1)
    chooser = bare_chooser(lambda index: Refused(429) if index == 0 else 0)
    run = simulate(arrivals, Fleet(engines=(engine,)), chooser)
    assert [each.refused for each in run.finished] == [429, None, None, 400]
    assert [each.endpoint for each in run.finished] == [NOWHERE, 0, 0, 0]
    run = simulate(traffic(4, 0.0), Fleet(engines=(engine,)), bare_chooser(lambda _: 0))
    assert [each.refused for each in run.finished] == [None, None, 503, 503]


def test_a_parked_request_goes_on_when_the_chooser_says(bare_chooser):
    chooser = bare_chooser(lambda index: PARKED if index == 1 else 0)
    run = simulate(traffic(2, 0.1), Fleet(engines=(PARAMS,)), chooser)
    assert [each.endpoint for each in run.finished] == [0, 0]
    assert not chooser.parked


def test_scrapes_are_as_old_as_the_fleet_says(bare_chooser):
    chooser = bare_chooser(lambda _: 0)
    simulate(traffic(20, 0.05), Fleet(engines=(PARAMS,), scrape_s=0.2), chooser)
    assert [at_s for at_s, _ in chooser.rows][:3] == pytest.approx([0.0, 0.2, 0.4])
    assert all(row.sampled_ns == clock_ns(at_s) for at_s, (row,) in chooser.rows)
    assert max(row.running for _, (row,) in chooser.rows) == 4
    assert max(row.waiting for _, (row,) in chooser.rows) > 0


def test_no_scrape_is_missing_that_a_decision_could_have_seen(bare_chooser):
    """Scrapes that nobody looks at are left out, so that idle time costs nothing."""
    fleet = Fleet(engines=(PARAMS,), scrape_s=0.1)
    arrivals = [*traffic(2, 100.0), Arrival(prompt=(Segment(777, 16),), output=Segment(778, 4), after=1, think_s=0.03)]
    chooser = bare_chooser(lambda _: 0)
    simulate(arrivals, fleet, chooser)
    chosen = [told[2] for told in chooser.told if told[0] == "choose"]
    seen = [max(at_s for at_s, _ in chooser.rows if at_s <= now_s) for now_s in chosen]
    assert all(now_s - at_s <= fleet.scrape_s + 1e-9 for now_s, at_s in zip(chosen, seen, strict=True))
    alone = bare_chooser(lambda _: 0)
    simulate(arrivals[:2], fleet, alone)
    assert len(alone.rows) < 10, "a hundred idle seconds are not scraped"


def test_a_crash_loses_what_was_there_and_retries_go_elsewhere(bare_chooser):
    tries = []

    def route(index):
        tries.append(index)
        return 1 if tries.count(index) > 1 else 0

    fleet = Fleet(engines=(PARAMS, PARAMS), failures=(Crash(endpoint=0, at_s=1.05, restart_s=3.0),))
    chooser = bare_chooser(route)
    run = simulate(traffic(10, 0.5), fleet, chooser)
    assert [each.failed for each in run.finished][:3] == [False, True, True]
    assert {each.endpoint for each in run.finished if 1.05 < each.arrived_s < 4.05} == {1}
    assert {each.endpoint for each in run.finished if each.arrived_s > 4.05} == {0}
    health = {at_s: rows[0].health for at_s, rows in chooser.rows}
    assert {rows for at_s, rows in health.items() if 1.05 < at_s < 4.05} == {Health.UNREACHABLE}
    assert {rows for at_s, rows in health.items() if at_s > 4.06} == {Health.FRESH}


def test_an_idle_fleet_is_watched_while_somebody_is_missing(bare_chooser):
    fleet = Fleet(engines=(PARAMS, PARAMS), failures=(Crash(endpoint=0, at_s=9.0),))
    chooser = bare_chooser(lambda _: 1)
    simulate(traffic(2, 10.0), fleet, chooser)
    assert chooser.rows[-1][1][0].failures >= 10


def test_a_fleet_that_is_down_fails_requests(bare_chooser):
    fleet = Fleet(engines=(PARAMS,), failures=(Crash(endpoint=0, at_s=0.0),))
    run = simulate(traffic(1, 1.0), fleet, bare_chooser(lambda _: 0))
    assert (run.finished[0].failed, run.finished[0].endpoint) == (True, NOWHERE)


def test_a_slow_engine_is_slow_for_a_while(bare_chooser):
    slow = Fleet(engines=(PARAMS,), failures=(Slowdown(endpoint=0, from_s=9.0, to_s=19.0, factor=0.1),))
    arrivals = traffic(3, 10.0, groups=3)
    run = simulate(arrivals, slow, bare_chooser(lambda _: 0))
    first, middle, last = (each.ttft_s for each in run.finished)
    assert middle == pytest.approx(10 * first)
    assert last == pytest.approx(first)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"engines": ()}, "engines is empty"),
        ({"labels": ({},)}, "1 labels for 2 engines"),
        ({"scrape_s": 0.0}, "scrape_s must be a positive number"),
        ({"failures": (Crash(endpoint=2, at_s=0.0),)}, "a failure of endpoint 2: there are 2"),
        ({"failures": (Slowdown(endpoint=0, from_s=0.0, to_s=1.0, factor=0.0),)}, "factor of a slowdown"),
    ],
)
def test_impossible_fleets_are_named(fields, message):
    with pytest.raises(ParamsError, match=message):
        Fleet(**{"engines": (PARAMS, PARAMS), **fields})


def test_the_same_seed_gives_the_same_bytes():
    fleet = Fleet(engines=(PARAMS,) * 3)
    arrivals = traffic(60, 0.07)
    runs = [msgspec.json.encode(judged(arrivals, fleet, seed=seed)[0]) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_every_python_gives_the_same_bytes(bare_chooser):
    """The digest was computed by Python 3.11; whichever runs the tests must come to the same."""
    engine = EngineParams(
        max_num_seqs=6,
        num_blocks=520,
        max_num_batched_tokens=512,
        max_loras=2,
        speed=1.5,
        step_s=0.02,
        prefill_token_s=0.0002,
        sequence_s=0.0001,
        context_token_s=0.0000004,
        attention_pair_s=0.000000007,
        lora_load_s=0.3,
    )
    failures = (Slowdown(endpoint=1, from_s=2.0, to_s=5.0, factor=0.3), Crash(endpoint=0, at_s=3.3, restart_s=2.0))
    fleet = Fleet(engines=(engine,) * 2, failures=failures)
    dice = random.Random(7)
    arrivals = [
        msgspec.structs.replace(each, at_s=each.at_s + 0.05 * dice.random(), adapter=dice.choice([None, "a", "b", "c"]))
        for each in traffic(200, 0.05, output=37)
    ]
    run = simulate(arrivals, fleet, bare_chooser(lambda index: index % 2))
    assert hashlib.blake2b(msgspec.json.encode(run), digest_size=16).hexdigest() == "99a835a802c367f446802d67e29fabea"


JUDGED = """
import hashlib, random, msgspec
from shunter.lab.core.arrivals import Arrival, Segment
from shunter.lab.core.fleet import Fleet
from shunter.lab.core.judges import JudgeChooser
from shunter.lab.core.params import EngineParams
from shunter.lab.core.simulation import simulate
from shunter.picker import config
fleet = Fleet(engines=(EngineParams(max_num_seqs=4, num_blocks=600, max_loras=2),) * 4)
arrivals = [
    Arrival(at_s=0.06 * at, prompt=(Segment(at % 5, 500), Segment(100 + at, 60)), output=Segment(1000 + at, 25),
            adapter=(None, "a", "b", "c")[at % 4])
    for at in range(150)
]
run = simulate(arrivals, fleet, JudgeChooser(config.load().policy, fleet, random.Random(1)))
print(hashlib.sha256(msgspec.json.encode(run)).hexdigest())
"""


def test_no_run_depends_on_how_strings_are_hashed():
    """The judge's included: a set of names in the wrong place would show as a different choice."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", JUDGED],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("knowledge", ["lean", "usage", "full"])
def test_the_judge_sends_like_to_like_and_its_account_is_even_at_the_end(knowledge):
    fleet = Fleet(engines=(PARAMS,) * 4)
    run, chooser = judged(traffic(80, 0.3, groups=4), fleet, knowledge=knowledge)
    hits = sum(each.cached_tokens > 500 for each in run.finished)
    assert hits >= 60
    assert len(chooser.judge.ledger) == 0
    tally = chooser.judge.counters.tally()
    assert (tally.picks, tally.released, tally.incomplete, tally.plugin_errors) == (80, 80, 0, 0)
    assert not chooser.judge.complaints


def test_the_judge_cuts_prompts_into_blocks_of_the_engines_size():
    fleet = Fleet(engines=(msgspec.structs.replace(PARAMS, block_size=256, num_blocks=100),) * 2)
    text = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins: [{type: prefix-cache-scorer}]"
    _, chooser = judged(traffic(3, 1.0, groups=1), fleet, text=text)
    entry, *_ = chooser.judge.decisions.latest()
    assert entry.prefix_blocks == 640 // 256


def test_a_judge_falls_back_as_its_gateway_does():
    fleet = Fleet(engines=(PARAMS,) * 3, scrape_s=30.0, failures=(Crash(endpoint=0, at_s=0.0, restart_s=1000.0),))
    run, chooser = judged(traffic(12, 0.2), fleet)
    assert not any(each.failed for each in run.finished)
    assert {each.endpoint for each in run.finished} == {1, 2}
    assert len(chooser.judge.ledger) == 0


def test_sheddable_requests_are_refused_by_a_full_fleet():
    fleet = Fleet(engines=(EngineParams(max_num_seqs=1, num_blocks=600),), scrape_s=0.05)
    run, _ = judged([*traffic(40, 0.1), *traffic(1, 0.0, priority=-1)], fleet)
    assert run.finished[-1].refused is None
    late = msgspec.structs.replace(traffic(1, 0.0, priority=-1)[0], at_s=4.0)
    run, _ = judged([*traffic(40, 0.1), late], fleet)
    assert run.finished[-1].refused == 429


def test_flow_control_parks_requests_in_virtual_time():
    text = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
featureGates: [flowControl]
"""
    fleet = Fleet(engines=(EngineParams(max_num_seqs=1, num_blocks=600),), scrape_s=0.05)
    run, chooser = judged(traffic(30, 0.1), fleet, text=text)
    assert all(each.output_tokens == 20 for each in run.finished)
    decided_s = {int(entry.request_id): entry.at_s - BEGINNING_S for entry in chooser.judge.decisions.latest()}
    assert decided_s[0] == 0.0
    assert decided_s[29] > 10.0, "it arrived at 2.9, when six were ahead of it in the engine's own queue"
    assert len(chooser.judge.ledger) == 0


def test_a_body_says_what_the_arrival_is():
    arrival = Arrival(
        prompt=(Segment(1, 100), Segment(2, 7)), output=Segment(3, 50), model="big", adapter="small", max_tokens=64
    )
    body = msgspec.json.decode(body_of(arrival))
    assert (body["model"], body["max_tokens"], body["stream"]) == ("small", 64, True)
    assert [len(message["content"]) for message in body["messages"]] == [400, 32]
    longer = msgspec.structs.replace(arrival, prompt=(*arrival.prompt, Segment(4, 10)))
    assert body_of(longer).startswith(body_of(arrival)[:-2])


@pytest.mark.parametrize(
    ("knowledge", "at_the_end", "a_second_later"),
    [("lean", (None, None), (True, None)), ("usage", (None, None), (True, 20)), ("full", (True, 20), (True, 20))],
)
def test_the_judge_knows_what_its_profile_shows_and_when(knowledge, at_the_end, a_second_later):
    fleet = Fleet(engines=(PARAMS,))
    chooser = JudgeChooser(config.load().policy, fleet, random.Random(1), knowledge, keep=1)
    arrival = traffic(1, 0.0)[0]
    (finished,) = simulate([arrival], fleet, chooser).finished

    def known():
        outcome = chooser.judge.decisions.latest()[0].outcome
        assert outcome.complete
        return outcome.first_token_s and outcome.first_token_s == finished.ttft_s, outcome.completion_tokens

    assert known() == at_the_end
    chooser.dispatch(finished.ended_s + 0.9)
    assert known() == at_the_end
    chooser.dispatch(finished.ended_s + 1.1)
    assert known() == a_second_later


def test_a_split_request_is_computed_here_and_answered_there(bare_chooser):
    arrivals = traffic(2, 5.0, groups=1)
    whole = simulate(arrivals, Fleet(engines=(PARAMS, PARAMS)), bare_chooser(lambda _: 1)).finished
    run = simulate(arrivals, Fleet(engines=(PARAMS, PARAMS)), bare_chooser(lambda _: Split(0, 1)))
    assert [(each.prefilled_by, each.endpoint, each.output_tokens) for each in run.finished] == [(0, 1, 20)] * 2
    assert [each.cached_tokens for each in run.finished] == [0, 592], "as the prefiller says"
    for split, one in zip(run.finished, whole, strict=True):
        assert split.ttft_s > one.ttft_s, "keys and values travel, and one more step is made"
        assert split.ttft_s < one.ttft_s + 0.05


@pytest.mark.parametrize("dies_s", [0.0, 0.05])
def test_a_prefiller_that_dies_leaves_the_work_to_the_decoder(bare_chooser, dies_s):
    fleet = Fleet(engines=(PARAMS, PARAMS), failures=(Crash(endpoint=0, at_s=dies_s),))
    (finished,) = simulate(traffic(1, 1.0), fleet, bare_chooser(lambda _: Split(0, 1))).finished
    assert (finished.failed, finished.endpoint, finished.prefilled_by, finished.output_tokens) == (False, 1, NOWHERE, 20)


def test_a_decoder_that_dies_meanwhile_fails_the_request(bare_chooser):
    fleet = Fleet(engines=(PARAMS, PARAMS), failures=(Crash(endpoint=1, at_s=0.05),))
    (finished,) = simulate(traffic(1, 1.0), fleet, bare_chooser(lambda _: Split(0, 1))).finished
    assert (finished.failed, finished.output_tokens) == (True, 0)


def test_the_example_of_the_readme_runs(capsys):
    readme = (Path(__file__).parents[1] / "README.md").read_text().partition("## In virtual time")[2]
    exec(readme.partition("```python\n")[2].partition("```")[0], {})
    ttft_s, failed = capsys.readouterr().out.split()
    assert 0 < float(ttft_s) < 1
    assert 0 < int(failed) < 20


@pytest.mark.parametrize(("dies_s", "status", "first"), [(0.05, 503, False), (0.4, 200, True)])
def test_the_judge_is_told_how_far_a_request_came_that_its_engine_lost(dies_s, status, first):
    fleet = Fleet(engines=(PARAMS,), failures=(Crash(endpoint=0, at_s=dies_s),))
    chooser = JudgeChooser(config.load().policy, fleet, random.Random(1), "full", keep=1)
    assert simulate(traffic(1, 0.0), fleet, chooser).finished[0].failed
    outcome = chooser.judge.decisions.latest()[0].outcome
    assert (outcome.complete, outcome.status, outcome.first_token_s is not None) == (False, status, first)
