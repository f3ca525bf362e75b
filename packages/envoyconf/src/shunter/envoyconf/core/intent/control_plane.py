"""Where Envoys that are configured while they run get their configuration."""

from typing import Annotated

from msgspec import Meta

from shunter.envoyconf.core.authority import check_authorities
from shunter.envoyconf.core.intent.parts import Name, Part
from shunter.envoyconf.core.intent.pools import PickerTls

__all__ = ["ControlPlane"]


class ControlPlane(Part, frozen=True):
    """Who configures Envoys while they run: `shunter envoyconf serve`, for the target xds."""

    addresses: Annotated[
        tuple[str, ...],
        Meta(min_length=1, description="host:port of every control plane; an Envoy is served by one at a time."),
    ] = ("127.0.0.1:18000",)
    tls: Annotated[
        PickerTls | None,
        Meta(
            description="TLS to the control plane, as to a picker; without it Envoy speaks to it in the clear. With certFile "
            "and keyFile, Envoy shows who it is."
        ),
    ] = None
    cluster: Annotated[
        Name,
        Meta(description="What these Envoys are called together (node.cluster); each is named by its --service-node."),
    ] = "shunter"

    def __post_init__(self) -> None:
        check_authorities("addresses", self.addresses)
