"""How full a pool is: the mean of its endpoints, stage by stage, and of these the fullest.

A detector says how full each endpoint is. Where prefill and decode are separate (label ``llm-d.ai/role``), each stage is
averaged by itself, since idle decoders are no help to a request that waits for a prefill; an endpoint with both roles counts in
both stages (GIE digest §6).
"""

from collections.abc import Sequence
from typing import cast

from shunter.picker.core.fleet import Fleet
from shunter.snapshot import Endpoint

__all__ = ["DECODE", "PREFILL", "ROLE_LABEL", "Gauge"]

# What an endpoint does, and of whom each stage consists: without a label everybody decodes.
ROLE_LABEL = "llm-d.ai/role"
PREFILL = frozenset({"prefill", "encode-prefill", "prefill-decode", "encode-prefill-decode", "both"})
DECODE = frozenset({"decode", "prefill-decode", "encode-prefill-decode", "both", None})


class Gauge:
    """Reads the saturation off the endpoints' levels, and remembers who belongs to which stage."""

    def __init__(self) -> None:
        """Know nobody yet."""
        self._endpoints: Sequence[Endpoint] | None = None
        self._stages: list[list[int]] = []  # positions; empty: all are of one stage

    def read(self, fleet: Fleet, levels: Sequence[float | None]) -> float:
        """Return 0 for idle, 1 for full. Who has no level does not count; a stage in which nobody has one is idle."""
        if fleet.endpoints is not self._endpoints:
            self._endpoints = fleet.endpoints
            self._stages = _stages(fleet.endpoints)
        if not self._stages:
            return _mean(levels)
        return max(_mean([levels[at] for at in stage]) for stage in self._stages)


def _stages(endpoints: Sequence[Endpoint]) -> list[list[int]]:
    roles = [endpoint.labels.get(ROLE_LABEL) for endpoint in endpoints]
    if set(roles) <= {None}:
        return []
    stages = ([at for at, role in enumerate(roles) if role in stage] for stage in (PREFILL, DECODE))
    return [stage for stage in stages if stage]


def _mean(levels: Sequence[float | None]) -> float:
    known = [level for level in levels if level is not None] if None in levels else cast("Sequence[float]", levels)
    return sum(known) / len(known) if known else 0.0
