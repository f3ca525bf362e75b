"""Section C, errors: what is wrong with a request is said in the status, never answered with something else."""

import re
from collections.abc import Awaitable, Callable

from shunter.conformance.core.case import Case, Level
from shunter.conformance.core.exchange import Exchange, clip
from shunter.conformance.errors import Mismatch, Skip
from shunter.conformance.sections.servers.answers import ErrorBody, ModelList, WholeError
from shunter.conformance.sections.servers.asking import ask_chat, ask_completion
from shunter.conformance.sections.servers.openai import JSON
from shunter.conformance.sections.servers.reachability import MODELS
from shunter.conformance.sections.servers.target import Target

__all__ = ["CASES", "HALF_A_BODY", "MISTAKES", "NOWHERE", "NO_SUCH_MODEL", "UNKNOWN_MODEL"]

NO_SUCH_MODEL = "shunter-conformance/no-such-model"

# Cut off inside an object: no JSON reader accepts it, however lenient.
HALF_A_BODY = b'{"model": "'

# 422 is what frameworks that validate by schema say for the same thing (RFC 9110 §15.5.21).
REFUSED = (400, 422)

# What those say who refuse a prompt for its length alone.
TOO_LONG = (*REFUSED, 413)

# A word that no vocabulary has as a part of a longer token, with the space before it: at least one token each.
WORD = " wagon"

NOWHERE = "/v1/shunter-conformance/no-such-path"

# A traceback of Python, a place in a source file, or a path from the root of a file system as servers are installed.
INTERNALS = re.compile(
    r"Traceback \(most recent call last\)|File \"[^\"]*\", line \d+|\w\.(?:py|cpp|cc|rs|go):\d+"
    r"|(?<![\w/])/(?:usr|opt|home|root|srv|app|workspace|tmp|var|mnt|data|lib)/[\w.-]+"
)

Mistake = Callable[[Target], Awaitable[Exchange]]

# Mistakes of clients that every server refuses, by what is wrong.
MISTAKES: dict[str, Mistake] = {
    "not JSON": lambda target: target.post(target.profile.api.completions, HALF_A_BODY),
    "no prompt": lambda target: ask_completion(target, prompt=None),
    "no messages": lambda target: ask_chat(target, messages=None),
}

# Members of another type than they are declared with.
WRONG_TYPES: dict[str, Mistake] = {
    "prompt is an object": lambda target: ask_completion(target, prompt={"text": "wagon"}),
    "max_tokens is a text": lambda target: ask_completion(target, max_tokens="many"),
    "messages is a text": lambda target: ask_chat(target, messages="wagon"),
}


async def unknown_model(target: Target) -> str:
    exchange = await ask_completion(target, model=NO_SUCH_MODEL)
    exchange.expect_status(404)
    exchange.read(ErrorBody)
    return "404 with an error body"


async def malformed_json(target: Target) -> str:
    exchange = await MISTAKES["not JSON"](target)
    exchange.expect_status(400)
    return "400"


async def missing_prompt(target: Target) -> str:
    for wrong in ("no prompt", "no messages"):
        (await MISTAKES[wrong](target)).expect_status(*REFUSED)
    return "refused without prompt, and without messages"


async def negative_max_tokens(target: Target) -> str:
    exchange = await ask_completion(target, max_tokens=-1)
    exchange.expect_status(*REFUSED)
    return str(exchange.status)


async def wrong_types(target: Target) -> str:
    for wrong, mistake in WRONG_TYPES.items():
        exchange = await mistake(target)
        if exchange.status not in REFUSED:
            wanted = f"HTTP {' or '.join(map(str, REFUSED))} where {wrong}"
            raise Mismatch(wanted, f"HTTP {exchange.status}: {clip(exchange.text)!r}")
    return ", ".join(WRONG_TYPES)


async def context_overflow(target: Target) -> str:
    context = (await target.get(target.profile.api.models)).read(ModelList).context(target.model)
    if context is None:
        raise Skip("the model list does not say how long its context is (max_model_len)")
    exchange = await ask_completion(target, prompt=WORD * (context + 1))
    if exchange.status not in TOO_LONG:
        raise Mismatch(
            f"HTTP {' or '.join(map(str, TOO_LONG))} for {context + 1} words in a context of {context} tokens",
            f"HTTP {exchange.status}: {clip(exchange.text)!r}",
        )
    return f"{exchange.status} for {context + 1} words in a context of {context} tokens"


async def stream_refused(target: Target) -> str:
    exchange = await ask_chat(target, messages=None, stream=True)
    exchange.expect_status(*REFUSED)
    if exchange.content_type == "text/event-stream":
        raise Mismatch("an error, and no stream", f"HTTP {exchange.status} with content-type {exchange.content_type}")
    return f"{exchange.status}, no stream"


async def body(target: Target) -> str:
    types: set[str] = set()
    for wrong, mistake in MISTAKES.items():
        exchange = await mistake(target)
        if exchange.content_type != JSON:
            raise Mismatch(f"content-type: {JSON} of the error for {wrong!r}", exchange.content_type or "no content-type")
        types.add(exchange.read(WholeError).error.type)
    return f"error with message and type: {', '.join(sorted(types))}"


async def internals(target: Target) -> str:
    for mistake in (*MISTAKES.values(), *WRONG_TYPES.values()):
        exchange = await mistake(target)
        # A model is often called by the path that it was loaded from, and an error may repeat what it was asked.
        said = exchange.text.replace('\\"', '"').replace("\\/", "/").replace(target.model, "")
        if found := INTERNALS.search(said):
            wanted = "an error without a traceback or the path of a file"
            raise Mismatch(wanted, f"{clip(found[0])!r} in {clip(exchange.text)!r}")
    return f"nothing of it in {len(MISTAKES) + len(WRONG_TYPES)} errors"


async def wrong_method(target: Target) -> str:
    seen: list[str] = []
    for path in (target.profile.api.completions, target.profile.api.chat):
        exchange = await target.get(path)
        exchange.expect_status(404, 405)
        seen.append(f"GET {path} → {exchange.status}")
    return ", ".join(seen)


async def unknown_path(target: Target) -> str:
    for exchange in (await target.get(NOWHERE), await target.post(NOWHERE, {})):
        exchange.expect_status(404)
    return "404"


UNKNOWN_MODEL = Case(
    id="ms.errors.unknown-model",
    level=Level.MUST,
    requirement="A request for a model that the server does not serve MUST be answered with 404 and an error body.",
    why="A server that answers with another model instead hides routing mistakes: an adapter that is not loaded is "
    "silently replaced by its base model.",
    source="OpenAI API reference, Error codes; GIE Model Server Protocol (proposal 003), LoRA Adapter Serving",
    run=unknown_model,
)

MALFORMED_JSON = Case(
    id="ms.errors.malformed-json",
    level=Level.MUST,
    requirement="A body that is not JSON MUST be answered with 400.",
    why="Gateways retry 5xx on other replicas; a request that can never succeed would visit all of them.",
    source="RFC 9110 §15.5.1; OpenAI API reference, Error codes",
    run=malformed_json,
)

MISSING_PROMPT = Case(
    id="ms.errors.missing-prompt",
    level=Level.MUST,
    requirement="A completion without prompt, and a chat without messages, MUST be refused with 400 or 422.",
    why="Whatever is generated from nothing is paid for; and a 5xx would be retried on every replica.",
    source="OpenAI API reference, Create completion and Create chat completion: required members",
    run=missing_prompt,
)

NEGATIVE_MAX_TOKENS = Case(
    id="ms.errors.negative-max-tokens",
    level=Level.MUST,
    requirement="A completion with a negative max_tokens MUST be refused with 400 or 422.",
    why="Servers that take it for 'no limit' generate until the context is full, for a client that asked for nothing.",
    source="OpenAI API reference, Create completion: max_tokens",
    run=negative_max_tokens,
)

TYPES = Case(
    id="ms.errors.wrong-types",
    level=Level.MUST,
    requirement="A prompt, messages or max_tokens of a wrong type MUST be refused with 400 or 422.",
    why="A 5xx for a client's mistake is retried elsewhere and counts against the server, which outlier detection ejects.",
    source="OpenAI API reference, Create completion and Create chat completion; RFC 9110 §15.5.1",
    needs=(MALFORMED_JSON.id,),
    run=wrong_types,
)

CONTEXT_OVERFLOW = Case(
    id="ms.errors.context-overflow",
    level=Level.MUST,
    requirement="A prompt that is longer than the context MUST be refused with 400, 413 or 422, and not be cut.",
    why="Half a question gets a confident answer to something else; a 5xx sends the prompt to every other replica, too.",
    source="OpenAI API reference, Error codes: context_length_exceeded",
    needs=(MODELS.id,),
    run=context_overflow,
)

STREAM_REFUSED = Case(
    id="ms.errors.stream-refused",
    level=Level.SHOULD,
    requirement="A mistake in a request for a stream SHOULD be answered by the status, not in a stream that begins with 200.",
    why="Gateways, retries and metrics look at the status; a client that reads deltas does not find an error among them.",
    source="OpenAI API reference, Streaming and Error codes",
    needs=(MISSING_PROMPT.id,),
    run=stream_refused,
)

BODY = Case(
    id="ms.errors.body",
    level=Level.SHOULD,
    requirement="An error SHOULD be JSON with an error that has a message and a type.",
    why="Client libraries show error.message; of anything else their users see a status and no reason.",
    source="OpenAI API reference, Error codes: the error object",
    needs=(MALFORMED_JSON.id, MISSING_PROMPT.id),
    run=body,
)

NO_INTERNALS = Case(
    id="ms.errors.internals",
    level=Level.SHOULD,
    requirement="An error SHOULD NOT tell a traceback, or the path of a file of the server.",
    why="It tells strangers what is installed where, and in which version.",
    source="CWE-209: Generation of Error Message Containing Sensitive Information",
    needs=(MALFORMED_JSON.id, MISSING_PROMPT.id),
    run=internals,
)

WRONG_METHOD = Case(
    id="ms.errors.wrong-method",
    level=Level.MUST,
    requirement="GET where only POST is served MUST be answered with 405 or 404.",
    why="Probes and crawlers do it; a 5xx would be counted as the server's failure, a 200 as an answer.",
    source="RFC 9110 §15.5.6",
    run=wrong_method,
)

UNKNOWN_PATH = Case(
    id="ms.errors.unknown-path",
    level=Level.SHOULD,
    requirement="A path that the server does not have SHOULD be answered with 404.",
    why="Clients find out by it which APIs there are; a page of HTML with 200 looks like one.",
    source="RFC 9110 §15.5.5",
    run=unknown_path,
)

CASES = (
    UNKNOWN_MODEL,
    MALFORMED_JSON,
    MISSING_PROMPT,
    NEGATIVE_MAX_TOKENS,
    TYPES,
    CONTEXT_OVERFLOW,
    STREAM_REFUSED,
    BODY,
    NO_INTERNALS,
    WRONG_METHOD,
    UNKNOWN_PATH,
)
