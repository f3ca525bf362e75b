"""Robustness: servers that feel what a few clients do wrong, or too much of."""

from shunter.lab.faults.seams import RUNNING, WAITING, Fault, value

__all__ = ["FAULTS"]

# Requests at once that it can take; the exam has fewer anywhere but where this is the question.
CROWDED = 30

# Later than anybody should wait for a refusal.
REFUSED_LATE_S = 5.0

# Mistakes and bodies that broke off, until one is not forgotten; the exam makes fewer anywhere else.
MISTAKES, TORN = 150, 10


FAULTS = (
    Fault(
        name="health-generates",
        case="ms.robustness.health-unseen",
        breaks="a probe of /health is a request like any other",
        probe="generates",
    ),
    Fault(
        name="health-waits",
        case="ms.robustness.health-under-load",
        breaks="/health answers when nothing runs any more",
        probe="waits",
    ),
    Fault(
        name="crowd-500",
        case="ms.robustness.overload",
        breaks=f"with {CROWDED} requests there, further ones get 500",
        crowd=(CROWDED, 500, 0.0),
    ),
    Fault(
        name="crowd-refused-late",
        case="ms.robustness.overload",
        breaks=f"with {CROWDED} requests there, further ones get 503 after {REFUSED_LATE_S:g} s",
        crowd=(CROWDED, 503, REFUSED_LATE_S),
    ),
    Fault(
        name="mistakes-remembered",
        case="ms.robustness.mistakes",
        breaks=f"after {MISTAKES} mistakes of clients one of them waits for ever",
        reply=value(WAITING, lambda was, reply: was + (reply.refused >= MISTAKES)),
    ),
    Fault(
        name="halves-remembered",
        case="ms.robustness.half-a-body",
        breaks=f"after {TORN} bodies that broke off one request runs for ever",
        reply=value(RUNNING, lambda was, reply: was + (reply.torn >= TORN)),
    ),
)
