"""Section H, prefill and decode apart: what one server has computed of a prompt another one goes on from."""

import asyncio
import uuid
from typing import Any

import msgspec

from shunter.conformance.core.case import Bound, Case, Level
from shunter.conformance.core.exchange import Exchange
from shunter.conformance.errors import Mismatch, Unanswered
from shunter.conformance.sections.servers.answers import Completion
from shunter.conformance.sections.servers.asking import PROMPT, ask_completion, completion_body
from shunter.conformance.sections.servers.holding import GAUGE_FOLLOWS
from shunter.conformance.sections.servers.metrics import EXPOSITION, SAMPLE_PERIOD_S, scrape
from shunter.conformance.sections.servers.profile import EXTERNAL_TOKENS, TRANSFERS
from shunter.conformance.sections.servers.sampling import GREEDY
from shunter.conformance.sections.servers.target import Target

__all__ = ["CASES"]

# Enough words to see whether they are the same.
WORDS = 24

# Some blocks of the largest size in use (128 tokens).
REPEATS = 24

REMOTE = ("remote_engine_id", "remote_block_ids", "remote_host", "remote_port")

# The port of the discard service, at which nobody listens any more.
NOBODY = 9

DECODES = Bound(
    "decodes",
    55.0,
    "the first transfer between two engines of vLLM was seen to take half a minute, for their handshake",
    scales=False,
)

GIVES_UP = Bound(
    "gives-up",
    50.0,
    "clients and gateways give up after a minute; a decoder that was sent to a pod which has crashed must say so before",
    scales=False,
)


class _Prefilled(msgspec.Struct, frozen=True):
    kv_transfer_params: dict[str, Any] | None = None


async def handed_over(target: Target) -> str:
    params = await _prefill(target, _prompt())
    if missing := [name for name in ("do_remote_prefill", *REMOTE) if params.get(name) in (None, False)]:
        raise Mismatch(f"kv_transfer_params with do_remote_prefill true and {', '.join(REMOTE)}", f"no {', '.join(missing)}")
    return f"kv_transfer_params with {', '.join(sorted(params))}"


async def same_text(target: Target) -> str:
    prompt = _prompt()
    apart = _text(await _decode(target, prompt, await _prefill(target, prompt)))
    alone = _text(await ask_completion(target, prompt=prompt, max_tokens=WORDS))
    if apart != alone:
        raise Mismatch(f"the text that one server gives alone: {alone!r}", repr(apart))
    return f"{WORDS} tokens, as from one server alone"


async def fetched(target: Target) -> str:
    prompt, signal = _prompt(), target.profile.counters[EXTERNAL_TOKENS]
    params = await _prefill(target, prompt)
    before = (await scrape(target)).total(signal)
    tokens = (await _decode(target, prompt, params)).read(Completion).usage.prompt_tokens
    clock, limit_s = asyncio.get_running_loop().time, target.seconds(GAUGE_FOLLOWS)
    begin_s = clock()
    while True:
        risen = (await scrape(target)).total(signal) - before
        # What does not fill a block may have to be computed again.
        if tokens / 2 <= risen <= tokens:
            return f"{risen:g} of {tokens} tokens fetched"
        if clock() - begin_s > limit_s:
            raise Mismatch(
                f"a rise of {signal} by the {tokens} tokens of the prompt, or its whole blocks", f"it rose by {risen:g}"
            )
        await asyncio.sleep(SAMPLE_PERIOD_S)


async def lost(target: Target) -> str:
    prompt = _prompt()
    params = await _prefill(target, prompt)
    nobody = params | {"remote_engine_id": str(uuid.uuid4()), "remote_port": NOBODY}
    limit_s = target.seconds(GIVES_UP)
    try:
        async with asyncio.timeout(limit_s):
            answer = await ask_completion(target, prompt=prompt, max_tokens=WORDS, kv_transfer_params=nobody)
    except (TimeoutError, Unanswered) as error:
        raise Mismatch(f"an answer within {limit_s:g} s, whatever it is", str(error) or "none") from None
    (await ask_completion(target)).expect_status(200)
    return f"HTTP {answer.status} after {answer.elapsed_s:.1f} s, and the next request is answered"


def _prompt() -> str:
    """A prompt that nobody has computed yet."""
    return f"{uuid.uuid4().hex} " + " ".join([PROMPT] * REPEATS)


async def _prefill(target: Target, prompt: str) -> dict[str, Any]:
    """Have the other server compute a prompt; returns where to fetch it."""
    asked = {"do_remote_decode": True, "do_remote_prefill": False} | dict.fromkeys(REMOTE)
    body = completion_body(target, prompt=prompt, max_tokens=1, kv_transfer_params=asked)
    answer = await target.prefill(target.profile.api.completions, body)
    answer.expect_status(200)
    params = answer.read(_Prefilled).kv_transfer_params
    if not params:
        raise Mismatch("kv_transfer_params in the answer of the prefiller", "none")
    return params


async def _decode(target: Target, prompt: str, params: dict[str, Any]) -> Exchange:
    limit_s = target.seconds(DECODES)
    try:
        async with asyncio.timeout(limit_s):
            answer = await ask_completion(target, prompt=prompt, max_tokens=WORDS, kv_transfer_params=params)
    except TimeoutError:
        raise Mismatch(f"an answer within {limit_s:g} s with what the prefiller said", "none") from None
    answer.expect_status(200)
    return answer


def _text(answer: Exchange) -> str:
    answer.expect_status(200)
    return answer.read(Completion).choices[0].text


VLLM = "vLLM, disaggregated prefilling: kv_transfer_params; used by llm-d's routing sidecar (connector nixlv2)"

HANDED_OVER = Case(
    id="ms.pd.handed-over",
    level=Level.MUST,
    requirement="A prefiller asked with do_remote_decode MUST answer with kv_transfer_params that say where to fetch it.",
    why="The sidecar passes them on as they are: what is missing there the decoder computes once more.",
    source=VLLM,
    features=(TRANSFERS,),
    run=handed_over,
)

SAME_TEXT = Case(
    id="ms.pd.same-text",
    level=Level.MUST,
    requirement="A decoder MUST answer from what a prefiller computed as if it had computed it itself.",
    why="Keys and values that arrive wrong, or half, make an answer that looks like one.",
    source=VLLM,
    features=(TRANSFERS,),
    needs=(HANDED_OVER.id, GREEDY.id),
    bounds=(DECODES,),
    run=same_text,
)

FETCHED = Case(
    id="ms.pd.fetched",
    level=Level.SHOULD,
    requirement="The counter of prompt tokens from elsewhere SHOULD rise by the prompt that a prefiller computed.",
    why="A decoder that computes everything itself after all answers as well; only slower, and at twice the cost.",
    source=VLLM,
    features=(TRANSFERS, EXTERNAL_TOKENS),
    needs=(SAME_TEXT.id, EXPOSITION.id),
    bounds=(DECODES, GAUGE_FOLLOWS),
    run=fetched,
)

LOST = Case(
    id="ms.pd.lost",
    level=Level.MUST,
    requirement="A decoder that is sent to a prefiller which is not there MUST answer or refuse, and go on serving.",
    why="Prefillers are pods, and go: requests that wait for one of them for ever fill the decoder's batch.",
    source=VLLM,
    features=(TRANSFERS,),
    needs=(HANDED_OVER.id,),
    bounds=(GIVES_UP,),
    run=lost,
)

CASES = (HANDED_OVER, SAME_TEXT, FETCHED, LOST)
