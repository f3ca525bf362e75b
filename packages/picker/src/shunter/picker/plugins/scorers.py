"""Scorers: how good a candidate is for a request, from 0 to 1. Formulas and parameters are those of the llm-d scheduler.

Those with a ``column`` and ``at`` depend on that column alone; the scheduler keeps their scores between requests.
``waiting`` and ``running`` include the requests we sent that the engine has not reported yet; an unknown value stands at the
pool's worst known one.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from msgspec import Meta

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.kinds import Setting
from shunter.picker.core.request import Request
from shunter.picker.plugins.catalogue import Kind, Plugin, Stability, register
from shunter.picker.plugins.inflight import find_load

__all__ = [
    "ActiveRequest",
    "KvCacheUtilization",
    "LMetric",
    "LoadAware",
    "LoraAffinity",
    "PrefixCache",
    "Queue",
    "RunningRequests",
    "TokenLoad",
]

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Fraction = Annotated[float, Meta(ge=0, le=1)]


@register("queue-scorer", Kind.SCORER)
class Queue(Plugin, frozen=True):
    """Fewer waiting requests are better: (max - waiting) / (max - min) over the candidates; 1 if all are equal.

    Source: llm-d's plugin of that name.
    """

    column: ClassVar[str] = "waiting"

    def at(self, value: float, low: float, high: float) -> float:
        """Score one candidate."""
        return (high - value) / (high - low) if high > low else 1.0


@register("running-requests-size-scorer", Kind.SCORER)
class RunningRequests(Plugin, frozen=True):
    """Fewer running requests are better: (max - running) / (max - min) over the candidates; 1 if all are equal.

    Source: llm-d's plugin of that name.
    """

    column: ClassVar[str] = "running"

    def at(self, value: float, low: float, high: float) -> float:
        """Score one candidate."""
        return (high - value) / (high - low) if high > low else 1.0


@register("kv-cache-utilization-scorer", Kind.SCORER)
class KvCacheUtilization(Plugin, frozen=True):
    """A freer KV cache is better: 1 - usage.

    Source: llm-d's plugin of that name.
    """

    column: ClassVar[str] = "kv_usage"

    def at(self, value: float, low: float, high: float) -> float:  # noqa: ARG002  absolute, not relative
        """Score one candidate."""
        return 1.0 - value


@register("load-aware-scorer", Kind.SCORER)
class LoadAware(Plugin, frozen=True):
    """A queue below the threshold is better: 0.5 · (1 - min(waiting, threshold) / threshold).

    Source: llm-d's plugin of that name.
    """

    threshold: Positive = 128

    column: ClassVar[str] = "waiting"

    def at(self, value: float, low: float, high: float) -> float:  # noqa: ARG002  absolute, not relative
        """Score one candidate."""
        return 0.5 * (1.0 - min(value, self.threshold) / self.threshold)


@register("active-request-scorer", Kind.SCORER)
class ActiveRequest(Plugin, frozen=True):
    """Fewer requests of ours in flight are better: 1 up to idleThreshold, else (max - count) / max · maxBusyScore.

    Source: llm-d's plugin of that name.
    """

    idle_threshold: Count = 0
    max_busy_score: Fraction = 1.0
    in_flight_load_producer_name: str = ""  # empty: the one there is

    column: ClassVar[str] = "in_flight"

    def at(self, value: float, low: float, high: float) -> float:  # noqa: ARG002  relative to the busiest only
        """Score one candidate."""
        return 1.0 if value <= self.idle_threshold else (high - value) / high * self.max_busy_score


@register("token-load-scorer", Kind.SCORER)
class TokenLoad(Plugin, frozen=True):
    """Fewer tokens in flight are better: 1 - min(tokens in flight + uncached ones of this request, T) / T.

    T is queueThresholdTokens; what is in flight, inflight-load-producer says. Source: llm-d's plugin of that name.
    """

    queue_threshold_tokens: Positive = 4_194_304
    in_flight_load_producer_name: str = ""  # empty: the one there is

    reads_prefix: ClassVar[bool] = True

    def start(self, setting: Setting) -> "TokensInFlight":
        """Return the scorer at work."""
        return TokensInFlight(self, setting)


class TokensInFlight:
    """A TokenLoad that knows what counts."""

    def __init__(self, parameters: TokenLoad, setting: Setting) -> None:
        """Keep nothing but these."""
        self._limit = parameters.queue_threshold_tokens
        self._load = find_load(setting, parameters.in_flight_load_producer_name)

    def score(self, request: Request, fleet: Fleet) -> Sequence[float]:
        """Score all candidates."""
        limit, tokens, index = self._limit, request.prompt_tokens, fleet.index
        loads = self._load.tokens(fleet, None, request.at_ns)
        room = limit - tokens
        scores = [(room - load) / limit if load < room else 0.0 for load in loads]
        for slot, share in request.prefix.share.items():
            at = index.get(slot)
            if at is not None:
                scores[at] = max(0.0, limit - tokens * (1.0 - share) - loads[at]) / limit
        return scores


@register("lmetric-scorer", Kind.SCORER, stability=Stability.BETA)
class LMetric(Plugin, frozen=True):
    """The least work beside the fewest others: (max - cost) / (max - min), 1 if all are equal; see cost below.

    cost = tokens of the prompt that the candidate has not cached · (requests of ours in flight there + 1). A product has no
    weights to tune: a factor common to all candidates does not change their order.

    Source: "LMetric", arXiv 2603.15202; llm-d's pull request 2351.
    """

    prefix_match_info_producer_name: str = ""  # empty: the one there is
    in_flight_load_producer_name: str = ""  # empty: the one there is

    reads_prefix: ClassVar[bool] = True

    def score(self, request: Request, fleet: Fleet) -> Sequence[float]:
        """Score all candidates."""
        match = request.match(self.prefix_match_info_producer_name)
        tokens, known, share = request.prompt_tokens, match.tokens, match.share
        costs = [
            max(0.0, tokens - known * share.get(endpoint.slot, 0.0)) * (count + 1)
            for endpoint, count in zip(fleet.endpoints, fleet.in_flight, strict=True)
        ]
        low, high = min(costs), max(costs)
        return [(high - cost) / (high - low) for cost in costs] if high > low else [1.0] * len(costs)


@register("prefix-cache-scorer", Kind.SCORER)
class PrefixCache(Plugin, frozen=True):
    """Who has the prompt's beginning in its cache is better: (1 - w) · share + w · min(1, matched tokens / scale)².

    ``share`` is the part of the prompt's whole blocks, by bytes, that the candidate was sent before; w is matchLengthWeight,
    scale matchLengthScaleTokens. Source: llm-d's plugin of that name.
    """

    prefix_match_info_producer_name: str = ""  # empty: the one there is
    match_length_weight: Fraction = 0.0
    match_length_scale_tokens: Positive = 8192

    reads_prefix: ClassVar[bool] = True

    def score(self, request: Request, fleet: Fleet) -> Mapping[int, float]:
        """Score the candidates that match at all."""
        match = request.match(self.prefix_match_info_producer_name)
        index = fleet.index
        weight, scale = self.match_length_weight, self.match_length_scale_tokens
        found = {index[slot]: share for slot, share in match.share.items() if slot in index}
        if not weight:
            return found
        return {
            at: (1.0 - weight) * share + weight * min(1.0, share * match.tokens / scale) ** 2 for at, share in found.items()
        }


@register("lora-affinity-scorer", Kind.SCORER, stability=Stability.BETA)
class LoraAffinity(Plugin, frozen=True):
    """Who has the adapter loaded is better: 1 if active, 0.8 with room for one more, 0.6 if it is being loaded, else 0.

    There is room if fewer adapters are active or being loaded than fit in; one that is both counts once.
    Source: llm-d's plugin of that name.
    """

    def score(self, request: Request, fleet: Fleet) -> Sequence[float]:
        """Score all candidates."""
        model = request.target_model
        columns = zip(fleet.running_adapters, fleet.waiting_adapters, fleet.max_adapters, strict=True)
        return [_affinity(model, active, waiting, room or 0) for active, waiting, room in columns]


def _affinity(model: str | None, active: Sequence[str], waiting: Sequence[str], room: int) -> float:
    if model in active:
        return 1.0
    if len(active) + len(waiting) < room or len({*active, *waiting}) < room:
        return 0.8
    return 0.6 if model in waiting else 0.0
