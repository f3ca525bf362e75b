"""Cancellation: requests that go on when nobody waits for them."""

from shunter.lab.faults.seams import Fault

__all__ = ["FAULTS"]


FAULTS = (
    Fault(
        name="deaf-to-streams", case="ms.cancel.stream", breaks="a stream goes on when its client has hung up", deaf="streams"
    ),
    Fault(name="deaf-to-whole", case="ms.cancel.whole", breaks="an answer goes on when its client has hung up", deaf="whole"),
    Fault(
        name="deaf-to-waiting",
        case="ms.cancel.queued",
        breaks="what waits goes on waiting when its client has hung up",
        deaf="waiting",
    ),
)
