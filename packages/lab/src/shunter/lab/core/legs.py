"""One request as several: what the engine that computes the prompt is asked, what the one that decodes, what those that encode.

Both engines have to be told that they work for each other; each connector has members of its own for that:

nixlv2  one after the other. Prefill: one token, not streamed, `kv_transfer_params` with `do_remote_decode`; its answer has the
        `kv_transfer_params` with which the decoder finds the blocks (vLLM with NixlConnector)
sglang  both at once, with the same `bootstrap_room`, where the two engines meet; the prefiller's answer is worth nothing

Who encodes is asked for one token of a prompt that is nothing but the picture. Whoever computes the prompt finds what came of
it in storage that they share (vLLM's ECExampleConnector), by the hash of what it shows: neither answer has to tell.

Source: what llm-d's sidecar sends for its connectors of these names, and what vLLM 0.32 answers.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, TypeAlias, cast

import msgspec

from shunter.lab.core.media import MEDIA

__all__ = [
    "LIMITS",
    "Body",
    "Prefilled",
    "encoder_bodies",
    "is_divisible",
    "meeting_body",
    "prefill_body",
    "read_addresses",
    "read_body",
    "read_prefilled",
    "tell_cached",
]

Body: TypeAlias = dict[str, Any]

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"

# The members that limit an answer's length, by the path of the API.
LIMITS: dict[str, Sequence[str]] = {
    CHAT: ("max_tokens", "max_completion_tokens"),
    "/v1/completions": ("max_tokens",),
    MESSAGES: ("max_tokens",),
    RESPONSES: ("max_output_tokens",),
    "/inference/v1/generate": (),  # there they are in sampling_params
}

# Where what is not words stands, by the path of the API: the member with messages, those of each that have parts, and types of
# parts that vLLM takes there.
_SHOWN: dict[str, tuple[str, Sequence[str], Collection[str]]] = {
    CHAT: ("messages", ("content",), MEDIA),
    MESSAGES: ("messages", ("content",), {"image"}),
    RESPONSES: ("input", ("content", "output"), {"input_image"}),  # `output`: of a function that was called
}

_REMOTE = ("remote_engine_id", "remote_block_ids", "remote_host", "remote_port")


# Inside a JSON string its quotes would be escaped, so it is a member wherever it stands.
_CACHED = re.compile(rb'("cached_tokens"\s*:\s*)\d+')


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None


class Prefilled(msgspec.Struct):
    """What a prefiller's answer is read for."""

    kv_transfer_params: Body | None = None  # where the blocks are, in the engines' own words
    usage: _Usage | None = None

    @property
    def cached_tokens(self) -> int | None:
        """How much of the prompt was cached; None if it does not tell."""
        details = self.usage and (self.usage.prompt_tokens_details or self.usage.input_tokens_details)
        return details.cached_tokens if details else None


_body = msgspec.json.Decoder(Body)
_prefilled = msgspec.json.Decoder(Prefilled)


def read_body(data: bytes) -> Body | None:
    """Return a request, if it is an object."""
    try:
        return _body.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def is_divisible(body: Body) -> bool:
    """Say whether a request is of one prompt and one answer, for which one set of blocks is enough."""
    prompt = body.get("prompt")
    several = isinstance(prompt, list) and not all(isinstance(each, int) for each in cast("list[object]", prompt))
    return not several and body.get("n", 1) in (1, None)


def read_prefilled(data: bytes) -> Prefilled | None:
    """Return what a prefiller answered, if it tells where the blocks are."""
    try:
        answer = _prefilled.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return answer if answer.kv_transfer_params else None


def prefill_body(path: str, body: Body) -> Body:
    """Return what the prefiller is asked (nixlv2): the same prompt and one token."""
    leg = {name: value for name, value in body.items() if name != "stream_options"}
    leg |= {"stream": False} | dict.fromkeys(LIMITS[path], 1)
    if "min_tokens" in leg:
        leg["min_tokens"] = 1
    sampling = leg.get("sampling_params")
    if isinstance(sampling, dict):
        leg["sampling_params"] = sampling | {"max_tokens": 1, "min_tokens": 1}
    leg["kv_transfer_params"] = {"do_remote_decode": True, "do_remote_prefill": False} | dict.fromkeys(_REMOTE)
    return leg


def encoder_bodies(path: str, body: Body) -> list[Body]:
    """Return what those are asked that encode: of a prompt each picture, clip or recording once, and none of its words.

    It is asked in the words of the same API, so that the engine reads what is shown there as it will read it in the request.
    """
    if path not in _SHOWN:
        return []
    member, places, kinds = _SHOWN[path]
    parts = [part for message in _objects(body.get(member)) for part in _parts(message, places) if _is_of(part, kinds)]
    kept = {name: body[name] for name in ("model", "mm_processor_kwargs") if name in body}
    kept |= {LIMITS[path][0]: 1, "stream": False}
    if path == RESPONSES:
        kept["store"] = False
    once = {msgspec.json.encode(part, order="sorted"): part for part in parts}
    return [kept | {member: [{"role": "user", "content": [part]}]} for part in once.values()]


def _is_of(part: Body, kinds: Collection[str]) -> bool:
    kind = part.get("type")
    return isinstance(kind, str) and kind in kinds


def _parts(message: Body, places: Sequence[str]) -> Iterator[Body]:
    """Yield a message's parts, and in the place of what a tool returned (Anthropic) the parts of that."""
    for place in places:
        for part in _objects(message.get(place)):
            yield part
            if part.get("type") == "tool_result":
                yield from _objects(part.get("content"))


def _objects(value: object) -> list[Body]:
    """Return those members of a list that are objects; of anything else nothing."""
    members = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("Body", each) for each in members if isinstance(each, dict)]


def meeting_body(body: Body, host: str, port: int, room: int) -> Body:
    """Return what both are asked (sglang)."""
    return body | {"bootstrap_host": host, "bootstrap_port": port, "bootstrap_room": room}


def read_addresses(header: str) -> list[str]:
    """Return the `host:port` of a header that lists some, best first."""
    return [address for each in header.split(",") if (address := each.strip())]


def tell_cached(data: bytes, cached: int) -> bytes:
    """Return an answer, or a line of a stream, with the prefiller's number of cached tokens.

    To the decoder all that it fetched was cached, which is not what a client wants to know.
    """
    return _CACHED.sub(rb"\g<1>%d" % cached, data)
