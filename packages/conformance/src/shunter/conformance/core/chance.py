"""How unlikely luck is: the bound at which a count of picks says something about the picker."""

from math import comb

__all__ = ["ALPHA", "beyond_chance"]

ALPHA = 1e-6
"""How often a picker that pays no attention may pass by luck: with a dozen such cases once in some ten thousand exams."""


def beyond_chance(tries: int, chance: float, alpha: float = ALPHA) -> int:
    """Return the smallest count of hits that as many independent tries reach with probability `alpha` at most.

    The one-sided exact binomial test. The result is `tries` + 1 if even all hits would prove nothing.
    """
    tail = 0.0
    for hits in range(tries, -1, -1):
        tail += comb(tries, hits) * chance**hits * (1 - chance) ** (tries - hits)
        if tail > alpha:
            return hits + 1
    return 0
