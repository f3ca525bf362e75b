"""Fallback: who has not taken a request is passed over for the next of the picker's list."""

from shunter.conformance.core.case import Case, Level
from shunter.conformance.errors import Mismatch
from shunter.conformance.sections.gateways import answers, requests
from shunter.conformance.sections.gateways.picks import EACH, FIRST, PROTOCOL
from shunter.conformance.sections.gateways.profile import FALLBACK, SERVED
from shunter.conformance.sections.gateways.target import PROMPT, Target
from shunter.conformance.sections.gateways.trial import Pick, Pool, Reply, Trial

__all__ = ["CASES"]

FULL = Reply((b'{"error":"full"}',), 503)

# Above the megabyte that gateways keep of a body for another attempt unless they are told to keep more.
LARGE_BYTES = 2_000_000


async def _refused(target: Target, body: bytes) -> Trial:
    """The first choice refuses connections, the second serves."""
    down, up, *_ = target.servers(Pool.CLOSE)
    async with target.server_down(down):
        trial = await target.ask(Pool.CLOSE, Pick((down, up)), body=body)
    trial.expect_served(up)
    if trial.arrival.body != body:
        raise Mismatch(f"the {len(body)} bytes of the body at the second choice", f"{len(trial.arrival.body)} bytes")
    return trial


async def refused(target: Target) -> str:
    await _refused(target, PROMPT)
    return "the first choice refused the connection, the second served"


async def large(target: Target) -> str:
    await _refused(target, requests.make_body(LARGE_BYTES))
    return f"the first choice refused the connection, the second got all of {LARGE_BYTES // 1_000_000} MB"


async def full(target: Target) -> str:
    busy, free, *_ = target.servers(Pool.CLOSE)
    trial = await target.ask(Pool.CLOSE, Pick((busy, free)), replies={busy: FULL})
    trial.expect_served(busy, free)
    return "the first choice said 503, the second served"


async def all_full(target: Target) -> str:
    servers = target.servers(Pool.CLOSE)
    trial = await target.ask(Pool.CLOSE, Pick(servers), reply=FULL)
    if trial.exchange.status != 503:
        raise Mismatch("HTTP 503, as all servers said", trial.said())
    if len(trial.arrived) > 2 * len(servers):
        raise Mismatch(f"an end after a few attempts at {len(servers)} servers", f"{len(trial.arrived)} attempts")
    return f"all servers said 503: so did the gateway, after {len(trial.arrived)} attempts"


async def told(target: Target) -> str:
    busy, free, *_ = target.servers(Pool.CLOSE)
    trial = await target.ask(Pool.CLOSE, Pick((busy, free)), replies={busy: FULL})
    trial.expect_served(busy, free)
    if trial.question.served != free:
        raise Mismatch(f"{free} told to the picker as the one who served", f"{trial.question.served}")
    return "the picker was told of the second choice, which served"


REFUSED = Case(
    id="gw.fallback.refused",
    level=Level.SHOULD,
    requirement="When the first endpoint of a list refuses connections, the next one SHOULD get the request.",
    why="A server that has just died is in every picker's list for a moment.",
    source=f"{PROTOCOL} 0.4, several fallback endpoints",
    features=(FALLBACK,),
    needs=(FIRST.id,),
    run=refused,
)

LARGE = Case(
    id="gw.fallback.large-body",
    level=Level.SHOULD,
    requirement="The next endpoint SHOULD get the request also if its body is of 2 MB.",
    why="Gateways give up in silence where the body is larger than what they keep of it: 32 KiB or 1 MiB by default.",
    source=f"{PROTOCOL} 0.4; Envoy, request_body_buffer_limit",
    features=(FALLBACK,),
    needs=(REFUSED.id, requests.LARGE.id),
    run=large,
)

BUSY = Case(
    id="gw.fallback.unavailable",
    level=Level.SHOULD,
    requirement="When the first endpoint of a list answers 503, the next one SHOULD get the request.",
    why="A server that drains or is full says so; the next of the list may have room.",
    source=f"{PROTOCOL} 0.4, several fallback endpoints",
    features=(FALLBACK,),
    needs=(FIRST.id,),
    run=full,
)

EXHAUSTED = Case(
    id="gw.fallback.exhausted",
    level=Level.MUST,
    requirement="When no endpoint of a list serves, the client MUST get the error, after a few attempts.",
    why="Attempts without an end turn an overload into an outage.",
    source=f"{PROTOCOL} 0.4",
    features=(FALLBACK,),
    needs=(EACH.id,),
    run=all_full,
)

TOLD = Case(
    id="gw.fallback.served-told",
    level=Level.MUST,
    requirement="After a fallback the picker MUST be told of the endpoint that served, not of the one it named first.",
    why="Otherwise it goes on counting on a server that is away.",
    source=f"{PROTOCOL} 1.0, x-gateway-destination-endpoint-served",
    features=(FALLBACK, SERVED),
    needs=(BUSY.id, answers.SERVED_TOLD.id),
    run=told,
)

CASES = (REFUSED, LARGE, BUSY, EXHAUSTED, TOLD)
