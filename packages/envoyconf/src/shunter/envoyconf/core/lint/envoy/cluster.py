"""A cluster as rules see it: whether it goes where a picker says, who is in it, and how it is spoken to."""

from collections.abc import Iterator

import msgspec

from shunter.envoyconf.core.authority import UNIX, join_authority
from shunter.envoyconf.core.lint.envoy.node import Node

__all__ = ["HTTP_OPTIONS", "TYPES", "Cluster", "Source"]

TYPES = ("STATIC", "STRICT_DNS", "LOGICAL_DNS", "EDS", "ORIGINAL_DST")
ORIGINAL_DST_TYPE = "envoy.extensions.clusters.original_dst.v3.OriginalDstCluster"
OVERRIDE_HOST = "envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost"
AGGREGATES = ("envoy.extensions.clusters.aggregate.v3.ClusterConfig", "envoy.extensions.clusters.composite.v3.ClusterConfig")
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
UPSTREAM_TLS = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"

DEFAULT_PANIC_PERCENT = 50

# What an ORIGINAL_DST cluster reads if it is told to read a header, and not which.
DEFAULT_HEADER = "x-envoy-original-dst-host"


class Source(msgspec.Struct, frozen=True):
    """Where a cluster reads the address that somebody chose: in a request header, or in dynamic metadata."""

    node: Node
    header: str = ""  # lower case
    namespace: str = ""


class Cluster(msgspec.Struct, frozen=True):
    """A cluster, and what of its endpoints is known."""

    node: Node
    assignment: Node  # its own or one sent for it
    is_original_dst: bool
    override: Node  # the configuration of override_host, if it has one
    sources: tuple[Source, ...]  # none: it goes nowhere in particular

    @classmethod
    def of(cls, node: Node, assignments: dict[str, Node]) -> "Cluster":
        """Read a cluster."""
        custom = node.at("cluster_type", "typed_config")
        is_original_dst = node.at("type").choice(TYPES) == "ORIGINAL_DST" or custom.type == ORIGINAL_DST_TYPE
        override = next(
            (
                policy.message
                for each in node.at("load_balancing_policy", "policies").items()
                if (policy := each.at("typed_extension_config", "typed_config")).type == OVERRIDE_HOST
            ),
            Node(node.document),
        )
        wanted = node.at("eds_cluster_config", "service_name").text or node.at("name").text
        assignment = node.at("load_assignment") or assignments.get(wanted, Node(node.document))
        if is_original_dst:
            settings = custom.message if custom.type == ORIGINAL_DST_TYPE else node.at("original_dst_lb_config")
            sources = _original_dst_sources(settings)
        else:
            sources = _override_sources(override)
        return cls(node, assignment, is_original_dst, override, tuple(sources))

    @property
    def name(self) -> str:
        """Its name."""
        return self.node.at("name").text

    @property
    def members(self) -> list[str]:
        """The clusters of which it consists, if it is made of others."""
        custom = self.node.at("cluster_type", "typed_config")
        if custom.type not in AGGREGATES:
            return []
        return [item.text or item.at("name").text for item in custom.message.at("clusters").items()]

    @property
    def endpoints(self) -> list[Node]:
        """The address of each endpoint that is told."""
        return [
            each.at("endpoint", "address")
            for locality in self.assignment.at("endpoints").items()
            for each in locality.at("lb_endpoints").items()
        ]

    @property
    def authorities(self) -> list[tuple[str, float]]:
        """Address and port of each endpoint that is on one."""
        places = [each.at("socket_address") for each in self.endpoints if each.at("socket_address")]
        return [(each.at("address").text, each.at("port_value").number or 0) for each in places]

    @property
    def addresses(self) -> list[str]:
        """The same as an intent writes it."""
        return [join_authority(host, int(port)) for host, port in self.authorities]

    @property
    def sockets(self) -> list[str]:
        """The endpoints that are sockets in the file system, as an intent writes them."""
        return [f"{UNIX}{path}" for each in self.endpoints if (path := each.at("pipe", "path").text)]

    @property
    def tls(self) -> Node:
        """The TLS context, if it is spoken to in TLS."""
        config = self.node.at("transport_socket", "typed_config")
        return config.message if config.type == UPSTREAM_TLS else Node(self.node.document)

    @property
    def http_options(self) -> Node:
        """How HTTP is spoken to it."""
        return self.node.at("typed_extension_protocol_options").entry(HTTP_OPTIONS).message

    @property
    def speaks_http2(self) -> bool:
        """Whether it is spoken to in HTTP/2 by prior knowledge."""
        old, new = self.node.at("http2_protocol_options"), self.http_options.at("explicit_http_config")
        return bool(old or new.at("http2_protocol_options"))

    @property
    def panic_percent(self) -> float:
        """Below which share of healthy endpoints the dead ones are used too."""
        threshold = self.node.at("common_lb_config", "healthy_panic_threshold")
        return (threshold.at("value").number or 0) if threshold else DEFAULT_PANIC_PERCENT

    @property
    def checks(self) -> list[Node]:
        """Its active health checks."""
        return [*self.node.at("health_checks").items()]


def _original_dst_sources(settings: Node) -> Iterator[Source]:
    if key := settings.at("metadata_key"):
        yield Source(key, namespace=key.at("key").text)
    elif (use := settings.at("use_http_header")).is_true:
        name = settings.at("http_header_name")
        yield Source(name or use, header=(name.text or DEFAULT_HEADER).lower())


def _override_sources(override: Node) -> Iterator[Source]:
    for source in override.at("override_host_sources").items():
        if header := source.at("header"):
            yield Source(header, header=header.text.lower())
        elif metadata := source.at("metadata"):
            yield Source(metadata, namespace=metadata.at("key").text)
