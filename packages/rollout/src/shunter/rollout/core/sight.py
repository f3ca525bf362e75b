"""What pickers say of a rollout: who has which model, and how the traffic is split.

They are asked, not those who were told to load or to split: what every picker decides by is what counts. So of several pickers
an endpoint has a model when all of them know it, and a share is in force when all of them have it.
"""

from collections.abc import Sequence

import msgspec

from shunter.rollout.core.spec import Rollout, Side
from shunter.rollout.errors import ConfigError

__all__ = ["Holders", "Page", "check_engines", "check_targets", "holders", "in_force", "others"]

# The scraper publishes at least once a second; a picker that has heard nothing for so long knows nothing of new endpoints.
STALE_S = 5.0
# Whose path names the model (/v2/models/NAME/generate), so that no rewrite of it gets a request to another one.
BY_PATH = "triton-tensorrt-llm"


class Row(msgspec.Struct, frozen=True):
    """An endpoint on a picker's page ``/debug/fleet``."""

    authority: str
    ready: bool
    health: str
    pools: tuple[str, ...] = ()
    engine: str = ""
    models: tuple[str, ...] = ()


class Share(msgspec.Struct, frozen=True):
    """What a target is to get, 0 to 1."""

    model: str
    wanted: float


class Split(msgspec.Struct, frozen=True):
    """What a resource makes of a model; of all that no other names if ``model`` is empty."""

    rule: str
    model: str
    shares: tuple[Share, ...]


class Page(msgspec.Struct, frozen=True):
    """A picker's page ``/debug/fleet``."""

    snapshot_age_s: float | None
    endpoints: tuple[Row, ...]
    splits: tuple[Split, ...] = ()


class Holders(msgspec.Struct, frozen=True):
    """Ready endpoints of a side's pool (``ip:port``): those that list its model, those that do not, and of these the silent.

    Who is silent lists nothing at all: the scraper has not asked, or got no answer. ``engines`` says what each endpoint is.
    """

    having: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    engines: dict[str, str] = {}


def holders(pages: Sequence[Page], rollout: Rollout, side: Side) -> Holders | None:
    """Return who has a side's model, if all pickers are up to date; of a side without a model, all have it.

    Who accepts no connections gets no requests and does not count.
    """
    if not pages or any(page.snapshot_age_s is None or page.snapshot_age_s > STALE_S for page in pages):
        return None
    pool, name = rollout.pool_of(side), side.listed
    rows = [
        row
        for page in pages
        for row in page.endpoints
        if row.ready and row.health != "unreachable" and (not pool or any(_is_called(each, pool) for each in row.pools))
    ]
    lacking = {row.authority for row in rows if name and name not in row.models}
    return Holders(
        having=tuple(sorted({row.authority for row in rows} - lacking)),
        lacking=tuple(sorted(lacking)),
        silent=tuple(sorted({row.authority for row in rows if name and not row.models})),
        engines={row.authority: row.engine for row in rows},
    )


def check_engines(rollout: Rollout, there: Holders | None) -> None:
    """Raise ConfigError if an endpoint that is seen goes by nothing that a rewrite changes."""
    if there and not rollout.traffic.http_route and BY_PATH in there.engines.values():
        where = min(authority for authority, engine in there.engines.items() if engine == BY_PATH)
        raise ConfigError(
            f"$.traffic: {where} is a Triton, asked by a path that names the model, which a rewrite does not change: "
            "give each version a pool of its own, and move traffic between them by httpRoute"
        )


def in_force(pages: Sequence[Page], rollout: Rollout) -> int | None:
    """Return the percentage of the model's requests that go to the new side; None if no rule says so or not all say the same.

    A rule that names the model counts before one for all models, as pickers have it.
    """
    found: set[int | None] = set()
    for page in pages:
        found |= {_percent(split, rollout.to.model) for split in _splits(page, rollout)} or {None}
    return found.pop() if len(found) == 1 else None


def others(pages: Sequence[Page], rollout: Rollout) -> tuple[str, ...]:
    """Return the models of neither side that requests for the rollout's model go to, by a rule that names it."""
    splits = [split for page in pages for split in _splits(page, rollout) if split.model]
    names = {share.model for split in splits for share in split.shares if share.wanted > 0}
    return tuple(sorted(names - {rollout.from_.model, rollout.to.model}))


def check_targets(rollout: Rollout, strangers: Sequence[str]) -> None:
    """Raise ConfigError if the model's requests go to models that a rollout would take them away from without a word."""
    if strangers:
        raise ConfigError(
            f"$.from.model: requests for {rollout.model} go to {', '.join(strangers)} now: say so in from, or, if another "
            "rollout is moving them, let that one end or roll it back"
        )


def _splits(page: Page, rollout: Rollout) -> list[Split]:
    exact = [split for split in page.splits if split.model == rollout.model]
    return exact or [split for split in page.splits if not split.model]


def _percent(split: Split, model: str) -> int:
    return round(100 * sum(share.wanted for share in split.shares if share.model == model))


def _is_called(pool: str, name: str) -> bool:
    return name in (pool, pool.rpartition("/")[2])
