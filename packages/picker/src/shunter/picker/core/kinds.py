"""The kinds of plugins, as protocols, and the values that pass between them and the scheduler.

A plugin is its parameters, and may keep nothing in them. One that has a memory of its own has a method ``start(setting)``: it
is called once in each judge, of a picker once for each profile, and returns the object that does the work there. Without it the
parameters do the work themselves.
An object may be of several kinds at once; what it is used as, the configuration says.

The way of a request through them::

    Identifier.identify completes the request itself, before it waits for room
    Screener.screen     may leave candidates out for all profiles
    Producer.produce    everybody's view of the request is completed: request.facts
    Admitter.admit      may refuse it
    Handler.profiles    says which profile runs next, until none does; each one is
                        Filter.keep …  →  Scorer.score …  →  Picker.pick
    Handler.settle      says which of the profiles names the endpoint
    Confirmer.confirm   may refuse it after all, knowing the choice
    Follower.picked     knows the choice, may add headers to the request and to its response
    Observer.observe    learns how the request went

All are synchronous, quick, and free of clock and dice: those are in the request and in the setting.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Protocol, TypeVar, runtime_checkable

import msgspec

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.judgement import Outcome, Refusal, ResponseHeader
from shunter.picker.core.request import Request
from shunter.snapshot import Endpoint

__all__ = [
    "Admitter", "ColumnScorer", "Confirmer", "Decision", "Detector", "Dice", "Filter", "Follower", "Handler", "Header",
    "Hearer", "Identifier", "Named", "Observer", "Picker", "Producer", "Profile", "Reporter", "Sampler", "Scorer", "Scores",
    "Screener", "Setting", "Verdict", "Weighted",
]  # fmt: skip

T = TypeVar("T")
Scores = Sequence[float] | Mapping[int, float]
"""One score for every candidate in order, or position → score of those that do not have 0."""

Header = tuple[str, str]
"""A lower-case name and its value."""


class Sampler(Protocol):
    """Who comes first among equals."""

    def sample(self, population: Sequence[T], k: int) -> list[T]:
        """Return k different ones in some order."""
        ...


class Dice(Sampler, Protocol):
    """The part of ``random.Random`` that judgements use: ``sample`` is in random order."""

    def random(self) -> float:
        """Draw from [0, 1)."""
        ...

    def randrange(self, start: int, /) -> int:
        """Draw from 0 … start - 1."""
        ...

    def getrandbits(self, k: int, /) -> int:
        """Draw k bits."""
        ...


class Setting(msgspec.Struct, frozen=True):
    """What a plugin finds when it starts."""

    name: str  # its own, in the configuration
    dice: Dice
    find: Callable[[str], object]  # another plugin at work, by its name in the configuration; raises KeyError
    tell: Callable[[bytes], None]  # say something to this plugin in the other workers: see Hearer
    profiles: tuple[str, ...] = ()  # the names of those there are


class Filter(Protocol):
    """Says which candidates may get the request."""

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:
        """Return the positions that stay; as a tuple, if the same object will be returned again for the same Fleet."""
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
    """Says who is chosen.

    One that puts the highest totals first, and nobody of 0 before anybody of more, may say so by an attribute ``foremost``: how
    many it chooses at most. It is then asked only about those above 0, if they are enough.
    """

    def pick(self, totals: Sequence[float], dice: Dice) -> Sequence[int]:
        """Return the positions chosen, best first; at least one, since ``totals`` is not empty."""
        ...


class Detector(Protocol):
    """Says how full endpoints are; how full that makes the pool, ``core.saturation`` says."""

    def levels(self, fleet: Fleet, now_ns: int, *, sent: bool) -> Sequence[float | None]:
        """Return 0 (idle) to 1 (no room) or more for each endpoint; None for who does not count.

        ``sent``: is what was sent since an engine's last sample to be taken into account?
        """
        ...


class Identifier(Protocol):
    """Knows more of who is asking."""

    def identify(self, request: Request) -> Request:
        """Return the request completed, or as it is."""
        ...


class Screener(Protocol):
    """Says who may serve the request in any of its stages."""

    def screen(self, request: Request, fleet: Fleet) -> Sequence[int] | Refusal:
        """Return the positions that stay, one at least, or why there are none."""
        ...


class Producer(Protocol):
    """Finds out something about the request that others base their work on."""

    def produce(self, request: Request, fleet: Fleet) -> object:
        """Return it; it will be ``request.facts[name of the producer]``. ``fleet`` holds all candidates."""
        ...


class Admitter(Protocol):
    """May refuse a request although there are candidates."""

    def admit(self, request: Request, fleet: Fleet) -> Refusal | None:
        """Return why not, or None."""
        ...


class Handler(Protocol):
    """Says which profiles run, and which of them names the endpoint.

    The others do a part of the work for it, and their endpoints are booked for that; an attribute ``prefill`` says which of
    them computes the prompt.
    """

    def profiles(self, request: Request, decided: Mapping[str, "Decision"]) -> Sequence[str]:
        """Return the names of those to run next; none: it is enough. ``decided`` is what has been run."""
        ...

    def settle(self, request: Request, decided: Mapping[str, "Decision"]) -> tuple[str, Sequence[Header]]:
        """Return the name of the profile whose first choice serves the request, and headers to add to the request.

        No name: nobody serves it.
        """
        ...


class Confirmer(Protocol):
    """May refuse a request for what its choice is."""

    def confirm(self, request: Request, verdict: "Verdict") -> Refusal | None:
        """Return why not, or None."""
        ...


class Follower(Protocol):
    """Wants to know who was chosen."""

    def picked(self, request: Request, verdict: "Verdict") -> tuple[Sequence[Header], Sequence[ResponseHeader]]:
        """Return headers to add to the request, and to its response (the latter needs "headers")."""
        ...


class Observer(Protocol):
    """Wants to know how requests went."""

    def observe(self, ticket: int, outcome: Outcome, now_s: float) -> None:
        """Take notice; of one request perhaps more than once, later with more. Its ``picked`` had the same ticket."""
        ...


class Hearer(Protocol):
    """Wants to know what itself, in other workers, has told by ``setting.tell``."""

    def hear(self, data: bytes) -> None:
        """Take notice."""
        ...


class Reporter(Protocol):
    """Has something to say of itself that people like to know."""

    def report(self) -> str:
        """Say it in a line."""
        ...


class Named(msgspec.Struct, frozen=True):
    """A plugin under the name that the configuration gives it."""

    name: str
    plugin: object


class Weighted(msgspec.Struct, frozen=True):
    """A scorer, its name and its weight."""

    name: str
    plugin: Scorer | ColumnScorer
    weight: float = 1.0


class Profile(msgspec.Struct, frozen=True):
    """What to run, in order. The plugins of ``filters`` are Filters."""

    name: str
    picker: Picker
    filters: tuple[Named, ...] = ()
    scorers: tuple[Weighted, ...] = ()
    picker_name: str = "picker"


class Decision(msgspec.Struct, frozen=True, gc=False):
    """Whom one profile chose, and everything needed to say why. Totals and scores are aligned with the candidates."""

    candidates: Sequence[Endpoint]  # those that the filters left
    chosen: Sequence[int]  # positions, best first; none: the filters left nobody
    totals: Sequence[float] = ()
    scores: Sequence[tuple[Weighted, Scores]] = ()
    narrowed: Sequence[tuple[str, Sequence[Endpoint]]] = ()  # each filter that dropped somebody, and whom it had before


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What all profiles together came to."""

    decision: Decision  # the one that names the endpoint
    others: Mapping[str, Decision] = {}  # those of the further profiles, by name
    set_headers: Sequence[Header] = ()  # of the request
    response_headers: Sequence[ResponseHeader] = ()
    profile: str = ""  # the name of the one that names the endpoint
    prefill: str = ""  # the name of the one whose choice computes the prompt for it, if it ran

    def of(self, profile: str) -> Decision | None:
        """Return what a profile decided, if it ran; of "" the decision that names the endpoint."""
        return self.decision if profile in ("", self.profile) else self.others.get(profile)
