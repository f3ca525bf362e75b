"""What gateways in Kubernetes need to be told beside: namespace, names, images."""

from typing import Annotated

from msgspec import Meta

from shunter.envoyconf.core.intent.parts import HostPattern, Name, Part, Text
from shunter.envoyconf.errors import IntentError

__all__ = ["Kubernetes"]


class Kubernetes(Part, frozen=True):
    """Where the objects go. Envoys outside Kubernetes use it only to name Services, for pools with a selector."""

    namespace: Annotated[Name, Meta(description="Namespace of everything that is generated.")] = "default"
    gateway: Annotated[Name, Meta(description="Name of the Gateway.")] = "inference-gateway"
    gateway_class: Annotated[
        Name | None,
        Meta(description="Its GatewayClass; left out, the one that the target's installation brings."),
    ] = None
    cluster_domain: Annotated[HostPattern, Meta(description="Domain of the cluster's Services.")] = "cluster.local"
    image: Annotated[Text, Meta(description="Image with picker and scraper, for their Deployment.")] = "shunter:0.1.0"
    replicas: Annotated[int, Meta(ge=1, le=100, description="How many pickers; each is complete on its own.")] = 2

    def __post_init__(self) -> None:
        for field, name in (("namespace", self.namespace), ("gateway", self.gateway)):
            if "." in name:  # a namespace is a label of DNS names; of a Gateway's name its controller makes a Service's
                raise IntentError(f"{field} {name!r} must have no dots")
