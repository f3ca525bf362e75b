"""A Service as a pool: EndpointSlices (discovery.k8s.io/v1) say where its pods are and whether they are ready.

For clusters without InferencePools. Rules of the API, as its types state them:

* An endpoint's addresses are interchangeable, and only the first is of use to consumers.
* ``ready`` unset means ready. It is never true of a terminating endpoint, unless the Service has publishNotReadyAddresses;
  whoever is leaving or does not serve gets no new requests all the same.
* ``serving`` unset defers to ``ready``.
* One endpoint may be in two slices of a Service for a while, and a Service of both address families has slices of each: a pod
  is one endpoint, at its IPv4 address if it has one.
* ``ports`` are those of the pods, not the Service's own; of a named port different pods may have different numbers.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from msgspec import field

from shunter.scraper.core.cluster import Member, as_address
from shunter.scraper.core.complaints import Complaint
from shunter.scraper.core.dialect import Dialect
from shunter.scraper.core.manifests import DEFAULT_NAMESPACE, Glimpse, Name
from shunter.scraper.core.pods import dialect_of
from shunter.snapshot import Pool

__all__ = ["SERVICE_LABEL", "Service", "Slice", "members_of_service", "parse_service"]

SERVICE_LABEL = "kubernetes.io/service-name"

NO_SLICES = Complaint("NoEndpointSlices", "there are no EndpointSlices of a Service of this name in the namespace")
NONE_READY = Complaint("NoReadyEndpoints", "none of its endpoints is ready")


class SliceMeta(Glimpse, frozen=True, kw_only=True):
    """What is of interest in a slice's metadata; the labels are the Service's, and the name of the Service."""

    name: Name
    namespace: Name = DEFAULT_NAMESPACE
    labels: dict[str, str] = field(default_factory=dict[str, str])


class EndpointConditions(Glimpse, frozen=True):
    """None: not said."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class TargetRef(Glimpse, frozen=True):
    """Who an endpoint is."""

    kind: str = ""
    name: str = ""


class SliceEndpoint(Glimpse, frozen=True, kw_only=True):
    """One pod, or whatever a slice that somebody wrote by hand points at."""

    addresses: list[str]
    conditions: EndpointConditions | None = None
    target_ref: TargetRef | None = None

    @property
    def serves(self) -> bool:
        """Whether requests may be sent to it."""
        stated = self.conditions or EndpointConditions()
        ready = stated.ready is not False and stated.serving is not False and not stated.terminating
        return ready and bool(self.addresses) and as_address(self.addresses[0]) is not None


class SlicePort(Glimpse, frozen=True):
    """One port of all endpoints of a slice."""

    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class Slice(Glimpse, frozen=True, kw_only=True):
    """An EndpointSlice, as far as it is of interest."""

    metadata: SliceMeta
    endpoints: list[SliceEndpoint] | None = None
    ports: list[SlicePort] | None = None


class Service(NamedTuple):
    """A Service that is a pool, and which of its pods' ports gets requests: by name or number; None: the only one."""

    name: str
    port: str | int | None = None


def parse_service(text: str) -> Service | None:
    """Return what ``NAME[:PORT]`` says; None if it is nothing like that."""
    name, colon, port = text.partition(":")
    label = name.replace("-", "")
    if not (label.isalnum() and label.isascii() and name == name.lower() and name.strip("-") == name and len(name) <= 63):
        return None
    if not colon:
        return Service(name)
    if port.isdecimal() and port.isascii():
        return Service(name, int(port)) if 0 < int(port) < 1 << 16 else None
    return Service(name, port) if port and len(port) <= 63 else None


def members_of_service(
    service: Service, namespace: str, index: int, slices: Iterable[Slice]
) -> tuple[Pool, Sequence[Member], Complaint | None]:
    """Return a Service of a namespace as the pool of this index, its members, and what is wrong with it.

    ``slices`` may be those of other Services too.
    """
    own = [each for each in slices if each.metadata.labels.get(SERVICE_LABEL) == service.name]
    found: dict[str, Member] = {}
    complaint: Complaint | None = None
    ported = False
    for each in sorted(own, key=lambda one: one.metadata.name):
        port = _port(service, each)
        ported |= port is not None
        dialect, wrong = dialect_of(each.metadata.labels)
        complaint = Complaint("UnknownEngine", wrong) if wrong else complaint
        for endpoint in each.endpoints or ():
            if port is not None and endpoint.serves:
                member = _member(endpoint, namespace, port, index, dialect)
                before = found.get(member.name)
                if before is None or (":" in before.host and ":" not in member.host):
                    found[member.name] = member
    if not found:
        complaint = NO_SLICES if not own else NONE_READY if ported else _port_missing(service, own)
    ports = tuple(sorted({member.port for member in found.values()}))
    return Pool(name=service.name, namespace=namespace, target_ports=ports), tuple(found.values()), complaint


def _port(service: Service, found: Slice) -> int | None:
    """Return the port of a slice's endpoints that gets requests; None if it has no such port."""
    ports = [*_tcp(found)]
    if service.port is None:
        return ports[0].port if len(ports) == 1 else None
    if isinstance(service.port, int) and not ports:
        return service.port  # a headless Service need not name ports
    return next((each.port for each in ports if service.port in (each.name, each.port)), None)


def _tcp(found: Slice) -> Iterator[SlicePort]:
    return (each for each in found.ports or () if each.port and each.protocol in (None, "", "TCP"))


def _port_missing(service: Service, own: Iterable[Slice]) -> Complaint:
    ports = sorted({f"{each.name or ''} {each.port}".strip() for one in own for each in _tcp(one)})
    wanted = "which port" if service.port is None else f"port {service.port} is not there"
    remedy = (
        f"its pods have {', '.join(ports)}: write NAME:PORT" if ports else "its EndpointSlices name none: write NAME:NUMBER"
    )
    return Complaint("PortMissing", f"{wanted}? {remedy}" if service.port is None else f"{wanted}; {remedy}")


def _member(endpoint: SliceEndpoint, namespace: str, port: int, index: int, dialect: Dialect) -> Member:
    host = as_address(endpoint.addresses[0]) or ""
    ref = endpoint.target_ref
    return Member(
        name=f"{ref.name}-rank-0" if ref and ref.kind == "Pod" and ref.name else host,
        namespace=namespace,
        host=host,
        port=port,
        metrics_port=port,
        metrics_path=dialect.metrics_path,
        dialect=dialect,
        labels={},
        pools=(index,),
    )
