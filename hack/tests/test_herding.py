"""Four workers that share choose as well as one would; four that do not herd."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

sim = SimpleNamespace(**runpy.run_path(Path(__file__).resolve().parents[1] / "sim_herding.py"))


@pytest.mark.parametrize("scrape_s", [0.05, 0.2, 1.0])
def test_workers_that_share_decide_as_well_as_one(scrape_s):
    one, sharing, apart = sim.compare(scrape_s, requests=500, seeds=3, configurations=[(1, False), (4, True), (4, False)])
    assert sharing[0] < 1.15 * one[0]  # of so few requests chance alone makes several per cent
    assert sharing[2] > one[2] - 0.02
    assert apart[0] > 3 * one[0]


def test_replicas_that_hear_of_each_other_late_lose_little_and_those_that_do_not_much():
    def average(replicas, **sharing):
        runs = [sim.simulate(replicas, scrape_s=0.05, requests=800, seed=seed, **sharing)[0] for seed in range(3)]
        return sum(sum(run[400:]) for run in runs) / 1200  # the caches are cold at first

    alone = average(1, sharing=False)
    assert average(4, sharing=True, delay_s=0.05) < 1.3 * alone
    assert average(4, sharing=False) > 3 * alone


def test_prefill_worked_off_at_the_engines_rate_is_as_good_as_seeing_first_tokens():
    def average(kind):
        return sum(map(sum, (sim.guess(kind, 2000, seed) for seed in range(2))))

    assert average("rate") < 1.02 * average("first token")
    assert average("requests") > 2 * average("first token")
