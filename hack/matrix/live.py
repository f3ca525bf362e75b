"""Traffic through a real Envoy: each cell of the table of promises, in each profile and failure mode, on each version."""

import asyncio
from collections.abc import Callable, Collection

from hack.matrix.promises import SIZES, WAYS, Outcome, State, cells, promise
from hack.matrix.rows import Record
from hack.matrix.stage import Way, set_stage

from shunter.envoyconf import EnvoyRefusedError, IntentError
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.targets import Target

__all__ = ["ORDER", "kept", "suite", "try_way"]

# Killed comes before dead: then the picker is alive in between without being waited for.
ORDER = (State.HEALTHY, State.KILLED, State.HUNG, State.DEAD)


def kept(promised: Collection[Outcome], observed: Outcome | str) -> bool:
    """Say whether a promise was kept; who may be served by anybody may be served by the picker's choice."""
    return observed in promised or (Outcome.SERVED in promised and observed is Outcome.PICKED)


async def try_way(
    record: Record,
    way: Way,
    *,
    sizes: Collection[str] = tuple(SIZES),
    states: Collection[State] = ORDER,
    spoil: Callable[[Resource], None] = lambda _: None,
) -> None:
    """Take down the cells of a profile in a failure mode; of a version that cannot have it, that this was said.

    ``spoil`` breaks the bootstrap, to see that the checks notice.
    """

    def note(check: str, *, ok: bool, detail: str) -> None:
        record(target=way.target.value, envoy_version=way.version, profile=way.profile.value, check=check, ok=ok, detail=detail)

    try:
        async with set_stage(way, spoil) as stage:
            every = [cell for cell in cells(way.profile) if cell.size in sizes]
            for state in states:
                if these := [cell for cell in every if cell.state is state]:
                    for cell, observed in (await stage.outcomes(state, these)).items():
                        promised = promise(way.profile, way.failure, way.version, cell)
                        said = observed.value if isinstance(observed, Outcome) else observed
                        ok, words = kept(promised, observed), " or ".join(each.value for each in promised)
                        note(f"{way.failure.value}, {cell}", ok=ok, detail=words if ok else f"promised {words}, got {said}")
    except IntentError as error:
        note(f"{way.failure.value}: refused", ok=True, detail=str(error))
    except (EnvoyRefusedError, TimeoutError) as error:
        note(f"{way.failure.value}: all", ok=False, detail=f"{type(error).__name__}: {error}")


def suite(record: Record, versions: tuple[str, ...]) -> None:
    """Take down everything of a bootstrap; of what is delivered otherwise, that each profile works."""
    for version in versions:
        for profile, failure in WAYS:
            asyncio.run(try_way(record, Way(version, profile, failure)))
            for target in (Target.ENVOY_FS, Target.XDS):
                way = Way(version, profile, failure, target)
                asyncio.run(try_way(record, way, sizes=("1 KB", "5 MB"), states=(State.HEALTHY,)))
