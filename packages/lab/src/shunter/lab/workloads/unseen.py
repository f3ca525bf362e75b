"""Workloads that nobody has tuned anything on: a number makes one, with a fleet and objectives of its own.

Every parameter is drawn from the whole range in which published traffic lies, so that whoever is good at many of these numbers
is good at what comes, not at the recipes.
"""

from math import exp, log
from random import Random

import msgspec

from shunter.lab.core.fleet import Fleet
from shunter.lab.core.machines import MACHINES
from shunter.lab.core.statistics import Slo
from shunter.lab.workloads.catalogue import Workload
from shunter.lab.workloads.draws import Lengths, Pace
from shunter.lab.workloads.traffic import Conversations, Mixture, SharedPrefix, Traffic

__all__ = ["HOLDOUT", "PREFIX", "unseen"]

PREFIX = "unseen-"
HOLDOUT = ("unseen-1", "unseen-2", "unseen-3")
"""Those that a full comparison includes. They are as good as any others until somebody tunes on them."""

# A long prompt may take a user's patience, but a first token within this many times of what an idle engine needs is asked for.
PATIENCE = 8.0


def unseen(number: int) -> Workload:
    """Return the workload of that number."""
    dice = Random(number)  # noqa: S311  traffic, not secrets
    machine = ("qwen3-32b-h100-tp2", "gpt-oss-120b-h100", "llama3-70b-h100-tp4")[int(dice.random() * 3)]
    engines = (MACHINES[machine],) * (4 + int(dice.random() * 7))
    if dice.random() < 0.25:
        slower = msgspec.structs.replace(engines[0], speed=0.5)
        engines = tuple(slower if at % 2 else engine for at, engine in enumerate(engines))
    parts = tuple((_part(dice), 0.2 + dice.random()) for _ in range(1 + int(dice.random() * 3)))
    pace = Pace(burst=0.25, peak=1.0 + 2.0 * dice.random()) if dice.random() < 0.3 else Pace()
    traffic = Mixture(parts=parts, pace=pace)
    sample = traffic.arrivals(0, 1.0, 500)
    prompt = sum(arrival.prompt_tokens for arrival in sample) / len(sample)
    output = sum(arrival.output.tokens for arrival in sample) / len(sample)
    engine = engines[0]
    longest = sorted(arrival.prompt_tokens for arrival in sample)[int(0.9 * len(sample))]
    alone_s = engine.pass_s(longest, 1, longest // 2)
    busy_s = engine.pass_s(int(prompt), 0, 0) / 2 + output * engine.pass_s(0, 1, int(prompt + output)) / 20
    return Workload(
        name=f"{PREFIX}{number}",
        about=f"a mixture drawn by the number {number}: prompts of about {prompt:.0f} tokens, answers of {output:.0f}",
        traffic=traffic,
        fleet=Fleet(engines=engines),
        slo=Slo(max(1.0, PATIENCE * alone_s), 4.0 * engine.pass_s(0, 1, int(prompt))),
        lasts_s=200.0,
        guess_qps=len(engines) / busy_s,
    )


def _between(dice: Random, low: float, high: float) -> float:
    """Draw evenly on a logarithmic scale."""
    return exp(log(low) + dice.random() * log(high / low))


def _lengths(dice: Random, low: float, high: float, most: int) -> Lengths:
    mean = _between(dice, low, high)
    return Lengths(mean, mean * dice.random(), max(1, round(mean / 10)), min(most, round(mean * 8)), skewed=True)


def _part(dice: Random) -> Traffic:
    """One kind of traffic."""
    if dice.random() < 0.5:
        return SharedPrefix(
            groups=round(_between(dice, 1, 300)),
            shared=_lengths(dice, 100, 8000, 16_000),
            questions=round(_between(dice, 1, 20)) if dice.random() < 0.3 else 0,
            own=_lengths(dice, 50, 6000, 16_000),
            output=_lengths(dice, 10, 1500, 6000),
            skew=dice.random() * 1.2,
        )
    return Conversations(
        applications=round(_between(dice, 1, 50)),
        skew=dice.random() * 1.2,
        shared=_lengths(dice, 100, 6000, 12_000),
        own=_lengths(dice, 100, 12_000, 40_000),
        turns=Lengths(_between(dice, 2, 12), 3, 1, 30),
        user=_lengths(dice, 30, 1500, 6000),
        output=_lengths(dice, 50, 800, 3000),
        think_s=_between(dice, 1, 40),
        context=60_000,
    )
