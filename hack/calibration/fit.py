"""Fit the engine's cost model to recorded probes: weighted linear least squares, nothing negative.

A probe says how long a known series of forward passes took:

* a single request: its first token took one pass for each chunk of its prompt, plus what a request costs outside the engine;
* any request, once all requests of its group decode: the time between two tokens is one pass over a batch of known size and
  context.

Each pass costs `step_s` + prompt tokens × `prefill_token_s` + sequences × `sequence_s` + context × `context_token_s` + pairs
× `attention_pair_s`, which is linear in what is sought. Rows are divided by what was measured, so that relative errors count,
and a coefficient that would be negative is left out.
"""

from collections.abc import Iterator
from itertools import groupby, pairwise
from statistics import median

import msgspec
import numpy as np
from hack.calibration.recording import Answer, Recording, Server

from shunter.lab.core.params import EngineParams, params_from

__all__ = ["Fit", "Observation", "fit", "observations"]

COSTS = ("step_s", "prefill_token_s", "sequence_s", "context_token_s", "attention_pair_s")


class Observation(msgspec.Struct, frozen=True):
    """So many passes, prompt tokens, sequences and context tokens took so long, with or without a request's way in and out."""

    passes: int
    prefill: int
    sequences: int
    context: int
    pairs: float
    ways: int
    took_s: float


class Fit(msgspec.Struct, frozen=True):
    """What an engine's passes cost, by the names of `EngineParams`, and a request's way to the engine and back."""

    costs: dict[str, float]
    way_s: float

    def engine(self, server: Server) -> EngineParams:
        """These costs on a server of its own capacities."""
        return params_from({**server.engine, **self.costs})


def observations(probes: Recording) -> Iterator[Observation]:
    """What the probes tell; the median of what was measured several times within one group."""
    chunk = probes.server.engine["max_num_batched_tokens"]
    for _, members in groupby(sorted(probes.answers, key=_group), key=_group):
        answers = list(members)
        if len(answers) == 1:
            yield _first_token(answers[0], chunk)
        yield from _between_tokens(answers)


def _group(answer: Answer) -> str:
    return answer.ask.group


def _first_token(answer: Answer, chunk: int) -> Observation:
    length = answer.ask.prompt_tokens
    begins = range(0, length, chunk)
    # The last prompt token costs what a decoded one does.
    return Observation(len(begins), length - 1, len(begins), sum(begins), length * length / 2, 1, answer.ttft_s)


def _between_tokens(answers: list[Answer]) -> Iterator[Observation]:
    last = max(answers, key=lambda answer: answer.tokens_s[0])
    ends_s = min(answer.tokens_s[-1] for answer in answers)
    steps = [(begin_s, end_s) for begin_s, end_s in pairwise(last.tokens_s) if end_s <= ends_s]
    if steps:
        middle_s = (steps[0][0] + steps[-1][1]) / 2
        context = sum(a.ask.prompt_tokens + sum(at_s <= middle_s for at_s in a.tokens_s) for a in answers)
        yield Observation(1, 0, len(answers), context, 0, 0, median(end_s - begin_s for begin_s, end_s in steps))


def fit(probes: Recording) -> Fit:
    """The costs that explain the probes best."""
    rows = list(observations(probes))
    took_s = np.array([row.took_s for row in rows])
    table = np.array([[row.passes, row.prefill, row.sequences, row.context, row.pairs, row.ways] for row in rows], dtype=float)
    table /= took_s[:, None]
    costs = dict.fromkeys((*COSTS, "way_s"), 0.0)
    kept = list(costs)
    while True:
        columns = [list(costs).index(name) for name in kept]
        found, *_ = np.linalg.lstsq(table[:, columns], np.ones(len(rows)))
        if min(found) >= 0:
            break
        kept.pop(int(found.argmin()))
    # Six digits are more than the probes know.
    costs |= {name: float(f"{cost:.6g}") for name, cost in zip(kept, found, strict=True)}
    return Fit(way_s=costs.pop("way_s"), costs=costs)
