"""Filters and scorers for anything that is known of an endpoint: its load, or a label.

=================================================== ==========================================================
active-requests                                     requests of ours in flight
running-requests, ``num_requests_running``          as the engine reports, and what was sent since
waiting-queue, ``num_requests_waiting``             likewise
kv-cache-utilization, ``kv_cache_usage_perc``       0 to 1
anything, of the producer ``labels``                the endpoint's label of that name, where it is a number
=================================================== ==========================================================

The reference reads any metric that its scraper was told to keep; the snapshot has those above.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, cast

from msgspec import Meta

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.kinds import Setting
from shunter.picker.core.request import Request
from shunter.picker.plugins.catalogue import Kind, Part, Plugin, Reference, Stability, register

__all__ = ["EndpointAttributeFilter", "EndpointAttributeScorer", "LabelProducer", "UtilizationFilter", "WeightScorer"]

Signal = Literal["active-requests", "running-requests", "waiting-queue", "kv-cache-utilization"]
NonNegative = Annotated[float, Meta(ge=0)]
Name = Annotated[str, Meta(min_length=1)]

COLUMNS = {
    "active-requests": "in_flight",
    "running-requests": "running",
    "waiting-queue": "waiting",
    "kv-cache-utilization": "kv_usage",
    "num_requests_running": "running",
    "num_requests_waiting": "waiting",
    "kv_cache_usage_perc": "kv_usage",
}
LABELS = "labels"

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "LessThan": operator.lt,
    "LessThanOrEqual": operator.le,
    "GreaterThan": operator.gt,
    "GreaterThanOrEqual": operator.ge,
    "Equal": operator.eq,
    "NotEqual": operator.ne,
}


class Condition(Part, frozen=True):
    """One signal and its upper limit, inclusive."""

    metric: Signal
    max_value: NonNegative


@register("utilization-filter", Kind.FILTER)
class UtilizationFilter(Plugin, frozen=True):
    """Keeps those that meet all conditions: a metric that is at most maxValue.

    The metrics are active-requests, running-requests, waiting-queue and kv-cache-utilization; in place of an unknown value
    stands the worst one in the pool. If that leaves nobody nobody gets the request, or with fallbackOnEmpty anybody.
    Source: llm-d's plugin of that name.
    """

    conditions: Annotated[tuple[Condition, ...], Meta(min_length=1)]
    fallback_on_empty: bool = False
    in_flight_load_producer_name: str = ""  # empty: the one there is

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:  # noqa: ARG002  load alone decides
        """Return the positions that stay."""
        kept: Sequence[int] = range(len(fleet))
        for condition in self.conditions:
            values, most = getattr(fleet, COLUMNS[condition.metric]), condition.max_value
            kept = [at for at in kept if values[at] <= most]
        return kept if kept or not self.fallback_on_empty else range(len(fleet))


class Threshold(Part, frozen=True):
    """What a value is compared with, and how."""

    operator: Literal["LessThan", "LessThanOrEqual", "GreaterThan", "GreaterThanOrEqual", "Equal", "NotEqual"]
    value: float


class Window(Part, frozen=True):
    """From ``min`` to ``max``, both inclusive."""

    min: float
    max: float

    def __post_init__(self) -> None:
        """Refuse an empty one."""
        if not self.min <= self.max:
            raise ValueError("min must be at most max")


class Top(Part, frozen=True):
    """So many of the highest, or of the lowest; whoever equals the last of them is among them."""

    k: Annotated[int, Meta(ge=1)]
    higher_is_better: bool = True


class Percentile(Part, frozen=True):
    """From the value of that rank on: the ⌈percentile / 100 · n⌉-th of n in ascending order."""

    percentile: Annotated[float, Meta(ge=0, le=100)]
    higher_is_better: bool = True


class Algorithm(Part, frozen=True):
    """One of four, with the parameters of that one."""

    type: Literal["threshold", "range", "topK", "percentile"]
    threshold: Threshold | None = None
    range: Window | None = None
    top_k: Top | None = None
    percentile: Percentile | None = None

    def __post_init__(self) -> None:
        """Refuse one without its parameters."""
        if self._chosen is None:
            raise ValueError(f"algorithm.{self.type} is missing")

    @property
    def _chosen(self) -> Threshold | Window | Top | Percentile | None:
        chosen = {"threshold": self.threshold, "range": self.range, "topK": self.top_k, "percentile": self.percentile}
        return chosen[self.type]

    def test(self, known: Sequence[float]) -> Callable[[float], bool]:
        """Return who passes among candidates with these values, of which there is one at least."""
        chosen = self._chosen
        if isinstance(chosen, Threshold):
            return lambda value: OPERATORS[chosen.operator](value, chosen.value)
        if isinstance(chosen, Window):
            return lambda value: chosen.min <= value <= chosen.max
        ranked = sorted(known)
        if isinstance(chosen, Percentile):
            limit = ranked[max(0, math.ceil(chosen.percentile / 100 * len(ranked)) - 1)]
            higher = chosen.higher_is_better
        else:
            top = cast("Top", chosen)
            higher = top.higher_is_better
            limit = ranked[-min(top.k, len(ranked))] if higher else ranked[min(top.k, len(ranked)) - 1]
        return (lambda value: value >= limit) if higher else (lambda value: value <= limit)


@register("endpoint-attribute-filter", Kind.FILTER)
class EndpointAttributeFilter(Plugin, frozen=True):
    """Keeps those whose attribute passes algorithm: a threshold, a range, the topK or those beyond a percentile.

    onMissing says what becomes of those without it: ``Pass`` or ``Fail``. The attributes are running-requests, waiting-queue,
    kv-cache-utilization (missing where the load is not known), active-requests, and with the producer ``labels`` any label.
    Of equals the reference's topK takes as many as fit; here all, so that the order does not matter.

    Source: llm-d's plugin of that name.
    """

    attribute: str
    algorithm: Algorithm
    producer: str = ""
    on_missing: Literal["Pass", "Fail"] = "Pass"
    fallback_on_empty: bool = False

    def __post_init__(self) -> None:
        """Refuse an attribute that nobody has."""
        check(self.attribute, self.producer)

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:  # noqa: ARG002  endpoints alone decide
        """Return the positions that stay."""
        values, passes = read(fleet, self.attribute, self.producer), self.on_missing == "Pass"
        known = [value for value in values if value is not None]
        test = self.algorithm.test(known) if known else bool
        kept = [at for at, value in enumerate(values) if (passes if value is None else test(value))]
        return kept if kept or not self.fallback_on_empty else range(len(fleet))


class Range(Part, frozen=True):
    """Fixed extremes; values beyond count as these."""

    min: float
    max: float

    def __post_init__(self) -> None:
        """Refuse an empty range."""
        if not self.min < self.max:
            raise ValueError("min must be less than max")


class Adaptive(Part, frozen=True):
    """The extremes are the candidates' own."""


class Normalization(Part, frozen=True):
    """One of both; without any the range is adaptive."""

    fixed_range: Range | None = None
    adaptive_range: Adaptive | None = None

    def __post_init__(self) -> None:
        """Refuse both."""
        if self.fixed_range and self.adaptive_range:
            raise ValueError("fixedRange and adaptiveRange exclude each other; keep one")


class Line(Part, frozen=True):
    """Which end is good, and where the ends are."""

    type: Literal["linear_lower_is_better", "linear_higher_is_better"]
    normalization: Normalization = Normalization()


@register("endpoint-attribute-scorer", Kind.SCORER, stability=Stability.BETA)
class EndpointAttributeScorer(Plugin, frozen=True):
    """A higher (or lower) attribute is better: (value - min) / (max - min), or 1 minus that; 0 without the attribute.

    The extremes are those of algorithm.normalization.fixedRange, or the candidates' (1 for all if they are equal). Attributes
    are those of endpoint-attribute-filter. Source: llm-d's plugin of that name.
    """

    attribute_key: str
    algorithm: Line
    producer: str = ""

    def __post_init__(self) -> None:
        """Refuse an attribute that nobody has."""
        check(self.attribute_key, self.producer)

    def score(self, request: Request, fleet: Fleet) -> Sequence[float]:  # noqa: ARG002  endpoints alone decide
        """Score all candidates."""
        values = read(fleet, self.attribute_key, self.producer)
        known = [value for value in values if value is not None]
        fixed = self.algorithm.normalization.fixed_range
        low, high = (fixed.min, fixed.max) if fixed else (min(known, default=0.0), max(known, default=0.0))
        lower = self.algorithm.type == "linear_lower_is_better"

        def score(value: float | None) -> float:
            if value is None:
                return 0.0
            if high == low:
                return 1.0
            share = (min(max(value, low), high) - low) / (high - low)
            return 1.0 - share if lower else share

        return [score(value) for value in values]


class Copy(Part, frozen=True):
    """A label, and what it is called as an attribute."""

    label: Name
    attribute_key: Name


@register("label-producer", Kind.PRODUCER, stability=Stability.ALPHA)
class LabelProducer(Plugin, frozen=True):
    """Gives labels the names under which endpoint-attribute-weight-scorer reads them.

    Source: llm-d's plugin of that name, of which one configuration has one; here it may have several.
    """

    labels: Annotated[list[Copy], Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Refuse two of a name."""
        if len(self.by_attribute) < len(self.labels):
            raise ValueError("labels has two entries with the same attributeKey")

    @property
    def by_attribute(self) -> Mapping[str, str]:
        """The label of each attribute."""
        return {each.attribute_key: each.label for each in self.labels}


@register("endpoint-attribute-weight-scorer", Kind.SCORER, stability=Stability.ALPHA)
class WeightScorer(Plugin, frozen=True):
    """What weights says of an attribute, such as a region or a make of GPU, divided by the greatest of them.

    ``producer`` names a label-producer that has the attribute. Who lacks it, or has a value that is not in weights, has the
    least of their scores. Source: llm-d's plugin of that name.
    """

    references: ClassVar[tuple[Reference, ...]] = (Reference("producer", Kind.PRODUCER),)

    attribute_key: Name
    producer: str  # empty: nobody, so that all are equal
    weights: Annotated[dict[str, Annotated[float, Meta(gt=0)]], Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Refuse weights of which nothing is left when they are divided."""
        if not all(self.scores.values()):
            raise ValueError("weights has one that vanishes beside the greatest")

    @property
    def scores(self) -> Mapping[str, float]:
        """What each value is worth."""
        most = max(self.weights.values())
        return {value: weight / most for value, weight in self.weights.items()}

    def start(self, setting: Setting) -> "ByValue":
        """Return the scorer at work."""
        found = setting.find(self.producer) if self.producer else None
        label = found.by_attribute.get(self.attribute_key) if isinstance(found, LabelProducer) else None
        return ByValue(label, self.scores)


class ByValue:
    """A WeightScorer that knows the label; None: nobody has any."""

    def __init__(self, label: str | None, scores: Mapping[str, float]) -> None:
        """``scores`` is by the label's value."""
        self._label = label
        self._scores = scores
        self._least = min(scores.values())

    def score(self, request: Request, fleet: Fleet) -> Sequence[float]:  # noqa: ARG002  endpoints alone decide
        """Score all candidates."""
        if self._label is None:
            return [self._least] * len(fleet)
        label, scores, least = self._label, self._scores, self._least
        return [
            scores.get(endpoint.labels.get(label, ""), least) if label in endpoint.labels else least
            for endpoint in fleet.endpoints
        ]


def check(attribute: str, producer: str) -> None:
    """Raise ValueError if nothing can be read under that name."""
    if producer != LABELS and attribute not in COLUMNS:
        raise ValueError(f"no attribute is named {attribute!r}: there are {', '.join(COLUMNS)}, and labels (producer: labels)")


def read(fleet: Fleet, attribute: str, producer: str) -> list[float | None]:
    """Return every candidate's value; None where it has none."""
    if producer == LABELS:
        return [_number(endpoint.labels.get(attribute)) for endpoint in fleet.endpoints]
    column = COLUMNS[attribute]
    if column == "in_flight":
        return list(fleet.in_flight)
    return [value if known else None for known, value in zip(fleet.fresh, getattr(fleet, column), strict=True)]


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None
