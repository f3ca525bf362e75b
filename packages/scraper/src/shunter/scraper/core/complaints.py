"""What is wrong with objects that are there: a reason for programs and metrics, and for people where and what.

An object that cannot be used is left out. A pool that nobody can be sent to, or that has the servers of another one, counts and
is spoken of all the same.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from shunter.scraper.core.cluster import Member
from shunter.scraper.core.manifests import GROUP, Key
from shunter.scraper.core.pods import Pod
from shunter.snapshot import Pool

__all__ = ["Complaint", "Place", "in_files", "of_pools"]


class Complaint(NamedTuple):
    """A word for programs, and a message that begins with the field."""

    reason: str
    message: str


Place = tuple[str, Key]
"""The resource of an object, and its key."""

NO_ENDPOINTS = Complaint("NoEndpoints", "no endpoint belongs to it")
MATCHES_NOTHING = Complaint("SelectorMatchesNothing", "spec.selector: no pod of its namespace has these labels")
NONE_READY = Complaint("NoReadyPods", "spec.selector: pods have these labels, but none of them is ready")
NO_LIVE_PORTS = Complaint("NoLivePorts", "spec.targetPorts: its ready pods say that none of them is live (active-ports)")


def of_pools(
    pools: Sequence[tuple[Place, Pool]], members: Iterable[Member], pods: Callable[[str], Iterable[Pod]] | None = None
) -> Iterator[tuple[Place, Complaint]]:
    """Yield what is to be said of pools, whose order is that of ``Member.pools``; ``pods`` tells those of a namespace."""
    inhabited = {index for member in members for index in member.pools}
    first: dict[tuple[str, frozenset[tuple[str, str]], frozenset[int]], str] = {}
    for index, (place, pool) in enumerate(pools):
        if index not in inhabited:
            yield place, NO_ENDPOINTS if pods is None else _emptiness(pool, pods(pool.namespace))
        if pool.selector:
            spec = pool.namespace, frozenset(pool.selector.items()), frozenset(pool.target_ports)
            if (other := first.setdefault(spec, pool.name)) != pool.name:
                yield place, Complaint("DuplicatePool", f"spec: has the same pods and ports as InferencePool {other}")


def in_files(pools: Sequence[Pool], members: Iterable[Member]) -> dict[Place, Complaint]:
    """Return what is to be said of pools that files describe."""
    title = f"inferencepools.{GROUP}"
    return dict(of_pools([((title, Key(pool.namespace, pool.name)), pool) for pool in pools], members))


def _emptiness(pool: Pool, pods: Iterable[Pod]) -> Complaint:
    chosen = [pod for pod in pods if pool.selector.items() <= pod.metadata.labels.items()]
    if not chosen:
        return MATCHES_NOTHING
    return NO_LIVE_PORTS if any(pod.serves for pod in chosen) else NONE_READY
