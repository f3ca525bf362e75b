"""Section A, reachability: a server that serves says so, and answers those who ask about it at once."""

from collections.abc import Awaitable, Callable

from shunter.conformance.core.case import Bound, Case, Level
from shunter.conformance.core.exchange import Exchange
from shunter.conformance.errors import Mismatch
from shunter.conformance.sections.servers.answers import ModelList
from shunter.conformance.sections.servers.profile import OPENAI
from shunter.conformance.sections.servers.target import Target

__all__ = ["CASES", "METRICS"]

READY_ANSWER = Bound(
    "ready-answer",
    1.0,
    "the reference endpoint picker gives up on a scrape, and a kubelet on a probe, after one second",
    scales=False,
)


# One late answer may be a hiccup of a busy machine, the examiner's included; so many in a row are the server's.
ATTEMPTS = 3


async def _in_time(target: Target, ask: Callable[[], Awaitable[Exchange]]) -> Exchange:
    """Ask until a good answer comes in time; raises Mismatch when none of a few does."""
    limit_s = target.seconds(READY_ANSWER)
    late: list[Exchange] = []
    while len(late) < ATTEMPTS:
        exchange = await ask()
        exchange.expect_status(200)
        if exchange.elapsed_s <= limit_s:
            return exchange
        late.append(exchange)
    fastest_s = min(exchange.elapsed_s for exchange in late)
    raise Mismatch(f"an answer from {late[0].url} within {limit_s:g} s", f"the fastest of {ATTEMPTS} took {fastest_s:.2f} s")


async def health(target: Target) -> str:
    exchange = await target.get(target.profile.health_path)
    exchange.expect_status(200)
    return f"GET {target.profile.health_path} → 200"


async def models(target: Target) -> str:
    exchange = await _in_time(target, lambda: target.get("/v1/models"))
    cards = exchange.read(ModelList).data
    return f"{len(cards)} model{'s' * (len(cards) != 1)}: {', '.join(card.id for card in cards)}"


async def metrics(target: Target) -> str:
    exchange = await _in_time(target, target.metrics)
    return f"{len(exchange.body)} bytes from {exchange.url}"


HEALTH = Case(
    id="ms.reachability.health",
    level=Level.MUST,
    requirement="A server that is ready to generate MUST answer its health path with 200.",
    why="Kubernetes takes a pod whose probe fails out of the pool; the pickers never see it.",
    source="Kubernetes, Configure Liveness, Readiness and Startup Probes: HTTP probes",
    run=health,
)

MODELS = Case(
    id="ms.reachability.models",
    level=Level.MUST,
    requirement="A ready server MUST list the models it serves at /v1/models, within one second.",
    why="Clients and gateways learn from the list what may be asked for; adapters show up there when they are loaded.",
    source="OpenAI API reference, List models",
    features=(OPENAI,),
    bounds=(READY_ANSWER,),
    run=models,
)

METRICS = Case(
    id="ms.reachability.metrics",
    level=Level.MUST,
    requirement="A ready server MUST answer a scrape of its metrics page with 200, within one second.",
    why="A picker that cannot scrape a server knows nothing about its load, and sends it too much or nothing.",
    source="GIE Model Server Protocol (proposal 003), Metrics Reporting; scrape timeout of the reference picker",
    bounds=(READY_ANSWER,),
    run=metrics,
)

CASES = (HEALTH, MODELS, METRICS)
