"""Draining: servers that end badly, or come up too early."""

from shunter.lab.faults.seams import COMPLETED, Fault

__all__ = ["FAULTS"]

# So long after it listens a server that says too early that it is ready cannot generate yet.
LOADING_S = 0.5


FAULTS = (
    Fault(
        name="ready-too-early",
        case="ms.drain.ready-when-able",
        breaks=f"/health answers 200 {LOADING_S} s before anything can be generated",
        refuse=lambda path, age_s: 503 if path in COMPLETED and age_s < LOADING_S else None,
    ),
    Fault(
        name="ready-while-draining",
        case="ms.drain.unready",
        breaks="/health answers 200 until the process has ended",
        end="ready",
    ),
    Fault(name="drain-cuts", case="ms.drain.in-flight", breaks="SIGTERM cuts off what runs, whatever the grace", end="cut"),
    Fault(name="drain-500", case="ms.drain.refuses", breaks="a server that drains answers what is new with 500", end="error"),
    Fault(name="drain-lingers", case="ms.drain.exits", breaks="the process does not end after SIGTERM", end="linger"),
    Fault(
        name="healthy-without-engine",
        case="ms.drain.engine-dead",
        breaks="/health answers 200 when the engine has died",
        end="unhurt",
    ),
)
