"""The subset hint: the gateway names the endpoints among which the picker may choose."""

from itertools import groupby

from shunter.conformance.core.addresses import split_address
from shunter.conformance.core.case import Case, Level
from shunter.conformance.errors import Mismatch, Skip
from shunter.conformance.sections.pickers.asking import ANSWERS, PROMPT, ask, expect_status, pick, request, subset
from shunter.conformance.sections.pickers.messages import Part
from shunter.conformance.sections.pickers.stream import PICKS, PROTOCOL
from shunter.conformance.sections.pickers.target import Server, Target

__all__ = ["CASES", "HONOURED"]

HONOURED = "ep.subset.honoured"

# Who pays no attention meets the only endpoint of two that is allowed ten times in a row, for each of them, once in a million.
ROUNDS = 10

# Documentation addresses (RFC 5737): nobody's endpoint.
STRANGERS = ("192.0.2.1:80", "192.0.2.2:80")


def _host(server: Server) -> str:
    return split_address(server.address)[0]


def _neighbours(target: Target) -> dict[str, list[str]]:
    """The addresses of the servers by host."""
    return {host: [each.address for each in group] for host, group in groupby(sorted(target.servers, key=_host), key=_host)}


async def honoured(target: Target) -> str:
    hosts = _neighbours(target)
    if len(hosts) < 2:
        raise Skip("needs servers on two hosts, since the reference tells them apart by host alone; --servers names them")
    for allowed in [*hosts.values()] * ROUNDS:
        endpoint = await pick(target, metadata=subset(allowed))
        if endpoint not in allowed:
            raise Mismatch(f"one of {', '.join(allowed)}, the only endpoints that the gateway allows", endpoint)
    return f"each of {len(hosts)} hosts, when it was the only one allowed"


async def port(target: Target) -> str:
    neighbours = next((each for each in _neighbours(target).values() if len(each) > 1), None)
    if neighbours is None:
        raise Skip("needs two servers on one host; --servers names them")
    for allowed in neighbours * ROUNDS:
        endpoint = await pick(target, metadata=subset([allowed]))
        if endpoint != allowed:
            raise Mismatch(f"{allowed}, the only endpoint that the gateway allows", endpoint)
    return f"each of {', '.join(neighbours)}, when it was the only one allowed"


async def empty(target: Target) -> str:
    return expect_status(await ask(target, request(PROMPT, metadata=subset([]))), 503)


async def strangers(target: Target) -> str:
    return expect_status(await ask(target, request(PROMPT, metadata=subset(STRANGERS))), 503)


async def first_message(target: Target) -> str:
    """Envoy sends the filter metadata with each message; a proxy that sends them once sends them with the first."""
    hosts = _neighbours(target)
    if len(hosts) < 2:
        raise Skip("needs servers on two hosts; --servers names them")
    for allowed in [*hosts.values()] * ROUNDS:
        told = request(PROMPT, metadata=subset(allowed))
        told[1:] = [type(each)(part=each.part, body=each.body, end=each.end) for each in told[1:]]
        endpoint = (await ask(target, told)).endpoint
        if endpoint not in allowed:
            raise Mismatch(f"one of {', '.join(allowed)}, as said beside {Part.REQUEST_HEADERS}", endpoint)
    return "heeded"


CASES: tuple[Case[Target], ...] = (
    Case(
        id=HONOURED,
        level=Level.MUST,
        requirement="The picker MUST choose among the endpoints of the subset hint.",
        why="The gateway knows things that the picker does not: which of them a route may use, or belongs to a tenant.",
        source=PROTOCOL,
        run=honoured,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.subset.port",
        level=Level.SHOULD,
        requirement="The picker SHOULD tell endpoints of one host apart by their ports.",
        why="Data-parallel ranks and simulators are endpoints of one address.",
        source=PROTOCOL,
        run=port,
        needs=(*PICKS, HONOURED),
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.subset.first-message",
        level=Level.MAY,
        requirement="The picker MAY take the hint from the first message alone.",
        why="Envoy repeats its metadata with each message, others need not.",
        source="envoy/service/ext_proc/v3/external_processor.proto",
        run=first_message,
        needs=(*PICKS, HONOURED),
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.subset.empty",
        level=Level.MUST,
        requirement="The picker MUST refuse a request with HTTP 503 when the hint is an empty list.",
        why="The gateway allows no endpoint at all; the whole pool is the opposite of that.",
        source=PROTOCOL,
        run=empty,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.subset.strangers",
        level=Level.MUST,
        requirement="The picker MUST refuse a request with HTTP 503 when the hint names none of its endpoints.",
        why="An endpoint that the gateway did not allow is worse than an error, which it can act upon.",
        source=PROTOCOL,
        run=strangers,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
)
