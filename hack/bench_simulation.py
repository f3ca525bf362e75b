"""How many requests a second of CPU the lab simulates, the picker's real judgement included, and what takes the time.

The case is llm-d's b2b-saas: 150 groups that share 6,000 tokens each, 1,200 tokens of one's own, answers of 1,000 tokens,
eight endpoints of two H100 with Qwen3-32B, at about 80 % of what they can bear. The judge reads a JSON body of 29 KB for each
request.

Three runs in turns: the whole; the same choices without a judge (engines, cache and events); the bodies alone. What is left of
the whole is the judge's. Absolute figures belong to this machine and this minute.
"""

import argparse
import gc
import math
import os
import platform
import random
import time
from collections.abc import Callable
from pathlib import Path

from shunter.lab.core.arrivals import Arrival, Finished, Segment
from shunter.lab.core.fleet import Fleet
from shunter.lab.core.judges import JudgeChooser, body_of
from shunter.lab.core.machines import MACHINES
from shunter.lab.core.simulation import simulate
from shunter.picker import config

__all__ = ["main"]

MACHINE = "qwen3-32b-h100-tp2"
ENDPOINTS = 8
GROUPS = 150
QPS = 12.0
WANTED = 5_000


def arrivals(count: int, seed: int) -> list[Arrival]:
    """Poisson arrivals of the case."""
    dice, now_s = random.Random(seed), 0.0
    made: list[Arrival] = []
    for index in range(count):
        now_s -= math.log(1.0 - dice.random()) / QPS
        group, own = int(dice.random() * GROUPS), GROUPS + 2 * index
        made.append(Arrival(at_s=now_s, prompt=(Segment(group, 6000), Segment(own, 1200)), output=Segment(own + 1, 1000)))
    return made


class Replay:
    """Choices made before."""

    def __init__(self, finished: list[Finished]) -> None:
        self._endpoints = [each.endpoint for each in finished]

    def choose(self, _arrival, index, _now_s):
        return self._endpoints[index]

    def dispatch(self, _now_s):
        return ()

    def scraped(self, rows, now_s): ...
    def first_token(self, index, now_s): ...
    def ended(self, index, finished, now_s): ...


def cpu_s(work: Callable[[], object]) -> float:
    """What some work costs."""
    begun_s = time.process_time()
    work()
    return time.process_time() - begun_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--config", type=Path, help="an EndpointPickerConfig instead of the default")
    options = parser.parse_args()
    fleet, traffic = Fleet(engines=(MACHINES[MACHINE],) * ENDPOINTS), arrivals(options.requests, seed=1)
    policy = config.load(options.config.read_text()).policy if options.config else config.load().policy

    def judged():
        return simulate(traffic, fleet, JudgeChooser(policy, fleet, random.Random(1)))

    # As a worker does when it has started: what is there now stays for good.
    gc.collect()
    gc.freeze()
    run = judged()
    whole, engines, bodies = [], [], []
    for _ in range(options.rounds):
        whole.append(cpu_s(judged))
        engines.append(cpu_s(lambda: simulate(traffic, fleet, Replay(run.finished))))
        bodies.append(cpu_s(lambda: [len(body_of(each)) for each in traffic]))
    each_us = [min(times) / options.requests * 1e6 for times in (whole, engines, bodies)]
    total_us, engines_us, bodies_us = each_us
    ttfts = sorted(each.ttft_s for each in run.finished)
    hits = sum(each.cached_tokens for each in run.finished) / sum(each.prompt_tokens for each in run.finished)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{options.requests} requests at {QPS:g}/s on {ENDPOINTS} endpoints; best of {options.rounds} rounds, CPU time")
    print(f"p90 TTFT {ttfts[len(ttfts) * 9 // 10] * 1e3:.0f} ms, {hits:.0%} of prompt tokens cached\n")
    print(f"{1e6 / total_us:,.0f} requests per second and core ({total_us:.0f} µs each; wanted {WANTED:,})\n")
    print("| part | µs a request | share |\n| --- | --- | --- |")
    for name, us in (
        ("engines, caches, events", engines_us),
        ("judge", total_us - engines_us - bodies_us),
        ("bodies", bodies_us),
    ):
        print(f"| {name} | {us:.0f} | {us / total_us:.0%} |")


if __name__ == "__main__":
    main()
