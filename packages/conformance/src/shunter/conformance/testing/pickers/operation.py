"""Defects that show over many requests: load, metrics, the choice, Envoy, endpoints that go, and the picker's end."""

import re
from collections.abc import Callable
from typing import Any

from shunter.conformance.sections.pickers.asking import DESTINATION, METADATA
from shunter.conformance.sections.pickers.messages import Message, Part, Reply
from shunter.conformance.testing.pickers.seams import (
    Fault,
    Talk,
    answers,
    change,
    strict,
)

__all__ = ["FAULTS"]

FEW_STREAMS, FEW_REQUESTS = 50, 100
HEADERS, BODY = Part.REQUEST_HEADERS, Part.REQUEST_BODY


def end_at_first(_: Talk, replies: list[Reply]) -> list[Reply]:
    """Mark the first piece of a body as its last."""
    first = next((each for each in replies if each.part is Part.REQUEST_BODY), None)
    return [change(each, end=True) if each is first else each for each in replies]


def believe_client(talk: Talk, reply: Reply) -> Reply:
    """Say in the metadata what the client said, and the truth in the header."""
    said = talk.headers.get(DESTINATION)
    return change(reply, metadata={METADATA: {DESTINATION: said.decode()}}) if said else reply


def held_up(talk: Talk, message: Message | None) -> bool:
    """Wait for whoever has the same prompt."""
    if message is None or not message.body:
        return False
    return any(each.body == message.body for each in talk.picker.open if each is not talk and not each.endpoint)


def times(text: str, family: str, change_value: Callable[[float], float]) -> str:
    return re.sub(
        rf"^({family}\{{.*\}}) (\S+)$", lambda at: f"{at[1]} {change_value(float(at[2])):g}", text, flags=re.MULTILINE
    )


def pays_no_heed(place: int) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    return lambda what: (*what[:place], 0, *what[place + 1 :])


FAULTS: tuple[Fault, ...] = (
    Fault(
        name="few-streams",
        breaks="only 50 streams at once are served",
        case="ep.load.hundred",
        ear=strict(lambda talk, _: len(talk.picker.open) <= FEW_STREAMS),
    ),
    Fault(
        name="waits-for-twins",
        breaks="a request waits for another one with the same prompt to be complete",
        case="ep.load.stalled",
        wait=held_up,
    ),
    Fault(
        name="forgetful",
        breaks="a request is forgotten after 100 others",
        case="ep.load.kept",
        ear=strict(
            lambda talk, message: message.part is not Part.RESPONSE_HEADERS or talk in [*talk.picker.decided][-FEW_REQUESTS:]
        ),
    ),
    Fault(
        name="tls-without-alpn",
        breaks="no protocol is negotiated in TLS",
        case="ep.tls.http2",
        traits=frozenset({"without-alpn"}),
    ),
    Fault(
        name="page-broken",
        breaks="the metrics page breaks its format",
        case="ep.metrics.exposition",
        text=lambda text: f"{text}llm d epp\n",
    ),
    Fault(
        name="names-own",
        breaks="the pool's gauges have names of their own",
        case="ep.metrics.names",
        text=lambda text: text.replace("llm_d_epp_average", "my_average"),
    ),
    Fault(
        name="ready-too-many",
        breaks="one endpoint too many is ready",
        case="ep.metrics.ready",
        text=lambda text: times(text, "llm_d_epp_ready_endpoints", lambda value: value + 1),
    ),
    Fault(
        name="counted-twice",
        breaks="each request is counted twice",
        case="ep.metrics.requests",
        text=lambda text: times(text, "llm_d_epp_request_total", lambda value: 2 * value),
    ),
    Fault(
        name="never-forgets",
        breaks="a request whose client has left runs for ever",
        case="ep.metrics.running",
        traits=frozenset({"never-forgets"}),
    ),
    Fault(
        name="streams-free",
        breaks="the tokens of streams are not counted",
        case="ep.metrics.tokens",
        count=lambda talk: "event-stream" not in talk.content_type,
    ),
    Fault(
        name="herd",
        breaks="of equal servers the first is taken",
        case="ep.choice.spread",
        traits=frozenset({"takes-the-first"}),
    ),
    Fault(name="queue-blind", breaks="queues are not heeded", case="ep.choice.queue", cost=pays_no_heed(1)),
    Fault(name="cache-blind", breaks="full caches are not heeded", case="ep.choice.kv-cache", cost=pays_no_heed(2)),
    Fault(name="prefix-blind", breaks="what was computed before is not heeded", case="ep.choice.prefix", cost=pays_no_heed(3)),
    Fault(name="adapter-blind", breaks="loaded adapters are not heeded", case="ep.choice.adapter", cost=pays_no_heed(0)),
    Fault(name="late", breaks="metrics are heeded late", case="ep.choice.fresh", traits=frozenset({"lags"})),
    Fault(
        name="other-namespace",
        breaks="the endpoint is in metadata that Envoy does not read",
        case="ep.envoy.post",
        tongue=answers(HEADERS, lambda _, reply: change(reply, metadata={"elsewhere": reply.metadata[METADATA]})),
    ),
    Fault(
        name="body-for-get",
        breaks="a body is answered where there was none",
        case="ep.envoy.get",
        tongue=lambda talk, replies: (
            [*replies, Reply(part=BODY, form="streamed_response", end=True)]
            if not talk.pieces and replies and replies[0].sets
            else replies
        ),
    ),
    Fault(
        name="ends-early", breaks="the first piece of a body is said to be its last", case="ep.envoy.large", tongue=end_at_first
    ),
    Fault(
        name="believes-client",
        breaks="the metadata name what the client named",
        case="ep.envoy.spoofed",
        tongue=answers(HEADERS, believe_client),
    ),
    Fault(
        name="trusts-proxies",
        breaks="what a proxy has let through is taken for JSON",
        case="ep.envoy.refusal",
        traits=frozenset({"trusts-proxies"}),
    ),
    Fault(
        name="never-none",
        breaks="who is there no more is kept if nobody else is",
        case="ep.endpoints.none",
        pool=lambda picker: picker.offered or [*picker.known],
    ),
    Fault(
        name="never-removed",
        breaks="who has left is picked still",
        case="ep.endpoints.removed",
        pool=lambda picker: [*picker.known] if picker.offered else [],
    ),
    Fault(
        name="never-back",
        breaks="who has left once is never picked again",
        case="ep.endpoints.added",
        pool=lambda picker: [each for each in picker.offered if each not in picker.gone],
    ),
    Fault(
        name="health-unknown",
        breaks="the health service knows no ext_proc",
        case="ep.operation.serving",
        traits=frozenset({"knows-no-service"}),
    ),
    Fault(name="cuts-off", breaks="SIGTERM cuts streams off", case="ep.operation.finishes", traits=frozenset({"cuts-off"})),
    Fault(
        name="serves-on",
        breaks="SIGTERM changes nothing while requests run",
        case="ep.operation.not-serving",
        traits=frozenset({"serves-on"}),
    ),
    Fault(name="stays", breaks="SIGTERM never ends it", case="ep.operation.ends", traits=frozenset({"stays"})),
)
