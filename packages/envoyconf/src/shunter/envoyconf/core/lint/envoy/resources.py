"""Which documents make up one Envoy, and where in them its listeners, routes, clusters and endpoints are.

A document is a bootstrap; or what /config_dump tells of a running Envoy; or resources as a control plane sends them: a
discovery response, or one resource alone. Resources belong to every bootstrap that they are examined with.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from shunter.envoyconf.core.documents import Document
from shunter.envoyconf.core.lint.envoy.node import Node

__all__ = ["Resources", "gather", "pieces"]

BOOTSTRAP = "envoy.config.bootstrap.v3.Bootstrap"
LISTENER = "envoy.config.listener.v3.Listener"
ROUTING = "envoy.config.route.v3.RouteConfiguration"
CLUSTER = "envoy.config.cluster.v3.Cluster"
ASSIGNMENT = "envoy.config.endpoint.v3.ClusterLoadAssignment"

# A field that only this kind of resource has, for resources that do not say what they are.
TELLTALES = {
    "virtual_hosts": ROUTING,
    "filter_chains": LISTENER,
    "api_listener": LISTENER,
    "load_assignment": CLUSTER,
    "eds_cluster_config": CLUSTER,
    "connect_timeout": CLUSTER,
    "cluster_name": ASSIGNMENT,
}

# Lists of a config dump → where in each item the resource is.
DUMPED: dict[str, tuple[str, ...]] = {
    "static_listeners": ("listener",),
    "dynamic_listeners": ("active_state", "listener"),
    "static_route_configs": ("route_config",),
    "dynamic_route_configs": ("route_config",),
    "static_clusters": ("cluster",),
    "dynamic_active_clusters": ("cluster",),
    "static_endpoint_configs": ("endpoint_config",),
    "dynamic_endpoint_configs": ("endpoint_config",),
}

BOOTSTRAP_FIELDS = ("static_resources", "dynamic_resources", "admin", "layered_runtime", "overload_manager")


class Resources(msgspec.Struct, frozen=True):
    """What one Envoy has; of resources of a kind with the same name, the first."""

    bootstrap: Node
    listeners: tuple[Node, ...]
    routings: dict[str, Node]
    clusters: dict[str, Node]
    assignments: dict[str, Node]
    is_whole: bool  # whether a cluster that is not among these is not there


def pieces(documents: Iterable[Document]) -> Iterator[tuple[str, Node]]:
    """Yield the bootstraps and loose resources that are in documents, each after the full name of its message.

    What a running Envoy tells of itself is no piece: it is read as a whole.
    """
    for document in documents:
        root = Node.of(document)
        if document.kind or root.at("configs"):
            continue
        if any(root.at(field) for field in BOOTSTRAP_FIELDS):
            yield BOOTSTRAP, root
        else:
            yield from _sent(root)


def gather(documents: Sequence[Document]) -> tuple[Resources, ...]:
    """Return each Envoy that the documents configure; none if they are about something else."""
    found = [*pieces(documents)]
    loose = [(kind, node) for kind, node in found if kind != BOOTSTRAP]
    dumps = [root for document in documents if (root := Node.of(document)).at("configs")]
    whole = [_bootstrapped(node, loose) for kind, node in found if kind == BOOTSTRAP] + [_dumped(root) for root in dumps]
    if loose and not whole:
        return (_resources(Node(loose[0][1].document), loose, is_whole=False),)
    return tuple(whole)


def _bootstrapped(root: Node, loose: list[tuple[str, Node]]) -> Resources:
    static = root.at("static_resources")
    found = [*((LISTENER, node) for node in static.at("listeners").items())]
    found += ((CLUSTER, node) for node in static.at("clusters").items())
    source = root.at("dynamic_resources", "cds_config")
    # A file's own clusters are there if the file is among those examined.
    path = (source.at("path_config_source", "path").text or source.at("path").text).rpartition("/")[2]
    files = {node.document.file.rpartition("/")[2] for kind, node in loose if kind == CLUSTER}
    return _resources(root, [*found, *loose], is_whole=not source or path in files)


def _dumped(root: Node) -> Resources:
    """Of a running Envoy everything is told, static resources twice: in the bootstrap it began with, and as they are."""
    bootstrap = Node(root.document)
    found: list[tuple[str, Node]] = []
    has_clusters = False
    for section in root.at("configs").items():
        bootstrap = section.at("bootstrap") or bootstrap
        has_clusters |= section.type.endswith(".ClustersConfigDump")
        for field, place in DUMPED.items():
            for item in section.at(field).items():
                node = item.at(*place)
                found += [(kind, node)] if (kind := _kind(node)) else []
    return _resources(bootstrap, found, is_whole=has_clusters)


def _sent(root: Node) -> Iterator[tuple[str, Node]]:
    resources = root.at("resources")
    for node in resources.items() if resources else (root,):
        resource = node.at("resource") if node.type == "envoy.service.discovery.v3.Resource" else node
        if kind := _kind(resource):
            yield kind, resource


def _kind(node: Node) -> str:
    if node.type:
        return node.type
    return next((kind for field, kind in TELLTALES.items() if node.at(field)), "")


def _resources(bootstrap: Node, found: Iterable[tuple[str, Node]], *, is_whole: bool) -> Resources:
    listeners: list[Node] = []
    named: dict[str, dict[str, Node]] = {ROUTING: {}, CLUSTER: {}, ASSIGNMENT: {}}
    for kind, node in found:
        if kind == LISTENER:
            listeners.append(node)
        elif kind in named:
            name = node.at("cluster_name" if kind == ASSIGNMENT else "name").text
            named[kind].setdefault(name, node)
    return Resources(bootstrap, tuple(listeners), named[ROUTING], named[CLUSTER], named[ASSIGNMENT], is_whole)
