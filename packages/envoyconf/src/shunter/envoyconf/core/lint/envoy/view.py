"""An Envoy as rules see it: connection managers with their filters, and routes with the clusters and pickers they lead to.

Envoy decides for each request what a filter does, from the filter's own configuration and those of the weighted cluster, the
route, the virtual host and the route configuration, the most specific first. That is worked out here, once for all rules, so
that a rule asks what holds for the requests of a route.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from shunter.envoyconf.core.documents import Document
from shunter.envoyconf.core.lint.envoy.cluster import Cluster
from shunter.envoyconf.core.lint.envoy.node import Node
from shunter.envoyconf.core.lint.envoy.resources import Resources, gather

__all__ = ["FILTER_CONFIG", "Branch", "Envoy", "HttpFilter", "Manager", "Question", "Route", "view"]

HTTP_CONNECTION_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
EXT_PROC = "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor"
EXT_PROC_PER_ROUTE = "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"
FILTER_CONFIG = "envoy.config.route.v3.FilterConfig"

HEADER_MODES = ("DEFAULT", "SEND", "SKIP")
BODY_MODES = ("NONE", "STREAMED", "BUFFERED", "BUFFERED_PARTIAL", "FULL_DUPLEX_STREAMED", "GRPC")
DUPLEX = "FULL_DUPLEX_STREAMED"

# What DEFAULT means.
DEFAULT_MODES = {"request_header_mode": "SEND", "response_header_mode": "SEND"}


class HttpFilter(msgspec.Struct, frozen=True):
    """One filter of a connection manager."""

    node: Node
    config: Node

    @property
    def name(self) -> str:
        """What routes call it."""
        return self.node.at("name").text

    @property
    def type(self) -> str:
        """The full name of its configuration's message."""
        typed = self.node.at("typed_config")
        return typed.type if typed else next(iter(self.node.at("config_discovery", "type_urls").texts), "").rpartition("/")[2]

    @property
    def asks(self) -> bool:
        """Whether it asks somebody by ext_proc."""
        return self.type == EXT_PROC

    def is_enabled(self, scopes: Iterable[Node]) -> bool:
        """Whether it is there for requests of these scopes: any configuration for it enables it, unless it says otherwise."""
        for scope in scopes:
            if entry := scope.at("typed_per_filter_config").entry(self.name):
                return not (entry.type == FILTER_CONFIG and entry.at("disabled").is_true)
        return not self.node.at("disabled").is_true


class Question(msgspec.Struct, frozen=True):
    """What an ext_proc filter asks, and whom, on certain routes."""

    filter: HttpFilter
    overrides: tuple[Node, ...]  # the most specific first
    server: Cluster | None  # who is asked, if that is known

    def field(self, *fields: str) -> Node:
        """Return what holds of the filter's fields: the most specific override, else the filter's own, which may be empty."""
        for scope in self.overrides:
            if node := scope.at(*fields):
                return node
        return self.filter.config.at(*fields)

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for questions that are configured at the same places."""
        return tuple((id(node.document), node.path) for node in (self.filter.node, *self.overrides))

    def mode(self, which: str) -> str:
        """Return a processing mode by its field's name, such as SEND for ``request_header_mode``."""
        node = self.field("processing_mode").at(which)
        if which.endswith("body_mode"):
            return node.choice(BODY_MODES)
        mode = node.choice(HEADER_MODES)
        return DEFAULT_MODES.get(which, "SKIP") if mode == "DEFAULT" else mode

    @property
    def is_duplex(self) -> bool:
        """Whether request bodies go to and fro while they come."""
        return self.mode("request_body_mode") == DUPLEX

    @property
    def fails_open(self) -> bool:
        """Whether a request goes on without an answer."""
        return self.field("failure_mode_allow").is_true

    @property
    def server_name(self) -> Node:
        """The name of the cluster that is asked."""
        return self.field("grpc_service").at("envoy_grpc", "cluster_name")

    def receives(self, namespace: str) -> bool:
        """Whether Envoy takes dynamic metadata of that namespace from the answer."""
        return namespace in self.field("metadata_options", "receiving_namespaces").at("untyped").texts


class Branch(msgspec.Struct, frozen=True):
    """One cluster to which a route leads: the only one, or one of several by weight; or its answer, without any."""

    place: Node  # where the cluster is named
    clusters: tuple[Cluster, ...]  # what is known of it: the cluster, and its members if it is made of others
    scopes: tuple[Node, ...]  # whose typed_per_filter_config counts, the most specific first
    questions: tuple[Question, ...]  # in the order of the filters

    @property
    def followers(self) -> tuple[Cluster, ...]:
        """The clusters that go where a picker says."""
        return tuple(cluster for cluster in self.clusters if cluster.sources)


class Route(msgspec.Struct, frozen=True):
    """A route, by the connection manager that uses it; None if that is not among the documents."""

    node: Node
    host: Node
    routing: Node
    manager: "Manager | None"
    branches: tuple[Branch, ...]

    @property
    def action(self) -> Node:
        """What is done with its requests if they are routed."""
        return self.node.at("route")

    @property
    def scopes(self) -> tuple[Node, ...]:
        """What may add to its requests, the most specific first."""
        return self.node, self.host, self.routing

    @property
    def retry_policy(self) -> Node:
        """What is tried again: its own policy, else its virtual host's."""
        return self.action.at("retry_policy") or self.host.at("retry_policy")

    @property
    def silence(self) -> Node:
        """Who says how long nothing may come on a request: the route, else its connection manager; empty if neither does."""
        place = self.action.at("idle_timeout")
        return place if place or not self.manager else self.manager.node.at("stream_idle_timeout")

    @property
    def to_pool(self) -> bool:
        """Whether it leads to model servers: to where a picker says."""
        return any(branch.followers for branch in self.branches)

    @property
    def questions(self) -> Iterator[Question]:
        """All that is asked on any branch."""
        for branch in self.branches:
            yield from branch.questions


class Manager(msgspec.Struct, frozen=True):
    """An HTTP connection manager."""

    node: Node
    listener: Node
    filters: tuple[HttpFilter, ...]
    routing: Node  # empty if it comes from elsewhere

    @property
    def asking(self) -> tuple[HttpFilter, ...]:
        """Its ext_proc filters."""
        return tuple(each for each in self.filters if each.asks)


class Envoy(msgspec.Struct, frozen=True):
    """One Envoy."""

    resources: Resources
    clusters: dict[str, Cluster]
    managers: tuple[Manager, ...]
    routes: tuple[Route, ...]
    questions: tuple[Question, ...]  # every way in which somebody is asked, once


def view(documents: Sequence[Document]) -> tuple[Envoy, ...]:
    """Return the Envoys that documents configure."""
    return tuple(_envoy(resources) for resources in gather(documents))


def _envoy(resources: Resources) -> Envoy:
    clusters = {name: Cluster.of(node, resources.assignments) for name, node in resources.clusters.items()}
    managers = tuple(_managers(resources))
    used = {id(manager.routing.value) for manager in managers if manager.routing}
    routes = [route for manager in managers for route in _routes(manager.routing, manager, clusters)]
    for routing in resources.routings.values():
        if id(routing.value) not in used and not _is_inline(routing, managers):
            routes += _routes(routing, None, clusters)
    return Envoy(resources, clusters, managers, tuple(routes), tuple(_questions(managers, routes, clusters)))


def _questions(managers: Iterable[Manager], routes: Iterable[Route], clusters: dict[str, Cluster]) -> Iterable[Question]:
    """Of filters whose routes are not known, what they ask by themselves."""
    seen: dict[tuple[object, ...], Question] = {}
    for route in routes:
        for question in route.questions:
            seen.setdefault(question.identity, question)
    for manager in managers:
        if not any(route.manager is manager for route in routes):
            for each in manager.asking:
                question = _ask(each, (), clusters)
                seen.setdefault(question.identity, question)
    return seen.values()


def _is_inline(routing: Node, managers: Iterable[Manager]) -> bool:
    """Whether a route configuration is told of a second time: config dumps list those that listeners hold."""
    return any(_untyped(manager.node.at("route_config")) == _untyped(routing) for manager in managers)


def _untyped(node: Node) -> dict[str, object]:
    """Return the fields of a message; what it is, a dump says and a listener need not."""
    return {field: entry.value for field, entry in node.entries() if field != "@type"}


def _managers(resources: Resources) -> Iterator[Manager]:
    for listener in resources.listeners:
        chains = [*listener.at("filter_chains").items(), listener.at("default_filter_chain")]
        network_filters = [each.at("typed_config") for chain in chains for each in chain.at("filters").items()]
        for typed in (*network_filters, listener.at("api_listener", "api_listener")):
            if typed.type == HTTP_CONNECTION_MANAGER:
                node = typed.message
                filters = tuple(_filter(each) for each in node.at("http_filters").items())
                name = node.at("rds", "route_config_name").text
                routing = node.at("route_config") or resources.routings.get(name, Node(node.document))
                yield Manager(node, listener, filters, routing)


def _filter(node: Node) -> HttpFilter:
    typed = node.at("typed_config") or node.at("config_discovery", "default_config")
    return HttpFilter(node, typed.message)


def _routes(routing: Node, manager: Manager | None, clusters: dict[str, Cluster]) -> Iterator[Route]:
    for host in routing.at("virtual_hosts").items():
        for node in host.at("routes").items():
            branches = tuple(
                _branch(place, name, scopes, manager, clusters)
                for place, name, scopes in _destinations(node, (node, host, routing))
            )
            yield Route(node, host, routing, manager, branches)


def _destinations(node: Node, scopes: tuple[Node, ...]) -> Iterator[tuple[Node, str, tuple[Node, ...]]]:
    """Yield each place that names a cluster, the name, and what counts there; the route itself if it names none."""
    action = node.at("route")
    weighted = [each for each in action.at("weighted_clusters", "clusters").items() if each.at("weight").number != 0]
    for each in weighted:
        yield each.at("name"), each.at("name").text, (each, *scopes)
    if not weighted:
        cluster = action.at("cluster")
        yield cluster or node, cluster.text, scopes


def _branch(place: Node, name: str, scopes: tuple[Node, ...], manager: Manager | None, clusters: dict[str, Cluster]) -> Branch:
    known = [clusters[name]] if name in clusters else []
    known += [clusters[member] for cluster in known for member in cluster.members if member in clusters]
    asking = manager.asking if manager else ()
    questions = [_question(each, scopes, clusters) for each in asking if each.is_enabled(scopes)]
    return Branch(place, tuple(known), scopes, tuple(each for each in questions if each))


def _question(asking: HttpFilter, scopes: Iterable[Node], clusters: dict[str, Cluster]) -> Question | None:
    """Return what is asked; None if the most specific configuration of the filter's own kind says not to."""
    overrides: list[Node] = []
    is_first = True
    for scope in scopes:
        entry = scope.at("typed_per_filter_config").entry(asking.name)
        typed = entry.at("config") if entry.type == FILTER_CONFIG else entry
        if typed.type != EXT_PROC_PER_ROUTE:
            continue
        if is_first and typed.message.at("disabled").is_true:
            return None
        is_first = False
        overrides += [typed.message.at("overrides")] if typed.message.at("overrides") else []
    return _ask(asking, tuple(overrides), clusters)


def _ask(asking: HttpFilter, overrides: tuple[Node, ...], clusters: dict[str, Cluster]) -> Question:
    question = Question(asking, overrides, None)
    return msgspec.structs.replace(question, server=clusters.get(question.server_name.text))
