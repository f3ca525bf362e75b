"""Section C, errors: what is wrong with a request is said in the status, never answered with something else."""

from shunter.conformance.core.case import Case, Level
from shunter.conformance.sections.servers.answers import ErrorBody
from shunter.conformance.sections.servers.asking import ask_completion
from shunter.conformance.sections.servers.target import Target

__all__ = ["CASES", "NO_SUCH_MODEL", "UNKNOWN_MODEL"]

NO_SUCH_MODEL = "shunter-conformance/no-such-model"

# Cut off inside an object: no JSON reader accepts it, however lenient.
HALF_A_BODY = b'{"model": "'

# 422 is what frameworks that validate by schema say for the same thing (RFC 9110 §15.5.21).
REFUSED = (400, 422)


async def unknown_model(target: Target) -> str:
    exchange = await ask_completion(target, model=NO_SUCH_MODEL)
    exchange.expect_status(404)
    exchange.read(ErrorBody)
    return "404 with an error body"


async def malformed_json(target: Target) -> str:
    exchange = await target.post("/v1/completions", HALF_A_BODY)
    exchange.expect_status(400)
    return "400"


async def missing_prompt(target: Target) -> str:
    for path in ("/v1/completions", "/v1/chat/completions"):
        (await target.post(path, {"model": target.model, "max_tokens": 1})).expect_status(*REFUSED)
    return "refused without prompt, and without messages"


async def negative_max_tokens(target: Target) -> str:
    exchange = await ask_completion(target, max_tokens=-1)
    exchange.expect_status(*REFUSED)
    return str(exchange.status)


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

CASES = (UNKNOWN_MODEL, MALFORMED_JSON, MISSING_PROMPT, NEGATIVE_MAX_TOKENS)
