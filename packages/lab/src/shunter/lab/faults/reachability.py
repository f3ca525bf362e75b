"""Reachability: a server that is not there, or late."""

from shunter.lab.faults.seams import METRICS, MODELS, Fault, page, refuse, without_families

__all__ = ["FAULTS"]

# Later than any reasonable bound on an answer about models, soon enough for a test to wait for.
LATE_S = 3.0

PROCESS = ("process_start_time_seconds", "process_resident_memory_bytes")


FAULTS = (
    Fault(
        name="health-503",
        case="ms.reachability.health",
        breaks="/health answers 503 although the server serves",
        refuse=refuse("/health", 503),
    ),
    Fault(
        name="health-slow",
        case="ms.reachability.health-quick",
        breaks="/health takes 3 s while the server is ready",
        probe="dawdles",
    ),
    Fault(
        name="process-unknown",
        case="ms.reachability.process",
        breaks="the metrics page does not tell since when the server runs, and how much memory it has",
        reply=page(lambda page, _: without_families(page, PROCESS)),
    ),
    Fault(
        name="models-slow-after-ready",
        case="ms.reachability.models",
        breaks=f"/v1/models answers {LATE_S} s late",
        stall_s={MODELS: LATE_S},
    ),
    Fault(name="models-404", case="ms.reachability.models", breaks="/v1/models answers 404", refuse=refuse(MODELS, 404)),
    Fault(
        name="metrics-slow-after-ready",
        case="ms.reachability.metrics",
        breaks=f"/metrics answers {LATE_S} s late",
        stall_s={METRICS: LATE_S},
    ),
)
