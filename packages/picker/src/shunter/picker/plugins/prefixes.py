"""Plugins that keep prompts where their beginning is cached, and spread those that are cached nowhere."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.kinds import Header, Setting, Verdict
from shunter.picker.core.ledger import Key
from shunter.picker.core.request import Request
from shunter.picker.plugins.catalogue import Kind, Plugin, Reference, register
from shunter.picker.plugins.inflight import find_load
from shunter.picker.plugins.latency import LATENCY_PREDICTION, predictions
from shunter.snapshot import Endpoint

__all__ = ["NoHitLru", "PrefixAffinity"]

Fraction = Annotated[float, Meta(ge=0, le=1)]
NonNegative = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]

INDIFFERENT = 0.5  # of every candidate, to a scorer that has nothing to say

_key = msgspec.msgpack.Decoder(tuple[int, int]).decode


@register("prefix-cache-affinity-filter", Kind.FILTER)
class PrefixAffinity(Plugin, frozen=True):
    """Keeps those who have most of the prompt cached, unless one of the others would be much sooner with it.

    Sticky are the candidates whose matched share of the prompt is at least affinityThreshold. Everybody is kept if nobody is
    sticky, with explorationProbability, and where the valve opens: when the best time to first token among the sticky is
    longer than among the others by more than maxTTFTPenaltyMs (0: it never opens). The time is the candidate's tokens in
    flight, as inflight-load-producer says, / peakPrefillThroughput. The reference counts uncached tokens of requests that have
    no first token yet, which most profiles never see: the backlog here is worked off by the clock (``core.ledger``). A former
    release's maxTokensInFlightPenalty is the same limit in tokens; of both the smaller one counts. With ttftSource
    latencyPredictor it is the time that predicted-latency-producer predicts, and everybody is kept where that says nothing of
    the sticky, or nothing of the others while the sticky are later than that.

    Source: llm-d's plugin of that name. Its throughput is that of Qwen 32B on two H100.
    """

    affinity_threshold: Fraction = 0.8
    exploration_probability: Fraction = 0.0
    max_ttft_penalty_ms: NonNegative = msgspec.field(default=18_000.0, name="maxTTFTPenaltyMs")
    max_tokens_in_flight_penalty: Count = 0
    ttft_source: Literal["prefillThroughput", "latencyPredictor"] = "prefillThroughput"
    peak_prefill_throughput: NonNegative = 15_928.0  # tokens per second
    prefix_match_info_producer_name: str = ""  # empty: the one there is
    in_flight_load_producer_name: str = ""  # empty: the one there is

    latency_prediction_info_producer_name: str = ""

    reads_prefix: ClassVar[bool] = True
    references: ClassVar[tuple[Reference, ...]] = (
        msgspec.structs.replace(LATENCY_PREDICTION, implied_by=("ttftSource", "latencyPredictor")),
    )

    def __post_init__(self) -> None:
        """Refuse to divide by nothing."""
        if self.ttft_source == "prefillThroughput" and self.max_ttft_penalty_ms and not self.peak_prefill_throughput:
            raise ValueError("peakPrefillThroughput must be above 0, or maxTTFTPenaltyMs 0")

    def start(self, setting: Setting) -> "Valve":
        """Return the filter at work."""
        return Valve(self, setting)


class Valve:
    """A PrefixAffinity with dice."""

    def __init__(self, parameters: PrefixAffinity, setting: Setting) -> None:
        """Keep nothing but these."""
        self._parameters = parameters
        self._dice = setting.dice
        self._load = find_load(setting, parameters.in_flight_load_producer_name)
        self._predicted = parameters.ttft_source == "latencyPredictor"
        limits = [parameters.max_ttft_penalty_ms]  # in the unit of the delays
        if not self._predicted:
            limits = [limits[0] / 1000 * parameters.peak_prefill_throughput, parameters.max_tokens_in_flight_penalty]
        self._most = min((limit for limit in limits if limit), default=0.0)  # 0: no limit

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:
        """Return the positions that stay."""
        everybody = range(len(fleet))
        parameters = self._parameters
        if len(fleet) == 1 or parameters.affinity_threshold == 0:
            return everybody
        if parameters.exploration_probability and self._dice.random() < parameters.exploration_probability:
            return everybody
        index, least = fleet.index, parameters.affinity_threshold
        shares = request.match(parameters.prefix_match_info_producer_name).share
        sticky = sorted(index[slot] for slot, share in shares.items() if share >= least and slot in index)
        if not sticky or self._opens(sticky, request, fleet):
            return everybody
        return sticky

    def _opens(self, sticky: Sequence[int], request: Request, fleet: Fleet) -> bool:
        most = self._most
        if not most or len(sticky) == len(fleet):
            return False
        best = min(self._delays(sticky, request, fleet), default=None)
        if best is not None and best <= most:  # nobody can be that much sooner
            return False
        stuck = set(sticky)
        others = [at for at in range(len(fleet)) if at not in stuck]
        other = min(self._delays(others, request, fleet), default=None)
        return best is None or other is None or best - other > most

    def _delays(self, positions: Sequence[int], request: Request, fleet: Fleet) -> Sequence[float]:
        """Return what those of whom anything is known would let the request wait for: ms if predicted, else tokens."""
        if not self._predicted:
            return self._load.tokens(fleet, positions, request.at_ns)
        by_slot = predictions(request, self._parameters.latency_prediction_info_producer_name)
        return [by_slot[slot].ttft_ms for at in positions if (slot := fleet.endpoints[at].slot) in by_slot]


@register("no-hit-lru-scorer", Kind.SCORER)
class NoHitLru(Plugin, frozen=True):
    """A prompt that nobody has cached goes to whoever was given such a one longest ago: 1 - rank / (n - 1).

    First come those who never got one, by slot, then the others, the longest ago first; a single candidate has 1. If any
    candidate has the prompt's beginning, all have 0.5. The lruSize endpoints that were last given one are remembered, by all
    workers alike.

    Source: llm-d's plugin of that name. It orders the first by the list that it happens to get, and counts
    among the others those who are no candidates, too: then several have 0, whosever turn it is.
    """

    lru_size: Positive = 1024
    prefix_match_info_producer_name: str = ""  # empty: the one there is

    reads_prefix: ClassVar[bool] = True

    def start(self, setting: Setting) -> "ColdTurns":
        """Return the scorer at work."""
        return ColdTurns(self, setting)


class ColdTurns:
    """Whose turn it is to get a prompt that nobody knows."""

    def __init__(self, parameters: NoHitLru, setting: Setting) -> None:
        """Remember nobody yet."""
        self._size = parameters.lru_size
        self._producer = parameters.prefix_match_info_producer_name
        self._tell = setting.tell
        self._turns: OrderedDict[Key, None] = OrderedDict()  # least recently served first

    def score(self, request: Request, fleet: Fleet) -> Sequence[float]:
        """Score all candidates."""
        count = len(fleet)
        if not self._is_cold(request, fleet.endpoints):
            return [INDIFFERENT] * count
        if count == 1:
            return [1.0]
        turns = {key: at for at, key in enumerate(self._turns, 1)}
        last = [(turns.get((each.slot, each.incarnation), 0), each.slot) for each in fleet.endpoints]
        scores = [0.0] * count
        for place, at in enumerate(sorted(range(count), key=last.__getitem__)):
            scores[at] = 1.0 - place / (count - 1)
        return scores

    def picked(self, request: Request, verdict: Verdict) -> tuple[Sequence[Header], Sequence[Header]]:
        """Put whom a cold prompt was given at the end of the queue; also who prefills it, if that is somebody else."""
        if self._is_cold(request, verdict.decision.candidates):
            for decision in (verdict.decision, verdict.others.get("prefill")):
                if decision is not None and decision.chosen:
                    first = decision.candidates[decision.chosen[0]]
                    self._take((first.slot, first.incarnation))
                    self._tell(msgspec.msgpack.encode((first.slot, first.incarnation)))
        return (), ()

    def hear(self, data: bytes) -> None:
        """Follow what another worker did."""
        self._take(_key(data))

    def _take(self, key: Key) -> None:
        self._turns[key] = None
        self._turns.move_to_end(key)
        if len(self._turns) > self._size:
            self._turns.popitem(last=False)

    def _is_cold(self, request: Request, candidates: Iterable[Endpoint]) -> bool:
        known = request.match(self._producer).share
        return not known or not any(each.slot in known for each in candidates)
