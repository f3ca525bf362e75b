"""The last minutes of a picker: totals seen now and then, and the rates and shares that follow from two of them."""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import islice, pairwise

import msgspec

from shunter.picker.core.buckets import TTFT_S
from shunter.picker.core.learned import Learned
from shunter.picker.core.overview import Overview, Row
from shunter.picker.core.saturation import DECODE
from shunter.picker.core.tables import Tally
from shunter.picker.core.thresholds import HIDDEN_REQUESTS

__all__ = ["EVERY_S", "RECENT_S", "Moment", "Pulse", "Recent", "moment", "quantile"]

# A quarter of an hour in steps that still show a burst: whoever is woken looks back for the beginning of it.
EVERY_S = 5.0
KEPT = 180

# What "now" means of rates and shares: long enough for a quantile, short enough to follow what is being done about it.
RECENT_S = 60.0

# How long an engine has to say that it runs nothing while requests of ours are there.
HIDDEN_S = 10.0


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """Totals that only grow, and some of what was so just then."""

    at_s: float  # monotonic
    picks: int = 0
    refusals: dict[str, int] = {}  # by reason
    blocks: int = 0  # of the prompts of all picks
    hits: int = 0  # of these, what the chosen endpoint had seen before
    bypassed: int = 0  # requests that went to the pool without a pick
    strangers: int = 0  # requests that were served by endpoints of which the snapshot knows nothing
    records: int = 0
    ttfts: tuple[int, ...] = ()  # by bucket of TTFT_S; empty: nobody tells
    failed: int = 0  # records of requests that ended with a status from 500 on, or with none
    restarts: dict[str, int] = {}  # by worker and reason
    in_flight: int = 0
    waiting: float = 0.0  # at engines
    queued: int = 0  # in the picker
    hidden: dict[str, int] = {}  # requests in flight at endpoints that say they run nothing, by address
    tenants: dict[str, int] = {}  # requests by fairness id


class Recent(msgspec.Struct, frozen=True, kw_only=True):
    """What happened between two moments. ``None``: nothing to tell it by."""

    over_s: float = 0.0
    picks: int = 0
    refusals: dict[str, int] = {}
    bypassed: int = 0
    strangers: int = 0
    records: int = 0
    picks_per_s: float | None = None
    hit_share: float | None = None
    usual_hit_share: float | None = None  # of all that is remembered from before
    ttft_p50_s: float | None = None
    ttft_p95_s: float | None = None
    failed: int = 0
    restarts: dict[str, int] = {}
    hidden: dict[str, int] = {}  # as at this moment, of who has been so for HIDDEN_S
    tenants: dict[str, int] = {}


def moment(
    overview: Overview,
    tally: Tally,
    learned: Learned | None,
    now_s: float,
    *,
    restarts: dict[str, int],
) -> Moment:
    """Return this one."""
    accounts = tally.by_endpoint.values()
    ttfts = [each.figures["ttft"].counts for each in tally.classes.values() if "ttft" in each.figures]
    tenants: dict[str, int] = {}
    for (_, _, fairness_id, _), each in tally.classes.items():
        tenants[fairness_id] = tenants.get(fairness_id, 0) + each.requests
    return Moment(
        at_s=now_s,
        picks=tally.picks,
        refusals=tally.refusals,
        blocks=sum(each.prefix_blocks for each in accounts),
        hits=sum(each.prefix_hits for each in accounts),
        bypassed=learned.blind if learned else 0,
        strangers=learned.strangers if learned else 0,
        records=learned.records if learned else 0,
        ttfts=tuple(map(sum, zip(*ttfts, strict=True))),
        failed=sum(learned.statuses.get(each, 0) for each in ("5xx", "none")) if learned else 0,
        restarts=restarts,
        in_flight=sum(row.in_flight for row in overview.endpoints),
        waiting=sum(row.waiting or 0.0 for row in overview.endpoints),
        queued=sum((overview.queued or {}).values()),
        hidden={row.authority: row.in_flight for row in overview.endpoints if _hides(row)},
        tenants=tenants,
    )


class Pulse:
    """The moments of the last quarter of an hour, ``EVERY_S`` apart."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self.moments: deque[Moment] = deque(maxlen=KEPT)

    def add(self, now: Moment) -> None:
        """Keep a moment, unless the last one is too near."""
        if not self.moments or now.at_s - self.moments[-1].at_s >= EVERY_S:
            self.moments.append(now)

    def since(self, now: Moment, over_s: float = RECENT_S) -> Recent:
        """Return what happened in the last ``over_s``, or since the oldest moment if that is younger."""
        at = bisect_right(self.moments, now.at_s - over_s, key=lambda each: each.at_s)
        before = self.moments[max(0, at - 1)] if self.moments else now
        usual = _between(self.moments[0], before).hit_share if self.moments else None
        return msgspec.structs.replace(_between(before, now), hidden=self._hidden(now), usual_hit_share=usual)

    def _hidden(self, now: Moment) -> dict[str, int]:
        """Return who hides requests now and did so at every moment of the last HIDDEN_S, if they have been seen for so long."""
        at = bisect_right(self.moments, now.at_s - HIDDEN_S, key=lambda each: each.at_s)
        seen = list(islice(self.moments, at - 1, None)) if at else []
        return {name: count for name, count in now.hidden.items() if seen and all(name in each.hidden for each in seen)}

    def steps(self) -> list[Recent]:
        """Return what happened from each moment to the next, oldest first."""
        return [_between(*pair) for pair in pairwise(self.moments)]


def quantile(share: float, counts: Sequence[int], bounds: Sequence[float] = TTFT_S) -> float | None:
    """Return the value that ``share`` of a histogram's values do not exceed, as straight within its bucket; None: no values.

    Values beyond the last bound are taken to be at it.
    """
    total = sum(counts)
    if not total:
        return None
    rank, seen = share * total, 0
    for at, count in enumerate(counts[: len(bounds)]):
        if seen + count >= rank and count:
            low = bounds[at - 1] if at else 0.0
            return low + (bounds[at] - low) * (rank - seen) / count
        seen += count
    return bounds[-1]


def _hides(row: Row) -> bool:
    """Tell whether it runs nothing and has requests; whoever only prefills has them until they are decoded elsewhere."""
    return (
        row.role in DECODE
        and row.in_flight >= HIDDEN_REQUESTS
        and row.health == "fresh"
        and row.running == 0
        and not row.waiting
    )


def _between(before: Moment, now: Moment) -> Recent:
    """Compare; a total that fell began anew, as after a restart with fewer workers, and counts from zero."""
    over_s = now.at_s - before.at_s
    picks, blocks = _grown(before.picks, now.picks), _grown(before.blocks, now.blocks)
    ttfts = [_grown(*pair) for pair in zip(before.ttfts or (0,) * len(now.ttfts), now.ttfts, strict=True)] if now.ttfts else []
    return Recent(
        over_s=over_s,
        picks=picks,
        refusals=_grown_by(before.refusals, now.refusals),
        bypassed=_grown(before.bypassed, now.bypassed),
        strangers=_grown(before.strangers, now.strangers),
        records=_grown(before.records, now.records),
        picks_per_s=picks / over_s if over_s > 0 else None,
        hit_share=min(1.0, _grown(before.hits, now.hits) / blocks) if blocks else None,
        ttft_p50_s=quantile(0.5, ttfts),
        ttft_p95_s=quantile(0.95, ttfts),
        failed=_grown(before.failed, now.failed),
        restarts=_grown_by(before.restarts, now.restarts),
        tenants=_grown_by(before.tenants, now.tenants),
    )


def _grown(before: int, now: int) -> int:
    return now - before if now >= before else now


def _grown_by(before: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    grown = {name: _grown(before.get(name, 0), count) for name, count in now.items()}
    return {name: count for name, count in grown.items() if count}
