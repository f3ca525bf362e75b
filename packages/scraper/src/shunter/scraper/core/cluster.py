"""What should exist, whoever said so, and the topology that follows from it."""

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from msgspec import Struct

from shunter.scraper.core.dialect import Dialect
from shunter.scraper.core.slots import Identity, Slots
from shunter.snapshot import Endpoint, InferenceModel, Objective, Pool, Rewrite, Topology

__all__ = ["Cluster", "Import", "Member", "Source", "as_address", "dns_names", "survey"]


class Member(Struct, frozen=True, kw_only=True):
    """A model server that should exist: at an IP address, or at every address of a DNS name."""

    name: str
    namespace: str
    host: str
    port: int
    rank: int = 0
    metrics_host: str | None = None  # None: at the same address
    metrics_port: int
    metrics_path: str
    kv_events_port: int | None = None
    kv_replay_port: int | None = None
    dialect: Dialect
    labels: dict[str, str]
    pools: tuple[int, ...]  # indices into Cluster.pools


class Import(NamedTuple):
    """An InferencePoolImport: a pool of other clusters, whose own scrapers follow it there."""

    namespace: str
    name: str
    clusters: tuple[str, ...]


class Cluster(Struct, frozen=True, kw_only=True):
    """The desired state."""

    pools: tuple[Pool, ...] = ()
    members: tuple[Member, ...] = ()
    objectives: tuple[Objective, ...] = ()
    rewrites: tuple[Rewrite, ...] = ()
    models: tuple[InferenceModel, ...] = ()
    imports: tuple[Import, ...] = ()


class Source(NamedTuple):
    """Where the metrics of an endpoint are, and in which dialect; where it publishes KV events, if it says so itself."""

    host: str
    port: int
    path: str
    dialect: Dialect
    kv_events_port: int | None = None
    kv_replay_port: int | None = None


@lru_cache(maxsize=1 << 16)  # asked for every endpoint at every change, of which there may be twenty a second
def as_address(host: str) -> str | None:
    """Return an IP address in its one canonical form; None if ``host`` is a name."""
    try:
        return str(ip_address(host))
    except ValueError:
        return None


def dns_names(cluster: Cluster) -> set[str]:
    """Return the names whose addresses ``survey`` wants to be told."""
    return {member.host for member in cluster.members if as_address(member.host) is None}


def survey(
    cluster: Cluster,
    addresses: Mapping[str, tuple[str, ...]],
    slots: Slots,
    *,
    epoch: int,
    generation: int,
    now_ns: int,
) -> tuple[Topology, tuple[Source, ...]]:
    """Return the topology of a cluster whose DNS names have these ``addresses``, and its endpoints' sources, in their order.

    A name without addresses has no endpoints; one with several has as many, told apart by address.
    """
    found = {
        Identity(member.namespace, member.name, address, member.port): member
        for member in cluster.members
        for address in addresses.get(member.host, (member.host,) if as_address(member.host) else ())
    }
    places = slots.assign(found, generation=generation, now_ns=now_ns)
    endpoints = tuple(
        Endpoint(
            slot=places[identity].slot,
            incarnation=places[identity].incarnation,
            name=identity.name,
            namespace=identity.namespace,
            address=identity.address,
            port=identity.port,
            rank=member.rank,
            pools=member.pools,
            labels=member.labels,
            engine=member.dialect.name,
        )
        for identity, member in found.items()
    )
    sources = tuple(
        Source(
            member.metrics_host or identity.address,
            member.metrics_port,
            member.metrics_path,
            member.dialect,
            member.kv_events_port,
            member.kv_replay_port,
        )
        for identity, member in found.items()
    )
    topology = Topology(
        epoch=epoch,
        generation=generation,
        pools=cluster.pools,
        endpoints=endpoints,
        objectives=cluster.objectives,
        rewrites=cluster.rewrites,
        models=cluster.models,
    )
    return topology, sources
