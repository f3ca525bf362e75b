"""The fleet and what it was given, as they are shown: by endpoint, and the averages of each pool."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean, pstdev

from shunter.picker.core import families
from shunter.picker.core.overview import Overview, Row
from shunter.picker.core.replicas import desired_replicas
from shunter.picker.core.samples import Samples, by_label, single
from shunter.picker.core.saturation import DECODE

__all__ = ["pool_samples"]

_COLUMNS: tuple[tuple[families.Family, families.Family, Callable[[Row], float | None]], ...] = (
    (families.AVERAGE_QUEUE, families.DEVIATION_QUEUE, lambda row: row.waiting),
    (families.AVERAGE_RUNNING, families.DEVIATION_RUNNING, lambda row: row.running),
    (families.AVERAGE_KV, families.DEVIATION_KV, lambda row: row.kv_usage),
)


def pool_samples(overview: Overview, served: str) -> Iterator[Samples]:
    """Yield all of them; averages are of ``served`` as a whole, and of each pool by itself if it is more than one pool.

    The label ``name`` is the reference's; of several pools it is namespace/name.
    """
    rows = overview.endpoints
    yield by_label(families.PICKS, {row.authority: row.picks for row in rows})
    yield by_label(families.IN_FLIGHT, {row.authority: row.in_flight for row in rows})
    running = {row.authority: row.running for row in rows if row.running is not None and row.role in DECODE}
    yield by_label(families.ENDPOINT_RUNNING, running)
    yield by_label(families.PREFIX_BLOCKS, {row.authority: row.prefix_blocks for row in rows})
    yield by_label(families.PREFIX_HIT_BLOCKS, {row.authority: row.prefix_hit_blocks for row in rows})
    ready = {pool: [row for row in rows if row.ready] for pool, rows in _pools(overview, served).items()}
    yield by_label(families.READY, {pool: len(rows) for pool, rows in ready.items()})
    for average, deviation, read in _COLUMNS:
        known = {pool: [value for row in rows if (value := read(row)) is not None] for pool, rows in ready.items()}
        yield by_label(average, {pool: fmean(values) for pool, values in known.items() if values})
        yield by_label(deviation, {pool: pstdev(values) for pool, values in known.items() if values})
    queues = {(pool, row.authority): row.waiting for pool, rows in ready.items() for row in rows if row.waiting is not None}
    yield Samples(families.ENDPOINT_QUEUE, queues)
    yield by_label(families.DESIRED_REPLICAS, desired_replicas(overview))
    yield single(families.SNAPSHOT_AGE, float("inf") if overview.snapshot_age_s is None else overview.snapshot_age_s)


def _pools(overview: Overview, served: str) -> Mapping[str, Sequence[Row]]:
    pools = sorted({pool for row in overview.endpoints for pool in row.pools})
    groups = {served: overview.endpoints}
    if len(pools) > 1:
        groups |= {pool: tuple(row for row in overview.endpoints if pool in row.pools) for pool in pools}
    return groups
