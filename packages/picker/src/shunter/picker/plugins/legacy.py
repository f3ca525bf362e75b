"""The decision tree that GIE 0.3 had instead of plugins, as one filter."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.kinds import Dice, Setting
from shunter.picker.core.request import Request
from shunter.picker.plugins.catalogue import Kind, Plugin, register

__all__ = ["LegacyTree"]

Fraction = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]


@register("legacy-v0.3", Kind.FILTER)
class LegacyTree(Plugin, frozen=True):
    """The fixed tree of GIE 0.3, with random-picker behind it; nobody is left where it dropped a request (429).

    ================= ===========================================================================================
    critical          of those with waiting < queuingThresholdLora: LoRA affinity, then least queue, then least KV;
                      without any, of all: least queue, then LoRA affinity, then least KV
    everything else   of those with waiting ≤ queueThresholdCritical and KV usage ≤ kvCacheThreshold: least queue, then
                      LoRA affinity, then least KV; without any: dropped
    ================= ===========================================================================================

    Critical is a priority above 0: InferenceModel's criticality Critical counts as 1. Least queue keeps the lowest n-th of the
    range, waiting ≤ min + (max - min) // n of n candidates; least KV likewise, with fractions. LoRA affinity keeps, with
    probability loraAffinityThreshold, those where the adapter is active, else those with room for it; if there is only one of
    the two kinds it keeps that, and all if there is neither. Load is what the engines report, as it was: what was sent since
    does not count.

    Source: the scheduler of GIE 0.3. The parameters were the environment's KV_CACHE_THRESHOLD, QUEUE_THRESHOLD_CRITICAL,
    QUEUING_THRESHOLD_LORA and LORA_AFFINITY_THRESHOLD.
    """

    kv_cache_threshold: Fraction = 0.8
    queue_threshold_critical: Count = 5
    queuing_threshold_lora: Count = 128
    lora_affinity_threshold: Fraction = 0.999

    def start(self, setting: Setting) -> "Tree":
        """Return the filter at work."""
        return Tree(self, setting.dice)


class Tree:
    """A LegacyTree with dice."""

    def __init__(self, parameters: LegacyTree, dice: Dice) -> None:
        """Keep nothing but these."""
        self._parameters = parameters
        self._dice = dice

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:
        """Return the positions that stay."""
        parameters, waiting, usage = self._parameters, fleet.reported_waiting, fleet.kv_usage
        everybody = range(len(fleet))
        if request.priority > 0:
            calm = [at for at in everybody if waiting[at] < parameters.queuing_threshold_lora]
            if calm:
                left = self._affine(request, fleet, calm)
                return least_usage(usage, least_queue(waiting, left))
            left = least_queue(waiting, everybody)
        else:
            full, busy = parameters.kv_cache_threshold, parameters.queue_threshold_critical
            roomy = [at for at in everybody if waiting[at] <= busy and usage[at] <= full]
            if not roomy:
                return ()
            left = least_queue(waiting, roomy)
        return least_usage(usage, self._affine(request, fleet, left))

    def _affine(self, request: Request, fleet: Fleet, left: Sequence[int]) -> Sequence[int]:
        """LoRA affinity."""
        active = [at for at in left if request.target_model in fleet.running_adapters[at]]
        able = set(active)
        roomy = [at for at in left if at not in able and len(fleet.running_adapters[at]) < (fleet.max_adapters[at] or 0)]
        if active and roomy:
            return active if self._dice.random() < self._parameters.lora_affinity_threshold else roomy
        return active or roomy or left


def least_queue(waiting: Sequence[float], left: Sequence[int]) -> Sequence[int]:
    """Keep those within the lowest n-th of the range, in whole requests."""
    values = [waiting[at] for at in left]
    low = min(values)
    most = low + (max(values) - low) // len(values)
    return [at for at in left if waiting[at] <= most]


def least_usage(usage: Sequence[float], left: Sequence[int]) -> Sequence[int]:
    """Keep those within the lowest n-th of the range."""
    values = [usage[at] for at in left]
    low = min(values)
    most = low + (max(values) - low) / len(values)
    return [at for at in left if usage[at] <= most]
