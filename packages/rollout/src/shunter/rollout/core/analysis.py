"""Is the new version worse than the old one? Counts of both, as pickers have them, and what they say.

Both get requests of the same clients in the same minutes, so what clients do wrong counts on both sides alike and only the
difference is held against the new one. Old counts since the rollout began, new since the step did: at 100 % the old one has
no requests of its own any more.

Errors need not wait for ``minRequests``: as soon as there are more than even so many requests would be allowed, and not only
one or two, it is decided.

A version that hangs makes no errors: clients give up, and only that there was no first token tells. Where first tokens are
counted, requests without one are none that were judged, and where most have none it is worse. Not where some have none: records
of them may be lost on their way to the pickers, and come a little later than ends, so what ended just now does not count.
"""

import msgspec

from shunter.rollout.core.spec import Analysis, fraction_of

__all__ = ["Counts", "Opinion", "compare", "quantile", "since"]

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


class Counts(msgspec.Struct, frozen=True):
    """What pickers counted of one side since they started: requests that have ended, and those of them that failed.

    ``ttft`` are the cumulated buckets of a histogram by upper bound in seconds, without the last one, which has no bound (JSON
    has no infinity): that is ``answered``.
    """

    requests: float = 0.0
    errors: float = 0.0
    answered: float = 0.0
    ttft: tuple[tuple[float, float], ...] = ()

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
    before = dict(then.ttft)
    ttft = tuple((bound, count - before.get(bound, 0.0)) for bound, count in now.ttft)
    added = Counts(now.requests - then.requests, now.errors - then.errors, now.answered - then.answered, ttft)
    fell = min(added.requests, added.errors, added.answered, *(count for _, count in ttft)) < 0
    return now if fell else added


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
    slow, usual_s = quantile(new, analysis.quantile), quantile(old, analysis.quantile)
    if analysis.latency and slow is not None and usual_s is not None and old.answered >= FEW:
        words = f"time to first token at {analysis.quantile:g}: {slow:.3f} s, of the old one {usual_s:.3f} s"
        if slow > max(usual_s * analysis.latency, NEGLIGIBLE_S):
            return Opinion(f"{words}: more than {analysis.latency:g} times as long", enough=True)
        return Opinion(enough=True, words=f"{failed}; {words}")
    return Opinion(enough=True, words=failed)


def quantile(counts: Counts, share: float) -> float | None:
    """Return the time to first token below which that share lies, interpolated as Prometheus does; None of nothing."""
    if counts.answered <= 0:
        return None
    rank, lower, below = share * counts.answered, 0.0, 0.0
    for bound, count in counts.ttft:
        if count >= rank:
            return lower + (bound - lower) * (rank - below) / (count - below) if count > below else bound
        lower, below = bound, count
    return lower
