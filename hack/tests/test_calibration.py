"""Calibration gets back what it is about: an engine that plays the server is found again."""

from collections import Counter
from itertools import groupby

import msgspec
import pytest
from hack.calibration.check import compare, table
from hack.calibration.fit import COSTS, Fit, fit
from hack.calibration.pace import at_pace, steps
from hack.calibration.record import record
from hack.calibration.recording import Answer, Ask, Look, Recording, Server
from hack.calibration.workload import LOADS, Load, asks, probes

from shunter.lab.core.arrivals import Segment
from shunter.lab.core.engine import Engine
from shunter.lab.core.params import EngineParams, params_from
from shunter.lab.core.requests import SegmentRequest
from shunter.lab.shell.server import LabServer

SERVER = Server(
    "0",
    "m",
    {"max_num_seqs": 8, "max_num_batched_tokens": 512, "max_model_len": 2048, "block_size": 32, "num_blocks": 129},
)
SPEEDS = {
    "step_s": 0.02,
    "prefill_token_s": 0.001,
    "sequence_s": 0.0015,
    "context_token_s": 0.000005,
    "attention_pair_s": 0.0000004,
}
SMALL = Load("small", 1.2, 60, 1)


def play(load, **changes) -> Recording:
    """What a recorder would write if the engine were behind it, on a network that takes no time."""
    engine = Engine(params_from({**SERVER.engine, **SPEEDS, **changes}))
    streams, answers, looks, now_s = {}, [], [], 0.0
    for _, group in groupby(load, key=lambda ask: ask.group):
        members = list(group)
        begins_s, found, cached = now_s, {}, {}

        def take(tokens, found=found, cached=cached):
            for token in tokens:
                found.setdefault(token.id, []).append(token.at_s)
                cached[token.id] = token.cached_tokens

        for index, ask in enumerate(members):
            now_s = begins_s + ask.at_s
            take(engine.advance(now_s))
            prompt = tuple(Segment(streams.setdefault(name, len(streams)), tokens) for name, tokens in ask.prompt)
            engine.submit(SegmentRequest(id=index, prompt=prompt, output=Segment(-1 - len(answers) - index, ask.output)), now_s)
        while (ends_s := engine.next_event_s()) is not None:
            now_s = ends_s
            take(engine.advance(now_s))
        answers += [Answer(ask, begins_s + ask.at_s, found[i], cached[i]) for i, ask in enumerate(members)]
        values = dict.fromkeys(("running", "waiting", "kv_usage", "queries", "hits", "preemptions"), 0.0)
        looks += [Look(begins_s, 0.0, values), Look(now_s, 0.0, values)]
    return Recording(SERVER, answers, looks)


@pytest.fixture(scope="module")
def probed():
    return play(probes(SERVER))


@pytest.fixture(scope="module")
def small():
    return play(asks(SMALL))


def test_the_fit_finds_the_costs_of_the_engine_that_was_probed(probed):
    found = fit(probed)
    assert found.costs == pytest.approx(SPEEDS, rel=0.02)
    assert found.way_s == pytest.approx(0, abs=0.001)


def test_no_cost_becomes_negative(probed):
    """Decoding got cheaper with every sequence: least squares alone would say less than nothing a sequence."""
    sizes = Counter(answer.ask.group for answer in probed.answers)

    def sooner(answer):
        first_s, factor = answer.tokens_s[0], 1 + sizes[answer.ask.group] / 30
        return msgspec.structs.replace(answer, tokens_s=[first_s + (at_s - first_s) / factor for at_s in answer.tokens_s])

    faster = [sooner(answer) for answer in probed.answers]
    assert min(fit(Recording(SERVER, faster, [])).costs.values()) >= 0


def test_the_engine_that_answered_is_compared_without_an_error(small):
    same = compare(small, fit_of(SPEEDS))
    assert same.same_cached == same.requests
    assert all(latency.median_error == pytest.approx(0, abs=1e-9) for latency in same.latencies.values())


def test_a_slower_engine_is_seen(small):
    slower = compare(small, fit_of({name: 1.5 * cost for name, cost in SPEEDS.items()}))
    assert slower.latencies["TPOT"].bias > 0.4
    assert "| slower | TPOT |" in table({"slower": slower})


def test_the_pace_of_a_slow_machine_is_found_in_the_recording_itself():
    disturbed = play(asks(SMALL), **{name: 1.25 * cost for name, cost in SPEEDS.items()})
    paced = at_pace(fit_of(SPEEDS), disturbed)
    assert paced.costs == pytest.approx({name: 1.25 * cost for name, cost in SPEEDS.items()}, rel=0.03)


def test_the_pace_knows_nothing_of_the_queue():
    """It must not hide a wrong schedule: half the seats are no slower machine."""
    crowded = play(asks(SMALL), max_num_seqs=4)
    assert at_pace(fit_of(SPEEDS), crowded).costs == pytest.approx(SPEEDS, rel=0.03)
    assert abs(compare(crowded, fit_of(SPEEDS)).latencies["TTFT"].bias) > 0.2


def test_tokens_of_one_step_are_put_together(small):
    found = list(steps(small))
    assert sum(len(step.tokens) for step in found) >= sum(answer.ask.output for answer in small.answers) - 8
    assert all(step.took_s > 0 for step in found)


def test_a_load_is_the_same_in_every_process():
    first = asks(LOADS["middle"])[0]
    assert (first.at_s, first.prompt, first.output) == (0.715, [("middle-prefix-3", 256), ("middle-question-0", 71)], 28)
    assert first.tokens()[:4] == asks(LOADS["middle"])[0].tokens()[:4]


def test_a_recording_survives_being_written(small, tmp_path):
    small.write(tmp_path / "small.jsonl.gz")
    assert Recording.read(tmp_path / "small.jsonl.gz") == small


def test_a_recording_begins_with_its_server(small, tmp_path):
    headless = Recording(small.answers[0], small.answers, [])  # pyright: ignore[reportArgumentType]
    headless.write(tmp_path / "headless.jsonl.gz")
    with pytest.raises(msgspec.ValidationError, match="first line"):
        Recording.read(tmp_path / "headless.jsonl.gz")


async def test_the_recorder_writes_down_what_a_server_does():
    params = EngineParams(speed=50.0, max_num_seqs=4, block_size=16, num_blocks=64)
    server = LabServer(params, port=0, prompt_tokens_details=True)
    await server.start()
    try:
        load = [Ask(0.0, [("a", 40), (f"b{n}", 9)], 5, f"{n}") for n in range(2)]
        found = await record(server.url, lambda _: load, 4, 2048, lambda _: None)
    finally:
        await server.stop()
    assert found.server.engine == {
        "max_num_seqs": 4,
        "max_num_batched_tokens": 2048,
        "max_model_len": params.context_tokens,
        "block_size": 16,
        "num_blocks": 64,
    }
    assert [answer.ask for answer in found.answers] == load
    assert [(len(answer.tokens_s), answer.cached) for answer in found.answers] == [(5, 0), (5, 32)]
    assert found.looks[-1].values["hits"] == 32


def fit_of(costs):
    return Fit({name: costs[name] for name in COSTS}, 0.0)
