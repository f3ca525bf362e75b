"""Is the new version worse than the old one? Counts of both, as pickers have them, and what they say.

Both get requests of the same clients in the same minutes, so what clients do wrong counts on both sides alike and only the
difference is held against the new one. Old counts since the rollout began, new since the step did: at 100 % the old one has
no requests of its own any more.

Errors need not wait for ``minRequests``: as soon as there are more than even so many requests would be allowed, and not only
one or two, it is decided.

A version that hangs makes no errors: clients give up, and only that there was no first token tells. Where first tokens are
counted, requests without one are none that were judged, and where most have none it is worse. Not where some have none: records
of them may be lost on their way to the pickers, and come a little later than ends, so what ended just now does not count.

One that stalls in the middle answers in time; that its answers take several times as long tells, once clients give up. Versions
may have more to say than others, so it has to be several times.
"""

from typing import TypeAlias

import msgspec

from shunter.rollout.core.spec import Analysis, fraction_of

__all__ = ["Buckets", "Counts", "Opinion", "compare", "quantile", "since"]

# Fewer errors than these may be anybody's, however few requests there were.
FEW_ERRORS = 3
# A quantile of the old side's latency means nothing on fewer than so many.
FEW = 20
# What ended so long ago has had its first token counted, if it had one: Envoy tells of requests once a second.
LATE_S = 3.0
# So many more requests without a first token than the old side has are not lost records.
MOST = 0.5
# Of two latencies below this neither is worse: the first bucket of the pickers' histograms ends at 5 ms.
NEGLIGIBLE_S = 0.01


Buckets: TypeAlias = tuple[tuple[float, float], ...]


class Counts(msgspec.Struct, frozen=True):
    """What pickers counted of one side since they started: requests that have ended, and those of them that failed.

    ``ttft`` are the cumulated buckets of a histogram by upper bound in seconds, without the last one, which has no bound (JSON
    has no infinity): that is ``answered``. So ``durations`` and ``timed`` are of whole requests.
    """

    requests: float = 0.0
    errors: float = 0.0
    answered: float = 0.0
    ttft: Buckets = ()
    timed: float = 0.0
    durations: Buckets = ()

    @property
    def unanswered(self) -> float:
        """Requests that ended without an error and without a first token, as far as is known yet."""
        return max(self.requests - self.errors - self.answered, 0.0)


class Opinion(msgspec.Struct, frozen=True):
    """``worse`` is why, or empty; ``enough`` says that there were requests enough to tell."""

    worse: str = ""
    enough: bool = False
    words: str = ""


def since(now: Counts, then: Counts | None) -> Counts:
    """Return what was added; all of it where a picker has started anew in between, or nothing was known then."""
    if then is None:
        return now
    added = Counts(
        now.requests - then.requests,
        now.errors - then.errors,
        now.answered - then.answered,
        _added(now.ttft, then.ttft),
        now.timed - then.timed,
        _added(now.durations, then.durations),
    )
    buckets = (count for _, count in (*added.ttft, *added.durations))
    fell = min(added.requests, added.errors, added.answered, added.timed, *buckets) < 0
    return now if fell else added


def _added(now: Buckets, then: Buckets) -> Buckets:
    before = dict(then)
    return tuple((bound, count - before.get(bound, 0.0)) for bound, count in now)


def compare(analysis: Analysis, old: Counts, new: Counts, seconds: float) -> Opinion:
    """Say what the counts mean for the new side, which those of it are of so many seconds."""
    usual = old.errors / old.requests if old.requests else 0.0
    allowed = usual + fraction_of(analysis.error_rate)
    judged = max(new.requests, float(analysis.min_requests))
    failed = f"{new.errors:.0f} of {new.requests:.0f} requests failed"
    if new.errors >= FEW_ERRORS and new.errors > allowed * judged:
        return Opinion(f"{failed}, allowed are {allowed:.1%}", enough=True)
    told = new.requests
    if old.answered >= FEW:  # first tokens are counted
        told -= new.unanswered
        lost = new.unanswered - new.requests * min(1.0, LATE_S / max(seconds, LATE_S))
        if lost >= FEW_ERRORS and lost > (old.unanswered / old.requests + MOST) * judged:
            return Opinion(f"{new.unanswered:.0f} of {new.requests:.0f} requests ended without an answer", enough=True)
    if told < analysis.min_requests:
        return Opinion(words=f"{told:.0f} of {analysis.min_requests} requests judged")
    first = _slower("time to first token", (old.answered, old.ttft), (new.answered, new.ttft), analysis, analysis.latency)
    times = (old.timed, old.durations), (new.timed, new.durations)
    whole = _slower("time of a whole answer", *times, analysis, analysis.duration)
    for slow in (first, whole):
        if slow is not None and slow.worse:
            return slow
    return Opinion(enough=True, words=failed if first is None else f"{failed}; {first.words}")


def _slower(
    what: str, old: tuple[float, Buckets], new: tuple[float, Buckets], analysis: Analysis, most: float | None
) -> Opinion | None:
    """Say how a time of the new side compares with the old one's, of which it may be so many times; None: nobody knows."""
    usual_s, now_s = quantile(*old, analysis.quantile), quantile(*new, analysis.quantile)
    if most is None or usual_s is None or now_s is None or old[0] < FEW:
        return None
    words = f"{what} at {analysis.quantile:g}: {now_s:.3f} s, of the old one {usual_s:.3f} s"
    if now_s > max(usual_s * most, NEGLIGIBLE_S):
        return Opinion(f"{words}: more than {most:g} times as long", enough=True)
    return Opinion(words=words)


def quantile(total: float, buckets: Buckets, share: float) -> float | None:
    """Return the time below which that share of all lies, interpolated as Prometheus does; None of nothing."""
    if total <= 0:
        return None
    rank, lower, below = share * total, 0.0, 0.0
    for bound, count in buckets:
        if count >= rank:
            return lower + (bound - lower) * (rank - below) / (count - below) if count > below else bound
        lower, below = bound, count
    return lower
