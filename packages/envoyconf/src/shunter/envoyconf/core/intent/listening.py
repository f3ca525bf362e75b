"""Where clients come in: addresses, host names, TLS; and Envoy's own admin interface."""

from typing import Annotated

from msgspec import Meta

from shunter.envoyconf.core.authority import check_address
from shunter.envoyconf.core.intent.parts import HostPattern, Name, Part, Port, Text
from shunter.envoyconf.errors import IntentError

__all__ = ["Admin", "Listener", "ListenerTls"]


class ListenerTls(Part, frozen=True):
    """The certificate that a listener shows, and whom it lets in.

    Where Envoy reads files it is told paths of its own machine. With the targets envoy-fs and xds it follows their replacement;
    with envoy-static it reads them when it starts. Kubernetes gateways are told the Secret.
    """

    cert_file: Annotated[Text | None, Meta(description="PEM file of the certificate chain.")] = None
    key_file: Annotated[Text | None, Meta(description="PEM file of its key.")] = None
    client_ca_file: Annotated[
        Text | None,
        Meta(
            description="PEM file of the CAs by one of which a client's certificate must be signed; without it none is "
            "asked for."
        ),
    ] = None
    secret: Annotated[
        Name | None,
        Meta(description="Name of the kubernetes.io/tls Secret with certificate and key, for gateways in Kubernetes."),
    ] = None

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            given, missing = ("certFile", "keyFile") if self.cert_file else ("keyFile", "certFile")
            raise IntentError(f"{missing} is missing: {given} is of no use without it")
        if self.cert_file is None and self.secret is None:
            raise IntentError(
                "certFile and keyFile are missing (or secret, for Kubernetes): a listener with TLS shows a certificate"
            )


class Listener(Part, frozen=True):
    """An address and port where clients are served."""

    name: Annotated[Name, Meta(description="Name of the listener and of its statistics.")] = "http"
    address: Annotated[
        str, Meta(description="IP address to bind, such as 127.0.0.1 or 0.0.0.0; :: is every one, of IPv4 too.")
    ] = "127.0.0.1"
    port: Annotated[Port, Meta(description="TCP port to bind, 1 to 65535; 0 lets the kernel choose a free one.")] = 8080

    hosts: Annotated[
        tuple[HostPattern, ...],
        Meta(
            min_length=1,
            description="Host names served here, such as llm.example.com or *.example.com; requests for others are answered "
            "404. * serves every name.",
        ),
    ] = ("*",)
    tls: Annotated[
        ListenerTls | None,
        Meta(description="TLS to clients, HTTP/1.1 and HTTP/2 by ALPN; without it they are spoken to in the clear."),
    ] = None

    def __post_init__(self) -> None:
        check_address(self.address)
        if len(set(self.hosts)) < len(self.hosts):
            raise IntentError(f"hosts {list(self.hosts)} names a host twice")


class Admin(Part, frozen=True):
    """Envoy's admin interface: statistics, configuration, log levels, and a switch to turn Envoy off."""

    port: Annotated[Port, Meta(description="TCP port to bind, 1 to 65535; 0 lets the kernel choose a free one.")]
    address: Annotated[
        str,
        Meta(
            description="IP address to bind. Whoever reaches it can stop Envoy; therefore beyond loopback only /ready and "
            "/stats/prometheus are served.",
        ),
    ] = "127.0.0.1"

    def __post_init__(self) -> None:
        check_address(self.address)
