"""What the scraper's page says of the cluster, as values: what it follows, the pools, and what is wrong with objects."""

import msgspec

__all__ = ["Cluster", "Complaint", "Following", "PoolEndpoints", "grievances"]

# Lines of complaints below the table of endpoints, which are what one looks for there.
SHOWN = 5


class Following(msgspec.Struct, frozen=True):
    """One resource of a namespace, or a path of files."""

    resource: str
    place: str
    known: bool
    trouble: str = ""


class PoolEndpoints(msgspec.Struct, frozen=True):
    """A pool, and ``address:port`` of each of its endpoints."""

    namespace: str
    name: str
    endpoints: tuple[str, ...] = ()


class Complaint(msgspec.Struct, frozen=True):
    """What is wrong with an object."""

    resource: str
    namespace: str
    name: str
    reason: str
    message: str


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """``/debug/cluster``."""

    version: str
    schema: int
    now_s: float
    generation: int
    following: tuple[Following, ...] = ()
    pools: tuple[PoolEndpoints, ...] = ()
    complaints: tuple[Complaint, ...] = ()


def grievances(cluster: Cluster) -> list[str]:
    """Return what cannot be read and what is wrong, a line each; of many the first."""
    lines = [f"{each.place}: {each.trouble}" for each in cluster.following if each.trouble]
    lines += [f"{each.resource} {each.namespace}/{each.name}: {each.message}" for each in cluster.complaints]
    return (
        [*lines[:SHOWN], f"… and {len(lines) - SHOWN} more at /debug/cluster of the scraper"] if len(lines) > SHOWN else lines
    )
