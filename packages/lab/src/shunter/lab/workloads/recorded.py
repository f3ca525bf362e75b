"""Recorded traffic: a trace that is replayed, at its own rate or another, from one of many places on."""

from collections.abc import Sequence

import msgspec

from shunter.lab.core.arrivals import Arrival
from shunter.lab.errors import TraceError

__all__ = ["Recorded"]

# Where replays with different seeds begin: multiples of this part of the trace. Multiples of the golden ratio are spread evenly
# however many there are, and none comes twice.
STRIDE = 0.6180339887498949


class Recorded(msgspec.Struct, frozen=True):
    """A trace, in order of time. Its seeds are places to begin at; its times are stretched until the rate fits."""

    trace: Sequence[Arrival]

    @property
    def qps(self) -> float:
        """The rate at which it was recorded."""
        return (len(self.trace) - 1) / self.lasts_s if self.lasts_s > 0 else 1.0

    @property
    def lasts_s(self) -> float:
        """From the first request to the last."""
        return self.trace[-1].at_s - self.trace[0].at_s

    def arrivals(self, seed: int, qps: float, count: int) -> list[Arrival]:
        """Return `count` requests on end (all there are, if fewer); round the corner after the last comes the first."""
        total = len(self.trace)
        if not total:
            raise TraceError("the trace is empty")
        begin = int(seed * STRIDE * total) % total
        order = [(begin + at) % total for at in range(min(count, total))]
        position = {at: number for number, at in enumerate(order)}
        slower, lap_s = self.qps / qps, self.lasts_s + 1.0 / self.qps
        cut: list[Arrival] = []
        for at in order:
            arrival = self.trace[at]
            late_s = lap_s if at < begin else 0.0
            # A turn whose predecessor is cut off begins a conversation.
            after = position.get(arrival.after) if arrival.after is not None else None
            if after is not None and after >= len(cut):
                after = None
            at_s = (arrival.at_s + late_s - self.trace[begin].at_s) * slower
            cut.append(msgspec.structs.replace(arrival, at_s=max(0.0, at_s), after=after))
        return cut
