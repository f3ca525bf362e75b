"""Errors: mistakes of clients that are answered wrongly."""

from shunter.lab.faults.seams import Fault, Json, error

__all__ = ["FAULTS"]


def _serve_any_model(ask: Json) -> Json:
    return {name: value for name, value in ask.items() if name != "model"}


def _invent_prompt(ask: Json) -> Json:
    return ask if "messages" in ask or ask.get("prompt") else {**ask, "prompt": "x"}


def _ignore_bad_limit(ask: Json) -> Json:
    limit = ask.get("max_tokens")
    return {**ask, "max_tokens": 1} if isinstance(limit, int) and limit < 1 else ask


FAULTS = (
    Fault(
        name="unknown-model-200",
        case="ms.errors.unknown-model",
        breaks="any model name is answered by the base model",
        ask=_serve_any_model,
    ),
    Fault(
        name="unknown-model-plain",
        case="ms.errors.unknown-model",
        breaks="an unknown model gets 404 without an error body",
        reply=error(404, 404, b"NotFoundError", b'{"detail":"Not Found"}'),
    ),
    Fault(
        name="bad-json-500",
        case="ms.errors.malformed-json",
        breaks="a body that is not JSON gets 500",
        reply=error(400, 500, b"json_invalid"),
    ),
    Fault(
        name="bad-json-200",
        case="ms.errors.malformed-json",
        breaks="a body that is not JSON gets 200",
        reply=error(400, 200, b"json_invalid"),
    ),
    Fault(
        name="missing-prompt-200",
        case="ms.errors.missing-prompt",
        breaks="a completion without prompt is answered",
        ask=_invent_prompt,
    ),
    Fault(
        name="negative-max-tokens-200",
        case="ms.errors.negative-max-tokens",
        breaks="max_tokens below 1 is answered",
        ask=_ignore_bad_limit,
    ),
    Fault(
        name="too-long-500",
        breaks="a prompt over the context window gets 500",
        reply=error(400, 500, b"maximum context length"),
    ),
)
