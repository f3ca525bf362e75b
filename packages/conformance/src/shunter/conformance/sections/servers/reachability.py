"""Section A, reachability: a server that serves says so, and answers those who ask about it at once."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from shunter.conformance.core.case import Bound, Case, Level
from shunter.conformance.core.exchange import Exchange
from shunter.conformance.core.profile import GIE
from shunter.conformance.core.signals import Signal
from shunter.conformance.errors import FormatError, Mismatch, Skip
from shunter.conformance.exposition import read_page
from shunter.conformance.sections.servers.answers import ModelList
from shunter.conformance.sections.servers.profile import OPENAI
from shunter.conformance.sections.servers.target import Target

__all__ = ["CASES", "HEALTH", "HEALTH_QUICK", "METRICS", "MODELS", "PROBE_TIMEOUT", "ask_health"]

READY_ANSWER = Bound(
    "ready-answer",
    1.0,
    "the reference endpoint picker gives up on a scrape, and a kubelet on a probe, after one second",
    scales=False,
)


PROBE_TIMEOUT = Bound(
    "probe-timeout",
    1.0,
    "timeoutSeconds of a kubelet's probe is 1 unless somebody has set it, and three late answers take a pod out",
    scales=False,
)

# Probes in a row; with so few the slowest stands for the 99th percentile.
PROBES = 20

# What the client libraries of Prometheus tell of their process, on Linux.
PROCESS = ("process_start_time_seconds", "process_resident_memory_bytes")

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


async def ask_health(target: Target) -> Exchange:
    """Probe once; raises Mismatch unless the answer is 200 and comes in time."""
    exchange = await target.get(target.profile.health_path)
    exchange.expect_status(200)
    if exchange.elapsed_s > (limit_s := target.seconds(PROBE_TIMEOUT)):
        raise Mismatch(f"200 from {exchange.url} within {limit_s:g} s", f"after {exchange.elapsed_s:.2f} s")
    return exchange


async def health_quick(target: Target) -> str:
    took_s = [(await ask_health(target)).elapsed_s for _ in range(PROBES)]
    return f"{PROBES} probes, the slowest {max(took_s) * 1000:.0f} ms"


async def process(target: Target) -> str:
    try:
        page = read_page((await target.metrics()).body)
    except FormatError:
        raise Skip("the metrics page is none in the text format") from None
    told = {name: found[0].value for name in PROCESS if (found := page.find(Signal(name)))}
    if missing := [name for name in PROCESS if name not in told]:
        raise Mismatch(f"{' and '.join(PROCESS)} on the metrics page", f"no {' and no '.join(missing)}")
    start_s, resident_bytes = (told[name] for name in PROCESS)
    try:
        began = datetime.fromtimestamp(start_s, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        raise Mismatch(f"seconds since 1970 in {PROCESS[0]}", f"{start_s:g}") from None
    return f"started {began}, {resident_bytes / (1 << 20):.0f} MiB resident"


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
    suites=(GIE,),
    run=metrics,
)

HEALTH_QUICK = Case(
    id="ms.reachability.health-quick",
    level=Level.SHOULD,
    requirement="A server that has nothing to do SHOULD answer its health path within one second, each time.",
    why="A probe that runs a generation, as some servers do, takes as long as one, and longer the more there is to do.",
    source="Kubernetes, Configure Liveness, Readiness and Startup Probes: timeoutSeconds",
    needs=(HEALTH.id,),
    bounds=(PROBE_TIMEOUT,),
    run=health_quick,
)

PROCESS_FACTS = Case(
    id="ms.reachability.process",
    level=Level.MAY,
    requirement="The metrics page MAY tell since when the server runs and how much memory it has.",
    why="Restarts and leaks show in them without any agent beside the server.",
    source="Prometheus, Writing client libraries: process metrics",
    needs=(METRICS.id,),
    run=process,
)

CASES = (HEALTH, MODELS, METRICS, HEALTH_QUICK, PROCESS_FACTS)
