"""Named defects: each makes a server wrong in exactly one way, so that whoever judges servers can be seen to notice.

A fault is a value with up to seven seams, and the server applies the seams of the faults it was given:

* `refuse` answers a path with an empty error, knowing for how many seconds the server has listened;
* `ask` changes the JSON object of a completion or chat request before it is read;
* `reply` changes a whole answer (status, body) on its way out;
* `event` changes one server-sent event of a stream; an empty one is not sent;
* `stall_s` makes the answers of a path late;
* `deaf` lets what the engine has go on though its client has hung up: streams, whole answers, or what waits;
* `wire` breaks the connection: `reset` answers nothing, `cut` ends a stream in its middle, `drip` sends byte by byte.

`FAULTS` lists them all, in the order of the model-server protocol's sections.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import msgspec

from shunter.lab.errors import ParamsError

__all__ = ["FAULTS", "Fault", "Reply", "faults_named"]

# Later than any reasonable bound on an answer about models, soon enough for a test to wait for.
LATE_S = 3.0
# A server that starts slowly: not ready for so long after it listens.
SLOW_START_S = 2.0

Json = dict[str, Any]


class Reply(msgspec.Struct, frozen=True):
    """A whole answer on its way out. `pages`: how many metrics pages the server has rendered."""

    path: str
    status: int
    body: bytes
    pages: int


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One defect. `breaks`: what is wrong with a server that has it."""

    name: str
    breaks: str
    refuse: Callable[[str, float], int | None] | None = None
    ask: Callable[[Json], Json] | None = None
    reply: Callable[[Reply], Reply] | None = None
    event: Callable[[int, bytes], bytes] | None = None
    stall_s: Mapping[str, float] = msgspec.field(default_factory=dict[str, float])
    deaf: Literal["streams", "whole", "waiting"] | None = None
    wire: Literal["reset", "cut", "drip"] | None = None


def faults_named(names: Iterable[str]) -> tuple[Fault, ...]:
    """The faults of these names; an unknown one is answered with near matches."""
    found: list[Fault] = []
    for name in names:
        fault = FAULTS.get(name)
        if fault is None:
            near = difflib.get_close_matches(name, FAULTS, n=3)
            raise ParamsError(
                f"fault {name!r} does not exist; " + (f"near: {', '.join(near)}" if near else "`shunter lab faults` lists them")
            )
        found.append(fault)
    return tuple(found)


# How the seams are written: what to change, and where.

_MODELS, _COMPLETIONS, _CHAT, _METRICS = "/v1/models", "/v1/completions", "/v1/chat/completions", "/metrics"
_COMPLETED = frozenset({_COMPLETIONS, _CHAT})
_DONE = b"data: [DONE]"


def _refuse(path: str, status: int) -> Callable[[str, float], int | None]:
    return lambda asked, _age_s: status if asked == path else None


def _answer(change: Callable[[Json], None], paths: Iterable[str]) -> Callable[[Reply], Reply]:
    """Change the JSON of good answers."""
    wanted = frozenset(paths)

    def seam(reply: Reply) -> Reply:
        if reply.path not in wanted or reply.status != 200:
            return reply
        body = msgspec.json.decode(reply.body, type=Json)
        change(body)
        return msgspec.structs.replace(reply, body=msgspec.json.encode(body))

    return seam


def _error(was: int, becomes: int, containing: bytes, body: bytes | None = None) -> Callable[[Reply], Reply]:
    """An error that is recognised by its status and text gets another status, or body."""

    def seam(reply: Reply) -> Reply:
        if reply.path not in _COMPLETED or reply.status != was or containing not in reply.body:
            return reply
        return msgspec.structs.replace(reply, status=becomes, body=reply.body if body is None else body)

    return seam


def _chunk(change: Callable[[int, Json], None]) -> Callable[[int, bytes], bytes]:
    """Change the JSON of the events of a stream, `[DONE]` excepted."""

    def seam(nth: int, event: bytes) -> bytes:
        if event.startswith(_DONE):
            return event
        body = msgspec.json.decode(event[len(b"data: ") :], type=Json)
        change(nth, body)
        return b"data: " + msgspec.json.encode(body) + b"\n\n"

    return seam


def _page(change: Callable[[str, Reply], str]) -> Callable[[Reply], Reply]:
    """Change the text of the metrics page."""

    def seam(reply: Reply) -> Reply:
        if reply.path != _METRICS or reply.status != 200:
            return reply
        return msgspec.structs.replace(reply, body=change(reply.body.decode(), reply).encode())

    return seam


def _value(family: str, change: Callable[[float, Reply], float]) -> Callable[[Reply], Reply]:
    """Change the value of each sample of a family."""
    sample = re.compile(rf"^({re.escape(family)}(?:\{{.*\}})?) (\S+)$", re.MULTILINE)
    return _page(lambda page, reply: sample.sub(lambda m: f"{m[1]} {change(float(m[2]), reply)}", page))


def _without_families(page: str, families: Iterable[str]) -> str:
    for family in families:
        page = re.sub(rf"^(?:# (?:HELP|TYPE) )?{re.escape(family)}[ {{].*\n", "", page, flags=re.MULTILINE)
    return page


def _set(name: str, value: Any) -> Callable[[Json], None]:
    return lambda body: body.__setitem__(name, value)


# The defects themselves.


def _drop_choices(body: Json) -> None:
    del body["choices"]


def _unfinished(_: int, body: Json) -> None:
    for choice in body["choices"]:
        choice["finish_reason"] = None


def _wrong_role(body: Json) -> None:
    for choice in body["choices"]:
        choice["message"]["role"] = "user"


def _miscount(body: Json) -> None:
    body["usage"]["total_tokens"] += 1


def _say_too_little(body: Json) -> None:
    usage = body["usage"]
    usage["completion_tokens"] -= 1
    usage["total_tokens"] -= 1


def _usage_everywhere(_: int, body: Json) -> None:
    body.setdefault("usage", {"prompt_tokens": 1, "total_tokens": 2, "completion_tokens": 1})


def _serve_any_model(ask: Json) -> Json:
    return {name: value for name, value in ask.items() if name != "model"}


def _invent_prompt(ask: Json) -> Json:
    return ask if "messages" in ask or ask.get("prompt") else {**ask, "prompt": "x"}


def _ignore_bad_limit(ask: Json) -> Json:
    limit = ask.get("max_tokens")
    return {**ask, "max_tokens": 1} if isinstance(limit, int) and limit < 1 else ask


def _break_syntax(page: str, _: Reply) -> str:
    return page + 'vllm:num_requests_running{engine="0",model_name= 0\n'


def _repeat_series(page: str, _: Reply) -> str:
    return re.sub(r"^(vllm:num_requests_running\{.*\n)", r"\1\1", page, flags=re.MULTILINE)


def _type_after_samples(page: str, _: Reply) -> str:
    return re.sub(r"^(# TYPE vllm:num_requests_running .*\n)(vllm:.*\n)", r"\2\1", page, flags=re.MULTILINE)


def _hide_gauges_until_used(page: str, _: Reply) -> str:
    if re.search(r"^vllm:prompt_tokens_total\{.*\} 0\.0$", page, re.MULTILINE):
        return _without_families(page, ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"))
    return page


def _hide_queue(page: str, _: Reply) -> str:
    return _without_families(page, ("vllm:num_requests_waiting",))


def _misdeclare(page: str, _: Reply) -> str:
    return page.replace("# TYPE vllm:num_requests_waiting gauge", "# TYPE vllm:num_requests_waiting counter")


def _rename_model(page: str, _: Reply) -> str:
    return re.sub(r'model_name="[^"]*"', 'model_name="somebody-else"', page)


def _second_engine(page: str, _: Reply) -> str:
    return re.sub(
        r'^(vllm:num_requests_running\{)engine="0"(.*\n)', r'\1engine="0"\2\1engine="0",rank="1"\2', page, flags=re.MULTILINE
    )


def _merge_adapter_lists(page: str, _reply: Reply) -> str:
    def merged(match: re.Match[str]) -> str:
        names = ",".join(sorted({*match[1].split(","), *match[2].split(",")} - {""}))
        return f'running_lora_adapters="{names}",waiting_lora_adapters="{names}"'

    lists = re.compile(r'running_lora_adapters="([^"]*)",waiting_lora_adapters="([^"]*)"')
    newest: dict[str, float] = {}
    for line in page.splitlines():
        if line.startswith("vllm:lora_requests_info{"):
            series, _, value = lists.sub(merged, line).rpartition(" ")
            newest[series] = max(float(value), newest.get(series, 0.0))
    kept = re.sub(r"^vllm:lora_requests_info\{.*\n", "", page, flags=re.MULTILINE)
    lines = "".join(f"{series} {value}\n" for series, value in newest.items())
    return re.sub(r"^(# TYPE vllm:lora_requests_info gauge\n)", lambda m: m[1] + lines, kept, flags=re.MULTILINE)


_RUNNING, _WAITING, _KV = "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"

FAULTS: Mapping[str, Fault] = {
    fault.name: fault
    for fault in (
        # Reachability.
        Fault(name="health-503", breaks="/health answers 503 although the server serves", refuse=_refuse("/health", 503)),
        Fault(name="models-slow-after-ready", breaks=f"/v1/models answers {LATE_S} s late", stall_s={_MODELS: LATE_S}),
        Fault(name="models-404", breaks="/v1/models answers 404", refuse=_refuse(_MODELS, 404)),
        Fault(name="metrics-slow-after-ready", breaks=f"/metrics answers {LATE_S} s late", stall_s={_METRICS: LATE_S}),
        # OpenAI API.
        Fault(
            name="completion-missing-choices",
            breaks="a completion has no choices",
            reply=_answer(_drop_choices, {_COMPLETIONS}),
        ),
        Fault(
            name="completion-wrong-object",
            breaks="a completion calls itself a list",
            reply=_answer(_set("object", "list"), {_COMPLETIONS}),
        ),
        Fault(
            name="chat-wrong-object",
            breaks="a chat answer calls itself text_completion",
            reply=_answer(_set("object", "text_completion"), {_CHAT}),
        ),
        Fault(name="chat-wrong-role", breaks="a chat answer has the role user", reply=_answer(_wrong_role, {_CHAT})),
        Fault(
            name="sse-no-done",
            breaks="a stream ends without data: [DONE]",
            event=lambda _, event: b"" if event.startswith(_DONE) else event,
        ),
        Fault(
            name="sse-bare-json",
            breaks="the events of a stream have no data: field",
            event=lambda _, event: event.removeprefix(b"data: "),
        ),
        Fault(
            name="sse-id-changes",
            breaks="the events of one stream have different ids",
            event=_chunk(lambda nth, body: body.__setitem__("id", f"{body['id']}-{nth}")),
        ),
        Fault(name="finish-reason-missing", breaks="no event of a stream has a finish_reason", event=_chunk(_unfinished)),
        Fault(
            name="usage-does-not-add-up",
            breaks="total_tokens is not prompt_tokens + completion_tokens",
            reply=_answer(_miscount, _COMPLETED),
        ),
        Fault(
            name="usage-short",
            breaks="completion_tokens is one less than were asked for with ignore_eos",
            reply=_answer(_say_too_little, _COMPLETED),
        ),
        Fault(
            name="usage-in-every-event",
            breaks="every event of a stream has usage although nobody asked",
            event=_chunk(_usage_everywhere),
        ),
        # Errors.
        Fault(name="unknown-model-200", breaks="any model name is answered by the base model", ask=_serve_any_model),
        Fault(
            name="unknown-model-plain",
            breaks="an unknown model gets 404 without an error body",
            reply=_error(404, 404, b"NotFoundError", b'{"detail":"Not Found"}'),
        ),
        Fault(name="bad-json-500", breaks="a body that is not JSON gets 500", reply=_error(400, 500, b"json_invalid")),
        Fault(
            name="bad-json-200",
            breaks="a body that is not JSON gets 200",
            reply=_error(400, 200, b"json_invalid"),
        ),
        Fault(name="missing-prompt-200", breaks="a completion without prompt is answered", ask=_invent_prompt),
        Fault(name="negative-max-tokens-200", breaks="max_tokens below 1 is answered", ask=_ignore_bad_limit),
        Fault(
            name="too-long-500",
            breaks="a prompt over the context window gets 500",
            reply=_error(400, 500, b"maximum context length"),
        ),
        # Metrics.
        Fault(name="metrics-404", breaks="/metrics answers 404", refuse=_refuse(_METRICS, 404)),
        Fault(
            name="metrics-json",
            breaks="/metrics answers JSON",
            reply=_page(lambda _page, _: '[{"numActiveRequests": 0}]'),
        ),
        Fault(name="metrics-malformed", breaks="a line of the page has no closing brace", reply=_page(_break_syntax)),
        Fault(name="metrics-duplicate-series", breaks="one series stands twice on the page", reply=_page(_repeat_series)),
        Fault(
            name="metrics-type-after-samples",
            breaks="a TYPE line follows the samples of its family",
            reply=_page(_type_after_samples),
        ),
        Fault(
            name="family-missing-before-request",
            breaks="the queue, running and KV families appear with the first request only",
            reply=_page(_hide_gauges_until_used),
        ),
        Fault(name="queue-family-missing", breaks="there is no queue family", reply=_page(_hide_queue)),
        Fault(name="gauge-declared-counter", breaks="the queue gauge is declared a counter", reply=_page(_misdeclare)),
        Fault(
            name="counter-decreases",
            breaks="the generated tokens fall from page to page",
            reply=_value("vllm:generation_tokens_total", lambda value, reply: value + 1e9 - 1e6 * reply.pages),
        ),
        Fault(name="kv-above-one", breaks="KV usage is a percentage above 1", reply=_value(_KV, lambda _was, _: 37.5)),
        Fault(name="kv-nan", breaks="KV usage is NaN", reply=_value(_KV, lambda _was, _: float("nan"))),
        Fault(name="negative-queue", breaks="the queue is −1", reply=_value(_WAITING, lambda _was, _: -1.0)),
        Fault(name="fractional-queue", breaks="half a request waits", reply=_value(_WAITING, lambda was, _: was + 0.5)),
        Fault(
            name="idle-not-zero",
            breaks="one request runs for ever",
            reply=_value(_RUNNING, lambda was, _: max(was, 1.0)),
        ),
        Fault(name="metrics-wrong-model", breaks="metrics are labelled with another model", reply=_page(_rename_model)),
        Fault(name="engine-series-doubled", breaks="one engine has two running series", reply=_page(_second_engine)),
        # Load.
        Fault(name="running-frozen", breaks="nothing ever runs, says the gauge", reply=_value(_RUNNING, lambda _was, _: 0.0)),
        Fault(name="queue-frozen", breaks="nothing ever waits, says the gauge", reply=_value(_WAITING, lambda _was, _: 0.0)),
        Fault(
            name="running-doubled", breaks="each running request counts twice", reply=_value(_RUNNING, lambda was, _: 2 * was)
        ),
        Fault(
            name="queue-jumps",
            breaks="a queue of less than four jumps back on every second page",
            reply=_value(_WAITING, lambda was, reply: was + 50 * (reply.pages % 2) if 0 < was < 4 else was),
        ),
        Fault(name="kv-frozen", breaks="the cache is always empty, says the gauge", reply=_value(_KV, lambda _was, _: 0.0)),
        Fault(
            name="tokens-halved",
            breaks="half of the generated tokens are counted",
            reply=_value("vllm:generation_tokens_total", lambda was, _: was // 2),
        ),
        # Cancellation.
        Fault(name="deaf-to-streams", breaks="a stream goes on when its client has hung up", deaf="streams"),
        Fault(name="deaf-to-whole", breaks="an answer goes on when its client has hung up", deaf="whole"),
        Fault(name="deaf-to-waiting", breaks="what waits goes on waiting when its client has hung up", deaf="waiting"),
        Fault(
            name="lora-lists-equal",
            breaks="running and waiting adapters are one list, as in vLLM 0.12 to 0.32",
            reply=_page(_merge_adapter_lists),
        ),
        # Operation.
        Fault(name="metrics-hang", breaks="/metrics accepts and never answers", stall_s={_METRICS: float("inf")}),
        Fault(name="metrics-drip", breaks="/metrics sends one byte at a time", wire="drip"),
        Fault(name="close-mid-stream", breaks="a stream is cut after its second event", wire="cut"),
        Fault(name="refuse-new", breaks="every request's connection is reset unanswered", wire="reset"),
        Fault(
            name="slow-start",
            breaks=f"everything answers 503 for {SLOW_START_S} s after the server listens",
            refuse=lambda _path, age_s: 503 if age_s < SLOW_START_S else None,
        ),
    )
}
