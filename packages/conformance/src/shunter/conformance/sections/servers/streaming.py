"""Section B, streaming: a stream says what a whole answer says, as it comes into being."""

import asyncio
from itertools import pairwise

from shunter.conformance.core.case import Case, Level
from shunter.conformance.core.exchange import clip, read_json
from shunter.conformance.errors import Mismatch, Skip
from shunter.conformance.sections.servers.answers import ChatChunk, CompletionChunk, UsageChunk
from shunter.conformance.sections.servers.asking import ask_chat, ask_completion
from shunter.conformance.sections.servers.holding import hold_tokens
from shunter.conformance.sections.servers.metrics import SHED
from shunter.conformance.sections.servers.openai import CHAT_FIELDS, STREAM_FRAMING
from shunter.conformance.sections.servers.profile import CONTINUOUS_USAGE, IGNORE_EOS
from shunter.conformance.sections.servers.sampling import GREEDY, STOP, stop_string
from shunter.conformance.sections.servers.saying import read_chunks, read_stream, say, streamed_text
from shunter.conformance.sections.servers.target import Target

__all__ = ["CASES", "SAME_TEXT"]

LENGTH = 24

# How long a stream should last whose pace is looked at, by the pace of the target; with fewer chunks nothing is known.
STREAM_S = 1.0
FEWEST_CHUNKS = 8

# A stream whose first chunk comes later than this share of its time was kept back: a short prompt takes a few steps of many.
LATE = 0.5

# Streams at once, few enough for a small server. Each asks for something else, and is told something else.
STREAMS = 4

# Nobody answers this in ASCII: characters of two, three and four bytes.
FOREIGN = "Repeat: \N{STEAM LOCOMOTIVE}\N{RAILWAY CAR} Zürich → 東京 \N{STEAM LOCOMOTIVE}"

REPLACEMENT = "\ufffd"


async def same_text(target: Target) -> str:
    told: list[str] = []
    for chat in (False, True):
        whole = await say(target, chat=chat, max_tokens=LENGTH)
        streamed = await say(target, chat=chat, stream=True, max_tokens=LENGTH)
        if whole != streamed:
            raise Mismatch(f"{clip(whole)!r}, as in the whole {'chat' if chat else 'completion'}", repr(clip(streamed)))
        told.append(f"{len(whole)} characters of a {'chat' if chat else 'completion'}")
    return ", ".join(told)


async def gradual(target: Target) -> str:
    exact: dict[str, object] = {} if target.profile.lack((IGNORE_EOS,)) else {"ignore_eos": True}
    exchange = await ask_completion(target, stream=True, max_tokens=hold_tokens(target, STREAM_S), **exact)
    chunks = len(read_stream(exchange))
    if chunks < FEWEST_CHUNKS:
        raise Skip(f"the answer has {chunks} chunks; of so few it cannot be told when they came into being")
    first_s = exchange.arrivals[0][0]
    seen = f"the first of {chunks} chunks after {first_s:.2f} s of {exchange.elapsed_s:.2f} s"
    if first_s > LATE * exchange.elapsed_s:
        raise Mismatch("chunks while the answer is generated", seen)
    return seen


async def characters(target: Target) -> str:
    messages = [{"role": "user", "content": FOREIGN}]
    whole = await say(target, chat=True, messages=messages, max_tokens=LENGTH)
    streamed = await say(target, chat=True, stream=True, messages=messages, max_tokens=LENGTH)
    if broken := streamed.count(REPLACEMENT) - whole.count(REPLACEMENT):
        raise Mismatch(f"{clip(whole)!r}, as in the whole chat", f"{clip(streamed)!r}: {broken} more U+FFFD")
    foreign = sum(not character.isascii() and character != REPLACEMENT for character in whole)
    if not foreign:
        raise Skip(f"the answer to {FOREIGN!r} has no character of several bytes")
    return f"{foreign} characters of several bytes"


async def stop(target: Target) -> str:
    text = await say(target, stream=True, max_tokens=LENGTH)
    string = stop_string(text)
    wanted = text[: text.find(string)]
    if (said := await say(target, stream=True, max_tokens=LENGTH, stop=[string])) != wanted:
        raise Mismatch(f"{clip(wanted)!r}, what it says before {string!r}", repr(clip(said)))
    return f"{len(wanted)} of {len(text)} characters"


async def unmixed(target: Target) -> str:
    prompts = [f"{number} wagons stand on track {number}, and" for number in range(1, STREAMS + 1)]
    alone = [await say(target, prompt=prompt, max_tokens=LENGTH) for prompt in prompts]
    exchanges = await asyncio.gather(
        *(ask_completion(target, prompt=prompt, max_tokens=LENGTH, stream=True) for prompt in prompts)
    )
    if any(exchange.status in SHED for exchange in exchanges):
        raise Skip(f"of {STREAMS} requests at once it refuses some (HTTP {' or '.join(map(str, SHED))}), which is its right")
    streams = [read_chunks(exchange, CompletionChunk) for exchange in exchanges]
    if len(ids := {chunks[0].id for chunks in streams}) != STREAMS:
        raise Mismatch(f"an id of its own for each of {STREAMS} streams", f"{len(ids)} ids")
    for prompt, wanted, chunks in zip(prompts, alone, streams, strict=True):
        if (said := streamed_text(chunks)) != wanted:
            raise Mismatch(f"{clip(wanted)!r}, as {prompt!r} is answered alone", repr(clip(said)))
    return f"{STREAMS} streams at once, each as alone"


async def chat_role(target: Target) -> str:
    chunks = read_chunks(await ask_chat(target, stream=True), ChatChunk)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    if not choices or choices[0].delta.role != "assistant":
        raise Mismatch("the role assistant in the first delta", repr(choices[0].delta.role) if choices else "no delta")
    return "assistant"


async def usage_so_far(target: Target) -> str:
    options = {"include_usage": True, "continuous_usage_stats": True}
    told = read_stream(await ask_completion(target, stream=True, stream_options=options))
    usages = [read_json(text, UsageChunk).usage for text in told]
    counts = [usage.completion_tokens for usage in usages if usage is not None]
    if len(counts) < len(usages):
        raise Mismatch("usage in every chunk", f"in {len(counts)} of {len(usages)}")
    if fallen := [pair for pair in pairwise(counts) if pair[1] < pair[0]]:
        raise Mismatch("completion_tokens that never fall", f"{fallen[0][0]}, then {fallen[0][1]}")
    return f"completion_tokens from {counts[0]} to {counts[-1]}"


SAME_TEXT = Case(
    id="ms.streaming.same-text",
    level=Level.MUST,
    requirement="At temperature 0 a stream MUST say what the whole answer says.",
    why="Text that is lost or said twice between chunks shows nowhere else.",
    source="OpenAI API reference, Streaming: the chunks are deltas of the answer",
    needs=(GREEDY.id, STREAM_FRAMING.id, CHAT_FIELDS.id),
    run=same_text,
)

GRADUAL = Case(
    id="ms.streaming.gradual",
    level=Level.MUST,
    requirement="A stream MUST be sent while it is generated: its first chunk comes long before its last.",
    why="A stream that is kept back until it is complete is a slow whole answer: whoever waits for the first token gives up, "
    "and a gateway that measures the time to it learns nothing.",
    source="OpenAI API reference, Streaming; WHATWG HTML §9.2 Server-sent events",
    needs=(STREAM_FRAMING.id,),
    run=gradual,
)

CHARACTERS = Case(
    id="ms.streaming.characters",
    level=Level.MUST,
    requirement="A character of several bytes MUST come in one piece, though its bytes are of several tokens.",
    why="What most of mankind writes does not survive a stream that is cut between bytes: each half becomes U+FFFD.",
    source="RFC 3629 §3; RFC 8259 §8.1",
    needs=(SAME_TEXT.id,),
    run=characters,
)

STREAM_STOP = Case(
    id="ms.streaming.stop",
    level=Level.SHOULD,
    requirement="A stop string SHOULD end a stream before it, though it be of several tokens.",
    why="What was sent cannot be taken back: a server has to keep back what may become a stop string.",
    source="OpenAI API reference, Create completion: stop",
    needs=(SAME_TEXT.id, STOP.id),
    run=stop,
)

UNMIXED = Case(
    id="ms.streaming.unmixed",
    level=Level.SHOULD,
    requirement="Of several streams at once, each SHOULD say at temperature 0 what its prompt is answered alone, under an id "
    "of its own.",
    why="One user's text in another's stream is the worst that a server can do. Some engines round differently in a batch, so "
    "a difference is worth a look and no proof.",
    source="OpenAI API reference, Streaming; RFC 9110 §3.3 (statelessness)",
    needs=(SAME_TEXT.id,),
    run=unmixed,
)

CHAT_ROLE = Case(
    id="ms.streaming.chat-role",
    level=Level.SHOULD,
    requirement="The first delta of a streamed chat SHOULD carry the role assistant.",
    why="Clients put the deltas together to a message; one without a role cannot be sent back as history.",
    source="OpenAI API reference, The chat completion chunk object: delta.role",
    needs=(STREAM_FRAMING.id,),
    run=chat_role,
)

USAGE_SO_FAR = Case(
    id="ms.streaming.usage-so-far",
    level=Level.SHOULD,
    requirement="With stream_options.continuous_usage_stats every chunk SHOULD carry the usage so far.",
    why="It is how a stream that breaks off can be billed, and how a gateway sees tokens before the end.",
    source="vLLM, OpenAI-compatible server: stream_options.continuous_usage_stats",
    features=(CONTINUOUS_USAGE,),
    needs=(STREAM_FRAMING.id,),
    run=usage_so_far,
)

CASES = (SAME_TEXT, GRADUAL, CHARACTERS, STREAM_STOP, UNMIXED, CHAT_ROLE, USAGE_SO_FAR)
