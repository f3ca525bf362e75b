"""Saturation detectors: when a pool has no room, so that requests of negative priority are shed."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.request import Request
from shunter.picker.plugins.catalogue import Kind, Plugin, register
from shunter.picker.plugins.durations import duration_ns

__all__ = ["Utilization"]

NonNegative = Annotated[float, Meta(ge=0)]


@register("utilization-detector", Kind.DETECTOR, Kind.FILTER)
class Utilization(Plugin, frozen=True):
    """Saturated when every endpoint with fresh metrics has waiting ≥ queueDepthThreshold or KV usage ≥ kvCacheUtilThreshold.

    The reference averages max(waiting / threshold, usage / threshold) over the pool, where one long queue outweighs idle
    endpoints. Waiting is what the engine reports: what was sent since may be running already.

    Nobody fresh is not saturated: a dead scraper must not stop traffic (the reference then sheds everything).
    ``metricsStalenessThreshold`` narrows what counts as fresh here; empty leaves it at the picker's own 5 s. The reference's
    default, 200 ms, suits its fixed scrape interval of 50 ms and not one that goes up to a second.

    As a filter it drops who is stale by the picker's own 5 s or over its thresholds times (1 + headroom), and keeps all if
    that leaves nobody.
    """

    queue_depth_threshold: NonNegative = 5.0
    kv_cache_util_threshold: NonNegative = 0.8
    metrics_staleness_threshold: str = ""
    headroom: NonNegative = 0.0

    def __post_init__(self) -> None:
        """Refuse what is not a duration."""
        duration_ns(self.metrics_staleness_threshold)

    def saturated(self, fleet: Fleet, now_ns: int) -> bool:
        """Return True if there is no room."""
        oldest_ns = now_ns - (duration_ns(self.metrics_staleness_threshold) or now_ns)
        fresh = [at for at, known in enumerate(fleet.fresh) if known and fleet.sampled_ns[at] >= oldest_ns]
        return bool(fresh) and all(self._full(fleet, at, 1.0) for at in fresh)

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:  # noqa: ARG002  load alone decides
        """Return the positions that have room; all if nobody has."""
        roomy = [at for at, known in enumerate(fleet.fresh) if known and not self._full(fleet, at, 1.0 + self.headroom)]
        return roomy or range(len(fleet))

    def _full(self, fleet: Fleet, at: int, factor: float) -> bool:
        return (
            fleet.reported_waiting[at] >= self.queue_depth_threshold * factor
            or fleet.kv_usage[at] >= self.kv_cache_util_threshold * factor
        )
