"""Picks: each request is asked about, once, and goes where the picker says."""

import asyncio

from shunter.conformance.core.case import Case, Level
from shunter.conformance.errors import Mismatch
from shunter.conformance.sections.gateways.profile import BODY_MODELS, WEIGHTED
from shunter.conformance.sections.gateways.setup import BOTH, MODEL_OF, MODELS
from shunter.conformance.sections.gateways.target import CHAT, PROMPT, Target
from shunter.conformance.sections.gateways.trial import DESTINATION, HOSTS, Pick, Pool, Reply, Trial

__all__ = ["CASES", "EACH", "FIRST", "ONCE", "OWN_PICKER", "PROTOCOL", "SPOOFED"]

PROTOCOL = "GIE Endpoint Picker Protocol (proposal 004)"

# Enough that a gateway which balances by itself is caught: it would have to guess every one.
ROUNDS = 4

# With this many, one of two equal pools gets nothing once in 10^11 exams.
DIVIDED = 40

CONCURRENT = 50

IN_TURN = 20


async def each(target: Target) -> str:
    asked = 0
    for pool in Pool:
        for server in target.servers(pool) * ROUNDS:
            trial = await target.ask(pool, server)
            trial.expect_served(server)
            asked += 1
    return f"{asked} requests, each at the server that its picker named"


async def bodiless(target: Target) -> str:
    methods = ("GET", "DELETE")
    for method in methods:
        for server in target.servers(Pool.OPEN):
            trial = await target.ask(Pool.OPEN, server, method=method, path="/v1/models?limit=3", body=b"")
            trial.expect_served(server)
            arrival = trial.arrival
            if (arrival.method, arrival.path) != (method, "/v1/models?limit=3"):
                raise Mismatch(f"{method} /v1/models?limit=3 at the server", f"{arrival.method} {arrival.path}")
    return f"{' and '.join(methods)} without a body went where the picker said"


async def once(target: Target) -> str:
    for _ in range(IN_TURN):
        trial = await target.ask(Pool.OPEN, target.servers(Pool.OPEN)[-1])
        if (len(trial.asked), len(trial.arrived)) != (1, 1):
            raise Mismatch("one question to a picker, one request to a server", trial.said())
    return f"{IN_TURN} requests: {IN_TURN} questions, {IN_TURN} arrivals"


async def concurrent(target: Target) -> str:
    servers = target.servers(Pool.OPEN)
    picks = [servers[at % len(servers)] for at in range(CONCURRENT)]

    async def one(at: int) -> tuple[Trial, bytes]:
        said = b'{"number":%d}' % at
        return await target.ask(Pool.OPEN, picks[at], reply=Reply((said,))), said

    for pick, (trial, said) in zip(picks, await asyncio.gather(*map(one, range(CONCURRENT))), strict=True):
        trial.expect_served(pick)
        if trial.exchange.body != said:
            raise Mismatch(f"the answer to this request, {said.decode()}", trial.exchange.text)
    return f"{CONCURRENT} requests at once, each with the answer of the server that its picker named"


async def connection(target: Target) -> str:
    picks = target.servers(Pool.OPEN) * 2
    for pick, trial in zip(picks, await target.ask_in_turn(Pool.OPEN, picks), strict=True):
        trial.expect_served(pick)
    return f"{len(picks)} requests on one connection, each where its picker said"


async def first(target: Target) -> str:
    servers = target.servers(Pool.OPEN)
    for at in range(len(servers)):
        order = servers[at:] + servers[:at]
        (await target.ask(Pool.OPEN, Pick(order))).expect_served(order[0])
    return f"the first of {len(servers)} endpoints served, in each order"


async def spoofed(target: Target) -> str:
    """The client names somebody else: one of the pool, and one of no pool."""
    pick, other, *_ = target.servers(Pool.OPEN)
    for lure in (other, target.outside):
        trial = await target.ask(Pool.OPEN, pick, headers={DESTINATION: lure})
        trial.expect_served(pick)
    return "a client that named another endpoint, or one of no pool, was served by the picker's choice"


async def outside(target: Target) -> str:
    trial = await target.ask(Pool.OPEN, target.outside)
    if target.outside in trial.servers:
        raise Mismatch("a server of the pool, or an error", f"the request reached {target.outside}, which is in no pool")
    return f"a pick of {target.outside}, which is in no pool: {trial.said()}"


async def own_picker(target: Target) -> str:
    for pool in Pool:
        trial = await target.ask(pool)
        if (pools := [asked.pool for asked in trial.asked]) != [pool]:
            raise Mismatch(f"a question to the picker of pool {pool} for {HOSTS[pool]}", f"questions to {pools}")
    return "each pool's requests were asked about at its own picker"


async def weighted(target: Target) -> str:
    counts = dict.fromkeys(Pool, 0)
    for _ in range(DIVIDED):
        trial = await target.ask(BOTH)
        if len(trial.asked) != 1:
            raise Mismatch("one question to a picker", trial.said())
        pool = trial.question.pool
        trial.expect_served(target.servers(pool)[0])
        counts[pool] += 1
    if not all(counts.values()):
        raise Mismatch(f"requests to {BOTH} in both pools, which weigh the same", f"{counts} of {DIVIDED}")
    return f"{DIVIDED} requests: " + ", ".join(f"{count} by the picker and servers of {pool}" for pool, count in counts.items())


async def model(target: Target) -> str:
    for pool, name in MODEL_OF.items():
        trial = await target.ask(MODELS, body=PROMPT.replace(b'"exam"', f'"{name}"'.encode()))
        trial.expect_served(target.servers(pool)[0])
    return f"{' and '.join(MODEL_OF.values())} in the body, each to its pool"


async def unknown(target: Target) -> str:
    trial = await target.ask("nobody.test", path=CHAT)
    if trial.exchange.status != 404 or trial.asked or trial.arrived:
        raise Mismatch("HTTP 404, nobody asked", trial.said())
    return "a host of no route: 404, and nobody was asked"


EACH = Case(
    id="gw.pick.each",
    level=Level.MUST,
    requirement="A request MUST be served by the endpoint that the picker names.",
    why="That is what a picker is for.",
    source=f"{PROTOCOL}, destination endpoint",
    run=each,
)

BODILESS = Case(
    id="gw.pick.bodiless",
    level=Level.MUST,
    requirement="A request without a body MUST be asked about too, and keep its method, path and query.",
    why="Lists of models and files live on one server; a picker that is told nothing cannot find it.",
    source=f"{PROTOCOL}, request headers with end of stream",
    needs=(EACH.id,),
    run=bodiless,
)

ONCE = Case(
    id="gw.pick.once",
    level=Level.MUST,
    requirement="A request that is served MUST be asked about once, and reach one model server, once.",
    why="A second copy costs a generation, and books load that is not there.",
    source=f"{PROTOCOL}; RFC 9110 §9.2.2 (POST is not idempotent)",
    needs=(EACH.id,),
    run=once,
)

CONNECTION = Case(
    id="gw.pick.connection",
    level=Level.MUST,
    requirement="Each request of a connection MUST be asked about, not only its first.",
    why="Clients keep connections; what was right for the first request is the past for the second.",
    source=f"{PROTOCOL}: one ext_proc stream for each request",
    needs=(EACH.id,),
    run=connection,
)

CONCURRENT_PICKS = Case(
    id="gw.pick.concurrent",
    level=Level.MUST,
    requirement="Requests that are under way at once MUST each have their own pick and their own answer.",
    why="One client's text in another's window is the worst that a gateway can do.",
    source=PROTOCOL,
    needs=(EACH.id,),
    run=concurrent,
)

FIRST = Case(
    id="gw.pick.first-choice",
    level=Level.MUST,
    requirement="Where the picker names several endpoints and the first one serves, it MUST be the one.",
    why="The order is the picker's judgement; the others are for when the first cannot.",
    source=f"{PROTOCOL}, fallback endpoints",
    needs=(EACH.id,),
    run=first,
)

SPOOFED = Case(
    id="gw.pick.spoofed",
    level=Level.MUST,
    requirement=f"A client's own {DESTINATION} MUST NOT decide who serves.",
    why="It would let anybody choose a server, or reach whatever the gateway can reach.",
    source=f"{PROTOCOL}: the header is the picker's; seen followed by gateways that read it from the request",
    needs=(EACH.id,),
    run=spoofed,
)

OUTSIDE = Case(
    id="gw.pick.outside",
    level=Level.SHOULD,
    requirement="A pick of an address that is not in the pool SHOULD NOT be followed.",
    why="A picker's mistake, or a picker that was taken over, should not open the gateway's network.",
    source="GIE InferencePool: the endpoints are the pool's; seen followed by clusters of type ORIGINAL_DST",
    needs=(EACH.id,),
    run=outside,
)

OWN_PICKER = Case(
    id="gw.pools.own-picker",
    level=Level.MUST,
    requirement="A pool's requests MUST be asked about at the pool's own picker.",
    why="Another pool's picker knows other endpoints.",
    source="GIE InferencePool, endpointPickerRef",
    needs=(ONCE.id,),
    run=own_picker,
)

WEIGHED = Case(
    id="gw.pools.weighted",
    level=Level.MUST,
    requirement="A route with several pools MUST choose the pool first, by weight, and then ask that pool's picker.",
    why="Gateways that set the picker for the whole route send one pool's requests to the other's endpoints.",
    source="GIE conformance suite, GatewayWeightedAcrossTwoInferencePools",
    features=(WEIGHTED,),
    needs=(OWN_PICKER.id,),
    run=weighted,
)

MODEL = Case(
    id="gw.pools.model",
    level=Level.MAY,
    requirement="A gateway MAY choose the pool by the model in the body.",
    why="Clients of the OpenAI API say in the body which model they want.",
    source="GIE body-based routing",
    features=(BODY_MODELS,),
    needs=(OWN_PICKER.id,),
    run=model,
)

UNKNOWN = Case(
    id="gw.pools.unknown-host",
    level=Level.MUST,
    requirement="A request that no route takes MUST be answered 404, and no picker asked.",
    why="A default that serves everybody gives models to whoever finds the port.",
    source="Gateway API, HTTPRoute: no match is 404",
    run=unknown,
)

CASES = (EACH, BODILESS, ONCE, CONNECTION, CONCURRENT_PICKS, FIRST, SPOOFED, OUTSIDE, OWN_PICKER, WEIGHED, MODEL, UNKNOWN)
