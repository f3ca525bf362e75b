"""Section B, the OpenAI API: answers that any client of that API can read, whole or as a stream."""

from shunter.conformance.core.case import Case, Level
from shunter.conformance.core.exchange import clip, read_json
from shunter.conformance.core.profile import GIE
from shunter.conformance.errors import Mismatch
from shunter.conformance.sections.servers.answers import (
    Chat,
    ChatChunk,
    Completion,
    CompletionChunk,
    Counted,
    Named,
    UsageChunk,
    WholeModelList,
)
from shunter.conformance.sections.servers.asking import TOKENS, ask_chat, ask_completion
from shunter.conformance.sections.servers.profile import IGNORE_EOS
from shunter.conformance.sections.servers.reachability import MODELS
from shunter.conformance.sections.servers.saying import read_chunks, read_stream
from shunter.conformance.sections.servers.target import Target

__all__ = ["CASES", "CHAT_FIELDS", "COMPLETION_FIELDS", "JSON", "STREAM_FRAMING", "USAGE_SUM"]

JSON = "application/json"


async def completion_fields(target: Target) -> str:
    exchange = await ask_completion(target)
    exchange.expect_status(200)
    answer = exchange.read(Completion)
    return f"{answer.usage.completion_tokens} tokens, finish_reason {answer.choices[0].finish_reason}"


async def chat_fields(target: Target) -> str:
    exchange = await ask_chat(target)
    exchange.expect_status(200)
    answer = exchange.read(Chat)
    return f"{answer.usage.completion_tokens} tokens, finish_reason {answer.choices[0].finish_reason}"


async def ask_streams(target: Target) -> tuple[list[CompletionChunk], list[ChatChunk]]:
    """The chunks of a streamed completion and of a streamed chat."""
    completion = read_chunks(await ask_completion(target, stream=True), CompletionChunk)
    chat = read_chunks(await ask_chat(target, stream=True), ChatChunk)
    return completion, chat


async def stream_framing(target: Target) -> str:
    completion, chat = await ask_streams(target)
    return f"{len(completion)} chunks of a completion, {len(chat)} of a chat"


async def stream_finish_reason(target: Target) -> str:
    ends: list[str] = []
    for kind, chunks in zip(("completion", "chat"), await ask_streams(target), strict=True):
        reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
        if not reasons or reasons[-1] is None or any(reasons[:-1]):
            raise Mismatch(
                f"{kind}: finish_reason null in every chunk with choices but the last, where it says why",
                clip(", ".join(reason or "null" for reason in reasons)) or "no chunk with choices",
            )
        ends.append(f"{kind} {reasons[-1]}")
    return ", ".join(ends)


async def stream_usage(target: Target) -> str:
    for kind, ask in (("completion", ask_completion), ("chat", ask_chat)):
        plain = read_stream(await ask(target, stream=True))
        if any(read_json(text, UsageChunk).usage for text in plain):
            raise Mismatch(f"{kind}: no usage in a stream that was not asked for it", "a chunk with usage")
        counted = read_stream(await ask(target, stream=True, stream_options={"include_usage": True}))
        *chunks, last = [read_json(text, UsageChunk) for text in counted]
        if last.choices or last.usage is None:
            raise Mismatch(f"{kind}: a last chunk with empty choices and the usage", f"the last is {clip(counted[-1])!r}")
        if any(chunk.usage for chunk in chunks):
            raise Mismatch(f"{kind}: usage null or missing in every chunk but the last", "an earlier chunk with usage")
    return "in a last chunk of its own, and only when asked for"


async def usage_sum(target: Target) -> str:
    seen: list[str] = []
    for kind, ask in (("completion", ask_completion), ("chat", ask_chat)):
        exchange = await ask(target)
        exchange.expect_status(200)
        usage = exchange.read(Counted).usage
        if usage.prompt_tokens == 0 or usage.prompt_tokens + usage.completion_tokens != usage.total_tokens:
            raise Mismatch(f"{kind}: prompt_tokens > 0 and prompt_tokens + completion_tokens = total_tokens", str(usage))
        if usage.completion_tokens > TOKENS:
            raise Mismatch(f"{kind}: completion_tokens ≤ max_tokens = {TOKENS}", str(usage))
        seen.append(f"{kind} {usage.prompt_tokens} + {usage.completion_tokens} = {usage.total_tokens}")
    return ", ".join(seen)


async def usage_exact(target: Target) -> str:
    exchange = await ask_completion(target, ignore_eos=True)
    exchange.expect_status(200)
    answer = exchange.read(Completion)
    if answer.usage.completion_tokens != TOKENS or answer.choices[0].finish_reason != "length":
        raise Mismatch(
            f"completion_tokens = max_tokens = {TOKENS} and finish_reason length, because ignore_eos is set",
            f"completion_tokens {answer.usage.completion_tokens}, finish_reason {answer.choices[0].finish_reason}",
        )
    return f"{TOKENS} tokens asked for, {TOKENS} counted"


async def model_cards(target: Target) -> str:
    exchange = await target.get(target.profile.api.models)
    exchange.expect_status(200)
    return f"{len(exchange.read(WholeModelList).data)} with id, object, created and owned_by"


async def model_named(target: Target) -> str:
    for kind, ask in (("completion", ask_completion), ("chat", ask_chat)):
        exchange = await ask(target)
        exchange.expect_status(200)
        if (named := exchange.read(Named).model) != target.model:
            raise Mismatch(f"{kind}: model {target.model!r}, as asked for", f"model {named!r}")
    return target.model


async def content_types(target: Target) -> str:
    for exchange in (await target.get(target.profile.api.models), await ask_completion(target), await ask_chat(target)):
        exchange.expect_status(200)
        if exchange.content_type != JSON:
            raise Mismatch(f"content-type: {JSON} from {exchange.url}", exchange.content_type or "no content-type")
    return JSON


COMPLETION_FIELDS = Case(
    id="ms.openai.completion-fields",
    level=Level.MUST,
    requirement="POST /v1/completions MUST answer with id, object text_completion, created, model, choices (each with "
    "index, text, finish_reason) and usage.",
    why="The protocol is this API; a client that finds a member missing fails in ways that look like the gateway's fault.",
    source="GIE Model Server Protocol (proposal 003), Inference API Protocol; OpenAI API reference, Create completion",
    suites=(GIE,),
    run=completion_fields,
)

CHAT_FIELDS = Case(
    id="ms.openai.chat-fields",
    level=Level.MUST,
    requirement="POST /v1/chat/completions MUST answer with id, object chat.completion, created, model, choices (each "
    "with index, an assistant's message, finish_reason) and usage.",
    why="Most traffic is chat.",
    source="GIE Model Server Protocol (proposal 003), Inference API Protocol; OpenAI API reference, Create chat completion",
    suites=(GIE,),
    run=chat_fields,
)

STREAM_FRAMING = Case(
    id="ms.openai.stream-framing",
    level=Level.MUST,
    requirement="With stream: true the answer MUST be text/event-stream: JSON chunks as data: events that share one id, "
    "closed by data: [DONE].",
    why="Gateways count tokens and notice the end of a request in the stream; without [DONE] an answer that was cut off "
    "cannot be told from a whole one.",
    source="OpenAI API reference, Streaming; WHATWG HTML §9.2 Server-sent events",
    suites=(GIE,),
    run=stream_framing,
)

STREAM_FINISH_REASON = Case(
    id="ms.openai.stream-finish-reason",
    level=Level.MUST,
    requirement="The last chunk of a stream that has choices MUST carry a finish_reason; in those before it is null.",
    why="It is how a client learns whether the answer is complete or was cut at max_tokens.",
    source="OpenAI API reference, The chat completion chunk object",
    needs=(STREAM_FRAMING.id,),
    suites=(GIE,),
    run=stream_finish_reason,
)

STREAM_USAGE = Case(
    id="ms.openai.stream-usage",
    level=Level.MUST,
    requirement="With stream_options.include_usage the usage MUST come in a last chunk with empty choices, and only there; "
    "without it, in no chunk.",
    why="Whoever meters streams at the gateway asks for this chunk and adds up what it finds: twice the usage is twice "
    "the bill.",
    source="OpenAI API reference, Create chat completion: stream_options.include_usage",
    needs=(STREAM_FRAMING.id,),
    run=stream_usage,
)

USAGE_SUM = Case(
    id="ms.openai.usage-sum",
    level=Level.MUST,
    requirement="The usage of a completion and of a chat MUST add up, and completion_tokens MUST NOT exceed max_tokens.",
    why="Budgets, bills and load estimates are made from these numbers.",
    source="OpenAI API reference, The completion object: usage",
    needs=(COMPLETION_FIELDS.id, CHAT_FIELDS.id),
    suites=(GIE,),
    run=usage_sum,
)

USAGE_EXACT = Case(
    id="ms.openai.usage-exact",
    level=Level.MUST,
    requirement="With ignore_eos, completion_tokens MUST equal max_tokens, and the finish_reason MUST be length.",
    why="It is the only request whose number of tokens is known beforehand, so the only one that proves the counting.",
    source="vLLM sampling parameter ignore_eos, taken over by SGLang and llama.cpp; OpenAI API reference: max_tokens",
    features=(IGNORE_EOS,),
    needs=(USAGE_SUM.id,),
    run=usage_exact,
)

MODEL_CARDS = Case(
    id="ms.openai.model-cards",
    level=Level.MUST,
    requirement="The model list MUST be an object list, and each model in it MUST have id, object model, created and owned_by.",
    why="Clients decode the list before they ask for anything; one that finds a member missing does not start.",
    source="OpenAI API reference, The model object",
    needs=(MODELS.id,),
    run=model_cards,
)

MODEL_NAMED = Case(
    id="ms.openai.model-named",
    level=Level.SHOULD,
    requirement="The model that an answer names SHOULD be the one that was asked for.",
    why="Gateways bill and count by the model in the answer, and compare it with the one that they sent the request to.",
    source="OpenAI API reference, The completion object: model",
    needs=(COMPLETION_FIELDS.id, CHAT_FIELDS.id),
    run=model_named,
)

CONTENT_TYPES = Case(
    id="ms.openai.content-types",
    level=Level.MUST,
    requirement="Answers that are not streams MUST be application/json.",
    why="Clients and the filters of gateways choose by the type whether to parse a body at all.",
    source="OpenAI API reference, Introduction; RFC 9110 §8.3",
    needs=(COMPLETION_FIELDS.id, CHAT_FIELDS.id),
    run=content_types,
)

CASES = (
    COMPLETION_FIELDS,
    CHAT_FIELDS,
    STREAM_FRAMING,
    STREAM_FINISH_REASON,
    STREAM_USAGE,
    USAGE_SUM,
    USAGE_EXACT,
    MODEL_CARDS,
    MODEL_NAMED,
    CONTENT_TYPES,
)
