"""Sampling: parameters that are not heeded, and likelihoods that are none."""

from shunter.lab.faults.seams import CHAT, COMPLETED, COMPLETIONS, Fault, Json, answer, without

__all__ = ["FAULTS"]


def _same_index(body: Json) -> None:
    for choice in body["choices"]:
        choice["index"] = 0


def _keep_stop(ask: Json) -> Json:
    return {**ask, "include_stop_str_in_output": True}


def _uneven(body: Json) -> None:
    for choice in body["choices"]:
        if choice["logprobs"]:
            choice["logprobs"]["token_logprobs"].pop()


def _positive(body: Json) -> None:
    for choice in body["choices"]:
        if choice["logprobs"]:
            choice["logprobs"]["token_logprobs"][0] *= -1


def _chosen_alone(body: Json) -> None:
    for choice in body["choices"]:
        for token in (choice["logprobs"] or {"content": ()})["content"]:
            token["top_logprobs"] = []


FAULTS = (
    Fault(
        name="temperature-ignored",
        case="ms.sampling.greedy",
        breaks="temperature 0 is sampled like any other",
        ask=without("temperature"),
    ),
    Fault(name="seed-ignored", case="ms.sampling.seed", breaks="a seed changes nothing", ask=without("seed")),
    Fault(name="n-ignored", case="ms.sampling.choices", breaks="there is one choice, whatever n is", ask=without("n")),
    Fault(
        name="n-unnumbered",
        case="ms.sampling.choices",
        breaks="every choice has the index 0",
        reply=answer(_same_index, COMPLETED),
    ),
    Fault(name="stop-ignored", case="ms.sampling.stop", breaks="nothing stops at a stop string", ask=without("stop")),
    Fault(name="stop-kept", case="ms.sampling.stop", breaks="an answer ends with the stop string", ask=_keep_stop),
    Fault(
        name="logprobs-uneven",
        case="ms.sampling.logprobs",
        breaks="there are fewer token_logprobs than tokens",
        reply=answer(_uneven, {COMPLETIONS}),
    ),
    Fault(
        name="logprobs-positive",
        case="ms.sampling.logprobs",
        breaks="the logarithm of a probability is above 0",
        reply=answer(_positive, {COMPLETIONS}),
    ),
    Fault(
        name="chat-logprobs-bare",
        case="ms.sampling.chat-logprobs",
        breaks="there are no top_logprobs, although they were asked for",
        reply=answer(_chosen_alone, {CHAT}),
    ),
)
