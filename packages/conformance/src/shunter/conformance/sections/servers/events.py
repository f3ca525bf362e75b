"""Section H, KV events: who listens knows what the cache holds, block by block, and can make up for what he missed."""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

import msgspec

from shunter.conformance.core.case import Bound, Case, Level
from shunter.conformance.core.kvevents import Batch, Hash, KvMessage, Other, Stored, read_batch
from shunter.conformance.errors import FormatError, Mismatch
from shunter.conformance.sections.servers.asking import ask_completion
from shunter.conformance.sections.servers.prefix import HITS, count_hits
from shunter.conformance.sections.servers.profile import PREFIX_HITS
from shunter.conformance.sections.servers.target import KvListener, Target

__all__ = ["CASES"]

# Prompts of token ids that every vocabulary has, in blocks enough of the largest size in use (128 tokens).
IDS = range(5, 255)
PROMPT_TOKENS = 600

# Messages of so many prompts are looked at.
PROMPTS = 4

HEARD = Bound(
    "heard", 10.0, "a subscription takes a moment to arrive, and a server may publish when a request ends", scales=False
)

PUBLISHED = Bound(
    "published",
    2.0,
    "a picker that learns later of a prompt sends those that begin like it to somebody else, in a burst always",
)

QUIET = Bound("quiet", 0.5, "what belongs together is published step by step: after a pause like this there is no more")


class Told(msgspec.Struct, frozen=True):
    """A message and its batch."""

    message: KvMessage
    batch: Batch


async def readable(target: Target) -> str:
    async with _heard(target) as listener:
        told = await _tell(target, listener, [_prompt() for _ in range(PROMPTS)])
    events = [event for each in told for event in each.batch.events]
    blocks = sum(len(event.block_hashes) for event in events if isinstance(event, Stored))
    if not blocks:
        raise Mismatch(f"blocks stored for {PROMPTS} prompts", f"{len(events)} events, none of them")
    others = {event.type for event in events if isinstance(event, Other)}
    more = f"; also {', '.join(sorted(others))}" if others else ""
    return f"{len(told)} messages, {len(events)} events, {blocks} blocks stored{more}"


async def contiguous(target: Target) -> str:
    async with _heard(target) as listener:
        told = await _tell(target, listener, [_prompt() for _ in range(PROMPTS)])
    numbers = [each.message.sequence for each in told]
    if gaps := [pair for pair in pairwise(numbers) if pair[1] != pair[0] + 1]:
        raise Mismatch("each sequence number one more than the one before", f"{gaps[0][1]} after {gaps[0][0]}")
    return f"{len(numbers)} messages, from {numbers[0]} to {numbers[-1]}"


async def chained(target: Target) -> str:
    prompt = _prompt()
    async with _heard(target) as listener:
        stored = _stored(await _tell(target, listener, [prompt]))
    known: set[Hash] = set()
    for event in stored:
        if event.parent_block_hash is not None and event.parent_block_hash not in known:
            raise Mismatch(
                "a parent that was stored before, or none", f"{event.parent_block_hash!r} of {len(known)} blocks known"
            )
        known.update(event.block_hashes)
    if roots := sum(event.parent_block_hash is None for event in stored) - 1:
        raise Mismatch("one block without a parent, the first of the prompt", f"{roots + 1} of them")
    return f"{len(known)} blocks in one chain"


async def tokens(target: Target) -> str:
    prompt = _prompt()
    async with _heard(target) as listener:
        chain = _chain(_stored(await _tell(target, listener, [prompt])), prompt)
    if not chain:
        raise Mismatch("blocks of the tokens that were asked", "no block of them is stored")
    return f"{len(chain)} blocks with the {sum(map(len, chain))} first tokens of the prompt"


async def hashes(target: Target) -> str:
    one = _prompt()
    other = (next(token for token in IDS if token != one[0]), *one[1:])
    async with _heard(target) as listener:
        mine, others = [
            {name for event in _stored(await _tell(target, listener, [prompt])) for name in event.block_hashes}
            for prompt in (one, other)
        ]
    if same := mine & others:
        raise Mismatch("other hashes after another first token", f"{len(same)} of {len(mine)} are the same")
    return f"{len(mine)} and {len(others)} blocks of prompts that differ in the first token, none the same"


async def replay(target: Target) -> str:
    async with _heard(target) as listener:
        told = await _tell(target, listener, [_prompt() for _ in range(PROMPTS)])
        first = told[0].message.sequence
        try:
            again = await target.kv_replay(first, target.seconds(HEARD))
        except FormatError as error:
            raise Mismatch("a replay that can be read", str(error)) from None
    live = {each.message.sequence: each.message.payload for each in told}
    repeated = {message.sequence: message.payload for message in again}
    if missing := sorted(live.keys() - repeated.keys()):
        raise Mismatch(f"all {len(live)} messages from {first} on", f"{len(missing)} are missing, the first is {missing[0]}")
    if changed := [number for number, payload in live.items() if repeated[number] != payload]:
        raise Mismatch("the same bytes again", f"message {changed[0]} is another one")
    if early := [number for number in repeated if number < first]:
        raise Mismatch(f"nothing before {first}", f"message {min(early)}")
    return f"{len(live)} messages from {first} on, byte for byte"


async def predicted(target: Target) -> str:
    prompt = _prompt()
    async with _heard(target) as listener:
        stored = _stored(await _tell(target, listener, [prompt]))
        known = sum(map(len, _chain(stored, prompt)))
    if not known:
        raise Mismatch("blocks of the tokens that were asked", "no block of them is stored")
    seen = await count_hits(target, list(prompt))
    block = stored[0].block_size
    # The last block may have to be computed again, to have a token to continue from.
    if not seen <= known <= seen + block + 1:
        raise Mismatch(f"{known} tokens hit, as the events say, or up to a block of {block} less", f"{seen:g}")
    return f"{known} tokens in the cache as the events say, {seen:g} hit"


def _prompt() -> tuple[int, ...]:
    """Token ids that nobody has asked before."""
    return tuple(random.choices(IDS, k=PROMPT_TOKENS))  # noqa: S311 – no secret


@asynccontextmanager
async def _heard(target: Target) -> AsyncGenerator[KvListener]:
    """A subscription that has arrived, when nothing is on its way."""
    clock = asyncio.get_running_loop().time
    async with target.kv_events() as listener:
        end_s = clock() + target.seconds(HEARD)
        while clock() < end_s:
            (await ask_completion(target, prompt=list(_prompt()), max_tokens=1)).expect_status(200)
            if await _next(target, listener) is not None:
                await _rest(target, listener)
                yield listener
                return
    raise Mismatch(f"KV events within {target.seconds(HEARD):g} s of new prompts", "none")


async def _next(target: Target, listener: KvListener, bound: Bound = PUBLISHED) -> Told | None:
    try:
        message = await listener.receive(target.seconds(bound))
        return None if message is None else Told(message, read_batch(message.payload))
    except FormatError as error:
        raise Mismatch("KV events in the format of vLLM", str(error)) from None


async def _rest(target: Target, listener: KvListener) -> list[Told]:
    """What comes until nothing comes for a while."""
    told: list[Told] = []
    while (each := await _next(target, listener, QUIET)) is not None:
        told.append(each)
    return told


async def _tell(target: Target, listener: KvListener, prompts: Sequence[Sequence[int]]) -> list[Told]:
    """Ask prompts one after the other, and return what is published of each, at least one message."""
    told: list[Told] = []
    for prompt in prompts:
        (await ask_completion(target, prompt=list(prompt), max_tokens=1)).expect_status(200)
        first = await _next(target, listener)
        if first is None:
            raise Mismatch(f"KV events within {target.seconds(PUBLISHED):g} s of a new prompt", "none")
        told.append(first)
    return told + await _rest(target, listener)


def _stored(told: Sequence[Told]) -> list[Stored]:
    return [event for each in told for event in each.batch.events if isinstance(event, Stored)]


def _chain(stored: Sequence[Stored], prompt: Sequence[int]) -> list[list[int]]:
    """Tokens of the blocks, one after the other, that a prompt begins with, as an index of events finds them."""
    blocks: dict[Hash | None, dict[tuple[int, ...], Hash]] = {}
    size = 0
    for event in stored:
        parent, size = event.parent_block_hash, event.block_size
        for at, name in enumerate(event.block_hashes):
            blocks.setdefault(parent, {})[tuple(event.token_ids[at * size : (at + 1) * size])] = name
            parent = name
    chain: list[list[int]] = []
    parent = None
    while size and (name := blocks.get(parent, {}).get(tuple(prompt[len(chain) * size : (len(chain) + 1) * size]))) is not None:
        chain.append(list(prompt[len(chain) * size : (len(chain) + 1) * size]))
        parent = name
    return chain


VLLM = "vLLM, KV events (ZMQ publisher); read by the precise prefix-cache scorer of llm-d"

READABLE = Case(
    id="ms.kv-events.readable",
    level=Level.MUST,
    requirement="KV events MUST be a topic, a number of 8 bytes and a batch, whose events have the tokens of their blocks.",
    why="An index of them is only as good as its worst reader: what cannot be read is a block that nobody knows of.",
    source=VLLM,
    bounds=(HEARD, PUBLISHED, QUIET),
    run=readable,
)

CONTIGUOUS = Case(
    id="ms.kv-events.contiguous",
    level=Level.MUST,
    requirement="The sequence numbers of KV events MUST rise by one from message to message.",
    why="By a gap alone a listener learns that he missed something; where there are gaps always he asks for replays always.",
    source=VLLM,
    needs=(READABLE.id,),
    bounds=(HEARD, PUBLISHED, QUIET),
    run=contiguous,
)

CHAINED = Case(
    id="ms.kv-events.chained",
    level=Level.MUST,
    requirement="The parent of a stored block MUST be a block that was stored before, and none for the first of a prompt.",
    why="A block says nothing without those before it: an index cannot place one whose parent it does not know.",
    source=VLLM,
    needs=(READABLE.id,),
    bounds=(HEARD, PUBLISHED, QUIET),
    run=chained,
)

TOKENS = Case(
    id="ms.kv-events.tokens",
    level=Level.MUST,
    requirement="The tokens of stored blocks MUST be those of the prompt, in its order.",
    why="Pickers hash tokens in their own way and compare: other tokens are another prompt.",
    source=VLLM,
    needs=(CHAINED.id,),
    bounds=(HEARD, PUBLISHED, QUIET),
    run=tokens,
)

HASHES = Case(
    id="ms.kv-events.hashes",
    level=Level.MUST,
    requirement="Blocks with different tokens before them MUST have different hashes.",
    why="Two blocks of one name are taken for one: an index finds prompts that were never asked.",
    source=VLLM,
    needs=(CHAINED.id,),
    bounds=(HEARD, PUBLISHED, QUIET),
    run=hashes,
)

REPLAY = Case(
    id="ms.kv-events.replay",
    level=Level.MUST,
    requirement="A replay from a number on MUST repeat every message from there, byte for byte, and none before.",
    why="It is how a listener that was cut off catches up; what it leaves out is wrong in his index for good.",
    source=VLLM,
    needs=(CONTIGUOUS.id,),
    bounds=(HEARD, PUBLISHED, QUIET),
    run=replay,
)

PREDICTED = Case(
    id="ms.kv-events.predicted",
    level=Level.MUST,
    requirement="What the events say is cached of a prompt MUST be what the prompt hits, but for its last block.",
    why="Pickers send prompts where the events say that they are cached, and past idle servers if need be.",
    source=VLLM,
    features=(PREFIX_HITS,),
    needs=(TOKENS.id, HITS.id),
    bounds=(HEARD, PUBLISHED, QUIET),
    run=predicted,
)

CASES = (READABLE, CONTIGUOUS, CHAINED, TOKENS, HASHES, REPLAY, PREDICTED)
