"""What a run was like: percentiles, goodput, cache hits, fairness; and how sure several seeds make us of it.

Only requests that arrive in the measured window count: after the gentle beginning that fills the caches, before the last
conversation begins, when a finite run would be thinning out. A request that was refused or lost never has its first token:
its times are infinite, so a policy gains nothing by refusing.

Floats are added by `fsum`, which rounds once: `sum` does so differently on Python 3.11 and later ones.
"""

from collections.abc import Iterable, Sequence
from math import ceil, fsum, inf, isfinite, sqrt

import msgspec

from shunter.lab.core.arrivals import Arrival, Finished
from shunter.lab.core.ceiling import ceiling

__all__ = ["Estimate", "Slo", "Spread", "Summary", "estimate", "jain", "percentile", "summarize", "window"]

# The first part of the conversations is not measured; the same part that begins at half the rate.
WARM = 0.25

# The 97.5 % quantile of Student's t by degrees of freedom, from any table; between the entries the next lower one is used.
T_QUANTILES = {
    1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228, 12: 2.179, 15: 2.131,
    20: 2.086, 30: 2.042, 60: 2.000, 120: 1.980,
}  # fmt: skip


class Slo(msgspec.Struct, frozen=True):
    """What a user still calls good: seconds to the first token, and seconds for each token after it."""

    ttft_s: float
    tpot_s: float


class Spread(msgspec.Struct, frozen=True):
    """Three percentiles, in seconds; infinite where that many requests never got there."""

    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Return the percentiles of some values."""
        ordered = sorted(values)
        return cls(percentile(ordered, 0.5), percentile(ordered, 0.9), percentile(ordered, 0.99))


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One run, measured."""

    requests: int
    """In the window."""
    ttft_s: Spread
    tpot_s: Spread
    e2e_s: Spread
    attainment: float
    """Part of the requests that met both objectives."""
    goodput_rps: float
    """As many in a second."""
    hit_share: float
    """Cached prompt tokens as a part of those that a perfect cache would have had; 1 if there was nothing to find."""
    fairness: float
    """Jain's index over the sessions of the tokens a second that each one's answers came at, waiting included."""
    refused: int
    lost: int
    complaints: tuple[str, ...] = ()
    """What plugins did wrong, or could not do, and what became of requests."""


class Estimate(msgspec.Struct, frozen=True):
    """A mean over seeds, and half the width of its 95 % confidence interval."""

    mean: float
    half: float


def window(arrivals: Sequence[Arrival]) -> tuple[float, float]:
    """Return from when to when arrivals are measured."""
    starts = sorted(arrival.at_s for arrival in arrivals if arrival.after is None)
    return starts[int(WARM * len(starts))], starts[-1]


def summarize(arrivals: Sequence[Arrival], finished: Iterable[Finished], slo: Slo, block_size: int = 16) -> Summary:
    """Return the summary of a run, `finished` in any order."""
    begin_s, end_s = window(arrivals)
    came = sorted(finished, key=lambda each: (each.arrived_s, each.index))
    reusable = ceiling([arrivals[each.index] for each in came], block_size)
    measured = [(each, most) for each, most in zip(came, reusable, strict=True) if begin_s <= each.arrived_s <= end_s]
    ttft_s, tpot_s, e2e_s = list[float](), list[float](), list[float]()
    good = cached = findable = refused = lost = 0
    speeds: dict[str, list[float]] = {}
    for each, most in measured:
        findable += most
        cached += each.cached_tokens
        refused += each.refused is not None
        lost += each.failed
        served = each.refused is None and not each.failed
        first_s = each.first_s - each.arrived_s if served else inf
        whole_s = each.ended_s - each.arrived_s if served else inf
        token_s = (each.ended_s - each.first_s) / max(1, each.output_tokens - 1) if served else inf
        ttft_s.append(first_s)
        e2e_s.append(whole_s)
        tpot_s.append(token_s)
        good += first_s <= slo.ttft_s and token_s <= slo.tpot_s
        session = arrivals[each.index].session or str(each.index)
        speeds.setdefault(session, []).append(each.output_tokens / whole_s if served else 0.0)
    return Summary(
        requests=len(measured),
        ttft_s=Spread.of(ttft_s),
        tpot_s=Spread.of(tpot_s),
        e2e_s=Spread.of(e2e_s),
        attainment=good / len(measured) if measured else 0.0,
        goodput_rps=good / (end_s - begin_s) if end_s > begin_s else 0.0,
        hit_share=cached / findable if findable else 1.0,
        fairness=jain([fsum(each) / len(each) for each in speeds.values()]),
        refused=refused,
        lost=lost,
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the ordered values do not exceed (the nearest rank); NaN of none."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else float("nan")


def jain(values: Sequence[float]) -> float:
    """Return Jain's index: (Σx)² / (n · Σx²); 1 if all have the same, 1/n if one has everything."""
    squares = fsum(value * value for value in values)
    return fsum(values) ** 2 / (len(values) * squares) if squares else 1.0


def estimate(values: Sequence[float]) -> Estimate:
    """Return mean and confidence of the mean (Student's t); infinite if a value is, and of a single value nothing is known."""
    if not all(map(isfinite, values)):
        return Estimate(inf, inf)
    count = len(values)
    mean = fsum(values) / count
    if count < 2:
        return Estimate(mean, inf)
    deviation = sqrt(fsum((value - mean) ** 2 for value in values) / (count - 1))
    quantile = T_QUANTILES[max(freedom for freedom in T_QUANTILES if freedom <= count - 1)]
    return Estimate(mean, quantile * deviation / sqrt(count))
