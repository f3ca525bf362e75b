"""The types of resources that Envoy asks a control plane for."""

from enum import Enum

__all__ = ["Kind"]


class Kind(Enum):
    """A type of resources; in the order in which they are sent: what is referred to comes before what refers to it."""

    CLUSTER = ("CDS", "envoy.config.cluster.v3.Cluster", "cluster.v3.Cluster", "Clusters")
    ENDPOINTS = ("EDS", "envoy.config.endpoint.v3.ClusterLoadAssignment", "endpoint.v3.Endpoint", "Endpoints")
    SECRET = ("SDS", "envoy.extensions.transport_sockets.tls.v3.Secret", "secret.v3.Secret", "Secrets")
    LISTENER = ("LDS", "envoy.config.listener.v3.Listener", "listener.v3.Listener", "Listeners")
    ROUTES = ("RDS", "envoy.config.route.v3.RouteConfiguration", "route.v3.Route", "Routes")

    @property
    def short(self) -> str:
        """What Envoy's documentation calls it."""
        return self.value[0]

    @property
    def message(self) -> str:
        """The message's full name."""
        return self.value[1]

    @property
    def url(self) -> str:
        """What requests and responses name it by."""
        return f"type.googleapis.com/{self.message}"

    @property
    def service(self) -> str:
        """The gRPC service that serves it alone; its methods are Stream… and Delta…, and then ``plural``."""
        return f"envoy.service.{self.value[2]}DiscoveryService"

    @property
    def plural(self) -> str:
        """What the methods of its service call it."""
        return self.value[3]

    @property
    def complete(self) -> bool:
        """Whether a state-of-the-world response holds all there are, so that one which is missing is gone."""
        return self in (Kind.CLUSTER, Kind.LISTENER)
