"""The bound: what no policy can do better, because nothing is left for it to get wrong.

All engines are one server. It has their summed speed, seats and step sizes, so the work that is left is always evenly spread,
whatever each request will turn out to need; and a cache that is shared and never full, so every prefix that anybody sent is
there. Two things a fleet cannot do are not allowed to the server either:

* to read the weights once for all: each engine reads its own in every step, so a step's fixed cost is one engine's;
* to compute one prompt on all engines at once: no request is faster than alone on an idle engine of the fastest kind.

The engines of a fleet do not step together. Where many are idle a request can be lucky and find one that begins at once, so at
light load a policy may pass the bound by part of a step.
"""

from collections.abc import Sequence
from math import fsum
from random import Random

import msgspec

from shunter.lab.core.arrivals import Arrival, Finished
from shunter.lab.core.fleet import Fleet
from shunter.lab.core.params import EngineParams
from shunter.lab.core.simulation import simulate
from shunter.lab.policies.balancers import Turns

__all__ = ["alone", "clairvoyant", "pooled"]

# Blocks for everything that any run here sends: a billion tokens.
PERFECT_BLOCKS = 1 << 26


def clairvoyant(arrivals: Sequence[Arrival], fleet: Fleet, seed: int) -> list[Finished]:
    """Return what would have become of the arrivals on the pooled server, and not faster than alone."""
    one = Fleet(engines=(pooled(fleet.engines),), scrape_s=fleet.scrape_s, record_s=fleet.record_s, sample_s=fleet.sample_s)
    run = simulate(arrivals, one, Turns(1, Random(seed)))  # noqa: S311  one server: nothing is drawn
    return [_not_faster(each, fleet.engines) for each in run.finished]


def pooled(engines: Sequence[EngineParams]) -> EngineParams:
    """Return one server with the summed speed and size of all, every prefix, and the fixed cost of one step."""
    first = engines[0]
    # Where machines differ in more than speed, the work in which they are best beside the first one counts.
    speed = fsum(max(_ratio(first, engine, 8192, 0), _ratio(first, engine, 0, 8192)) for engine in engines)
    return msgspec.structs.replace(
        first,
        speed=first.speed * speed,
        step_s=first.step_s * speed,
        num_blocks=PERFECT_BLOCKS,
        max_num_seqs=sum(engine.max_num_seqs for engine in engines),
        max_num_batched_tokens=sum(engine.max_num_batched_tokens for engine in engines),
        max_loras=sum(engine.max_loras for engine in engines),
    )


def alone(engines: Sequence[EngineParams], computed: int, cached: int, output: int) -> tuple[float, float]:
    """Return how long the first token and all others of a request take on an idle engine, the best of the fleet for each.

    `computed` prompt tokens, in as few steps as they fit into, behind `cached` ones; then a step for each further token.
    """
    prefill_s, decode_s = list[float](), list[float]()
    for engine in set(engines):
        step = engine.max_num_batched_tokens
        chunks = [(cached + begin, min(step, computed - begin)) for begin in range(0, computed, step)]
        prefill_s.append(fsum(engine.pass_s(chunk, 1, before, chunk * (before + chunk / 2)) for before, chunk in chunks))
        # The context grows by one with each step: the mean step is that in the middle.
        decode_s.append((output - 1) * engine.pass_s(0, 1, cached + computed + output // 2))
    return min(prefill_s), min(decode_s)


def _ratio(first: EngineParams, engine: EngineParams, prefill: int, context: int) -> float:
    return first.pass_s(prefill, 1, context) / engine.pass_s(prefill, 1, context)


def _not_faster(each: Finished, engines: Sequence[EngineParams]) -> Finished:
    first_s, rest_s = alone(engines, each.prompt_tokens - each.cached_tokens, each.cached_tokens, each.output_tokens)
    first_s = each.arrived_s + max(each.first_s - each.arrived_s, first_s)
    return msgspec.structs.replace(each, first_s=first_s, ended_s=first_s + max(each.ended_s - each.first_s, rest_s))
