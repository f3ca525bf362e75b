"""What the web page is told, section by section: a section is sent when it has changed, so what seldom does costs nothing.

========== =========================================================================================
endpoints  who exists, as columns
load       how they are, as columns aligned with the endpoints of the same ``version``
state      everything that fits on a screen: the verdict, figures, queues, workers, splits
history    the last quarter of an hour in steps, for the small charts
decisions  the last ones, in full
========== =========================================================================================

Columns, because of 1,000 endpoints rows would repeat a dozen names 1,000 times a second. Unknown is null, never zero.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from shunter.picker.core.learned import Learned, outliers
from shunter.picker.core.overview import Overview, Row
from shunter.picker.core.pulse import EVERY_S, Moment, Pulse, Recent
from shunter.picker.core.service_levels import SIGNALS, Level, LevelTally
from shunter.picker.core.splits import Split
from shunter.picker.core.verdict import Post, Verdict, judge

__all__ = ["Attainment", "Endpoints", "History", "Load", "State", "Worker", "attained", "tell"]

T = TypeVar("T")


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Who exists."""

    version: int
    name: list[str]
    authority: list[str]
    pools: list[tuple[str, ...]]
    role: list[str | None]
    engine: list[str]


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How they are. Counts of picks and blocks are totals: whoever wants rates compares two."""

    version: int  # of the endpoints that it is about
    health: dict[int, str]  # of those that are not fresh, by position
    unready: list[int]  # positions
    age_s: list[float | None]
    waiting: list[float | None]
    running: list[float | None]
    kv_usage: list[float | None]
    in_flight: list[int]
    picks: list[int]
    hit_share: list[float | None]  # of the prompts' blocks, since it began
    ttft_s: list[float | None]  # a running average, by Envoy's records
    failing: list[float | None]  # share of the last requests
    outlier: list[int]  # positions
    adapters: dict[int, tuple[str, ...]]  # by position
    reason: dict[int, str]  # of the last failed scrape, by position


class Attainment(msgspec.Struct, frozen=True, kw_only=True):
    """How much of what a service level promises in one signal was kept, since it is counted."""

    level: str
    signal: str  # ttft, tpot, e2e
    target: float  # share of requests
    requests: int
    good: int


class Worker(Post, frozen=True, kw_only=True):
    """A worker's place and the process there."""

    address: str
    pid: int
    streams: int
    restarts: dict[str, int]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Everything but the endpoints."""

    now_s: float  # monotonic, as decisions are dated
    wall_s: float  # the same moment, since 1970
    pool: str
    verdict: Verdict
    recent: Recent
    snapshot_age_s: float | None
    picks: int
    picks_per_s: float | None  # over the last few seconds
    in_flight: int
    waiting: float  # at engines
    queued: dict[int, int] | None  # by priority; None without flow control
    saturation: float | None
    bypassed: int | None  # None: no collector tells
    workers: list[Worker]
    splits: tuple[Split, ...]
    levels: list[Attainment]
    reports: dict[str, str]
    complaints: dict[str, str]
    shadow: list[str]
    trial: tuple[str, ...]  # what the last reload would have changed
    reloads: dict[str, int]


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Columns, oldest first, a step apart. Rates and shares are of the step that ends there."""

    every_s: float
    picks_per_s: list[float | None]
    refused_per_s: list[float]
    hit_share: list[float | None]
    ttft_p95_s: list[float | None]
    in_flight: list[int]
    waiting: list[float]  # at engines and in the picker


def tell(
    overview: Overview,
    learned: Learned | None,
    now: Moment,
    pulse: Pulse,
    workers: Sequence[Worker],
    *,
    pool: str,
    hindrances: Sequence[str] = (),
    shadow: Sequence[str] = (),
    trial: Sequence[str] = (),
    reloads: dict[str, int] | None = None,
    levels: Sequence[Attainment] = (),
    wall_s: float = 0.0,
) -> dict[str, bytes]:
    """Return the sections but ``decisions`` as JSON; ``reloads`` by result, the last one's last; ``wall_s`` since 1970."""
    endpoints = _endpoints(overview.endpoints)
    slow = [row.endpoint for row in outliers(learned)] if learned else []
    recent = pulse.since(now)
    verdict = judge(
        overview,
        recent,
        slow,
        hindrances=hindrances,
        posts=workers,
        last_reload=next(reversed(reloads or {}), "done"),
        now_s=wall_s,
    )
    state = State(
        now_s=now.at_s,
        wall_s=wall_s,
        pool=pool,
        verdict=verdict,
        recent=recent,
        snapshot_age_s=_rounded(overview.snapshot_age_s, 1),
        picks=overview.picks,
        picks_per_s=pulse.since(now, EVERY_S).picks_per_s,
        in_flight=now.in_flight,
        waiting=now.waiting,
        queued=overview.queued,
        saturation=_rounded(overview.saturation, 3),
        bypassed=learned.blind if learned else None,
        workers=list(workers),
        splits=overview.splits,
        levels=list(levels),
        reports=overview.reports,
        complaints=overview.complaints,
        shadow=list(shadow),
        trial=tuple(trial),
        reloads=reloads or {},
    )
    sections = {
        "endpoints": endpoints,
        "load": _load(overview.endpoints, learned, slow, endpoints.version),
        "state": state,
        "history": _history(pulse),
    }
    return {name: msgspec.json.encode(section) for name, section in sections.items()}


def attained(levels: Iterable[Level], tallies: Mapping[str, LevelTally]) -> list[Attainment]:
    """Set beside each other what is promised and what came of it."""
    return [
        Attainment(level=level.name, signal=signal, target=level.target, requests=requests, good=good)
        for level in levels
        if (tally := tallies.get(level.name)) is not None
        for signal, threshold_s, requests, good in zip(SIGNALS, level.thresholds, tally.requests, tally.good, strict=True)
        if threshold_s is not None
    ]


def _endpoints(rows: Sequence[Row]) -> Endpoints:
    columns: dict[str, Any] = {
        "name": [row.name for row in rows],
        "authority": [row.authority for row in rows],
        "pools": [row.pools for row in rows],
        "role": [row.role for row in rows],
        "engine": [row.engine for row in rows],
    }
    return Endpoints(version=zlib.crc32(msgspec.msgpack.encode(columns)), **columns)


def _load(rows: Sequence[Row], learned: Learned | None, slow: Sequence[str], version: int) -> Load:
    taught = {each.endpoint: each for each in learned.rows.values()} if learned else {}

    def learnt(value: Callable[[Any], float | None]) -> list[float | None]:
        return [_rounded(value(found), 3) if (found := taught.get(row.authority)) else None for row in rows]

    return Load(
        version=version,
        health=_where(rows, lambda row: "" if row.health == "fresh" else row.health),
        unready=[at for at, row in enumerate(rows) if not row.ready],
        age_s=[_rounded(row.age_s, 1) for row in rows],
        waiting=[row.waiting for row in rows],
        running=[row.running for row in rows],
        kv_usage=[_rounded(row.kv_usage, 3) for row in rows],
        in_flight=[row.in_flight for row in rows],
        picks=[row.picks for row in rows],
        hit_share=[_rounded(row.prefix_hit_blocks / row.prefix_blocks, 3) if row.prefix_blocks else None for row in rows],
        ttft_s=learnt(lambda row: row.ttft_s),
        failing=learnt(lambda row: row.failing),
        outlier=[at for at, row in enumerate(rows) if row.authority in slow],
        adapters=_where(rows, lambda row: row.adapters),
        reason=_where(rows, lambda row: row.reason),
    )


def _history(pulse: Pulse) -> History:
    steps = pulse.steps()
    ends = list(pulse.moments)[1:]
    return History(
        every_s=EVERY_S,
        picks_per_s=[_rounded(each.picks_per_s, 2) for each in steps],
        refused_per_s=[round(sum(each.refusals.values()) / each.over_s, 2) for each in steps],
        hit_share=[_rounded(each.hit_share, 3) for each in steps],
        ttft_p95_s=[_rounded(each.ttft_p95_s, 3) for each in steps],
        in_flight=[each.in_flight for each in ends],
        waiting=[each.waiting + each.queued for each in ends],
    )


def _where(rows: Sequence[Row], value: Callable[[Row], T]) -> dict[int, T]:
    return {at: found for at, row in enumerate(rows) if (found := value(row))}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
