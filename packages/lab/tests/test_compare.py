"""Comparing: the knee is found, trials are the same in any process, tables and verdicts say what the rows say."""

import json
import os
import random
from math import inf, nan
from pathlib import Path

import msgspec
import pytest
from xxhash import xxh3_64_hexdigest

from shunter.lab.compare import compare, tables
from shunter.lab.compare.bound import alone, clairvoyant, pooled
from shunter.lab.compare.knee import ATTAINMENT, CLOSE, find_knee
from shunter.lab.compare.report import joined, markdown, page, read, write
from shunter.lab.compare.sweep import FIGURES, Row
from shunter.lab.compare.verdict import verdicts
from shunter.lab.core.arrivals import Arrival, Segment
from shunter.lab.core.judges import JudgeChooser
from shunter.lab.core.machines import MACHINES
from shunter.lab.core.params import EngineParams
from shunter.lab.errors import LabError
from shunter.lab.policies import Policy, find_policy
from shunter.lab.policies.balancers import Turns
from shunter.lab.workloads import find_workload
from shunter.lab.workloads.recorded import Recorded
from shunter.picker import config
from shunter.picker.plugins.price import Prices


@pytest.mark.parametrize("knee", [0.6, 0.9, 7.0, 40.0, 100.0])
async def test_the_knee_is_found_from_wherever_the_search_begins(knee):
    tried = []

    async def attained(qps):
        tried.append(qps)
        return 1.0 if qps <= knee else ATTAINMENT - 0.01

    found = await find_knee(attained, 7.0)
    assert knee / CLOSE <= found <= knee
    assert len(tried) < 20


@pytest.mark.parametrize(("share", "found"), [(0.0, 0.0), (1.0, pytest.approx(1.5**7))])
async def test_a_search_without_a_knee_ends(share, found):
    async def attained(_):
        return share

    assert await find_knee(attained, 1.0) == found


def row(policy, workload="w", runs=3, **figures):
    values = dict.fromkeys(FIGURES, 1.0) | {name: value for name, value in figures.items() if name in FIGURES}
    return Row(
        workload=workload,
        policy=policy,
        seeds=runs,
        qps=10.0,
        knee_qps=figures.get("knee_qps"),
        runs={name: figures.get(f"{name}_runs", [value] * runs) for name, value in values.items()},
        half=dict.fromkeys(FIGURES, 0.1),
        **values,
    )


def judged(*rows):
    return {each.figure: each for each in verdicts(rows)}


def test_within_two_percent_of_the_best_holds():
    assert judged(row("shunter", ttft_p90_ms=101.9), row("a", ttft_p90_ms=100.0), row("b", ttft_p90_ms=300.0))[
        "ttft_p90_ms"
    ].holds
    assert not judged(row("shunter", ttft_p90_ms=103.0), row("a", ttft_p90_ms=100.0))["ttft_p90_ms"].holds
    assert judged(row("shunter", goodput_rps=9.9), row("a", goodput_rps=10.0))["goodput_rps"].holds
    assert not judged(row("shunter", goodput_rps=9.0), row("a", goodput_rps=10.0))["goodput_rps"].holds


def test_a_difference_that_seeds_do_not_agree_on_holds():
    mine = row("shunter", ttft_p90_ms=110.0, ttft_p90_ms_runs=[90.0, 110.0, 130.0])
    other = row("a", ttft_p90_ms=100.0, ttft_p90_ms_runs=[100.0, 100.0, 100.0])
    assert judged(mine, other)["ttft_p90_ms"].holds
    # The same spread in both, because the traffic was the same: only the difference counts.
    paired = row("a", ttft_p90_ms=100.0, ttft_p90_ms_runs=[80.0, 100.0, 120.0])
    assert not judged(mine, paired)["ttft_p90_ms"].holds


def test_quick_tokens_of_a_policy_that_lets_most_wait_do_not_count():
    mine = row("shunter", tpot_p90_ms=70.0)
    queues, works = row("queues", tpot_p90_ms=40.0, attainment=0.1), row("works", tpot_p90_ms=75.0)
    assert judged(mine, queues, works)["tpot_p90_ms"].best == "works"
    assert judged(mine, queues)["tpot_p90_ms"].best == "queues"


def test_never_is_not_as_good_as_sometime():
    verdict = judged(row("shunter", ttft_p90_ms=inf), row("a", ttft_p90_ms=5.0))["ttft_p90_ms"]
    assert not verdict.holds
    assert judged(row("shunter", ttft_p90_ms=inf), row("a", ttft_p90_ms=inf))["ttft_p90_ms"].holds


def test_the_bound_is_no_competitor():
    verdict = judged(row("shunter", ttft_p90_ms=5.0), row("a", ttft_p90_ms=9.0), row("clairvoyant", ttft_p90_ms=4.0))[
        "ttft_p90_ms"
    ]
    assert (verdict.best, verdict.bound) == ("a", 4.0)
    assert verdict.holds
    assert not verdicts([row("shunter"), row("clairvoyant")])
    assert "knee_qps" not in judged(row("shunter"), row("a"))


def test_a_table_has_the_best_first_and_the_bound_last():
    text = tables(
        [row("clairvoyant", knee_qps=9.0), row("a", knee_qps=3.0), row("shunter", knee_qps=5.0), row("b", workload="v")]
    )
    first, second = text.split("\n\n")
    assert [line.split()[0] for line in first.splitlines()[2:]] == ["shunter", "a", "clairvoyant"]
    assert second.startswith("v at 10 requests a second, 3 seeds")


def test_the_report_is_written(tmp_path):
    rows = [row("shunter", knee_qps=5.0, ttft_p99_ms=inf), row("<b>", knee_qps=4.0), row("clairvoyant", knee_qps=9.0)]
    write(rows, tmp_path / "deep", "make <it>")
    loaded = json.loads((tmp_path / "deep/compare.json").read_text())
    assert [each["policy"] for each in loaded] == ["shunter", "<b>", "clairvoyant"]
    assert loaded[0]["ttft_p99_ms"] is None
    wanted = {
        "workload", "policy", "seeds", "qps", "ttft_p50_ms", "ttft_p90_ms", "ttft_p99_ms", "tpot_p90_ms", "goodput_rps",
        "hit_share", "knee_qps",
    }  # fmt: skip
    assert wanted <= set(loaded[0])
    html = (tmp_path / "deep/compare.html").read_text()
    assert html.count("<svg") == 1
    assert "&lt;b&gt;" in html
    assert "make &lt;it&gt;" in html
    assert "| shunter |" in (tmp_path / "deep/compare.md").read_text()
    assert page(rows, "x") == page(rows, "x")
    assert "never" in markdown(rows, "x")


def test_a_report_writes_figures_as_people_do():
    rows = [row("shunter", e2e_p90_ms=69_350.4, ttft_p90_ms=155.04), row("a", e2e_p90_ms=62_255.0, ttft_p90_ms=159.26)]
    text = markdown(rows, "x")
    assert "| 69,350 |" in text
    assert "| 155 | a | 159.3 |" in text


def test_a_page_explains_itself_and_counts_one_seed_as_one():
    html = page([row("shunter", runs=1), row("a", runs=1)], "x")
    assert all(f"<dt>{figure}" in html for figure in ("TTFT", "good/s", "knee/s", "hits", "Jain", "±"))
    assert "At 10 requests a second, 1 seed.<" in html
    assert "At 10 requests a second, 1 seed.\n" in markdown([row("a", runs=1)], "x")


def test_a_p99_of_few_requests_is_said_to_be_one():
    rows = [row("shunter"), row("random")]
    assert "only" not in tables(rows)
    few = [msgspec.structs.replace(each, requests=12) for each in rows]
    for text in (tables(few), markdown(few, "here"), page(few, "here")):
        assert "3 seeds, of 12 requests only" in text


def test_whose_plugin_raised_is_said_wherever_its_figures_are():
    bad = msgspec.structs.replace(row("bad"), complaints=["mine raised ValueError: <no>"])
    said = "bad: mine raised ValueError: <no>"
    assert said in tables([bad, row("good")])
    assert said in markdown([bad, row("good")], "x")
    assert said.replace("<no>", "&lt;no&gt;") in page([bad, row("good")], "x")
    assert "decided without" not in tables([row("good")])


async def test_a_plugin_that_raises_is_in_the_row(monkeypatch):
    def score(*_):
        raise ValueError("boom")

    monkeypatch.setattr(Prices, "score", score)
    lost = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: price-scorer\n"
    policy = Policy("mine", "", lambda fleet, seed: JudgeChooser(config.load(lost).policy, fleet, random.Random(seed)))
    rows = await compare([small("no-reuse", 10.0)], [policy, find_policy("random")], seeds=2, qps=8.0)
    assert [each.complaints for each in rows] == [
        ["price-scorer raised ValueError: boom; requests were decided without it"],
        [],
    ]


async def test_a_score_that_is_no_number_is_in_the_row(monkeypatch):
    monkeypatch.setattr(Prices, "score", lambda _self, _request, fleet: [nan] * len(fleet))
    lost = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: price-scorer\n"
    policy = Policy("mine", "", lambda fleet, seed: JudgeChooser(config.load(lost).policy, fleet, random.Random(seed)))
    (found,) = await compare([small("no-reuse", 10.0)], [policy], seeds=1, qps=8.0)
    assert found.complaints == ["price-scorer: a score was NaN and counted as 0"]


async def test_a_plugin_that_is_not_shown_what_it_needs_has_raised_nothing(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("kind: EndpointPickerConfig\napiVersion: llm-d.ai/v1alpha1\nplugins: [{type: session-affinity-scorer}]\n")
    (found,) = await compare([small()], [find_policy(str(path))], seeds=1, qps=5.0)
    (said,) = found.complaints
    assert said.startswith("session-affinity-scorer: it needs to see responses, and the gateway does not show them")


async def test_two_of_one_name_are_not_compared():
    with pytest.raises(LabError, match="two policies are called random"):
        await compare([small()], [find_policy("random")] * 2, seeds=1, qps=1.0)
    with pytest.raises(LabError, match="two workloads are called b2b-saas"):
        await compare([small()] * 2, [find_policy("random")], seeds=1, qps=1.0)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (row("a", runs=2), "w: at 10 requests a second with 3 seeds, and a at 10 with 2"),
        (msgspec.structs.replace(row("a"), qps=8.0), "w: at 10 requests a second with 3 seeds, and a at 8 with 3"),
        (row("shunter"), "w: two rows of shunter"),
    ],
)
def test_what_did_not_meet_the_same_traffic_is_not_joined(other, what):
    assert joined([[row("shunter")], [row("a"), row("a", workload="v", runs=2)]])
    with pytest.raises(LabError, match=what):
        joined([[row("shunter")], [other]])


def test_a_report_is_read_back_and_joined_with_others(tmp_path):
    rows = [row("shunter", ttft_p99_ms=inf, ttft_p99_ms_runs=[1.0, inf, 2.0]), row("a", knee_qps=3.0)]
    write(rows, tmp_path)
    assert read(tmp_path / "compare.json") == rows
    lines = tmp_path / "lines.jsonl"
    lines.write_bytes(b"\n".join(map(msgspec.json.encode, rows)))
    assert read(lines) == rows
    lines.write_bytes(b"[]")
    with pytest.raises(LabError, match=r"lines\.jsonl: no rows"):
        read(lines)
    for content in (b"{}", b"[1]", b"nonsense", b'{"runs": 5}', b"[" * 5000):
        lines.write_bytes(content)
        with pytest.raises(LabError, match=r"lines\.jsonl: not the rows"):
            read(lines)


def test_alone_is_step_after_step():
    engine = EngineParams(
        max_num_batched_tokens=100, step_s=1.0, prefill_token_s=0.01, sequence_s=0.0, context_token_s=0.0, attention_pair_s=0.0
    )
    assert alone([engine], 250, 0, 4) == (pytest.approx(3 * 1.0 + 2.5), pytest.approx(3.0))
    fast = msgspec.structs.replace(engine, speed=2.0)
    assert alone([engine, fast], 250, 0, 4)[1] == pytest.approx(1.5)


def test_one_pooled_server_has_everything():
    engine = MACHINES["qwen3-32b-h100-tp2"]
    one = pooled([engine] * 8)
    assert one.speed == pytest.approx(8 * engine.speed)
    assert one.max_num_seqs == 8 * engine.max_num_seqs
    # Eight times the work takes as long as one engine's part of it, weights included.
    assert one.pass_s(8 * 100, 8 * 10, 8 * 5000) == pytest.approx(engine.pass_s(100, 10, 5000))
    mixed = pooled([engine, msgspec.structs.replace(engine, speed=0.5)])
    assert mixed.speed == pytest.approx(1.5)


def small(name="b2b-saas", lasts_s=40.0):
    return msgspec.structs.replace(find_workload(name), lasts_s=lasts_s)


def test_nobody_beats_the_bound():
    workload = small()
    arrivals = workload.traffic.arrivals(1, 8.0, 400)
    bound = clairvoyant(arrivals, workload.fleet, 1)
    assert len(bound) == len(arrivals)
    engine = workload.fleet.engines[0]
    for each in bound:
        assert each.first_s - each.arrived_s >= engine.pass_s(each.prompt_tokens - each.cached_tokens, 1, 0) * 0.99


async def test_a_slice_of_the_comparison_has_a_row_for_everybody():
    told = []
    rows = await compare(
        [small("b2b-saas"), small("chat")],
        [find_policy(name) for name in ("shunter", "round-robin", "clairvoyant")],
        seeds=2,
        qps=8.0,
        told=told.append,
    )
    assert [(each.workload, each.policy) for each in rows] == [
        (workload, policy) for workload in ("b2b-saas", "chat") for policy in ("shunter", "round-robin", "clairvoyant")
    ]
    assert len(told) == 6
    ours, turns, bound = rows[:3]
    assert ours.hit_share > turns.hit_share
    assert bound.ttft_p50_ms <= ours.ttft_p50_ms
    assert bound.hit_share == pytest.approx(1.0, abs=0.02)


async def test_other_processes_come_to_the_same():
    workload, policies = small(), [find_policy("shunter"), find_policy("sglang")]
    here = await compare([workload], policies, seeds=2, qps=5.0)
    there = await compare([workload], policies, seeds=2, qps=5.0, jobs=2)
    assert here == there


async def test_a_policy_that_cannot_travel_is_refused():
    """It would be lost on its way, and its trial be waited for for ever."""
    policy = Policy("mine", "", lambda fleet, seed: Turns(len(fleet.engines), random.Random(seed)))
    with pytest.raises(LabError, match=r"policy mine cannot be sent to another process \(.*lambda"):
        await compare([small()], [policy], seeds=1, qps=5.0, jobs=2)


def die(_fleet, _seed):
    os._exit(3)


async def test_a_process_that_ends_is_not_waited_for():
    with pytest.raises(LabError, match="has ended by itself"):
        await compare([small()], [find_policy("round-robin"), Policy("mine", "", die)], seeds=2, qps=5.0, jobs=2)


async def test_every_python_comes_to_the_same():
    """The digest is of Python 3.11, 3.12 and 3.13. Nothing here needs a logarithm: its last bit is the C library's."""
    trace = Recorded(
        [
            Arrival(at_s=0.1 * at, prompt=(Segment(at % 7, 3000), Segment(100 + at, 300)), output=Segment(1000 + at, 60))
            for at in range(300)
        ]
    )
    workload = msgspec.structs.replace(find_workload("b2b-mixed-fleet"), traffic=trace)
    policies = [find_policy(name) for name in ("optimized-baseline", "native", "sglang", "clairvoyant")]
    rows = await compare([workload], policies, seeds=2, qps=10.0, shrink=0.01)
    assert xxh3_64_hexdigest(msgspec.json.encode(rows)) == "0c57be0dca64ea0c"


async def test_without_a_rate_the_knee_is_searched():
    rows = await compare(
        [small("no-reuse", 10.0)], [find_policy("least-request"), find_policy("random")], seeds=1, knee_seeds=1
    )
    assert rows[0].qps == rows[1].qps == pytest.approx(0.8 * max(rows[0].knee_qps, rows[1].knee_qps))


def test_the_page_has_examples_that_run(capsys):
    page = (Path(__file__).parents[3] / "docs/lab.md").read_text()
    names = {}
    for example in page.split("```python\n")[1:]:
        exec(compile(example.partition("```")[0], "docs/lab.md", "exec"), names)
    told = capsys.readouterr().out
    assert told.count("support desk at 4 requests a second, 2 seeds") == 2
    assert "\ntwo-choices " in told
