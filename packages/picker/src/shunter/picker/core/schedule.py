"""One scheduling profile: filters, then weighted scorers, then a picker; and the protocols that plugins keep.

The total of a candidate is Σ weight · score with every score clamped to [0, 1]; a NaN is 0 and a complaint. Scores that
depend on nothing but one column of load are kept between requests and only brought up to date where a booking touched them,
which is what makes a thousand endpoints affordable: most requests then cost a copy of the totals, the prefix matches and a
maximum.

A plugin that raises does not fail the request: the request goes to the candidate with the fewest requests of ours in flight,
and the plugin is complained about.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, Protocol, TypeVar, runtime_checkable

import msgspec

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.request import Request
from shunter.snapshot import Endpoint

__all__ = [
    "FALLBACKS", "ColumnScorer", "Decision", "Detector", "Dice", "Filter", "Named", "Picker", "Profile", "Scheduler", "Scorer",
    "Scores", "Weighted", "best_first",
]  # fmt: skip

T = TypeVar("T")
Scores = Sequence[float] | Mapping[int, float]
"""One score for every candidate in order, or position → score of those that do not have 0."""

# How many endpoints a picker names unless configured otherwise: the best and two to try when it does not answer. Envoy's
# retries walk the list. The reference's default is 1, which leaves a retry nowhere to go.
FALLBACKS = 3

BOOKED = frozenset({"waiting", "running", "in_flight", "tokens_in_flight"})  # the columns that follow bookings
TAKEN = float("-inf")


class Dice(Protocol):
    """The part of ``random.Random`` that judgements use."""

    def random(self) -> float:
        """Draw from [0, 1)."""
        ...

    def randrange(self, start: int, /) -> int:
        """Draw from 0 … start - 1."""
        ...

    def getrandbits(self, k: int, /) -> int:
        """Draw k bits."""
        ...

    def sample(self, population: Sequence[T], k: int) -> list[T]:
        """Draw k different ones in random order."""
        ...


class Filter(Protocol):
    """Says which candidates may get the request."""

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:
        """Return the positions that stay."""
        ...


class Scorer(Protocol):
    """Says how good each candidate is for the request."""

    def score(self, request: Request, fleet: Fleet) -> Scores:
        """Return a score from 0 (bad) to 1 (good) for every candidate."""
        ...


@runtime_checkable
class ColumnScorer(Protocol):
    """A scorer that is a function of one column of the fleet and that column's extremes, whatever the request."""

    column: ClassVar[str]  # waiting, running, in_flight, tokens_in_flight or kv_usage

    def at(self, value: float, low: float, high: float) -> float:
        """Return the score of ``value`` where the candidates' values go from ``low`` to ``high``."""
        ...


class Picker(Protocol):
    """Says who is chosen."""

    def pick(self, totals: Sequence[float], dice: Dice) -> Sequence[int]:
        """Return the positions chosen, best first; at least one, since ``totals`` is not empty."""
        ...


class Detector(Protocol):
    """Says when a pool has no room."""

    def saturated(self, fleet: Fleet, now_ns: int) -> bool:
        """Return True if requests of negative priority are to be shed."""
        ...


class Named(msgspec.Struct, frozen=True):
    """A filter under the name that the configuration gives it."""

    name: str
    plugin: Filter


class Weighted(msgspec.Struct, frozen=True):
    """A scorer, its name and its weight."""

    name: str
    plugin: Scorer | ColumnScorer
    weight: float = 1.0


class Profile(msgspec.Struct, frozen=True):
    """What to run, in order."""

    name: str
    picker: Picker
    filters: tuple[Named, ...] = ()
    scorers: tuple[Weighted, ...] = ()


class Decision(msgspec.Struct, frozen=True, gc=False):
    """Who was chosen, and everything needed to say why. Totals and scores are aligned with the candidates."""

    candidates: Sequence[Endpoint]
    chosen: Sequence[int]  # positions, best first
    totals: Sequence[float] = ()
    scores: Sequence[tuple[Weighted, Scores]] = ()


class Scheduler:
    """Runs one profile and its detector, keeping what need not be computed again."""

    def __init__(self, profile: Profile, detector: Detector | None = None) -> None:
        """Keep nothing yet. Without a detector the pool is never saturated."""
        self.profile = profile
        self.detector = detector
        self.errors = 0
        """How often a plugin raised."""
        self.complaints: dict[str, str] = {}
        """What plugins did wrong, by the plugin's name; the first time only, since a bad plugin errs with every request."""
        self._standing = Standing(profile.scorers, self._unit)
        # isinstance of a Protocol costs microseconds: asked once.
        columns = [each for each in profile.scorers if isinstance(each.plugin, ColumnScorer)]
        self._asked = [(each, each.plugin) for each in profile.scorers if not isinstance(each.plugin, ColumnScorer)]
        self._names = ", ".join(each.name for each in columns)
        self._running = ""  # who has the floor

    def run(self, request: Request, fleet: Fleet, dice: Dice) -> Decision | None:
        """Return the decision, or None if the filters left nobody. ``fleet`` is not empty."""
        try:
            for each in self.profile.filters:
                self._running = each.name
                kept = each.plugin.keep(request, fleet)
                if not kept:
                    return None
                fleet = fleet.narrow(kept)
            return self._decide(request, fleet, dice)
        except Exception as error:  # noqa: BLE001  a plugin is foreign code, and the request must go somewhere
            self._complain(error)
            return Decision(fleet.endpoints, best_first([-float(count) for count in fleet.in_flight], FALLBACKS, dice))

    def saturated(self, fleet: Fleet, now_ns: int) -> bool:
        """Return True if requests of negative priority are to be shed; a detector that raises sheds nobody."""
        self._running = "the saturation detector"
        try:
            return self.detector is not None and self.detector.saturated(fleet, now_ns)
        except Exception as error:  # noqa: BLE001  as above
            self._complain(error)
            return False

    def _complain(self, error: Exception) -> None:
        self.errors += 1
        self.complaints.setdefault(self._running, f"{type(error).__name__}: {error}")

    def _decide(self, request: Request, fleet: Fleet, dice: Dice) -> Decision:
        standing = self._standing if fleet.lasting else Standing(self.profile.scorers, self._unit)
        self._running = self._names
        totals, scores = standing.refresh(fleet)
        for each, scorer in self._asked:
            self._running = each.name
            scores.append((each, self._add(each, scorer.score(request, fleet), totals)))
        self._running = "the picker"
        chosen = self.profile.picker.pick(totals, dice)
        if not chosen or not 0 <= min(chosen) <= max(chosen) < len(fleet):
            raise ValueError(f"picked the positions {list(chosen)} of {len(fleet)} candidates")
        return Decision(fleet.endpoints, chosen, totals, scores)

    def _add(self, scorer: Weighted, scores: Scores, totals: list[float]) -> Scores:
        """Add weighted scores to the totals and return them as they counted."""
        counted: Scores
        unit, weight = self._unit, scorer.weight
        if isinstance(scores, Mapping):
            counted = {at: unit(scorer, score) for at, score in scores.items()}
            for at, score in counted.items():
                totals[at] += weight * score
        else:
            counted = [unit(scorer, score) for score in scores]
            for at, (total, score) in enumerate(zip(totals, counted, strict=True)):
                totals[at] = total + weight * score
        return counted

    def _unit(self, scorer: Weighted, score: float) -> float:
        """Clamp to [0, 1]."""
        if 0.0 <= score <= 1.0:
            return score
        if score != score:  # noqa: PLR0124  only NaN differs from itself
            self.complaints.setdefault(scorer.name, "a score was NaN and counted as 0")
        return 1.0 if score > 1.0 else 0.0


class Standing:
    """The scores of a profile's column scorers for one Fleet, and their weighted sum."""

    def __init__(self, scorers: Sequence[Weighted], unit: Callable[[Weighted, float], float]) -> None:
        """Know nothing of any Fleet yet. ``unit`` clamps a score."""
        self._kept = [Kept(each, each.plugin) for each in scorers if isinstance(each.plugin, ColumnScorer)]
        self._unit = unit
        self._fleet: Fleet | None = None
        self._totals: list[float] = []

    def refresh(self, fleet: Fleet) -> tuple[list[float], list[tuple[Weighted, Scores]]]:
        """Return the totals and the scores, bookings considered; the caller may change both lists."""
        anew, touched = fleet is not self._fleet, fleet.touched
        if anew or touched:
            self._fleet = None  # until all is done: after a scorer that raised nothing kept is valid
            self._update(fleet, None if anew else touched)
            touched.clear()
            self._fleet = fleet
        return self._totals.copy(), [(each.weighted, each.shown) for each in self._kept]

    def _update(self, fleet: Fleet, touched: Iterable[int] | None) -> None:
        """Bring the scores and the totals up to date (None: at every position)."""
        shifted = touched is None
        for each in self._kept:
            if touched is None or each.scorer.column in BOOKED:
                shifted |= self._rescore(each, getattr(fleet, each.scorer.column), touched)
                each.shown = tuple(each.scores)
        if shifted or touched is None:
            self._totals = [0.0] * len(fleet)
            for each in self._kept:
                weight = each.weighted.weight
                self._totals = [total + weight * score for total, score in zip(self._totals, each.scores, strict=True)]
        else:
            for at in touched:
                total = 0.0  # not sum(): it rounds differently (3.12+), and equal candidates must stay equal
                for each in self._kept:
                    total += each.weighted.weight * each.scores[at]
                self._totals[at] = total

    def _rescore(self, kept: "Kept", values: Sequence[float], touched: Iterable[int] | None) -> bool:
        """Bring one scorer up to date; return True if that went beyond the touched positions."""
        at, unit, weighted = kept.scorer.at, self._unit, kept.weighted
        low, high = min(values), max(values)
        if touched is None or low != kept.low or high != kept.high:
            kept.low, kept.high = low, high
            kept.scores = [unit(weighted, at(value, low, high)) for value in values]
            return True
        for position in touched:
            kept.scores[position] = unit(weighted, at(values[position], low, high))
        return False


class Kept(msgspec.Struct):
    """One column scorer's scores and the extremes they were computed with."""

    weighted: Weighted
    scorer: ColumnScorer
    low: float = 0.0
    high: float = 0.0
    scores: list[float] = []
    shown: tuple[float, ...] = ()  # the same, for decisions to keep


def best_first(totals: Sequence[float], count: int, dice: Dice) -> list[int]:
    """Return the positions of the ``count`` highest totals, highest first; equals in random order."""
    left = list(totals)
    chosen: list[int] = []
    while len(chosen) < min(count, len(left)):
        highest = max(left)
        if left.count(highest) == 1:
            at = left.index(highest)
            left[at] = TAKEN
            chosen.append(at)
            continue
        tied = [at for at, total in enumerate(left) if total == highest]
        if not tied:  # only NaN, which equals nothing
            break
        tied = dice.sample(tied, min(len(tied), count - len(chosen)))
        for at in tied:
            left[at] = TAKEN
        chosen += tied
    return chosen
