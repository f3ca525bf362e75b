"""Pickers: who is chosen, given the candidates' totals. The further endpoints named are what Envoy's retries try, in order."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from shunter.picker.core.kinds import Dice
from shunter.picker.core.schedule import FALLBACKS, best_first
from shunter.picker.plugins.catalogue import Kind, Plugin, register

__all__ = ["MaxScore", "Random", "WeightedRandom"]

# A header of more than this many addresses helps nobody: Envoy's retries end long before.
MOST_ENDPOINTS = 64
Endpoints = Annotated[int, Meta(ge=1, le=MOST_ENDPOINTS)]


@register("max-score-picker", Kind.PICKER)
class MaxScore(Plugin, frozen=True):
    """The highest totals; equals in random order."""

    max_num_of_endpoints: Endpoints = FALLBACKS

    def pick(self, totals: Sequence[float], dice: Dice) -> Sequence[int]:
        """Return positions, best first."""
        return best_first(totals, self.max_num_of_endpoints, dice)


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

    Weighted reservoir sampling (Efraimidis and Spirakis 2006, algorithm A-Res): the highest u^(1/total) wins.
    """

    max_num_of_endpoints: Endpoints = FALLBACKS

    def pick(self, totals: Sequence[float], dice: Dice) -> Sequence[int]:
        """Return positions, the first drawn first."""
        keys = [dice.random() ** (1.0 / total) if total > 0 else -1.0 for total in totals]
        return best_first(keys, self.max_num_of_endpoints, dice)
