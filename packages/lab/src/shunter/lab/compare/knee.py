"""The knee: the highest rate of requests at which enough of them are still good.

A rate is good if at least nine of ten requests meet both objectives, time to first token and time for each further token (the
"SLO attainment of 90 %" of the serving literature; where tokens come quickly enough anyway it says p90 TTFT ≤ SLO). The
attainment falls with the rate but for noise, so the search is a bisection on a logarithmic scale.
"""

from collections.abc import Awaitable, Callable

__all__ = ["ATTAINMENT", "find_knee"]

ATTAINMENT = 0.9

# The first steps away from the guess; then the gap is halved until it is so close. All searches try the same rates: of two
# policies whose knees differ by less, one may be found a step below the other, so a step has to be less than what a verdict
# calls a difference.
STRIDE = 1.5
CLOSE = 1.02

# Farther from the guess than 1.5 ** 8 = 26 times nobody looks: the objectives cannot be met, or cannot be missed.
STRIDES = 8


async def find_knee(attained: Callable[[float], Awaitable[float]], guess_qps: float) -> float:
    """Return the knee in requests a second; 0 if no rate is good. `attained` says which part is good at a rate."""
    good = bad = 0.0
    qps = guess_qps
    for _ in range(STRIDES):
        if await attained(qps) >= ATTAINMENT:
            good, qps = qps, qps * STRIDE
        else:
            bad, qps = qps, qps / STRIDE
        if good and bad:
            break
    while good and bad > good * CLOSE:
        qps = (good * bad) ** 0.5
        if await attained(qps) >= ATTAINMENT:
            good = qps
        else:
            bad = qps
    return good
