"""Lengths, shares and starting times: the few random things that traffic is made of.

Everything is computed from `Random.random()`, whose sequence Python promises for a seed; its other methods may draw
differently in the next version. Starting times come from one stream of draws and contents from another: the same seed at
another rate is the same traffic, faster.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from math import cos, exp, log, log1p, pi, sqrt
from random import Random

import msgspec

from shunter.lab.core.statistics import WARM

__all__ = ["Lengths", "Pace", "pick", "streams", "zipf"]


class Lengths(msgspec.Struct, frozen=True):
    """A number of tokens (or turns): always `mean`, or spread by `deviation`, and cut to what lies between the bounds."""

    mean: float
    deviation: float = 0.0
    least: int = 1
    most: int | None = None
    skewed: bool = False
    """Log-normal instead of normal: mean and deviation are those of the lengths, not of their logarithm."""

    def draw(self, dice: Random) -> int:
        """Draw one; a fixed length draws nothing."""
        if not self.deviation:
            return round(self.mean)
        # Box and Muller: two uniform draws, one normal one.
        normal = sqrt(-2.0 * log1p(-dice.random())) * cos(2.0 * pi * dice.random())
        if self.skewed:
            variance = log1p((self.deviation / self.mean) ** 2)
            value = exp(log(self.mean) - variance / 2 + sqrt(variance) * normal)
        else:
            value = self.mean + self.deviation * normal
        return max(self.least, round(value) if self.most is None else min(self.most, round(value)))


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """When conversations begin: a Poisson process that starts gently and may come in bursts.

    The part that statistics leave out comes at half the rate, so that caches are not filled by a stampede that no fleet in
    service sees. Bursts: of every `period_s`, the first `burst` part has `peak` times the mean rate.
    """

    period_s: float = 20.0
    burst: float = 0.0
    peak: float = 1.0

    def starts(self, dice: Random, rate: float, count: int) -> list[float]:
        """Return `count` times in seconds from 0 on, at `rate` a second in the long run."""
        quiet = WARM * count
        elapsed, times = 0.0, list[float]()
        for number in range(count):
            elapsed -= log1p(-dice.random()) * (2.0 if number < quiet else 1.0) / rate
            times.append(self._warp(elapsed))
        return times

    def _warp(self, elapsed_s: float) -> float:
        """Put the time of a steady process where a process in bursts has had as many arrivals."""
        if not self.burst:
            return elapsed_s
        periods, rest = divmod(elapsed_s, self.period_s)
        part, crowded = rest / self.period_s, self.burst * self.peak
        if part < crowded:
            return periods * self.period_s + rest / self.peak
        return (periods + self.burst + (part - crowded) / (1.0 - crowded) * (1.0 - self.burst)) * self.period_s


def streams(seed: int) -> tuple[Random, Random]:
    """Return the dice for times and the dice for contents of one seed."""
    return Random(2 * seed), Random(2 * seed + 1)  # noqa: S311  traffic, not secrets


def zipf(count: int, skew: float) -> list[float]:
    """Return cumulated shares of `count` things, the n-th as popular as 1 / n to the power of `skew`; 0: all alike."""
    return list(accumulate((at + 1) ** -skew for at in range(count)))


def pick(cumulated: Sequence[float], dice: Random) -> int:
    """Draw a position by cumulated shares."""
    return bisect_right(cumulated, dice.random() * cumulated[-1], hi=len(cumulated) - 1)
