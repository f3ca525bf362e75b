"""What a fault is: seams at which a server is changed, and ways to write such a change."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal

import msgspec

__all__ = [
    "CHAT",
    "COMPLETED",
    "COMPLETIONS",
    "DONE",
    "KV",
    "METRICS",
    "MODELS",
    "RUNNING",
    "WAITING",
    "Fault",
    "Json",
    "Reply",
    "answer",
    "chunk",
    "error",
    "page",
    "put",
    "refuse",
    "value",
    "without",
    "without_families",
]


Json = dict[str, Any]


class Reply(msgspec.Struct, frozen=True):
    """A whole answer on its way out. `pages`: how many metrics pages the server has rendered.

    `refused` and `torn` count answers that were errors, and bodies that ended too early.
    `method` and `asked` are of the request, the names of its headers in lower case; `headers` replace those of the answer.
    """

    path: str
    status: int
    body: bytes
    pages: int
    method: str = "GET"
    asked: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    headers: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    refused: int = 0
    torn: int = 0


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One defect. `breaks`: what is wrong with a server that has it; `case`: the one of the conformance suite that notices.

    `params` are those that it was made with, if any (`dials.py`).
    """

    name: str
    breaks: str
    case: str = ""
    refuse: Callable[[str, float], int | None] | None = None
    ask: Callable[[Json], Json] | None = None
    reply: Callable[[Reply], Reply] | None = None
    event: Callable[[int, bytes], bytes] | None = None
    stall_s: Mapping[str, float] = msgspec.field(default_factory=dict[str, float])
    late_s: Callable[[int], float] | None = None
    stale_s: float = 0.0
    drag: float = 1.0
    deaf: Literal["streams", "whole", "waiting"] | None = None
    model: Callable[[str, Collection[str], Collection[str]], str] | None = None
    batch: Callable[[int, Json], None] | None = None
    number: Callable[[int], int] | None = None
    repeat: Callable[[int, bytes], bytes | None] | None = None
    rank: Callable[[int, int], int | None] | None = None
    hang: Callable[[Json], bool] | None = None
    hits: Literal["late", "shared"] | None = None
    leak: bool = False
    event_s: float = 0.0
    wire: Literal["reset", "cut", "hoard", "drip", "close", "crash"] | None = None
    mixes: bool = False
    probe: Literal["dawdles", "generates", "waits"] | None = None
    crowd: tuple[int, int, float] | None = None
    threads: int = 0
    end: Literal["ready", "cut", "error", "linger", "unhurt"] | None = None
    params: Json = {}


MODELS, COMPLETIONS, CHAT, METRICS = "/v1/models", "/v1/completions", "/v1/chat/completions", "/metrics"
COMPLETED = frozenset({COMPLETIONS, CHAT})
DONE = b"data: [DONE]"


def refuse(path: str, status: int) -> Callable[[str, float], int | None]:
    return lambda asked, _age_s: status if asked == path else None


def without(name: str) -> Callable[[Json], Json]:
    """Do not read a member of a request."""
    return lambda ask: {key: value for key, value in ask.items() if key != name}


def answer(change: Callable[[Json], None], paths: Iterable[str]) -> Callable[[Reply], Reply]:
    """Change the JSON of good answers."""
    wanted = frozenset(paths)

    def seam(reply: Reply) -> Reply:
        if reply.path not in wanted or reply.status != 200:
            return reply
        body = msgspec.json.decode(reply.body, type=Json)
        change(body)
        return msgspec.structs.replace(reply, body=msgspec.json.encode(body))

    return seam


def error(was: int, becomes: int, containing: bytes, body: bytes | None = None) -> Callable[[Reply], Reply]:
    """An error that is recognised by its status and text gets another status, or body."""

    def seam(reply: Reply) -> Reply:
        if reply.path not in COMPLETED or reply.status != was or containing not in reply.body:
            return reply
        return msgspec.structs.replace(reply, status=becomes, body=reply.body if body is None else body)

    return seam


def chunk(change: Callable[[int, Json], None]) -> Callable[[int, bytes], bytes]:
    """Change the JSON of the events of a stream, `[DONE]` excepted."""

    def seam(nth: int, event: bytes) -> bytes:
        if event.startswith(DONE):
            return event
        body = msgspec.json.decode(event[len(b"data: ") :], type=Json)
        change(nth, body)
        return b"data: " + msgspec.json.encode(body) + b"\n\n"

    return seam


def page(change: Callable[[str, Reply], str]) -> Callable[[Reply], Reply]:
    """Change the text of the metrics page."""

    def seam(reply: Reply) -> Reply:
        if reply.path != METRICS or reply.status != 200:
            return reply
        return msgspec.structs.replace(reply, body=change(reply.body.decode(), reply).encode())

    return seam


def value(family: str, change: Callable[[float, Reply], float]) -> Callable[[Reply], Reply]:
    """Change the value of each sample of a family."""
    sample = re.compile(rf"^({re.escape(family)}(?:\{{.*\}})?) (\S+)$", re.MULTILINE)
    return page(lambda page, reply: sample.sub(lambda m: f"{m[1]} {change(float(m[2]), reply)}", page))


def without_families(page: str, families: Iterable[str]) -> str:
    for family in families:
        page = re.sub(rf"^(?:# (?:HELP|TYPE) )?{re.escape(family)}[ {{].*\n", "", page, flags=re.MULTILINE)
    return page


def put(name: str, value: Any) -> Callable[[Json], None]:
    return lambda body: body.__setitem__(name, value)


RUNNING, WAITING, KV = "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"
