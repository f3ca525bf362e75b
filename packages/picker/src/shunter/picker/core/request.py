"""Headers and body of one HTTP request → what the judgement wants to know of it.

Only what decides is read; the engine validates the rest. Big values (messages, prompt, tools) stay views into the body, so a
quarter of a megabyte of conversation costs one pass of the JSON scanner and no copy.

Which format a body has is decided by its path: ``:path``, else ``x-original-path``, else ``x-forwarded-path``, else
``/v1/completions``; without its query, by the longest suffix of a format. A path in no format is passed on unread: it has no
model and no prompt, and the engines judge it.
"""

from collections.abc import Mapping
from json import JSONDecoder
from typing import Any, cast

import msgspec

from shunter.picker.core.judgement import Refusal
from shunter.picker.core.prefix import NO_MATCH, Match

__all__ = ["ANTHROPIC", "DEFAULT_FLOW", "FORMATS", "OPENAI", "Format", "Request", "read", "rewrite_model"]

DEFAULT_FLOW = "default-flow"
DEFAULT_PATH = "/v1/completions"

# What the reference's estimating tokenizer uses: English text in most vocabularies has about four bytes to a token.
BYTES_PER_TOKEN = 4

# Characters of a header that a refusal repeats: no real coding is longer.
LONGEST_ENCODING = 40


class Format(msgspec.Struct, frozen=True):
    """One kind of body: the path suffix that announces it and where its prompt and its limit are."""

    suffix: str
    prompt: str  # the field that is hashed: a JSON string or list, never empty
    output_limits: tuple[str, ...] = ()  # fields, the first present one counts
    text: bool = True  # may the prompt be a string


# The first fit counts, so a suffix stands before those that it ends with.
OPENAI = (
    Format("/chat/completions", "messages", ("max_completion_tokens", "max_tokens"), text=False),
    Format("/chat/completions/render", "messages", ("max_completion_tokens", "max_tokens"), text=False),
    Format("/completions", "prompt", ("max_tokens",)),
    Format("/completions/render", "prompt", ("max_tokens",)),
    Format("/responses", "input", ("max_output_tokens",)),
    Format("/conversations", "items", text=False),
    Format("/embeddings", "input"),
    Format("/images/generations", "prompt"),
)
ANTHROPIC = (
    Format("/messages", "messages", ("max_tokens",), text=False),
    Format("/messages/count_tokens", "messages", text=False),
)
FORMATS = OPENAI + ANTHROPIC

_ABSENT = msgspec.Raw(b"")


class Body(msgspec.Struct):
    """The top-level members that any format cares for. Raw members are never refused here, whatever they hold."""

    model: str | None = None
    messages: msgspec.Raw = _ABSENT
    prompt: msgspec.Raw = _ABSENT
    input: msgspec.Raw = _ABSENT
    items: msgspec.Raw = _ABSENT
    tools: msgspec.Raw = _ABSENT
    system: msgspec.Raw = _ABSENT
    instructions: msgspec.Raw = _ABSENT
    cache_salt: msgspec.Raw = _ABSENT
    stream: msgspec.Raw = _ABSENT
    max_tokens: msgspec.Raw = _ABSENT
    max_completion_tokens: msgspec.Raw = _ABSENT
    max_output_tokens: msgspec.Raw = _ABSENT


class Located(msgspec.Struct):
    """The model's value as it is spelt in the body."""

    model: msgspec.Raw


_UNREAD = Body()
_NOTHING = memoryview(b"")
_body = msgspec.json.Decoder(Body)
_located = msgspec.json.Decoder(Located)


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What plugins see of a request. From ``target_model`` on the fields are the judge's: read() leaves their defaults."""

    headers: Mapping[str, str]
    format: Format | None = None  # None: passed on unread
    model: str | None = None  # as the client says
    prompt: memoryview = memoryview(b"")  # the JSON of the prompt without its last character: a longer turn extends it
    seed: bytes = b""  # what else a cached prefix depends on: salt, tools, system prompt
    prompt_tokens: int = 0  # an estimate
    max_output_tokens: int | None = None
    stream: bool = False
    objective: str | None = None
    fairness_id: str = DEFAULT_FLOW
    rewrite: str | None = None  # the model a header asks for instead
    request_id: str | None = None
    target_model: str | None = None  # what the engine is asked for
    priority: int = 0  # higher first; negative may be shed
    prefix: Match = NO_MATCH
    ticket: int = 0
    at_ns: int = 0  # monotonic
    facts: dict[str, Any] = {}  # what data producers found out, by their names


def read(
    headers: Mapping[str, str],
    body: bytes | bytearray,
    *,
    has_body: bool = True,
    formats: tuple[Format, ...] = FORMATS,
    passthrough: bool = True,
) -> Request | Refusal:
    """Return the request, or 400 for a body that its path's format does not allow. Never raises.

    Without ``passthrough`` a body on a path of no format is refused too (the reference's rule when the configuration lists
    its parsers without a fallback).
    """
    form = _format(headers, formats) if has_body else None
    if form is None:
        if has_body and not passthrough:
            return _bad("no parser for this path")
        return _request(headers, _UNREAD)
    try:
        parsed = _body.decode(body)
    except RecursionError:
        return _bad("request body is nested too deeply")
    except (msgspec.DecodeError, ValueError) as error:  # ValueError: invalid UTF-8
        encoding = headers.get("content-encoding", "identity")
        if encoding != "identity":
            return _bad(f"request body has content-encoding {encoding[:LONGEST_ENCODING]}; send it as plain JSON")
        return _bad(f"request body is not the JSON expected here: {error}")
    if not parsed.model:
        return _bad("model not found in request body")
    prompt = memoryview(cast("msgspec.Raw", getattr(parsed, form.prompt)))
    if not _filled(prompt, text=form.text):
        kinds = "a string or a list" if form.text else "a list"
        return _bad(f"{form.prompt} must be {kinds} and not empty")
    return _request(headers, parsed, form, prompt[:-1])


def rewrite_model(body: bytes | bytearray, model: str) -> bytes:
    """Return ``body`` with the value of its top-level ``model`` replaced and not one other byte changed.

    ``body`` must have been read before. Of several members of that name the last one counts, as for every JSON reader.
    """
    value = bytes(_located.decode(body).model)
    start = body.find(value)
    if body.find(value, start + 1) >= 0:  # the same bytes also occur elsewhere, in a prompt for example
        start = _start_of_model(body)
    return b"".join((body[:start], msgspec.json.encode(model), body[start + len(value) :]))


def _start_of_model(body: bytes | bytearray) -> int:
    """Walk the object's members; latin-1 has one character to a byte, so offsets in the text are offsets in the body."""
    text = body.decode("latin-1")
    # Values are only skipped, and int() would refuse a number of more than 4,300 digits by raising.
    scan = JSONDecoder(strict=False, parse_int=str).raw_decode
    found, at = -1, text.index("{") + 1
    while True:
        at = _skip_space(text, at)
        if text[at] == "}":
            return found
        if text[at] == ",":
            at = _skip_space(text, at + 1)
        name, at = scan(text, at)
        at = _skip_space(text, _skip_space(text, at) + 1)  # past the colon
        if name == "model":
            found = at
        at = scan(text, at)[1]


def _skip_space(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def _format(headers: Mapping[str, str], formats: tuple[Format, ...]) -> Format | None:
    path = headers.get(":path") or headers.get("x-original-path") or headers.get("x-forwarded-path") or DEFAULT_PATH
    path = path.partition("?")[0]
    for form in formats:
        if path.endswith(form.suffix):
            return form
    return None


def _filled(value: memoryview, *, text: bool) -> bool:
    if not value or value[0] not in (b'["' if text else b"["):
        return False
    inside = value[1:-1]
    # A list of nothing but white space is empty. Only a look at its first bytes is affordable, and enough: no client pads.
    return bool(inside) if value[0] == ord('"') else bool(bytes(inside[:64]).strip() or len(inside) > 64)


def _limit(parsed: Body, form: Format) -> int | None:
    for name in form.output_limits:
        digits = bytes(cast("msgspec.Raw", getattr(parsed, name)))
        # More digits than any limit has are nonsense for the engine to refuse; int() would refuse 4,300 of them by raising.
        if digits.isdigit() and len(digits) < 19:
            return int(digits)
    return None


def _request(
    headers: Mapping[str, str],
    parsed: Body,
    form: Format | None = None,
    prompt: memoryview = _NOTHING,
) -> Request:
    get = headers.get
    return Request(
        headers=headers,
        format=form,
        model=parsed.model,
        prompt=prompt,
        seed=b"\0".join((parsed.cache_salt, parsed.tools, parsed.system, parsed.instructions)),
        prompt_tokens=len(prompt) // BYTES_PER_TOKEN,
        max_output_tokens=_limit(parsed, form) if form else None,
        stream=bytes(parsed.stream) == b"true",
        # llm-d's name of a control header first, then the older one of GIE.
        objective=get("x-llm-d-inference-objective") or get("x-gateway-inference-objective"),
        fairness_id=get("x-llm-d-inference-fairness-id") or get("x-gateway-inference-fairness-id") or DEFAULT_FLOW,
        rewrite=get("x-llm-d-model-name-rewrite") or get("x-gateway-model-name-rewrite"),
        request_id=get("x-request-id"),
    )


def _bad(message: str) -> Refusal:
    return Refusal(400, "BadRequest", message)
