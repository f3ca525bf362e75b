"""Section B, sampling: what a client says about choosing tokens is heeded."""

from shunter.conformance.core.case import Case, Level
from shunter.conformance.core.exchange import clip
from shunter.conformance.errors import Mismatch, Skip
from shunter.conformance.sections.servers.answers import Chat, Completion, LikelyChat, LikelyCompletion
from shunter.conformance.sections.servers.asking import ask_chat, ask_completion
from shunter.conformance.sections.servers.openai import CHAT_FIELDS, COMPLETION_FIELDS, USAGE_EXACT
from shunter.conformance.sections.servers.saying import say
from shunter.conformance.sections.servers.target import Target

__all__ = ["CASES", "GREEDY", "STOP", "stop_string"]

# Long enough that two draws at random do not agree, and that something stands in the middle.
LENGTH = 24

CHOICES = 2

SEED = 7

# Tokens listed beside each that was chosen.
ALTERNATIVES = 2

# How much of an answer to stop at: a part of a token, or of two.
STOP_CHARS = 3


async def greedy(target: Target) -> str:
    one, other = [await say(target, max_tokens=LENGTH) for _ in range(2)]
    if one != other:
        raise Mismatch(f"{clip(one)!r} again, at temperature 0", repr(clip(other)))
    return f"{len(one)} characters, twice"


async def seed(target: Target) -> str:
    one, other = [await say(target, max_tokens=LENGTH, temperature=1, seed=SEED) for _ in range(2)]
    if one != other:
        raise Mismatch(f"{clip(one)!r} again, with seed {SEED}", repr(clip(other)))
    return f"{len(one)} characters, twice"


async def choices(target: Target) -> str:
    for kind, ask, shape in (("completion", ask_completion, Completion), ("chat", ask_chat, Chat)):
        exchange = await ask(target, n=CHOICES, temperature=1)
        exchange.expect_status(200)
        indices = [choice.index for choice in exchange.read(shape).choices]
        if sorted(indices) != list(range(CHOICES)):
            raise Mismatch(f"{kind}: n = {CHOICES} choices with the indices 0 to {CHOICES - 1}", f"the indices {indices}")
    return f"{CHOICES} choices of a completion and of a chat"


async def stop(target: Target) -> str:
    text = await say(target, max_tokens=LENGTH)
    string = stop_string(text)
    wanted = text[: text.find(string)]
    exchange = await ask_completion(target, max_tokens=LENGTH, stop=[string])
    exchange.expect_status(200)
    choice = exchange.read(Completion).choices[0]
    if choice.text != wanted or choice.finish_reason != "stop":
        said = f"{clip(choice.text)!r}, finish_reason {choice.finish_reason}"
        raise Mismatch(f"{clip(wanted)!r}, what it says before {string!r}, and finish_reason stop", said)
    return f"{len(wanted)} of {len(text)} characters"


def stop_string(text: str) -> str:
    """A string of the text that does not begin it, of characters that stand for themselves; raises Skip."""
    for start in range(len(text) // 2, len(text) - STOP_CHARS):
        string = text[start : start + STOP_CHARS]
        if "\ufffd" not in string and text.find(string) > 0:
            return string
    raise Skip(f"there is nothing in the answer that it could be stopped at: {clip(text)!r}")


async def logprobs(target: Target) -> str:
    exchange = await ask_completion(target, logprobs=ALTERNATIVES)
    exchange.expect_status(200)
    answer = exchange.read(LikelyCompletion)
    told = answer.choices[0].logprobs
    lengths = {len(told.tokens), len(told.token_logprobs), len(told.top_logprobs), len(told.text_offset)}
    if lengths != {answer.usage.completion_tokens}:
        wanted = f"{answer.usage.completion_tokens} tokens, token_logprobs, top_logprobs and text_offset"
        raise Mismatch(f"{wanted}, one for each token", f"lists of {' and '.join(map(str, sorted(lengths)))}")
    likely = [each for each in told.token_logprobs if each is not None]
    likely += [each for alternatives in told.top_logprobs for each in (alternatives or {}).values()]
    _check(likely)
    return f"{len(told.tokens)} tokens, {len(likely)} likelihoods"


async def chat_logprobs(target: Target) -> str:
    exchange = await ask_chat(target, logprobs=True, top_logprobs=ALTERNATIVES)
    exchange.expect_status(200)
    answer = exchange.read(LikelyChat)
    told = answer.choices[0].logprobs.content
    if len(told) != answer.usage.completion_tokens:
        raise Mismatch(f"logprobs.content for each of {answer.usage.completion_tokens} tokens", f"for {len(told)}")
    if wrong := next((each for each in told if len(each.top_logprobs) != ALTERNATIVES), None):
        raise Mismatch(f"{ALTERNATIVES} top_logprobs for each token", f"{len(wrong.top_logprobs)} for {wrong.token!r}")
    likely = [each.logprob for token in told for each in (token, *token.top_logprobs)]
    _check(likely)
    return f"{len(told)} tokens, {len(likely)} likelihoods"


def _check(likely: list[float]) -> None:
    if wrong := [each for each in likely if not each <= 0]:
        raise Mismatch("logarithms of probabilities, never above 0", str(wrong[0]))


GREEDY = Case(
    id="ms.sampling.greedy",
    level=Level.SHOULD,
    requirement="At temperature 0 the same request SHOULD be answered with the same text.",
    why="Tests, caches and whoever compares replicas take a difference for a defect.",
    source="OpenAI API reference, Create completion: temperature",
    needs=(COMPLETION_FIELDS.id,),
    run=greedy,
)

SEEDED = Case(
    id="ms.sampling.seed",
    level=Level.SHOULD,
    requirement="With a seed the same request SHOULD be answered with the same text, at any temperature.",
    why="It is what makes a sampled answer that went wrong reproducible.",
    source="OpenAI API reference, Create completion: seed",
    needs=(GREEDY.id,),
    run=seed,
)

N = Case(
    id="ms.sampling.choices",
    level=Level.SHOULD,
    requirement="With n the answer SHOULD have so many choices, numbered from 0.",
    why="Clients that vote among answers take what they get, and do not notice that it is one.",
    source="OpenAI API reference, Create completion and Create chat completion: n",
    needs=(COMPLETION_FIELDS.id, CHAT_FIELDS.id),
    run=choices,
)

STOP = Case(
    id="ms.sampling.stop",
    level=Level.SHOULD,
    requirement="A stop string SHOULD end the answer before it, with finish_reason stop.",
    why="Agents cut the model's turn with it; what comes after is executed.",
    source="OpenAI API reference, Create completion: stop",
    needs=(GREEDY.id,),
    run=stop,
)

LOGPROBS = Case(
    id="ms.sampling.logprobs",
    level=Level.SHOULD,
    requirement="With logprobs a completion SHOULD have tokens, token_logprobs, top_logprobs and text_offset for each token.",
    why="Evaluations score by them; lists of different lengths are scored wrongly and silently.",
    source="OpenAI API reference, The completion object: choices.logprobs",
    needs=(COMPLETION_FIELDS.id, USAGE_EXACT.id),
    run=logprobs,
)

CHAT_LOGPROBS = Case(
    id="ms.sampling.chat-logprobs",
    level=Level.SHOULD,
    requirement="With logprobs and top_logprobs a chat SHOULD have content with token, logprob, bytes and so many "
    "top_logprobs for each token.",
    why="As for completions; the shape is another, and most clients know only this one.",
    source="OpenAI API reference, The chat completion object: choices.logprobs",
    needs=(CHAT_FIELDS.id, USAGE_EXACT.id),
    run=chat_logprobs,
)

CASES = (GREEDY, SEEDED, N, STOP, LOGPROBS, CHAT_LOGPROBS)
