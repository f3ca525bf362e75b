"""Operation: connections and times that no protocol speaks of."""

from shunter.lab.faults.seams import METRICS, Fault

__all__ = ["FAULTS"]

# A server that starts slowly: not ready for so long after it listens.
SLOW_START_S = 2.0


FAULTS = (
    Fault(
        name="metrics-hang",
        case="ms.reachability.metrics",
        breaks="/metrics accepts and never answers",
        stall_s={METRICS: float("inf")},
    ),
    Fault(name="metrics-drip", case="ms.reachability.metrics", breaks="/metrics sends one byte at a time", wire="drip"),
    Fault(
        name="close-mid-stream", case="ms.openai.stream-framing", breaks="a stream is cut after its second event", wire="cut"
    ),
    Fault(name="crash", breaks="the process ends with the next request, and no word", wire="crash"),
    Fault(name="refuse-new", breaks="every request's connection is reset unanswered", wire="reset"),
    Fault(
        name="slow-start",
        breaks=f"everything answers 503 for {SLOW_START_S} s after the server listens",
        refuse=lambda _path, age_s: 503 if age_s < SLOW_START_S else None,
    ),
)
