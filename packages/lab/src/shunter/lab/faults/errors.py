"""Errors: mistakes of clients that are answered wrongly."""

from collections.abc import Collection

import msgspec

from shunter.lab.faults.seams import COMPLETED, Fault, Json, Reply, error

__all__ = ["FAULTS"]


def _serve_any_model(asked: str, loaded: Collection[str], _: Collection[str]) -> str:
    return asked if asked in loaded else ""


def _invent_prompt(ask: Json) -> Json:
    return ask if "messages" in ask or ask.get("prompt") else {**ask, "prompt": "x"}


def _invent_streams(ask: Json) -> Json:
    return {**ask, "messages": [{"role": "user", "content": "x"}]} if ask.get("stream") and not ask.get("messages") else ask


def _cut_prompt(ask: Json) -> Json:
    prompt = ask.get("prompt")
    return {**ask, "prompt": prompt[-CUT_CHARS:]} if isinstance(prompt, str) else ask


def _answer_any_method(reply: Reply) -> Reply:
    got = reply.path in COMPLETED and reply.status == 405
    return msgspec.structs.replace(reply, status=200, body=b"{}") if got else reply


def _answer_any_path(reply: Reply) -> Reply:
    lost = reply.path.startswith("/v1/") and reply.body == b'{"detail":"Not Found"}'
    page = {"Content-Type": "text/html"}
    return msgspec.structs.replace(reply, status=200, body=b"<html>Welcome!</html>", headers=page) if lost else reply


def _tell_place(reply: Reply) -> Reply:
    if reply.path not in COMPLETED or reply.status != 400:
        return reply
    body = msgspec.json.decode(reply.body, type=Json)
    body["error"]["message"] += '\n  File "/opt/venv/lib/python3.12/site-packages/engine/server.py", line 1860, in complete'
    return msgspec.structs.replace(reply, body=msgspec.json.encode(body))


def _ignore_bad_limit(ask: Json) -> Json:
    limit = ask.get("max_tokens")
    return {**ask, "max_tokens": 1} if isinstance(limit, int) and limit < 1 else ask


# What is left of a long prompt: less than any context.
CUT_CHARS = 2000


FAULTS = (
    Fault(
        name="unknown-model-200",
        case="ms.errors.unknown-model",
        breaks="any name but that of a loaded adapter is answered by the base model",
        model=_serve_any_model,
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
        case="ms.errors.context-overflow",
        breaks="a prompt over the context window gets 500",
        reply=error(400, 500, b"maximum context length"),
    ),
    Fault(
        name="too-long-cut",
        case="ms.errors.context-overflow",
        breaks=f"of a long prompt the last {CUT_CHARS} characters are answered",
        ask=_cut_prompt,
    ),
    Fault(
        name="wrong-type-500",
        case="ms.errors.wrong-types",
        breaks="max_tokens that is no number gets 500",
        reply=error(400, 500, b"body.max_tokens"),
    ),
    Fault(
        name="bad-stream-200",
        case="ms.errors.stream-refused",
        breaks="a stream of a chat without messages is begun",
        ask=_invent_streams,
    ),
    Fault(
        name="error-unwrapped",
        case="ms.errors.body",
        breaks="an error is not in a member error, as in SGLang 0.5",
        reply=error(400, 400, b"", b'{"object":"error","message":"no","type":"Bad Request","param":null,"code":400}'),
    ),
    Fault(
        name="error-page",
        case="ms.errors.body",
        breaks="an error is a page of HTML",
        reply=error(400, 400, b"", b"<html><body>Bad Request</body></html>"),
    ),
    Fault(
        name="error-tells-place",
        case="ms.errors.internals",
        breaks="an error tells in which file of the server it was found, as in SGLang 0.5",
        reply=_tell_place,
    ),
    Fault(
        name="get-completions-200",
        case="ms.errors.wrong-method",
        breaks="GET of a path that is for POST gets 200",
        reply=_answer_any_method,
    ),
    Fault(
        name="any-path-200",
        case="ms.errors.unknown-path",
        breaks="a path that does not exist is answered with a page of HTML",
        reply=_answer_any_path,
    ),
)
