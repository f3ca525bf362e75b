"""Headers and body of one HTTP request → what the judgement wants to know of it.

Only what decides is read; the engine validates the rest. Big values (messages, prompt, tools) stay views into the body, so a
quarter of a megabyte of conversation costs one pass of the JSON scanner and no copy.

Which format a body has is decided by its path: ``:path``, else ``x-original-path``, else ``x-forwarded-path``, else
``/v1/completions``; without its query, by the longest suffix of a format. A path in no format is passed on unread: it has no
model and no prompt, and the engines judge it.
"""

import math
from array import array
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from shunter.picker.core.formats import FORMATS, Format
from shunter.picker.core.judgement import Refusal
from shunter.picker.core.media import Media, audio_tokens, find_media, may_hold_media
from shunter.picker.core.multipart import find_boundary, find_field
from shunter.picker.core.prefix import NO_MATCH, Match

__all__ = ["DEFAULT_FLOW", "Body", "Request", "read"]

DEFAULT_FLOW = "default-flow"
DEFAULT_PATH = "/v1/completions"

# What the reference's estimating tokenizer uses: English text in most vocabularies has about four bytes to a token.
BYTES_PER_TOKEN = 4

BYTES_PER_ID = array("I").itemsize

# Characters of a header that a refusal repeats: no real coding is longer.
LONGEST_ENCODING = 40

# Of a list, what is looked at to see whether there is anything in it, and whether that is numbers.
GLANCE_BYTES = 64
QUOTE, SPACE = ord('"'), ord(" ")

# Of token ids, what is read; the rest is taken to be as dense. Some 150,000: prefixes are followed for 131,072,
# and ten times as many ids are 90 ms in which nobody else is served.
IDS_BYTES = 1 << 20

_ABSENT = msgspec.Raw(b"")


class Body(msgspec.Struct, frozen=True):
    """The top-level members that any format cares for. Raw members are never refused here, whatever they hold."""

    model: str | None = None
    messages: msgspec.Raw = _ABSENT
    prompt: msgspec.Raw = _ABSENT
    input: msgspec.Raw = _ABSENT
    items: msgspec.Raw = _ABSENT
    token_ids: msgspec.Raw = _ABSENT
    input_ids: msgspec.Raw = _ABSENT
    text: msgspec.Raw = _ABSENT
    text_1: msgspec.Raw = _ABSENT
    text_2: msgspec.Raw = _ABSENT
    query: msgspec.Raw = _ABSENT
    queries: msgspec.Raw = _ABSENT
    documents: msgspec.Raw = _ABSENT
    tools: msgspec.Raw = _ABSENT
    system: msgspec.Raw = _ABSENT
    instructions: msgspec.Raw = _ABSENT
    cache_salt: msgspec.Raw = _ABSENT
    stream: msgspec.Raw = _ABSENT
    max_tokens: msgspec.Raw = _ABSENT
    max_completion_tokens: msgspec.Raw = _ABSENT
    max_output_tokens: msgspec.Raw = _ABSENT
    sampling_params: msgspec.Raw = _ABSENT
    user: msgspec.Raw = _ABSENT
    session_id: msgspec.Raw = _ABSENT
    prompt_cache_key: msgspec.Raw = _ABSENT


class Sampling(msgspec.Struct):
    """The limits inside ``sampling_params`` of native bodies."""

    max_tokens: msgspec.Raw = _ABSENT
    max_new_tokens: msgspec.Raw = _ABSENT


TokenId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]

_UNREAD = Body()
_NOTHING = memoryview(b"")
_body = msgspec.json.Decoder(Body)
_sampling = msgspec.json.Decoder(Sampling)
_ids = msgspec.json.Decoder(list[TokenId])
_string = msgspec.json.Decoder(str)
_parts = msgspec.json.Decoder(list[msgspec.Raw])
_lists_of_ids = msgspec.json.Decoder(list[list[TokenId]])


class Request(msgspec.Struct, frozen=True, gc=False):
    """What plugins see of a request. From ``pool`` on the fields are the judge's: read() leaves their defaults."""

    headers: Mapping[str, str]
    format: Format | None = None  # None: passed on unread
    model: str | None = None  # as the client says
    # The JSON of the prompt without its last character, so that a longer turn extends it; or its token ids, those that are
    # read, 4 bytes each in the machine's order, whatever white space was between them.
    prompt: memoryview = memoryview(b"")
    token_ids: bool = False  # is the prompt token ids
    seed: bytes = b""  # what else a cached prefix depends on: salt, tools, system prompt
    prompt_tokens: int = 0  # an estimate, media included
    media: tuple[Media, ...] = ()
    max_output_tokens: int | None = None
    stream: bool = False
    objective: str | None = None
    fairness_id: str = DEFAULT_FLOW
    rewrite: str | None = None  # the model a header asks for instead
    request_id: str | None = None
    body: Body = _UNREAD
    pool: str | None = None  # as the gateway or the picker's command line names it
    traceparent: str | None = None  # as it came
    began_s: float | None = None  # when the first of it came, monotonic
    waited_s: float | None = None  # for room; None: it did not
    size_bytes: int = 0  # of the body
    target_model: str | None = None  # what the engine is asked for
    rule: str | None = None  # what says so, if anything does: an InferenceModelRewrite, a header, an InferenceModel
    priority: int = 0  # higher first; negative may be shed
    prefix: Match = NO_MATCH
    ticket: int = 0
    at_ns: int = 0  # monotonic
    facts: dict[str, Any] = {}  # what data producers found out, by their names

    def match(self, producer: str = "") -> Match:
        """Return what a prefix producer found out; of "", and of the only one, that is ``prefix``."""
        match = self.facts.get(producer)
        return match if isinstance(match, Match) else self.prefix

    @property
    def session_id(self) -> str | None:
        """What the client calls its conversation: the header ``x-session-id``, else a member ``session_id``."""
        return self.headers.get("x-session-id") or _text(self.body.session_id)

    @property
    def cache_salt(self) -> str | None:
        """The member ``cache_salt``: prompts of different salts share nothing that is cached."""
        return _text(self.body.cache_salt)

    @property
    def user(self) -> str | None:
        """The member ``user``."""
        return _text(self.body.user)

    @property
    def prompt_cache_key(self) -> str | None:
        """The member ``prompt_cache_key``: prompts of one key begin alike."""
        return _text(self.body.prompt_cache_key)

    @property
    def slo_ttft_ms(self) -> float | None:
        """How long the client will wait for the first token."""
        return _milliseconds(self.headers, "x-llm-d-slo-ttft-ms", "x-slo-ttft-ms")

    @property
    def slo_tpot_ms(self) -> float | None:
        """How long, on average, for each further one."""
        return _milliseconds(self.headers, "x-llm-d-slo-tpot-ms", "x-slo-tpot-ms")


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
    boundary = find_boundary(headers.get("content-type", "")) if form.form else None
    try:
        parsed = _read_form(body, boundary) if boundary else _body.decode(body)
    except RecursionError:
        return _bad("request body is nested too deeply")
    except (msgspec.DecodeError, ValueError) as error:  # ValueError: invalid UTF-8
        encoding = headers.get("content-encoding", "identity")
        if encoding != "identity":
            return _bad(f"request body has content-encoding {encoding[:LONGEST_ENCODING]}; send it as plain JSON")
        return _bad(f"request body is not the JSON expected here: {error}")
    if not parsed.model and form.model:
        return _bad("model not found in request body")
    raw, prompt = _ABSENT, _NOTHING
    for name in form.prompt:
        raw: msgspec.Raw = getattr(parsed, name)
        if _filled(memoryview(raw), text=form.text):
            prompt = memoryview(raw)
            break
    else:
        if form.prompted:
            kinds = "a string or a list" if form.text else "a list"
            return _bad(f"{form.prompt[0]} must be {kinds} and not empty")
    media = find_media(raw, headers) if form.parts and may_hold_media(body) else ()
    return _request(headers, parsed, form, prompt, media, _query_tokens(parsed, form, raw) if form.query else 0)


def _format(headers: Mapping[str, str], formats: tuple[Format, ...]) -> Format | None:
    path = headers.get(":path") or headers.get("x-original-path") or headers.get("x-forwarded-path") or DEFAULT_PATH
    path = path.partition("?")[0]
    for form in formats:
        if path.endswith(form.suffix):
            return form
    return None


def _read_form(body: bytes | bytearray, boundary: bytes) -> Body:
    """Read what a form says of the model; raise ValueError if it is not UTF-8."""
    place = find_field(body, boundary, "model")
    return Body(model=body[place[0] : place[1]].decode()) if place else Body()


def _filled(value: memoryview, *, text: bool) -> bool:
    if len(value) < 3 or value[0] not in (b'["' if text else b"["):
        return False
    # A list of nothing but white space is empty. Only a look at its first bytes is affordable, and enough: no client pads.
    return value[0] == QUOTE or value[1] > SPACE or len(value) > GLANCE_BYTES or bool(bytes(value[1:-1]).strip())


def _pack_ids(prompt: memoryview) -> tuple[bytes, int] | None:
    """Return the token ids of a list, or of lists one behind the other, with 4 bytes each, and how many; None of anything else.

    Of a long prompt only the first are read, and the number is estimated.
    """
    first = bytes(prompt[1:GLANCE_BYTES]).lstrip()[:1]
    if bytes(prompt[:1]) != b"[" or not (first.isdigit() or first == b"["):
        return None
    nested, looked_at = first == b"[", prompt
    if len(prompt) > IDS_BYTES:
        head = bytes(prompt[:IDS_BYTES]).rpartition(b",")[0].rstrip()
        looked_at = memoryview(head + (b"]]" if nested and not head.endswith(b"]") else b"]"))
    try:
        lists = _lists_of_ids.decode(looked_at) if nested else [_ids.decode(looked_at)]
    except msgspec.DecodeError:
        return None
    packed = b"".join([array("I", ids).tobytes() for ids in lists])
    return packed, len(packed) // BYTES_PER_ID * len(prompt) // len(looked_at)


def _query_tokens(parsed: Body, form: Format, prompt: msgspec.Raw) -> int:
    """Return how many tokens a query adds: all of it for each document, or each of several queries for its own."""
    queries: list[msgspec.Raw] = [getattr(parsed, name) for name in form.query]
    query = next((memoryview(each) for each in queries if each and each is not prompt), _NOTHING)
    single = bytes(query[:1]) == b'"' and bytes(memoryview(prompt)[:1]) == b"["
    return (len(_parts.decode(prompt)) if single else 1) * (len(query) // BYTES_PER_TOKEN)


def _limit(parsed: Body, form: Format) -> int | None:
    if form.sampling_limit:
        return _sampling_limit(parsed.sampling_params, form.sampling_limit)
    for name in form.output_limits:
        value: msgspec.Raw = getattr(parsed, name)
        if value and (limit := _count(value)) is not None:
            return limit
    return None


def _sampling_limit(params: msgspec.Raw, name: str) -> int | None:
    try:
        return _count(getattr(_sampling.decode(params), name))
    except (ValueError, RecursionError):  # it is something else
        return None


def _count(value: msgspec.Raw) -> int | None:
    digits = bytes(value)
    # More digits than any limit has are nonsense for the engine to refuse; int() would refuse 4,300 of them by raising.
    return int(digits) if digits.isdigit() and len(digits) < 19 else None


def _request(
    headers: Mapping[str, str],
    parsed: Body,
    form: Format | None = None,
    prompt: memoryview = _NOTHING,
    media: tuple[Media, ...] = (),
    more_tokens: int = 0,
) -> Request:
    get = headers.get
    if form is not None and not form.computed:
        prompt, media = _NOTHING, ()
    ids = _pack_ids(prompt) if form is not None and not form.parts else None
    prompt = prompt[:-1] if ids is None else memoryview(ids[0])
    tokens = (len(prompt) // BYTES_PER_TOKEN if ids is None else ids[1]) + more_tokens
    if media:
        text_bytes = len(prompt) - sum([len(each.source) for each in media])
        tokens = text_bytes // BYTES_PER_TOKEN + sum([each.tokens for each in media])
    elif form is not None and form.audio:
        tokens += audio_tokens(headers)
    return Request(  # by position, which takes a third of the time
        headers,
        form,
        parsed.model or None,
        prompt,
        ids is not None,
        b"\0".join((parsed.cache_salt, parsed.tools, parsed.system, parsed.instructions)),
        tokens,
        media,
        _limit(parsed, form) if form else None,
        bytes(parsed.stream) == b"true",
        # llm-d's name of a control header first, then the older one of GIE.
        get("x-llm-d-inference-objective") or get("x-gateway-inference-objective"),
        get("x-llm-d-inference-fairness-id") or get("x-gateway-inference-fairness-id") or DEFAULT_FLOW,
        get("x-llm-d-model-name-rewrite") or get("x-gateway-model-name-rewrite"),
        get("x-request-id"),
        parsed,
    )


def _text(value: msgspec.Raw) -> str | None:
    """Return the string that a member is, if it is one and not empty."""
    try:
        return _string.decode(value) or None if value else None
    except ValueError:
        return None


def _milliseconds(headers: Mapping[str, str], *names: str) -> float | None:
    text = next((headers[name] for name in names if headers.get(name)), "")
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None


def _bad(message: str) -> Refusal:
    return Refusal(400, "BadRequest", message)
