"""Load: gauges and counters that lie under load."""

from shunter.lab.faults.seams import KV, RUNNING, WAITING, Fault, value

__all__ = ["FAULTS"]


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
        reply=value("vllm:generation_tokens_total", lambda was, _: was // 2),
    ),
)
