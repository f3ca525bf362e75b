"""How fast the machine was while it was recorded: steps found again in the times of tokens, beside what a fit expects of them.

A machine that others use too is not equally fast in any two recordings, and near saturation a step that takes 5 % longer may
double a queue. The pace takes that out without touching what is to be checked: it looks only at how long forward passes took
whose batch is known for certain, never at who was in the batch when, or why.
"""

from collections.abc import Iterator
from itertools import pairwise

import msgspec
from hack.calibration.fit import Fit
from hack.calibration.recording import Recording

__all__ = ["Step", "at_pace", "steps"]

# The tokens of one step leave the server within a few milliseconds; the next step takes tens.
TOGETHER_S = 0.008
DECODE_COSTS = ("step_s", "sequence_s", "context_token_s")
PREFILL_COSTS = ("prefill_token_s", "attention_pair_s")


class Step(msgspec.Struct, frozen=True):
    """Tokens that came together, and the time since those before."""

    began_s: float
    took_s: float
    tokens: dict[int, int]
    """Index of the answer → index of its token."""


def steps(recording: Recording) -> Iterator[Step]:
    """The steps of a recording, the first excepted."""
    tokens = sorted(
        (at_s, answer, index) for answer, found in enumerate(recording.answers) for index, at_s in enumerate(found.tokens_s)
    )
    began_s, at_s, members = None, tokens[0][0], dict[int, int]()
    for (before_s, answer, index), (now_s, following, _) in pairwise([*tokens, (float("inf"), -1, 0)]):
        members[answer] = index
        if now_s - before_s > TOGETHER_S or following in members:
            if began_s is not None:
                yield Step(began_s, at_s - began_s, members)
            began_s, at_s, members = at_s, now_s, {}


def at_pace(fit: Fit, recording: Recording) -> Fit:
    """The fit as it would have been on the machine as fast as it was just then."""
    decoding, prefilling = list[tuple[float, float]](), list[tuple[float, float]]()
    for (before, step), (_, after) in pairwise(pairwise(steps(recording))):
        if step.tokens.keys() <= before.tokens.keys() and after.tokens.keys() <= step.tokens.keys():
            decoding.append((step.took_s, _expected_s(fit, recording, step)))
        elif _prefills_alone(recording, before, step):
            prefilling.append((step.took_s, _expected_s(fit, recording, step)))
    factors = dict.fromkeys(DECODE_COSTS, _factor(decoding)) | dict.fromkeys(PREFILL_COSTS, _factor(prefilling))
    return Fit({name: cost * factors[name] for name, cost in fit.costs.items()}, fit.way_s)


def _factor(steps_s: list[tuple[float, float]]) -> float:
    """Sums, so that stalls count: a queue feels them."""
    return sum(took_s for took_s, _ in steps_s) / sum(expected_s for _, expected_s in steps_s) if steps_s else 1.0


def _prefills_alone(recording: Recording, before: Step, step: Step) -> bool:
    """Whether the prompts that were computed in this step began and ended in it, as far as their first tokens tell."""
    new = step.tokens.keys() - before.tokens.keys()
    if not new or any(step.tokens[index] for index in new):
        return False
    prompts = sum(recording.answers[index].ask.prompt_tokens - recording.answers[index].cached for index in new)
    fits = prompts + len(before.tokens) <= recording.server.engine["max_num_batched_tokens"]
    return fits and all(recording.answers[index].sent_s < step.began_s - TOGETHER_S for index in new)


def _expected_s(fit: Fit, recording: Recording, step: Step) -> float:
    prefill, context, pairs = 0, 0, 0.0
    for index, token in step.tokens.items():
        answer = recording.answers[index]
        if token:
            context += answer.ask.prompt_tokens + token
        else:
            fresh = answer.ask.prompt_tokens - answer.cached
            prefill += fresh - 1
            context += answer.cached
            pairs += fresh * (answer.cached + fresh / 2)
    return fit.engine(recording.server).pass_s(prefill, len(step.tokens), context, pairs)
