"""The fleet and the picker's account of it at one moment, for people and for metrics."""

from collections.abc import Mapping

import msgspec

from shunter.picker.core.fleet import endpoints_of
from shunter.picker.core.saturation import ROLE_LABEL
from shunter.picker.core.splits import Split, splits
from shunter.picker.core.tables import Account, Tally
from shunter.snapshot import View

__all__ = ["Overview", "Row", "look"]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint: what its engine last said (None: unknown) and what we sent it."""

    name: str
    authority: str
    pools: tuple[str, ...]  # namespace/name
    ready: bool
    health: str  # unscraped, fresh, failed, unreachable
    age_s: float | None  # of the engine's figures; None: it never gave any
    waiting: float | None
    running: float | None
    kv_usage: float | None  # 0 to 1
    in_flight: int
    prefill_tokens: int  # of the prompts in flight, what the endpoint has probably not cached
    decode_tokens: int  # expected of their answers
    picks: int
    prefix_hit_blocks: int
    prefix_blocks: int
    reason: str  # of the last failed scrape
    role: str | None = None  # by its label, where prefill and decode are separate
    engine: str = ""  # the dialect its metrics are read in
    adapters: tuple[str, ...] = ()  # LoRA adapters that serve requests now
    models: tuple[str, ...] = ()  # as it lists them itself, adapters included, where the scraper asks for them


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at once."""

    snapshot_age_s: float | None  # None: no snapshot yet
    trouble: str | None  # why the newest snapshot cannot be read
    picks: int
    refusals: dict[str, int]
    complaints: dict[str, str]  # what plugins did wrong first, by name
    endpoints: tuple[Row, ...]
    queued: dict[int, int] | None = None  # requests that wait, by priority; None without flow control
    saturation: float | None = None  # of the pool, when flow control looked last
    reports: dict[str, str] = {}  # what plugins of one worker have to say of themselves, by name
    splits: tuple[Split, ...] = ()  # what resources make of models' names


def look(
    view: View | None,
    trouble: str | None,
    tally: Tally,
    now_ns: int,
    *,
    pool: str | None = None,
    complaints: Mapping[str, str] | None = None,
    reports: Mapping[str, str] | None = None,
) -> Overview:
    """Put the newest snapshot and the account side by side; ``pool`` as in Roster."""
    rows: list[Row] = []
    loads = {(row.slot, row.incarnation): row for row in view.load.rows()} if view else {}
    pools = [f"{each.namespace}/{each.name}" for each in view.topology.pools] if view else []
    for endpoint in endpoints_of(view.topology, pool) if view else ():
        key = (endpoint.slot, endpoint.incarnation)
        load = loads.get(key)
        account = tally.by_endpoint.get(key, Account())
        rows.append(
            Row(
                name=endpoint.name,
                authority=endpoint.authority,
                pools=tuple(pools[at] for at in endpoint.pools if at < len(pools)),
                ready=endpoint.ready,
                health=load.health.name.lower() if load else "unscraped",
                age_s=_finite(load.age_s(now_ns)) if load else None,
                waiting=load.waiting if load else None,
                running=load.running if load else None,
                kv_usage=load.kv_usage if load else None,
                in_flight=account.in_flight,
                prefill_tokens=account.prefill_tokens_in_flight,
                decode_tokens=account.decode_tokens_in_flight,
                picks=account.picks,
                prefix_hit_blocks=account.prefix_hits,
                prefix_blocks=account.prefix_blocks,
                reason=load.reason if load else "",
                role=endpoint.labels.get(ROLE_LABEL),
                engine=endpoint.engine,
                adapters=load.running_adapters if load else (),
                models=endpoint.models,
            )
        )
    bands = tally.queue.bands
    return Overview(
        snapshot_age_s=_finite(view.age_s(now_ns)) if view else None,
        trouble=trouble,
        picks=tally.picks,
        refusals=dict(tally.refusals),
        complaints=dict(complaints or {}),
        endpoints=tuple(rows),
        queued={priority: bands[priority].requests for priority in sorted(bands, reverse=True)} if bands else None,
        saturation=tally.queue.saturation if bands else None,
        reports=dict(reports or {}),
        splits=splits(view.topology, pool, tally.rulings) if view else (),
    )


def _finite(value: float) -> float | None:
    return value if value != float("inf") else None
