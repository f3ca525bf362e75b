"""Saturation detectors: how full each endpoint is, from which follows when a pool has no room."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.kinds import Setting
from shunter.picker.core.request import Request
from shunter.picker.core.saturation import STAGES, Signal
from shunter.picker.plugins.catalogue import Kind, Plugin, Reference, Stability, register
from shunter.picker.plugins.durations import duration_ns
from shunter.picker.plugins.inflight import InflightLoad, find_load

__all__ = ["SPARSEST_SAMPLES_NS", "Concurrency", "Fullest", "Utilization"]

NonNegative = Annotated[float, Meta(ge=0)]
Threshold = Annotated[float, Meta(gt=0)]  # whoever is at 0 of 0 would be full for ever
Share = Annotated[float, Meta(gt=0, le=1)]
Positive = Annotated[int, Meta(ge=1)]

# Requests in flight that an endpoint of unknown load is taken to have room for; what the concurrency-detector assumes of all.
UNKNOWN_CONCURRENCY = 100

# An idle endpoint is asked each second, give or take a tenth, and an answer takes its time. Who asks for fresher metrics would
# have those with the least to do count as unknown most of the time, and everything go to the busy ones.
SPARSEST_SAMPLES_NS = 1_200_000_000


# What is waiting is counted whichever producer is named; so none is implied.
IN_FLIGHT = Reference("inFlightLoadProducerName", Kind.PRODUCER)


@register("utilization-detector", Kind.DETECTOR, Kind.FILTER)
class Utilization(Plugin, frozen=True):
    """How full an endpoint is: the greater of waiting / queueDepthThreshold and KV usage / kvCacheUtilThreshold, at most 1.

    The reference has no such bound, so one long queue outweighs idle endpoints; here the pool is full when every endpoint is.
    Waiting is what the engine reports; flow control counts as waiting, too, what was sent since, so between two scrapes an
    endpoint gets no more than its threshold, and the backlog waits where its order can be chosen.

    ``stalenessPolicy`` says what an endpoint without fresh metrics counts for: ``ignore`` for nothing; ``saturated`` for full,
    which is the reference's default and stops all traffic that flow control holds when the scraper dies; ``ledger``, the
    default here, for nothing while others are known, and where nobody is, each for its requests in flight of 100.
    ``metricsStalenessThreshold`` narrows what counts as fresh; empty leaves it at the picker's own 5 s, and so does what is
    below 1.2 s: idle endpoints are asked once a second. The reference's default, 200 ms, suits its fixed interval of 50 ms.

    As a filter it drops who is stale or over its thresholds times (1 + headroom), and keeps all if that leaves nobody.
    """

    queue_depth_threshold: Threshold = 5.0
    kv_cache_util_threshold: Share = 0.8
    metrics_staleness_threshold: str = ""
    staleness_policy: Literal["ledger", "ignore", "saturated"] = "ledger"
    headroom: NonNegative = 0.0
    in_flight_load_producer_name: str = ""  # of what was sent since

    @classmethod
    def all_references(cls) -> Sequence[Reference]:
        """Return its references."""
        return (IN_FLIGHT,)

    def __post_init__(self) -> None:
        """Refuse what is not a duration, or none at all."""
        if self.metrics_staleness_threshold and not duration_ns(self.metrics_staleness_threshold):
            raise ValueError("metricsStalenessThreshold must be above 0")

    @property
    def outrun(self) -> bool:
        """Does the threshold ask for fresher metrics than there are of idle endpoints? Then it has no effect."""
        return 0 < duration_ns(self.metrics_staleness_threshold) < SPARSEST_SAMPLES_NS

    def levels(self, fleet: Fleet, now_ns: int, *, sent: bool) -> Sequence[float | None]:
        """Return how full each endpoint is; with ``sent``, what was sent since the sample waits too."""
        unknown = 1.0 if self.staleness_policy == "saturated" else None
        depth, share = self.queue_depth_threshold, self.kv_cache_util_threshold
        # Flow control asks for each request, so a call for each endpoint would be dear.
        levels: list[float | None] = [
            1.0
            if waiting >= depth or usage >= share
            else (waiting / depth if waiting * share > usage * depth else usage / share)
            for waiting, usage in zip(fleet.waiting if sent else fleet.reported_waiting, fleet.kv_usage, strict=True)
        ]
        known = self._known(fleet, now_ns)
        if not all(known):
            levels = [level if fresh else unknown for level, fresh in zip(levels, known, strict=True)]
        if self.staleness_policy == "ledger" and all(level is None for level in levels):
            return [min(1.0, count / UNKNOWN_CONCURRENCY) for count in fleet.in_flight]
        return levels

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:
        """Return the positions that have room; all if nobody has."""
        most = 1.0 + self.headroom
        depth, share = self.queue_depth_threshold * most, self.kv_cache_util_threshold * most
        rows = zip(self._known(fleet, request.at_ns), fleet.reported_waiting, fleet.kv_usage, strict=True)
        roomy = [at for at, (known, waiting, usage) in enumerate(rows) if known and waiting < depth and usage < share]
        return roomy or range(len(fleet))

    def _known(self, fleet: Fleet, now_ns: int) -> Sequence[bool]:
        """Return of whom the load is known and recent enough."""
        if not self.metrics_staleness_threshold or self.outrun:
            return fleet.fresh
        oldest_ns = now_ns - duration_ns(self.metrics_staleness_threshold)
        return [fresh and at_ns >= oldest_ns for fresh, at_ns in zip(fleet.fresh, fleet.sampled_ns, strict=True)]


@register("concurrency-detector", Kind.DETECTOR, Kind.FILTER)
class Concurrency(Plugin, frozen=True):
    """How full an endpoint is: its requests in flight / maxConcurrency, or its tokens in flight / maxTokenConcurrency.

    ``hybrid`` takes the greater of both. What tokens are in flight inflight-load-producer says: of prompts those that are not
    cached, until they are computed, and if it is told so those that answers are expected to have. The account is the picker's
    own (of all workers), exact to the moment: no metrics are needed, and nothing overshoots.

    As a filter it drops who has reached its limit times (1 + headroom), rounded down; if that leaves nobody, nobody gets the
    request.
    """

    max_concurrency: Positive = 100
    max_token_concurrency: Positive = 1_000_000
    concurrency_mode: Literal["requests", "tokens", "hybrid"] = "requests"
    headroom: NonNegative = 0.0
    in_flight_load_producer_name: str = ""  # empty: the one there is

    def start(self, setting: Setting) -> "Counted":
        """Return the detector at work."""
        return Counted(self, find_load(setting, self.in_flight_load_producer_name))


class Counted:
    """A Concurrency that knows what tokens count."""

    def __init__(self, parameters: Concurrency, load: InflightLoad) -> None:
        """Keep nothing but these."""
        self._parameters = parameters
        self._load = load

    def levels(self, fleet: Fleet, now_ns: int, *, sent: bool) -> Sequence[float | None]:  # noqa: ARG002
        """Return how full each endpoint is; the account has everything that was sent."""
        requests, tokens = self._parameters.max_concurrency, self._parameters.max_token_concurrency
        match self._parameters.concurrency_mode:
            case "requests":
                return [count / requests for count in fleet.in_flight]
            case "tokens":
                return [size / tokens for size in self._load.tokens(fleet, None, now_ns)]
            case "hybrid":
                pairs = zip(fleet.in_flight, self._load.tokens(fleet, None, now_ns), strict=True)
                return [max(count / requests, size / tokens) for count, size in pairs]

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:
        """Return the positions that have room."""
        mode, most = self._parameters.concurrency_mode, 1.0 + self._parameters.headroom
        roomy: Sequence[int] = range(len(fleet))
        if mode != "tokens":
            requests, in_flight = int(self._parameters.max_concurrency * most), fleet.in_flight
            roomy = [at for at in roomy if in_flight[at] < requests]
        if mode != "requests":
            tokens, sizes = int(self._parameters.max_token_concurrency * most), self._load.tokens(fleet, None, request.at_ns)
            roomy = [at for at in roomy if sizes[at] < tokens]
        return roomy


@register("max-saturation-detector", Kind.DETECTOR, stability=Stability.BETA)
class Fullest(Plugin, frozen=True):
    """The pool is as full as the detector says that calls it fullest: requests in flight and queues, say, each with its limit.

    ``stages`` says of which stages (prefill, decode) a detector is asked where these are separate; who is not in it, of both,
    and a stage of which nobody is asked never holds requests back. It is no filter; those whom it names are, where profiles
    list them.
    """

    references = (Reference("detectors[]", Kind.DETECTOR),)

    detectors: Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1)]
    stages: Mapping[str, Annotated[list[Literal["prefill", "decode"]], Meta(min_length=1)]] = {}

    def __post_init__(self) -> None:
        """Refuse who is named twice, and stages of others."""
        for at, name in enumerate(self.detectors):
            if name in self.detectors[:at]:
                raise ValueError(f"detectors names {name!r} twice")
        for name in self.stages:
            if name not in self.detectors:
                raise ValueError(f"stages has {name!r}, which detectors does not name")

    def start(self, setting: Setting) -> "Together":
        """Return the detectors at work."""
        named: dict[str, Any] = {name: setting.find(name) for name in self.detectors}
        return Together([Signal(each, frozenset(self.stages.get(name, STAGES))) for name, each in named.items()])


class Together(NamedTuple):
    """Detectors of which the fullest counts."""

    signals: Sequence[Signal]
