"""What a calibration asks of a model server: probes of one cost at a time, and open-loop loads of shared prefixes."""

import math
import random
from collections.abc import Iterator
from itertools import accumulate

import msgspec
from hack.calibration.recording import Ask, Server

__all__ = ["LOADS", "Load", "asks", "probes"]


class Load(msgspec.Struct, frozen=True):
    """Poisson arrivals of questions, each behind one of a few shared prefixes (the popular ones more often)."""

    name: str
    rate_per_s: float
    lasts_s: float
    seed: int
    prefixes: int = 12
    prefix_tokens: int = 256
    question_tokens: float = 56
    output_tokens: float = 72


LOADS = {
    load.name: load
    for load in (
        Load("light", 0.45, 150, 11),
        Load("middle", 0.9, 150, 12),
        Load("saturated", 1.5, 130, 13),
        Load("pressed", 0.9, 150, 14),
    )
}


def asks(load: Load) -> list[Ask]:
    """A load as requests, in order of time."""
    dice = random.Random(load.seed)
    popularity = list(accumulate(1 / (rank + 1) for rank in range(load.prefixes)))
    found: list[Ask] = []
    at_s = dice.expovariate(load.rate_per_s)
    while at_s < load.lasts_s:
        prefix = dice.choices(range(load.prefixes), cum_weights=popularity)[0]
        question = _length(dice, load.question_tokens, 8, 240)
        output = _length(dice, load.output_tokens, 4, 320)
        found.append(
            Ask(
                round(at_s, 4),
                [(f"{load.name}-prefix-{prefix}", load.prefix_tokens), (f"{load.name}-question-{len(found)}", question)],
                output,
            )
        )
        at_s += dice.expovariate(load.rate_per_s)
    return found


def _length(dice: random.Random, median: float, least: int, most: int) -> int:
    """Lengths of questions and answers: log-normal, cut off at both ends."""
    return max(least, min(most, round(dice.lognormvariate(math.log(median), 0.7))))


def probes(server: Server) -> Iterator[Ask]:
    """Groups of equal requests that tell prefill, batch and context apart; every prompt is new to the cache."""
    engine = server.engine
    blocks, size = engine["num_blocks"] - 1, engine["block_size"]
    for turn in range(3):
        for length in (16, 48, 96, 160, 256, 384, 512, 640, 800, 1024, 1400):
            if length + 6 <= engine["max_model_len"]:
                name = f"single-{turn}-{length}"
                yield Ask(0.0, [(name, length)], 6, name)
        for batch in (1, 2, 3, 4, 6, 8):
            for length in (32, 128, 320, 700):
                if batch <= engine["max_num_seqs"] and batch * -(-(length + 24) // size) <= blocks:
                    group = f"batch-{turn}-{batch}-{length}"
                    yield from (Ask(0.0, [(f"{group}-{member}", length)], 24, group) for member in range(batch))
