"""The scheduler: runs a policy's profiles, each filters, then weighted scorers, then a picker.

The total of a candidate is Σ weight · score with every score clamped to [0, 1]; a NaN is 0 and a complaint. Scores that
depend on nothing but one column of load are kept between requests and only brought up to date where a booking touched them,
which is what makes a thousand endpoints affordable: most requests then cost a copy of the totals, the prefix matches and a
maximum.

A plugin that raises does not fail the request: a profile chooses the candidate with the fewest requests of ours in flight, a
handler is as if there were none, everything else is left out; and the plugin is complained about.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from heapq import nlargest
from itertools import repeat
from operator import add, mul
from typing import Any, cast

import msgspec

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.judgement import Outcome, Refusal, ResponseHeader
from shunter.picker.core.kinds import ColumnScorer, Decision, Dice, Filter, Header, Profile, Sampler, Scores, Verdict, Weighted
from shunter.picker.core.policy import Crew, Policy
from shunter.picker.core.positions import believed
from shunter.picker.core.request import Request
from shunter.picker.core.saturation import Gauge, signals

__all__ = ["FALLBACKS", "MOST_RUNS", "PEER", "Complaints", "Run", "Scheduler", "best_first"]

# How many endpoints a picker names unless configured otherwise: the best and two to try when it does not answer. Envoy's
# retries walk the list. The reference's default is 1, which leaves a retry nowhere to go.
FALLBACKS = 3

# A handler that always wants one more profile must not keep the worker for ever. Encode, prefill and decode are three.
MOST_RUNS = 16

# Of so many that have a score a picker of the foremost need not look at those that have none.
ENOUGH = 32

# Of so many totals the highest are found sooner by sorting all than by going through them once in Python.
FEW = 128

BOOKED = frozenset({"waiting", "running", "in_flight", "tokens_in_flight"})  # the columns that follow bookings

PEER = "peer-endpoint"
"""The fact under which profiles that run later find whom the first one chose: an Endpoint."""

NOBODY = Verdict(Decision((), ()))


class Complaints:
    """What plugins, and others that must not cost a request, did wrong."""

    def __init__(self) -> None:
        self.errors = 0
        """How often one raised."""
        self.words: dict[str, str] = {}
        """By the plugin's name; the first time only, since a bad plugin errs with every request."""
        self.unlogged: dict[str, Exception] = {}
        """The same with its traceback, until somebody takes it out to log it."""

    def raised(self, name: str, error: Exception) -> None:
        """Take an exception down."""
        self.errors += 1
        if name not in self.words:
            self.words[name] = f"{type(error).__name__}: {error}"
            self.unlogged[name] = error


class Scheduler:
    """A policy at work, keeping what need not be computed again."""

    def __init__(self, policy: Policy, dice: Dice, tell: Callable[[str, bytes], None]) -> None:
        """Start the plugins. ``tell`` carries what one of them says (its name, its words) to the other workers."""
        self.complaints = Complaints()
        self.crew = crew = Crew(policy, dice, tell)
        self._runs = {each.name: Run(crew.staff(each), self.complaints, dice) for each in policy.profiles}
        self._first = self._runs[policy.profile.name]
        self._handler: Any = crew.find(policy.handler.name) if policy.handler else None
        self.prefill: str = getattr(self._handler, "prefill", "")
        """The profile whose choice computes the prompt for others, if there is one."""
        self._signals = signals(crew.find(policy.detector.name)) if policy.detector else []
        self._gauge = Gauge()
        self._producers = [(each.name, crew.find(each.name)) for each in policy.producers]
        self._admitters = [(each.name, crew.find(each.name)) for each in policy.admitters]
        self._identifiers = crew.able("identify")
        self._screeners = [(name, believed(each)) for name, each in crew.able("screen")]
        self._confirmers = crew.able("confirm")
        self._followers = crew.able("picked")
        self._observers = crew.able("observe")
        self._hearers = dict(crew.able("hear"))
        self._prepares = any((self._screeners, self._producers, self._admitters))

    def identify(self, request: Request) -> Request:
        """Return the request with everything that is known of who is asking."""
        for name, identifier in self._identifiers:
            try:
                request = identifier.identify(request)
            except Exception as error:  # noqa: BLE001  a plugin is foreign code, and the request must go somewhere
                self.complaints.raised(name, error)
        return request

    def run(self, request: Request, fleet: Fleet) -> Verdict | Refusal | None:
        """Return whom the profiles chose, or why the request is refused; None if nobody is left.

        ``fleet`` is not empty.
        """
        if self._prepares:
            prepared = self._prepare(request, fleet)
            if isinstance(prepared, Refusal):
                return prepared
            fleet = prepared
            if not len(fleet):
                return None
        if self._handler is not None:
            verdict = self._settle(request, fleet)
        else:
            verdict = Verdict(self._first.decide(request, fleet), profile=self._first.name)
        if not verdict.decision.chosen:
            return None
        if self._confirmers and (refusal := self._confirm(request, verdict)) is not None:
            return refusal
        return self._follow(request, verdict) if self._followers else verdict

    def _prepare(self, request: Request, fleet: Fleet) -> Fleet | Refusal:
        """Return who may serve the request, everything known that profiles base their work on; or why it is refused."""
        for name, screener in self._screeners:
            try:
                kept = screener.screen(request, fleet)
                if isinstance(kept, Refusal):
                    return kept
                fleet = fleet.narrow(kept)
            except Exception as error:  # noqa: BLE001  as above
                self.complaints.raised(name, error)
            if not len(fleet):  # nobody need be asked about nobody
                return fleet
        for name, producer in self._producers:
            try:
                request.facts[name] = producer.produce(request, fleet)
            except Exception as error:  # noqa: BLE001  as above
                self.complaints.raised(name, error)
        for name, admitter in self._admitters:
            try:
                refusal = admitter.admit(request, fleet)
            except Exception as error:  # noqa: BLE001  as above
                self.complaints.raised(name, error)
            else:
                if refusal is not None:
                    return refusal
        return fleet

    def saturation(self, fleet: Fleet, now_ns: int, *, sent: bool) -> float:
        """Return how full the pool is, 1 being full; by a detector that raises it is idle. For ``sent`` see Detector."""
        fullest = 0.0
        for detector, stages in self._signals:
            try:
                full = self._gauge.read(fleet, detector.levels(fleet, now_ns, sent=sent), stages)
            except Exception as error:  # noqa: BLE001  as above
                self.complaints.raised("the saturation detector", error)
            else:
                fullest = max(fullest, full)
        return fullest

    def observe(self, ticket: int, outcome: Outcome, now_s: float) -> None:
        """Pass on how a request went."""
        for name, observer in self._observers:
            try:
                observer.observe(ticket, outcome, now_s)
            except Exception as error:  # noqa: BLE001  as above
                self.complaints.raised(name, error)

    def reports(self) -> dict[str, str]:
        """Return what plugins have to say of themselves, by name."""
        told: dict[str, str] = {}
        for name, reporter in self.crew.able("report"):
            try:
                told[name] = str(reporter.report())  # foreign code: what is no text would not get through to the supervisor
            except Exception as error:  # noqa: BLE001  as above
                self.complaints.raised(name, error)
        return told

    def hear(self, name: str, data: bytes) -> None:
        """Pass on what a plugin in another worker told; one that is not here (any more) misses nothing."""
        hearer = self._hearers.get(name)
        if hearer is not None:
            try:
                hearer.hear(data)
            except Exception as error:  # noqa: BLE001  as above
                self.complaints.raised(name, error)

    def _settle(self, request: Request, fleet: Fleet) -> Verdict:
        """Run the profiles that the handler wants."""
        try:
            decided = self._handled(request, fleet)
            primary, headers = self._handler.settle(request, decided)
            if not primary:
                return NOBODY
            return Verdict(decided.pop(primary), decided, headers, profile=primary, prefill=self.prefill)
        except Exception as error:  # noqa: BLE001  as above
            self.complaints.raised("the profile handler", error)
        return Verdict(self._first.decide(request, fleet), profile=self._first.name)

    def _handled(self, request: Request, fleet: Fleet) -> dict[str, Decision]:
        decided: dict[str, Decision] = {}
        for _ in range(MOST_RUNS):
            names = self._handler.profiles(request, decided)
            if not names:
                return decided
            decided |= {name: self._runs[name].decide(request, fleet) for name in names}
            for decision in decided.values():
                if decision.chosen:
                    request.facts.setdefault(PEER, decision.candidates[decision.chosen[0]])
        raise RuntimeError(f"it wants profiles to run more than {MOST_RUNS} times")

    def _confirm(self, request: Request, verdict: Verdict) -> Refusal | None:
        for name, confirmer in self._confirmers:
            try:
                refusal = confirmer.confirm(request, verdict)
            except Exception as error:  # noqa: BLE001  as above
                self.complaints.raised(name, error)
            else:
                if refusal is not None:
                    return refusal
        return None

    def _follow(self, request: Request, verdict: Verdict) -> Verdict:
        set_headers: list[Header] = list(verdict.set_headers)
        response_headers: list[ResponseHeader] = []
        for name, follower in self._followers:
            try:
                mine, theirs = follower.picked(request, verdict)
            except Exception as error:  # noqa: BLE001  as above
                self.complaints.raised(name, error)
            else:
                set_headers += mine
                response_headers += theirs
        if not set_headers and not response_headers:
            return verdict
        return Verdict(verdict.decision, verdict.others, set_headers, response_headers, verdict.profile, verdict.prefill)


class Run:
    """One profile at work."""

    def __init__(self, profile: Profile, complaints: Complaints, dice: Dice) -> None:
        """The plugins of ``profile`` do the work themselves: they have been started."""
        self.name = profile.name
        self.complaints = complaints
        self._dice = dice
        # isinstance of a Protocol costs microseconds: asked once.
        self._columns = columns = [each for each in profile.scorers if isinstance(each.plugin, ColumnScorer)]
        self._asked: list[tuple[Weighted, Any]] = [
            (each, each.plugin) for each in profile.scorers if not isinstance(each.plugin, ColumnScorer)
        ]
        self._filters: list[tuple[str, Filter | Any]] = [(each.name, believed(each.plugin)) for each in profile.filters]
        self._names = ", ".join(each.name for each in columns)
        self._pick = profile.picker.pick
        foremost: int = getattr(profile.picker, "foremost", 0)
        self._enough = max(ENOUGH, foremost) if foremost else math.inf
        self._running = ""  # who has the floor

    def decide(self, request: Request, fleet: Fleet) -> Decision:
        """Return the decision; it has nobody chosen if the filters left nobody. ``fleet`` is not empty."""
        narrowed: Sequence[tuple[str, Sequence[Any]]] = ()
        try:
            for name, each in self._filters:
                self._running = name
                kept = each.keep(request, fleet)
                if len(kept) != len(fleet.endpoints):
                    narrowed = [*narrowed, (name, fleet.endpoints)]
                    if not kept:
                        return Decision((), (), narrowed=narrowed)
                    fleet = fleet.narrow(kept)
            return self._choose(request, fleet, narrowed)
        except Exception as error:  # noqa: BLE001  a plugin is foreign code, and the request must go somewhere
            self.complaints.raised(self._running, error)
            least = best_first([-float(count) for count in fleet.in_flight], FALLBACKS, self._dice)
            return Decision(fleet.endpoints, least, narrowed=narrowed)

    def _choose(self, request: Request, fleet: Fleet, narrowed: Sequence[tuple[str, Sequence[Any]]]) -> Decision:
        totals: list[float]
        scores: list[tuple[Weighted, Scores]]
        if self._columns:
            standing = fleet.keepers.get(self)
            if not isinstance(standing, Standing):
                standing = Standing(self._columns, self._unit)
                if fleet.lasting:
                    fleet.keepers[self] = standing
            self._running = self._names
            totals, scores = standing.refresh(fleet)
        else:
            totals, scores = [], []
        count = len(fleet.endpoints)
        for each, scorer in self._asked:
            self._running = each.name
            scores.append((each, self._add(each, scorer.score(request, fleet), totals, count)))
        totals = totals or [0.0] * count
        self._running = "the picker"
        chosen = self._pick(totals, self._dice) if len(totals) <= ENOUGH else self._pick_among(totals, scores)
        if not chosen or not 0 <= min(chosen) <= max(chosen) < len(totals):
            raise ValueError(f"picked the positions {list(chosen)} of {len(totals)} candidates")
        return Decision(fleet.endpoints, chosen, totals, scores, narrowed)

    def _pick_among(self, totals: Sequence[float], scores: Sequence[tuple[Weighted, Scores]]) -> Sequence[int]:
        if len(scores) == 1:
            weighted, some = scores[0]
            few = self._enough <= len(some) < len(totals)
            if few and isinstance(some, Mapping) and weighted.weight > 0.0 < min(some.values()):
                # Nobody else has anything: of a thousand endpoints a few dozen remain to be looked at.
                positions = list(some)
                return [positions[at] for at in self._pick(list(some.values()), self._dice)]
        return self._pick(totals, self._dice)

    def _add(self, scorer: Weighted, scores: Scores, totals: list[float], count: int) -> Scores:
        """Add the weighted scores of so many to the totals, if there are any yet, and return them as they counted."""
        unit, weight = self._unit, scorer.weight
        # Mostly a list, and to ask an abstract class takes ten times as long as a concrete one.
        if not isinstance(scores, list) and isinstance(scores, Mapping):
            if not _all_in_range(scores.values()):
                scores = {at: unit(scorer, score) for at, score in scores.items()}
            if not totals:
                totals += [0.0] * count
            for at, score in scores.items():
                totals[at] += weight * score
        else:
            if not _all_in_range(scores):
                scores = [unit(scorer, score) for score in scores]
            if len(scores) != count:
                raise ValueError(f"gave {len(scores)} scores to {count} candidates")
            weighted = scores if weight == 1.0 else map(mul, scores, repeat(weight))
            totals[:] = map(add, totals, weighted) if totals else weighted
        return scores

    def _unit(self, scorer: Weighted, score: float) -> float:
        """Clamp to [0, 1]."""
        if 0.0 <= score <= 1.0:
            return score
        if score != score:  # noqa: PLR0124  only NaN differs from itself
            self.complaints.words.setdefault(scorer.name, "a score was NaN and counted as 0")
        return 1.0 if score > 1.0 else 0.0


def _all_in_range(scores: Collection[float]) -> bool:
    """Whether all are from 0 to 1, at the speed of C; a NaN makes the sum one."""
    return not scores or (min(scores) >= 0.0 and max(scores) <= 1.0 and (total := sum(scores)) == total)


class Standing:
    """The scores of a profile's column scorers for one Fleet, and their weighted sum."""

    def __init__(self, scorers: Sequence[Weighted], unit: Callable[[Weighted, float], float]) -> None:
        """Keep nothing yet. ``scorers`` are of columns; ``unit`` clamps a score."""
        self.touched: set[int] = set()
        self._kept = [Kept(each, cast("ColumnScorer", each.plugin)) for each in scorers]
        self._unit = unit
        self._valid = False
        self._totals: list[float] = []

    def refresh(self, fleet: Fleet) -> tuple[list[float], list[tuple[Weighted, Scores]]]:
        """Return the totals and the scores, bookings considered; the caller may change both lists. It is always one Fleet."""
        touched = self.touched
        if touched or not self._valid:
            known, self._valid = self._valid, False  # until all is done: after a scorer that raised nothing kept is valid
            self._update(fleet, touched if known else None)
            touched.clear()
            self._valid = True
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
                self._totals = list(map(add, self._totals, map(mul, each.scores, repeat(weight))))
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


def best_first(totals: Sequence[float], count: int, equals: Sampler) -> list[int]:
    """Return the positions of the ``count`` highest totals, highest first; equals in the order of a sample."""
    # One more than is asked for: which of them is equal to a further one is seen without a look at the others.
    many = len(totals) > FEW
    highest = nlargest(count + 1, totals) if many else sorted(totals, reverse=True)[: count + 1]
    if len(set(highest)) == len(highest):
        return list(map(totals.index, highest[:count]))
    chosen: list[int] = []
    for total in dict.fromkeys(highest[:count]):
        if highest.count(total) == 1:
            chosen.append(totals.index(total))
            continue
        tied = [at for at, each in enumerate(totals) if each == total]
        if not tied:  # only NaN, which equals nothing
            break
        chosen += equals.sample(tied, min(len(tied), count - len(chosen)))
    return chosen
