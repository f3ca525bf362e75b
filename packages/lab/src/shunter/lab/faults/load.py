"""Load: gauges and counters that lie under load."""

import re
from collections.abc import Callable

from shunter.lab.faults.seams import KV, RUNNING, WAITING, Fault, Reply, page, value

__all__ = ["FAULTS"]

GENERATED = "vllm:generation_tokens_total"


def read(page: str, family: str) -> float:
    """The first value of a family."""
    found = re.search(rf"^{re.escape(family)}(?:\{{.*\}})? (\S+)$", page, re.MULTILINE)
    return float(found[1]) if found else 0.0


def write(page: str, family: str, value: float) -> str:
    """The page with this value in each sample of a family."""
    return re.sub(rf"^({re.escape(family)}(?:\{{.*\}})?) \S+$", rf"\g<1> {value}", page, flags=re.MULTILINE)


def _move(moved: int, when: Callable[[str, Reply], bool]) -> Callable[[str, Reply], str]:
    """Let some requests that wait show as running, or the other way round, on some pages."""

    def change(text: str, reply: Reply) -> str:
        if not when(text, reply):
            return text
        text = write(text, RUNNING, read(text, RUNNING) + moved)
        return write(text, WAITING, read(text, WAITING) - moved)

    return change


def _count_steps(text: str, _: Reply) -> str:
    return write(text, GENERATED, read(text, "vllm:iteration_tokens_total_count"))


def _difference(family: str, less: str) -> Callable[[str, Reply], str]:
    """Let the sum of a histogram be too small by that of another."""
    return lambda text, _: write(text, f"{family}_sum", read(text, f"{family}_sum") - read(text, f"{less}_sum"))


TTFT, E2E = "vllm:time_to_first_token_seconds", "vllm:e2e_request_latency_seconds"

FAULTS = (
    Fault(
        name="running-frozen",
        case="ms.load.running-rises",
        breaks="nothing ever runs, says the gauge",
        reply=value(RUNNING, lambda _was, _: 0.0),
    ),
    Fault(
        name="queue-frozen",
        case="ms.load.queue-rises",
        breaks="nothing ever waits, says the gauge",
        reply=value(WAITING, lambda _was, _: 0.0),
    ),
    Fault(
        name="running-doubled",
        case="ms.load.all-shown",
        breaks="each running request counts twice",
        reply=value(RUNNING, lambda was, _: 2 * was),
    ),
    Fault(
        name="queue-jumps",
        case="ms.load.drains",
        breaks="a queue of less than four jumps back on every second page",
        reply=value(WAITING, lambda was, reply: was + 50 * (reply.pages % 2) if 0 < was < 4 else was),
    ),
    Fault(
        name="kv-frozen",
        case="ms.load.kv-follows",
        breaks="the cache is always empty, says the gauge",
        reply=value(KV, lambda _was, _: 0.0),
    ),
    Fault(
        name="tokens-halved",
        case="ms.load.tokens-counted",
        breaks="half of the generated tokens are counted",
        reply=value(GENERATED, lambda was, _: was // 2),
    ),
    Fault(
        name="queue-seems-to-run",
        case="ms.load.running-bounded",
        breaks="on every fifth page one who waits shows as running",
        reply=page(_move(1, lambda text, reply: reply.pages % 5 == 0 and read(text, WAITING) > 0)),
    ),
    Fault(
        name="gauges-of-processes",
        case="ms.load.scrapers-agree",
        breaks="every fourth page, a process answers that takes one who runs for waiting",
        reply=page(_move(-1, lambda text, reply: reply.pages % 4 == 1 and read(text, WAITING) >= 4)),
    ),
    Fault(
        name="queue-swings",
        case="ms.load.queue-falls",
        breaks="of a short queue, one more shows as waiting now and then",
        reply=page(_move(-1, lambda text, _: read(text, GENERATED) // 16 % 2 == 1 and 0 < read(text, WAITING) < 4)),
    ),
    Fault(
        name="metrics-stale",
        case="ms.freshness.lag",
        breaks="a page is shown for a quarter of a second, whatever has happened since",
        stale_s=0.25,
    ),
    Fault(
        name="queue-saturates",
        case="ms.freshness.ramp",
        breaks="the queue shows no more than four",
        reply=value(WAITING, lambda was, _: min(was, 4.0)),
    ),
    Fault(
        name="tokens-by-steps",
        case="ms.accounting.counters",
        breaks="one generated token is counted for each step, however many requests run",
        reply=page(_count_steps),
    ),
    Fault(
        name="ttft-without-queue",
        case="ms.accounting.first-token",
        breaks="the times to the first token begin when a request leaves the queue",
        reply=page(_difference(TTFT, "vllm:request_queue_time_seconds")),
    ),
    Fault(
        name="latency-without-queue",
        case="ms.accounting.whole-answer",
        breaks="the times to the last token begin when a request leaves the queue",
        reply=page(_difference(E2E, "vllm:request_queue_time_seconds")),
    ),
)
