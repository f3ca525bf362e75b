"""How full a pool is: the mean of its endpoints, stage by stage, and of these the fullest.

A detector says how full each endpoint is. Where prefill and decode are separate (label ``llm-d.ai/role``), each stage is
averaged by itself, since idle decoders are no help to a request that waits for a prefill; an endpoint with both roles counts in
both stages.
"""

from collections.abc import Collection, Sequence
from math import fsum
from typing import Any, NamedTuple, cast

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.kinds import Detector
from shunter.snapshot import Endpoint

__all__ = ["DECODE", "PREFILL", "ROLE_LABEL", "STAGES", "Gauge", "Signal", "signals"]

# What an endpoint does, and of whom each stage consists: without a label everybody decodes.
ROLE_LABEL = "llm-d.ai/role"
PREFILL = frozenset({"prefill", "encode-prefill", "prefill-decode", "encode-prefill-decode", "both"})
DECODE = frozenset({"decode", "prefill-decode", "encode-prefill-decode", "both", None})
STAGES = {"prefill": PREFILL, "decode": DECODE}


class Signal(NamedTuple):
    """A detector, and the stages of which it is asked."""

    detector: Detector
    stages: frozenset[str] = frozenset(STAGES)


def signals(detector: Any) -> list[Signal]:
    """Return what a detector consists of, of which the fullest counts: mostly that is itself."""
    if not hasattr(detector, "signals"):
        return [Signal(detector)]
    return [
        Signal(inner.detector, inner.stages & outer.stages)
        for outer in cast("Sequence[Signal]", detector.signals)
        for inner in signals(outer.detector)
    ]


class Gauge:
    """Reads the saturation off the endpoints' levels, and remembers who belongs to which stage."""

    def __init__(self) -> None:
        """Know nobody yet."""
        self._endpoints: Sequence[Endpoint] | None = None
        self._stages: list[tuple[str, list[int]]] = []  # positions; empty: all are of one stage

    def read(self, fleet: Fleet, levels: Sequence[float | None], stages: Collection[str] = frozenset(STAGES)) -> float:
        """Return 0 for idle, 1 for full. Who has no level does not count; a stage in which nobody has one is idle.

        ``stages``: which of them count where they are separate.
        """
        if fleet.endpoints is not self._endpoints:
            self._endpoints = fleet.endpoints
            self._stages = _stages(fleet.endpoints)
        if not self._stages:
            return _mean(levels)
        return max((_mean([levels[at] for at in places]) for stage, places in self._stages if stage in stages), default=0.0)


def _stages(endpoints: Sequence[Endpoint]) -> list[tuple[str, list[int]]]:
    roles = [endpoint.labels.get(ROLE_LABEL) for endpoint in endpoints]
    if set(roles) <= {None}:
        return []
    stages = ((name, [at for at, role in enumerate(roles) if role in stage]) for name, stage in STAGES.items())
    return [(name, places) for name, places in stages if places]


def _mean(levels: Sequence[float | None]) -> float:
    known = [level for level in levels if level is not None] if None in levels else cast("Sequence[float]", levels)
    return fsum(known) / len(known) if known else 0.0  # not sum(), which rounds differently on 3.12
