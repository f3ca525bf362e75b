"""Section H, prefix cache: what is known of a prompt is not computed again, is counted, and is nobody else's."""

import asyncio
import statistics
import uuid
from contextlib import suppress

import msgspec

from shunter.conformance.core.case import Case, Level
from shunter.conformance.core.exchange import Exchange
from shunter.conformance.errors import Disturbed, Mismatch, Skip
from shunter.conformance.sections.servers.adapters import SELECTED, loaded, named, wanted
from shunter.conformance.sections.servers.answers import Counted
from shunter.conformance.sections.servers.asking import PROMPT, ask_completion
from shunter.conformance.sections.servers.holding import GAUGE_FOLLOWS, read_number
from shunter.conformance.sections.servers.metrics import COUNTERS_RISE, SAMPLE_PERIOD_S, scrape
from shunter.conformance.sections.servers.openai import USAGE_SUM
from shunter.conformance.sections.servers.profile import ADAPTERS, CACHE_SALT, PREFIX_HITS
from shunter.conformance.sections.servers.target import Target

__all__ = ["CASES", "HITS", "count_hits"]

# Several blocks of the largest size in use (128 tokens), and a part of the smallest context (2,048).
PROMPT_TOKENS = 600

# A new prompt may hit so many tokens all the same: the one that begins every prompt, and what its random beginning has in
# common with another by chance. They count where a block is a token, as in SGLang.
COMMON_TOKENS = 16

# Prompts for which the time to the first token is compared. What the prefix cache saves must be so many times what the same
# question takes longer at one time than at another.
PROMPTS = 5
CLEARLY = 3.0

FEATURES = (PREFIX_HITS,)


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens_details: _Details | None = None


class _Cached(msgspec.Struct, frozen=True):
    usage: _Usage


async def hits(target: Target) -> str:
    prompt, tokens = await _fresh_prompt(target)
    block = await _block_tokens(target)
    if block and tokens <= block:
        raise Skip(f"a prompt of {tokens} tokens fills no block of {block}")
    first, again = [await count_hits(target, prompt) for _ in range(2)]
    if first >= max(block or 0, COMMON_TOKENS):
        raise Mismatch(f"no hits for a prompt of {tokens} tokens that was never asked before", f"{first:g}")
    # The last token is computed anew, to have something to continue from; a server may compute one block more.
    most = tokens - 1
    least = max(1, most // block * block - block) if block else 1
    if not least <= again <= most or (block and again % block):
        blocks = f" in blocks of {block}" if block else ""
        raise Mismatch(f"from {least} to {most} hits{blocks} for {tokens} tokens asked again", f"{again:g}")
    return f"{again:g} of {tokens} tokens hit when they are asked again" + (f", in blocks of {block}" if block else "")


async def cached_tokens(target: Target) -> str:
    prompt, tokens = await _fresh_prompt(target)
    await _ask(target, prompt)
    before = await _counter(target)
    told = _cached(await _ask(target, prompt))
    if told is None:
        raise Skip("usage tells no cached_tokens (vLLM: --enable-prompt-tokens-details, SGLang: --enable-cache-report)")
    risen = await _risen(target, before, told)
    if risen != told:
        raise Mismatch(f"cached_tokens {risen:g}, as the counter of hits says", str(told))
    return f"cached_tokens {told} of {tokens}, as the counter says"


async def salt(target: Target) -> str:
    prompt, tokens = await _fresh_prompt(target)
    mine, other = uuid.uuid4().hex, uuid.uuid4().hex
    await _ask(target, prompt)
    await _ask(target, prompt, cache_salt=mine)
    return await _nobody_elses(target, prompt, tokens, "another cache_salt", cache_salt=other)


async def adapter(target: Target) -> str:
    lora = wanted(target)[0]
    async with loaded(target, lora):
        prompt, tokens = await _fresh_prompt(target)
        await _ask(target, prompt)
        return await _nobody_elses(target, prompt, tokens, f"adapter {lora.name}", model=named(target, lora.name))


async def faster(target: Target) -> str:
    short_s: list[float] = []
    cold_s: list[float] = []
    warm_s: list[float] = []
    for _ in range(PROMPTS):
        prompt, _ = await _fresh_prompt(target)
        for taken_s, asked in ((short_s, uuid.uuid4().hex), (cold_s, prompt), (warm_s, prompt)):
            taken_s.append((await _ask(target, asked)).elapsed_s)
    short, cold, warm = map(statistics.median, (short_s, cold_s, warm_s))
    spread_s = sorted(short_s)[-2] - sorted(short_s)[1]  # a median heeds no extremes either
    seen = f"{cold * 1e3:.0f} ms when it is new, {warm * 1e3:.0f} ms again, {short * 1e3:.0f} ms for a few tokens (medians)"
    if cold - short < CLEARLY * spread_s:
        raise Disturbed(f"its prompts cost too little beside what else takes time to see what the cache saves: {seen}")
    if warm - short > (cold - short) / 2:
        raise Mismatch("a first token sooner for a prompt that was asked before", seen)
    return seen


async def _fresh_prompt(target: Target) -> tuple[str, int]:
    """A prompt that nobody has asked before, of several blocks, and its tokens."""
    name = uuid.uuid4().hex
    few = (await _ask(target, f"{name} {PROMPT}")).read(Counted).usage.prompt_tokens
    prompt = f"{uuid.uuid4().hex} {PROMPT}" + f" {PROMPT}" * (PROMPT_TOKENS // few)
    # The same text with another beginning has as many tokens, and leaves nothing of this one in the cache.
    likewise = await _ask(target, f"{name[::-1]}{prompt[len(name) :]}")
    return prompt, likewise.read(Counted).usage.prompt_tokens


async def _block_tokens(target: Target) -> int | None:
    """Tokens of a block of the cache, as the metrics say; None if they do not."""
    if target.profile.cache is not None:
        with suppress(Mismatch):
            return read_number(await scrape(target), target.profile.cache.block_tokens)
    return None


def _cached(exchange: Exchange) -> int | None:
    """How many tokens of its prompt were cached, as an answer says; None if it does not."""
    details = exchange.read(_Cached).usage.prompt_tokens_details
    return details.cached_tokens if details else None


async def _ask(target: Target, prompt: object, **fields: object) -> Exchange:
    answer = await ask_completion(target, prompt=prompt, max_tokens=1, **fields)
    answer.expect_status(200)
    return answer


async def _counter(target: Target) -> float:
    return (await scrape(target)).total(target.profile.counters[PREFIX_HITS])


async def _risen(target: Target, before: float, enough: float = 1) -> float:
    """By how much the counter of hits has risen; waits a while for a rise."""
    clock, limit_s = asyncio.get_running_loop().time, target.seconds(GAUGE_FOLLOWS)
    begin_s = clock()
    while True:
        risen = await _counter(target) - before
        if risen >= enough or clock() - begin_s > limit_s:
            return risen
        await asyncio.sleep(SAMPLE_PERIOD_S)


async def count_hits(target: Target, prompt: object, **fields: object) -> float:
    """Ask a prompt, and say by how much the counter of hits rose."""
    before = await _counter(target)
    await _ask(target, prompt, **fields)
    return await _risen(target, before)


async def _nobody_elses(target: Target, prompt: str, tokens: int, whose: str, **fields: object) -> str:
    """Ask a prompt that is cached for somebody for somebody else, twice: he hits nothing first, and then his own."""
    block = await _block_tokens(target)
    first, again = [await count_hits(target, prompt, **fields) for _ in range(2)]
    if first >= max(block or 0, COMMON_TOKENS):
        raise Mismatch(f"no hits for {whose} in what was cached without it", f"{first:g} of {tokens} tokens")
    return f"{whose} hits {first:g} of {tokens} tokens that are cached without it, and {again:g} of its own"


PREFIX = "Meaning of the counter in vLLM, the reference server of the GIE Model Server Protocol (proposal 003)"
VLLM = "vLLM, Automatic Prefix Caching"

HITS = Case(
    id="ms.prefix.hits",
    level=Level.MUST,
    requirement="The counter of prefix hits MUST rise by the whole blocks of a prompt asked again, and by none of a new one.",
    why="Pickers send a prompt where its beginning was before; whether that works is seen by this counter alone.",
    source=PREFIX,
    features=FEATURES,
    needs=(COUNTERS_RISE.id, USAGE_SUM.id),
    bounds=(GAUGE_FOLLOWS,),
    run=hits,
)

CACHED_TOKENS = Case(
    id="ms.prefix.cached-tokens",
    level=Level.SHOULD,
    requirement="cached_tokens of an answer's usage SHOULD be what the counter of prefix hits rose by.",
    why="Clients are billed less for cached tokens, and gateways learn from answers which replica had what.",
    source=f"OpenAI API reference, Prompt caching: prompt_tokens_details.cached_tokens; {PREFIX}",
    features=FEATURES,
    needs=(HITS.id,),
    bounds=(GAUGE_FOLLOWS,),
    run=cached_tokens,
)

SALT = Case(
    id="ms.prefix.salt",
    level=Level.MUST,
    requirement="A request with a cache_salt MUST NOT hit what was cached without it, or with another one.",
    why="Who may share a cache can find out, by the time to the first token, what others have asked.",
    source=f"{VLLM}: cache isolation",
    features=(*FEATURES, CACHE_SALT),
    needs=(HITS.id,),
    bounds=(GAUGE_FOLLOWS,),
    run=salt,
)

ADAPTER = Case(
    id="ms.prefix.adapter",
    level=Level.MUST,
    requirement="A request for a LoRA adapter MUST NOT hit what its base model has cached.",
    why="Keys and values of another model make a wrong answer that looks right.",
    source=VLLM,
    features=(*FEATURES, ADAPTERS),
    needs=(HITS.id, SELECTED.id),
    bounds=(GAUGE_FOLLOWS,),
    run=adapter,
)

FASTER = Case(
    id="ms.prefix.faster",
    level=Level.SHOULD,
    requirement="The first token of a long prompt that was asked before SHOULD come sooner than when it was new.",
    why="It is what prefix caching, and routing by prefix, is for.",
    source=VLLM,
    features=FEATURES,
    needs=(HITS.id,),
    run=faster,
)

CASES = (HITS, CACHED_TOKENS, SALT, ADAPTER, FASTER)
