"""Admission: who is refused although there are endpoints."""

from collections.abc import Sequence
from math import fsum
from typing import Annotated

from msgspec import Meta

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.judgement import DropReason, Refusal
from shunter.picker.core.kinds import Dice, Setting
from shunter.picker.core.request import Request
from shunter.picker.plugins.catalogue import Kind, Plugin, Stability, register

__all__ = ["KnownModels", "Probabilistic"]

# Characters of a model's name that a refusal repeats.
LONGEST_NAME = 256

Positive = Annotated[float, Meta(gt=0)]

SHED = Refusal(429, "ResourceExhausted", "the pool is filling up, sheddable request dropped", DropReason.SATURATED)


@register("probabilistic-admitter", Kind.ADMITTER, stability=Stability.ALPHA)
class Probabilistic(Plugin, frozen=True):
    """Sheds requests of negative priority the more, the fuller the pool is: with probability min(1, saturation^power · k).

    Saturation is the mean over the candidates of max(waiting / queueDepthThreshold, KV usage / kvCacheUtilThreshold), as the
    engines report it; one whose load is not known counts as 1. With the defaults it begins at 0.15 and is complete at 0.32.
    The refusal is a 429; the reference's becomes a 500 on its way out. Source: llm-d's plugin of that name.
    """

    queue_depth_threshold: Positive = 5.0
    kv_cache_util_threshold: Positive = 0.8
    power: Positive = 5.0
    k: Positive = 300.0

    def start(self, setting: Setting) -> "Curve":
        """Return the admitter at work."""
        return Curve(self, setting.dice)


class Curve:
    """A Probabilistic with dice."""

    def __init__(self, parameters: Probabilistic, dice: Dice) -> None:
        """Keep nothing but these."""
        self._parameters = parameters
        self._dice = dice

    def admit(self, request: Request, fleet: Fleet) -> Refusal | None:
        """Return why not, or None."""
        if request.priority >= 0 or not len(fleet):
            return None
        parameters, levels = self._parameters, self._levels(fleet)
        chance = (fsum(levels) / len(levels)) ** parameters.power * parameters.k
        return SHED if self._dice.random() < chance else None

    def _levels(self, fleet: Fleet) -> Sequence[float]:
        depth, share = self._parameters.queue_depth_threshold, self._parameters.kv_cache_util_threshold
        rows = zip(fleet.fresh, fleet.reported_waiting, fleet.kv_usage, strict=True)
        return [max(waiting / depth, usage / share) if known else 1.0 for known, waiting, usage in rows]


@register("known-model-admitter", Kind.ADMITTER)
class KnownModels(Plugin, frozen=True):
    """Answers 404 where no InferenceModel, InferenceModelRewrite or rewrite header names the model, as GIE 0.3 did.

    Later releases, and Shunter without this, leave it to the engines what they know. What names no model at all passes.
    Source: GIE 0.3.
    """

    def admit(self, request: Request, fleet: Fleet) -> Refusal | None:  # noqa: ARG002  an admitter is given both
        """Return why not, or None."""
        if request.model is None or request.rule is not None:
            return None
        return Refusal(404, "NotFound", f"the model {request.model[:LONGEST_NAME]!r} does not exist in this pool")
