"""Resources in protobuf's JSON form become a state that can be sent."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.schema import Schema
from shunter.envoyconf.core.xds.kinds import Kind
from shunter.envoyconf.core.xds.state import Item, State, make_item

__all__ = ["encode_state", "endpoints_of", "routes_of"]


def encode_state(resources: Mapping[Kind, Mapping[str, Resource]], schema: Schema) -> State:
    """Return all of it encoded; raise IntentError if something refers to what is not there."""
    return State(
        {kind: [_encode(kind, name, resource, schema) for name, resource in resources.get(kind, {}).items()] for kind in Kind}
    )


def endpoints_of(cluster: Resource) -> str | None:
    """Return which load assignment a cluster asks for, if it does."""
    if cluster.get("type") != "EDS":
        return None
    return cluster["eds_cluster_config"].get("service_name") or cluster["name"]


def routes_of(listener: Resource) -> list[str]:
    """Return which route configurations a listener asks for."""
    found = {each["route_config_name"] for each in _parts(listener, "rds")}
    return sorted(found)


def clusters_of(routes: Resource) -> list[str]:
    """Return the clusters to which some route leads, by name."""
    found = {route["cluster"] for route in _parts(routes, "route") if "cluster" in route}
    shares = (share for weighted in _parts(routes, "weighted_clusters") for share in weighted["clusters"])
    return sorted(found | {share["name"] for share in shares if "name" in share})


def _encode(kind: Kind, name: str, resource: Resource, schema: Schema) -> Item:
    refers: list[str] = []
    if kind is Kind.CLUSTER:
        refers = [endpoints] if (endpoints := endpoints_of(resource)) else []
    elif kind is Kind.LISTENER:
        refers = routes_of(resource)
    elif kind is Kind.ROUTES:
        refers = clusters_of(resource)
    return make_item(name, schema.encode(resource, kind.message).SerializeToString(deterministic=True), refers)


def _parts(node: Any, key: str) -> Iterator[Resource]:
    """Yield every mapping below a node that stands under this key."""
    if isinstance(node, list):
        for each in cast("list[Any]", node):
            yield from _parts(each, key)
    elif isinstance(node, dict):
        for name, value in cast("Resource", node).items():
            if name == key and isinstance(value, dict):
                yield cast("Resource", value)
            yield from _parts(value, key)
