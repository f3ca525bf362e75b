"""Pickers: who is chosen, given the candidates' totals. The further endpoints named are what Envoy's retries try, in order."""

import math
import sys
from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

from msgspec import Meta

from shunter.picker.core.kinds import Dice, Setting
from shunter.picker.core.schedule import FALLBACKS, best_first
from shunter.picker.plugins.catalogue import Kind, Plugin, register

__all__ = ["MaxScore", "Random", "WeightedRandom"]

# A header of more than this many addresses helps nobody: Envoy's retries end long before.
MOST_ENDPOINTS = 64
Endpoints = Annotated[int, Meta(ge=1, le=MOST_ENDPOINTS)]
T = TypeVar("T")

LAST = -sys.float_info.max  # the key of who has no chance while others have one


@register("max-score-picker", Kind.PICKER)
class MaxScore(Plugin, frozen=True):
    """The highest totals; equals in turn, or with ``tie: random`` in random order.

    In turn is the reference's way: of n equals nobody gets two requests before everybody has got one. Each worker begins
    somewhere else.
    """

    max_num_of_endpoints: Endpoints = FALLBACKS
    tie: Literal["rotate", "random"] = "rotate"

    @property
    def foremost(self) -> int:
        """The highest totals."""
        return self.max_num_of_endpoints

    def start(self, setting: Setting) -> "Turns | MaxScore":
        """Return the picker at work."""
        return Turns(self.max_num_of_endpoints, setting.dice) if self.tie == "rotate" else self

    def pick(self, totals: Sequence[float], dice: Dice) -> Sequence[int]:
        """Return positions, best first."""
        return best_first(totals, self.max_num_of_endpoints, dice)


class Turns:
    """A MaxScore that goes round among equals."""

    def __init__(self, count: int, dice: Dice) -> None:
        """Begin anywhere."""
        self.foremost = count
        self._next = dice.getrandbits(16)

    def pick(self, totals: Sequence[float], dice: Dice) -> Sequence[int]:  # noqa: ARG002  it has its own order
        """Return positions, best first."""
        self._next += 1  # once for each request, however many groups of equals it goes through
        return best_first(totals, self.foremost, self)

    def sample(self, population: Sequence[T], k: int) -> list[T]:
        """Return k of them, beginning with whose turn it is."""
        begin = self._next % len(population)
        return [*population[begin:], *population[:begin]][:k]


@register("random-picker", Kind.PICKER)
class Random(Plugin, frozen=True):
    """Anybody; scores are ignored."""

    max_num_of_endpoints: Endpoints = FALLBACKS

    def pick(self, totals: Sequence[float], dice: Dice) -> Sequence[int]:
        """Return positions in random order."""
        return dice.sample(range(len(totals)), min(self.max_num_of_endpoints, len(totals)))


@register("weighted-random-picker", Kind.PICKER)
class WeightedRandom(Plugin, frozen=True):
    """Drawn with chances in proportion to the totals, without putting back; a total of 0 or less only when none is left.

    Weighted reservoir sampling (Efraimidis and Spirakis 2006, algorithm A-Res): the highest u^(1/total) wins. Its logarithm is
    compared, since the power of a small total is 0.
    """

    max_num_of_endpoints: Endpoints = FALLBACKS

    @property
    def foremost(self) -> int:
        """Totals above 0 before those of 0."""
        return self.max_num_of_endpoints

    def pick(self, totals: Sequence[float], dice: Dice) -> Sequence[int]:
        """Return positions, the first drawn first."""
        keys = [max(LAST, math.log(1.0 - dice.random()) / total) if total > 0 else LAST for total in totals]
        return best_first(keys, self.max_num_of_endpoints, dice)
