"""Predicted latency: what a request's times would be at each candidate, and who makes of it what.

The reference asks a server beside the picker, which trains a model of a dozen features. On the way of a request there is no
time to ask anybody: here the time to first token is what waits at the candidate by the rate that ``core.speeds`` has learnt of
it, and the time per token what its last answers took. Each worker learns from its own requests.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, cast

import msgspec
from msgspec import Meta

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.judgement import DropReason, Outcome, Refusal
from shunter.picker.core.kinds import Dice, Header, Setting, Verdict
from shunter.picker.core.ledger import Key
from shunter.picker.core.request import Request
from shunter.picker.core.speeds import Speeds, crowding
from shunter.picker.core.tenants import Tenants
from shunter.picker.plugins.catalogue import Kind, Plugin, Reference, Stability, register
from shunter.picker.plugins.durations import duration_ns

__all__ = [
    "LATENCY_PREDICTION",
    "HeadroomTier",
    "LatencyScorer",
    "PredictedLatency",
    "Prediction",
    "SloAdmitter",
    "predictions",
]

NonNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]

PRODUCER = "predicted-latency-producer"
LATENCY_PREDICTION = Reference("latencyPredictionInfoProducerName", Kind.PRODUCER, implied=PRODUCER)

# A cache so empty has room whatever is predicted.
NEARLY_EMPTY = 0.02

# What a token of an answer takes before any was seen, and how many answers the running mean of an endpoint remembers.
TOKEN_S = 0.02
ANSWERS_REMEMBERED = 16

# Differences of headroom below this, in ms, are none.
EPSILON_MS = 1e-9

TOO_LATE = Refusal(
    429, "ResourceExhausted", "no endpoint is expected to be as fast as the request asks, sheddable request dropped",
    DropReason.SATURATED,
)  # fmt: skip


class Prediction(msgspec.Struct, frozen=True, gc=False):
    """What one request may expect of one candidate. Headroom is the SLO less the prediction: below 0 it is missed."""

    ttft_ms: float
    tpot_ms: float
    ttft_headroom_ms: float
    tpot_headroom_ms: float
    in_flight: int = 0  # requests of ours there

    @property
    def valid(self) -> bool:
        """Whether both SLOs are kept."""
        return self.ttft_headroom_ms >= 0 and self.tpot_headroom_ms >= 0


Predictions = Mapping[int, Prediction]
"""By slot."""


def predictions(request: Request, producer: str) -> Predictions:
    """Return what a producer predicted for the request; nothing if it did not."""
    found = request.facts.get(producer or PRODUCER)
    return cast("Predictions", found) if isinstance(found, dict) else {}


@register("predicted-latency-producer", Kind.PRODUCER, stability=Stability.ALPHA)
class PredictedLatency(Plugin, frozen=True):
    """Predicts time to first token and time per token at each candidate, and how far they are below the request's SLOs.

    The SLOs are in the headers x-llm-d-slo-ttft-ms and x-llm-d-slo-tpot-ms, times sloBufferFactor; without one it is 0, so
    headroom only ranks. That of tokens is the strictest of the requests running there, too, and counts only in streamingMode
    and not where endpointRoleLabel says ``prefill``. Times per token are learnt where the gateway tells how many there were.

    The reference's sampling and its servers (samplingMean, maxDecodeTokenSamplesForPrediction, contextTTL, predictInProduce,
    useEncoderCacheFeatures) have nothing to correspond to here and no effect; contextTTL is in nanoseconds there, and may be
    a text such as 5m here.
    """

    streaming_mode: bool = False
    slo_buffer_factor: NonNegative = 1.0
    endpoint_role_label: str = ""
    prefix_match_info_producer_name: str = ""  # empty: the one there is
    sampling_mean: NonNegative = 1000.0
    max_decode_token_samples_for_prediction: Annotated[int, Meta(ge=0)] = 0
    context_ttl: str | int = msgspec.field(default="5m", name="contextTTL")
    predict_in_produce: bool = True
    use_encoder_cache_features: bool = False
    in_flight_load_producer_name: str = ""  # the account is the same whoever is named
    encoder_cache_match_info_producer_name: str = ""

    reads_prefix: ClassVar[bool] = True
    references: ClassVar[tuple[Reference, ...]] = (Reference("encoderCacheMatchInfoProducerName", Kind.PRODUCER),)

    def __post_init__(self) -> None:
        """Refuse what is not a duration."""
        if isinstance(self.context_ttl, str):
            duration_ns(self.context_ttl)

    def start(self, setting: Setting) -> "Predictor":
        """Return the producer at work."""
        return Predictor(self, setting.name)


class Predictor:
    """What is learnt, and the SLOs of what is running."""

    def __init__(self, parameters: PredictedLatency, name: str) -> None:
        """Know nothing yet."""
        self._parameters = parameters
        self._name = name
        self._speeds = Speeds()
        self._usual_s = TOKEN_S  # per token of the last answers, whoever gave them
        self._token_s = Tenants[float]()  # of each endpoint's
        self._strictest: dict[Key, dict[int, float]] = {}  # endpoint → ticket → SLO of its tokens, in ms
        self._where: dict[int, Key] = {}  # ticket → endpoint, of those in the above

    def produce(self, request: Request, fleet: Fleet) -> Predictions:
        """Return a prediction for every candidate."""
        speeds, parameters, now_ns = self._speeds, self._parameters, request.at_ns
        factor, role = parameters.slo_buffer_factor, parameters.endpoint_role_label
        ttft_slo, tpot_slo = (request.slo_ttft_ms or 0.0) * factor, request.slo_tpot_ms or 0.0
        found: dict[int, Prediction] = {}
        backlogs = fleet.ledger.prefill_backlogs(fleet.keys, now_ns)
        match = request.match(parameters.prefix_match_info_producer_name)
        tokens, known, share = request.prompt_tokens, match.tokens, match.share
        for endpoint, key, backlog, in_flight in zip(fleet.endpoints, fleet.keys, backlogs, fleet.in_flight, strict=True):
            waiting = backlog + max(0.0, tokens - share.get(endpoint.slot, 0.0) * known)
            ttft_ms = 1000 * waiting / speeds.prefill_per_s(key)
            tpot_ms = 1000 * (self._token_s.get(key) or self._usual_s)
            neutral = not parameters.streaming_mode or (role and endpoint.labels.get(role) == "prefill")
            slo = min([tpot_slo, *self._strictest.get(key, {}).values()]) if tpot_slo else 0.0
            headroom_ms = 0.0 if neutral else slo * factor - tpot_ms
            found[endpoint.slot] = Prediction(ttft_ms, tpot_ms, ttft_slo - ttft_ms, headroom_ms, in_flight)
        return found

    def picked(self, request: Request, verdict: Verdict) -> tuple[Sequence[Header], Sequence[Header]]:
        """Note what the request meets where it is sent."""
        first = verdict.decision.candidates[verdict.decision.chosen[0]]
        expected = predictions(request, self._name).get(first.slot)
        if expected is not None:
            key = (first.slot, first.incarnation)
            waiting = expected.ttft_ms / 1000 * self._speeds.prefill_per_s(key)  # nothing has been learnt since
            self._speeds.began(request.ticket, key, waiting, crowding(expected.in_flight + 1, 0))
            if request.slo_tpot_ms:
                self._strictest.setdefault(key, {})[request.ticket] = request.slo_tpot_ms
                self._where[request.ticket] = key
        return (), ()

    def observe(self, ticket: int, outcome: Outcome, now_s: float) -> None:  # noqa: ARG002  durations are in the outcome
        """Learn."""
        seen, tokens = self._speeds.observe(ticket, outcome), outcome.completion_tokens or 0
        if seen is not None and tokens > 1 and outcome.first_token_s is not None and outcome.duration_s is not None:
            took_s = (outcome.duration_s - outcome.first_token_s) / (tokens - 1)
            before_s = self._token_s.get(seen) or self._usual_s
            self._token_s.put(seen, before_s + (took_s - before_s) / ANSWERS_REMEMBERED)
            self._usual_s += (took_s - self._usual_s) / ANSWERS_REMEMBERED
        if not outcome.lasts and (key := self._where.pop(ticket, None)) is not None:
            running = self._strictest[key]
            del running[ticket]
            if not running:
                del self._strictest[key]


@register("latency-scorer", Kind.SCORER, stability=Stability.ALPHA)
class LatencyScorer(Plugin, frozen=True):
    """Scores the best group of candidates by predicted headroom, the others with 0.

    Groups, best first: both SLOs kept; idle ones; only the time per token missed; only the time to first token; both. Within
    it c = the mean, by ttftWeight and tpotWeight, of both headrooms' sizes between the group's extremes (of one alone if the
    other is the same everywhere); the score is (⌊100 · (1 - c)⌋ + 1) / 100 at most 1, so the least headroom is best: full
    endpoints are filled first. With headroomSelectionStrategy ``most``, of the first group, it is (⌊100 · c⌋ + 1) / 100.

    Without predictions: the mean, by the composite weights, of 1 - KV usage, (max - waiting) / max and the matched share of the
    prompt, in hundredths. Source: llm-d's plugin of that name.
    """

    ttft_weight: NonNegative = 0.8
    tpot_weight: NonNegative = 0.2
    headroom_selection_strategy: Literal["least", "most"] = "least"
    composite_kv_weight: NonNegative = msgspec.field(default=1.0, name="compositeKVWeight")
    composite_queue_weight: NonNegative = 1.0
    composite_prefix_weight: NonNegative = 1.0
    latency_prediction_info_producer_name: str = ""
    prefix_match_info_producer_name: str = ""  # empty: the one there is

    reads_prefix: ClassVar[bool] = True
    references: ClassVar[tuple[Reference, ...]] = (LATENCY_PREDICTION,)

    def score(self, request: Request, fleet: Fleet) -> Mapping[int, float]:
        """Score all candidates, or a group of them."""
        by_slot = predictions(request, self.latency_prediction_info_producer_name)
        known = {at: by_slot.get(endpoint.slot) for at, endpoint in enumerate(fleet.endpoints)}
        if not any(known.values()):
            return self._composite(request, fleet)
        group, kept = _best_group(known)
        return self._rank(group, most=kept and self.headroom_selection_strategy == "most")

    def _rank(self, group: Mapping[int, Prediction | None], *, most: bool) -> Mapping[int, float]:
        first = _spread({at: abs(each.ttft_headroom_ms) if each else 0.0 for at, each in group.items()})
        token = _spread({at: abs(each.tpot_headroom_ms) if each else 0.0 for at, each in group.items()})
        whole = self.ttft_weight + self.tpot_weight
        weight = self.ttft_weight / whole if whole else 1.0
        if first is None or token is None:
            weight = 1.0 if token is None else 0.0
        scores: dict[int, float] = {}
        for at in group:
            c = weight * (first[at] if first else 0.5) + (1.0 - weight) * (token[at] if token else 0.5)
            scores[at] = min(1.0, (int(100 * (c if most else 1.0 - c)) + 1) / 100)
        return scores

    def _composite(self, request: Request, fleet: Fleet) -> Mapping[int, float]:
        weights = (self.composite_kv_weight, self.composite_queue_weight, self.composite_prefix_weight)
        kv, queue, prefix = weights if any(weights) else (1.0, 0.0, 0.0)
        whole, longest = kv + queue + prefix, max(fleet.waiting)
        share = request.match(self.prefix_match_info_producer_name).share
        scores: dict[int, float] = {}
        for at, endpoint in enumerate(fleet.endpoints):
            room = (longest - fleet.waiting[at]) / longest if longest else 1.0
            mean = (kv * (1.0 - fleet.kv_usage[at]) + queue * room + prefix * share.get(endpoint.slot, 0.0)) / whole
            scores[at] = int(100 * mean + 0.5) / 100
        return scores


def _best_group(known: Mapping[int, Prediction | None]) -> tuple[Mapping[int, Prediction | None], bool]:
    """Return the best group that has anybody, and whether its SLOs are kept; of whom nothing is predicted they are."""
    kept = {at: each for at, each in known.items() if each is None or each.valid}
    if kept:
        return kept, True
    missed = {at: each for at, each in known.items() if each is not None}
    groups = (
        {at: each for at, each in missed.items() if not each.in_flight},
        {at: each for at, each in missed.items() if each.ttft_headroom_ms >= 0},
        {at: each for at, each in missed.items() if each.tpot_headroom_ms >= 0},
        missed,
    )
    return next(group for group in groups if group), False


def _spread(sizes: Mapping[int, float]) -> Mapping[int, float] | None:
    """Return where each is between the extremes; None if they are the same."""
    low, high = min(sizes.values()), max(sizes.values())
    return {at: (size - low) / (high - low) for at, size in sizes.items()} if high - low > EPSILON_MS else None


@register("slo-headroom-tier-filter", Kind.FILTER, stability=Stability.ALPHA)
class HeadroomTier(Plugin, frozen=True):
    """Keeps those that are predicted to keep both SLOs; with probability epsilonExploreNeg the others instead.

    Everybody is kept if there are no predictions, or if one of the two is empty. Source: llm-d's plugin of that name.
    """

    epsilon_explore_neg: Fraction = 0.01
    latency_prediction_info_producer_name: str = ""

    references: ClassVar[tuple[Reference, ...]] = (LATENCY_PREDICTION,)

    def start(self, setting: Setting) -> "Tiers":
        """Return the filter at work."""
        return Tiers(self, setting.dice)


class Tiers:
    """A HeadroomTier with dice."""

    def __init__(self, parameters: HeadroomTier, dice: Dice) -> None:
        """Keep nothing but these."""
        self._parameters = parameters
        self._dice = dice

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:
        """Return the positions that stay."""
        by_slot = predictions(request, self._parameters.latency_prediction_info_producer_name)
        found = [by_slot.get(endpoint.slot) for endpoint in fleet.endpoints]
        kept = [at for at, each in enumerate(found) if each is not None and each.valid]
        missed = [at for at, each in enumerate(found) if each is None or not each.valid]
        if not kept or not missed:
            return range(len(fleet))
        return missed if self._dice.random() < self._parameters.epsilon_explore_neg else kept


@register("latency-slo-admitter", Kind.ADMITTER, stability=Stability.ALPHA)
class SloAdmitter(Plugin, frozen=True):
    """Refuses requests of negative priority that ask for a speed which nobody is predicted to have.

    Whoever names an SLO is admitted if a candidate keeps it, runs nothing, or has used less than 2 % of its KV cache; and if
    there are no predictions. The refusal is a 429. Source: llm-d's plugin of that name.
    """

    latency_prediction_info_producer_name: str = ""

    references: ClassVar[tuple[Reference, ...]] = (LATENCY_PREDICTION,)

    def admit(self, request: Request, fleet: Fleet) -> Refusal | None:
        """Return why not, or None."""
        if request.priority >= 0 or (request.slo_ttft_ms is None and request.slo_tpot_ms is None):
            return None
        by_slot = predictions(request, self.latency_prediction_info_producer_name)
        if not by_slot:
            return None
        rows = zip(fleet.endpoints, fleet.running, fleet.kv_usage, strict=True)
        able = any(
            (each := by_slot.get(endpoint.slot)) is not None and (each.valid or not running or usage < NEARLY_EMPTY)
            for endpoint, running, usage in rows
        )
        return None if able else TOO_LATE
