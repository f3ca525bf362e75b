"""Flow control policies: who of those that wait goes next, and how full the pool may become for whom."""

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from shunter.picker.core.flow import Line, Waiter
from shunter.picker.core.lines import AttainedService, DeepestSession, SingleLine, Turns
from shunter.picker.plugins.catalogue import Kind, Plugin, Stability, register

__all__ = [
    "EarliestDeadline",
    "FirstCome",
    "GlobalStrict",
    "PriorityHoldback",
    "PriorityThenTime",
    "ProgramAware",
    "RoundRobin",
    "Sheddable",
    "SloDeadline",
    "SoftReflectiveCeiling",
    "StaticLimit",
    "StrictBands",
]

Share = Annotated[float, Meta(ge=0, le=1)]
NonNegative = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]

LAST = float("inf")


@register("global-strict-fairness-policy", Kind.FAIRNESS)
class GlobalStrict(Plugin, frozen=True):
    """Whoever the ordering policy puts first in the whole band: a flow that sends much gets much."""

    def line(self) -> Line:
        """Return an empty line for one band."""
        return SingleLine()


@register("round-robin-fairness-policy", Kind.FAIRNESS)
class RoundRobin(Plugin, frozen=True):
    """One request of each flow in turn, whatever their sizes; a flow that begins to wait is last in the round."""

    def line(self) -> Line:
        """Return an empty line for one band."""
        return Turns()


@register("program-aware-fairness", Kind.FAIRNESS, stability=Stability.ALPHA)
class ProgramAware(Plugin, frozen=True):
    """The flow that got the least service lately (``las``), or is the deepest session (``turn-priority``), waiting considered.

    ``las``: the flow with the highest ``lasWeightHeadWait`` · w - ``lasWeightService`` · s goes next, w being how long its
    first request has waited and s the tokens it was given, each as a share of the band's greatest. Tokens of answers count
    twice, since they cost more than those of prompts; an answer is taken to be as long as answers are on average, or as the
    request allows. Half of what was given is forgotten after ``lasHalfLifeSeconds`` (0: nothing).

    ``turn-priority``: the flow with the highest turn + ``turnPriorityTimeWeight`` · seconds waited goes next: a session that
    has had many turns has probably its prompt still cached. Its turn is 1 after more than ``turnPriorityInactivitySeconds``
    (0: never) between the last request that went on and this one, and where requests name no flow. Time weight times the
    time to live bounds how deep a session a new one can overtake.

    All is forgotten after ``evictionTtlSeconds`` without a request (0: never); ``evictionSweepSeconds`` is how often that is
    looked after.
    """

    strategy: Literal["las", "turn-priority"] = "las"
    las_weight_service: NonNegative = 0.8
    las_weight_head_wait: NonNegative = 0.2
    las_half_life_seconds: NonNegative = 60.0
    turn_priority_time_weight: NonNegative = 0.5
    turn_priority_inactivity_seconds: NonNegative = 120.0
    eviction_ttl_seconds: NonNegative = 3600.0
    eviction_sweep_seconds: Positive = 300.0

    def line(self) -> Line:
        """Return an empty line for one band."""
        if self.strategy == "turn-priority":
            return DeepestSession(
                wait_weight=self.turn_priority_time_weight,
                idle_s=self.turn_priority_inactivity_seconds,
                forget_after_s=self.eviction_ttl_seconds or LAST,
                sweep_s=self.eviction_sweep_seconds,
            )
        return AttainedService(
            service_weight=self.las_weight_service,
            wait_weight=self.las_weight_head_wait,
            half_life_s=self.las_half_life_seconds,
            forget_after_s=self.eviction_ttl_seconds or LAST,
            sweep_s=self.eviction_sweep_seconds,
        )


@register("fcfs-ordering-policy", Kind.ORDERING)
class FirstCome(Plugin, frozen=True):
    """First come, first served."""

    def order(self, waiter: Waiter) -> float:
        """Return where the request stands."""
        return waiter.arrived_s


@register("edf-ordering-policy", Kind.ORDERING)
class EarliestDeadline(Plugin, frozen=True):
    """Whose time to live ends first; who may wait for ever is last."""

    def order(self, waiter: Waiter) -> float:
        """Return where the request stands."""
        return waiter.deadline_s


@register("slo-deadline-ordering-policy", Kind.ORDERING)
class SloDeadline(Plugin, frozen=True):
    """Whose first token is due first by the header ``x-llm-d-slo-ttft-ms``; who does not say is last."""

    def order(self, waiter: Waiter) -> float:
        """Return where the request stands."""
        return LAST if waiter.ttft_slo_ms is None else waiter.arrived_s + waiter.ttft_slo_ms / 1e3


@register("static-usage-limit-policy", Kind.USAGE_LIMIT)
class StaticLimit(Plugin, frozen=True):
    """The same ceiling for every priority: ``threshold``."""

    threshold: Annotated[float, Meta(gt=0)] = 1.0

    def ceilings(self, priorities: Sequence[int], saturation: float, tick: int) -> Sequence[float]:  # noqa: ARG002
        """Return one for each of the priorities; nothing else matters."""
        return [self.threshold] * len(priorities)


@register("priority-holdback-policy", Kind.USAGE_LIMIT, stability=Stability.ALPHA)
class PriorityHoldback(Plugin, frozen=True):
    """Keeps capacity back for higher priorities: ceilings fall from ``maxCeiling`` to ``minCeiling`` in a straight line.

    By ``rank``: max - i · (max - min) / (N - 1) for the i-th of N priorities from above. By ``value``: min + r · (max - min),
    r being where the priority lies between the lowest (0) and the highest (1). A priority alone has ``maxCeiling``.
    """

    min_ceiling: Annotated[float, Meta(ge=0, lt=1)]
    max_ceiling: Annotated[float, Meta(gt=0)] = 1.0
    shape: Literal["linear"] = "linear"
    domain: Literal["rank", "value"] = "rank"

    def __post_init__(self) -> None:
        """Refuse ceilings that are upside down."""
        if self.min_ceiling > self.max_ceiling:
            raise ValueError(f"minCeiling {self.min_ceiling:g} is above maxCeiling {self.max_ceiling:g}; swap them")

    def ceilings(self, priorities: Sequence[int], saturation: float, tick: int) -> Sequence[float]:  # noqa: ARG002
        """Return one for each of the priorities; saturation and time do not matter."""
        if len(priorities) < 2:
            return [self.max_ceiling] * len(priorities)
        low, high, span = self.min_ceiling, self.max_ceiling, self.max_ceiling - self.min_ceiling
        if self.domain == "rank":
            return [high - at * span / (len(priorities) - 1) for at in range(len(priorities))]
        lowest, spread = priorities[-1], priorities[0] - priorities[-1]
        return [low + (priority - lowest) / spread * span for priority in priorities]


@register("soft-reflective-ceiling-policy", Kind.USAGE_LIMIT, stability=Stability.ALPHA)
class SoftReflectiveCeiling(Plugin, frozen=True):
    """The fuller the pool, the lower the ceilings of lower priorities, which yet are let through now and then.

    The i-th of N priorities from above has the ceiling 1 - i · saturation / (N - 1). One that is closed by it is open in one
    of round(saturation / (1 - saturation)) askings, for all priorities in the same ones; at a saturation of 1 it stays shut.
    """

    def ceilings(self, priorities: Sequence[int], saturation: float, tick: int) -> Sequence[float]:
        """Return one for each of the priorities."""
        steps = max(1, len(priorities) - 1)
        closed = saturation >= 1.0 or tick % max(1, round(saturation / (1.0 - saturation)))
        ceilings = [1.0 - at * saturation / steps for at in range(len(priorities))]
        return ceilings if closed else [1.0] * len(priorities)


@register("strict-band-selection-policy", Kind.BAND_SELECTION)
class StrictBands(Plugin, frozen=True):
    """The highest priority goes first: always so, declared or not."""


@register("eviction-sheddable-filter", Kind.EVICTION)
class Sheddable(Plugin, frozen=True):
    """Requests in flight of negative priority may be evicted: always so with ``enableEviction``, declared or not."""


@register("eviction-priority-then-time-ordering", Kind.EVICTION)
class PriorityThenTime(Plugin, frozen=True):
    """The lowest priority is evicted first, of equals the newest: always so with ``enableEviction``, declared or not."""
