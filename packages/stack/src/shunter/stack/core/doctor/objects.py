"""What a Kubernetes API answers, read as far as the doctor wants to know it; bytes in, facts out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import msgspec

from shunter.stack.core.doctor.facts import Condition, PodFacts, PoolFacts, ServiceFacts

__all__ = [
    "Object",
    "Pod",
    "PodList",
    "Pool",
    "PoolList",
    "Review",
    "ServiceList",
    "SliceList",
    "StatusList",
    "behind",
    "decode",
    "pod_facts",
    "pool_facts",
    "served",
    "service_facts",
]

SERVICE_LABEL = "kubernetes.io/service-name"
Shape = TypeVar("Shape")


class _Shape(msgspec.Struct, frozen=True, rename="camel"):
    """Base: of objects that have more fields than these."""


class Meta(_Shape, frozen=True):
    """``metadata``."""

    name: str
    namespace: str = "default"
    labels: dict[str, str] | None = None
    deletion_timestamp: str | None = None


class Object(_Shape, frozen=True, kw_only=True):
    """Anything."""

    metadata: Meta

    @property
    def title(self) -> str:
        """namespace/name."""
        return f"{self.metadata.namespace}/{self.metadata.name}"


class ContainerPort(_Shape, frozen=True):
    """A port that a container declares."""

    container_port: int
    name: str = ""


class Container(_Shape, frozen=True):
    """A container's ports."""

    ports: list[ContainerPort] | None = None


class PodSpec(_Shape, frozen=True):
    """Containers, and who they are."""

    containers: list[Container] | None = None
    init_containers: list[Container] | None = None
    service_account_name: str = "default"


class PodStatus(_Shape, frozen=True):
    """Conditions."""

    conditions: list[Condition] | None = None


class Pod(Object, frozen=True, kw_only=True):
    """A pod."""

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def ports(self) -> list[ContainerPort]:
        """All that its containers declare, sidecars included."""
        containers = [*(self.spec.containers or ()), *(self.spec.init_containers or ())]
        return [port for each in containers for port in each.ports or ()]


class Port(_Shape, frozen=True):
    """A port of a Service or a pool."""

    port: int = 0
    number: int = 0


class ServiceSpec(_Shape, frozen=True):
    """Ports, and whom it leads to."""

    ports: list[Port] | None = None
    selector: dict[str, str] | None = None


class Service(Object, frozen=True, kw_only=True):
    """A Service."""

    spec: ServiceSpec = ServiceSpec()


class SliceConditions(_Shape, frozen=True):
    """Whether an endpoint is ready; not said: it is."""

    ready: bool | None = None


class SliceEndpoint(_Shape, frozen=True):
    """One endpoint."""

    conditions: SliceConditions | None = None


class Slice(Object, frozen=True, kw_only=True):
    """An EndpointSlice."""

    endpoints: list[SliceEndpoint] | None = None


class PickerRef(_Shape, frozen=True):
    """``endpointPickerRef``, or ``extensionRef`` of v1alpha2."""

    name: str = ""
    kind: str = "Service"
    port: Port | None = None
    port_number: int | None = None


class PoolSpec(_Shape, frozen=True):
    """Either version."""

    selector: dict[str, Any] = {}
    target_ports: list[Port] | None = None
    target_port_number: int | None = None
    endpoint_picker_ref: PickerRef | None = None
    extension_ref: PickerRef | None = None


class ParentRef(_Shape, frozen=True):
    """A Gateway; in old definitions a default that is none: ``Status``."""

    kind: str = "Gateway"


class Parent(_Shape, frozen=True):
    """What one gateway says of a pool."""

    parent_ref: ParentRef = ParentRef()
    conditions: list[Condition] | None = None


class PoolStatus(_Shape, frozen=True):
    """Either version."""

    parents: list[Parent] | None = None
    parent: list[Parent] | None = None


class Pool(Object, frozen=True, kw_only=True):
    """An InferencePool."""

    spec: PoolSpec
    status: PoolStatus = PoolStatus()


class WithConditions(Object, frozen=True, kw_only=True):
    """An object whose status is conditions."""

    status: PodStatus = PodStatus()


class PodList(_Shape, frozen=True):
    """Pods."""

    items: list[Pod] | None = None


class ServiceList(_Shape, frozen=True):
    """Services."""

    items: list[Service] | None = None


class SliceList(_Shape, frozen=True):
    """EndpointSlices."""

    items: list[Slice] | None = None


class PoolList(_Shape, frozen=True):
    """InferencePools of one version."""

    items: list[Pool] | None = None


class StatusList(_Shape, frozen=True):
    """Objects whose status is conditions."""

    items: list[WithConditions] | None = None


class ReviewStatus(_Shape, frozen=True):
    """Of a SubjectAccessReview."""

    allowed: bool = False


class Review(_Shape, frozen=True):
    """A SubjectAccessReview."""

    status: ReviewStatus = ReviewStatus()


class _Resource(_Shape, frozen=True):
    name: str


class _Resources(_Shape, frozen=True):
    resources: list[_Resource] | None = None


def decode(body: bytes, shape: type[Shape]) -> Shape:
    """Read an answer; raises ValueError if it is none such."""
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def served(body: bytes) -> frozenset[str]:
    """Return the plurals that an answer of discovery names; raises ValueError."""
    return frozenset(each.name for each in decode(body, _Resources).resources or ())


def pod_facts(pod: Pod) -> PodFacts:
    """One pod."""
    ready = any(each.type == "Ready" and each.status == "True" for each in pod.status.conditions or ())
    return PodFacts(
        namespace=pod.metadata.namespace,
        name=pod.metadata.name,
        labels=pod.metadata.labels or {},
        ready=ready and pod.metadata.deletion_timestamp is None,
        ports=frozenset(port.container_port for port in pod.ports),
    )


def pool_facts(pool: Pool) -> PoolFacts:
    """One pool, of either version."""
    spec, status = pool.spec, pool.status
    ref = spec.endpoint_picker_ref or spec.extension_ref or PickerRef()
    labels = spec.selector.get("matchLabels")  # of v1; what is no map is a label of v1alpha2
    stated = cast("dict[str, object]", labels) if isinstance(labels, dict) else spec.selector
    numbers = [port.number for port in spec.target_ports or ()] or [spec.target_port_number or 0]
    parents = [each for each in status.parents or status.parent or () if each.parent_ref.kind != "Status"]
    return PoolFacts(
        namespace=pool.metadata.namespace,
        name=pool.metadata.name,
        selector={str(name): str(value) for name, value in stated.items()},
        ports=tuple(numbers),
        picker=ref.name,
        picker_kind=ref.kind,
        picker_port=ref.port.number if ref.port else ref.port_number,
        conditions=tuple(each for parent in parents for each in parent.conditions or ()),
    )


def service_facts(services: Iterable[Service], slices: Iterable[Slice] | None) -> dict[str, ServiceFacts]:
    """Services by namespace/name; without slices each is believed to have somebody behind it."""
    ready: dict[str, int] = {}
    for each in slices or ():
        title = f"{each.metadata.namespace}/{(each.metadata.labels or {}).get(SERVICE_LABEL, '')}"
        live = [one for one in each.endpoints or () if one.conditions is None or one.conditions.ready is not False]
        ready[title] = ready.get(title, 0) + len(live)
    return {
        each.title: ServiceFacts(
            ports=frozenset(port.port for port in each.spec.ports or ()),
            ready=1 if slices is None else ready.get(each.title, 0),
        )
        for each in services
    }


def behind(pools: Iterable[PoolFacts], services: Iterable[Service], pods: Sequence[Pod]) -> list[Pod]:
    """Return the pods behind the Services that pools name as their pickers."""
    selectors: Mapping[str, dict[str, str]] = {each.title: each.spec.selector or {} for each in services}
    wanted = [(pool.namespace, selectors.get(f"{pool.namespace}/{pool.picker}", {})) for pool in pools]
    return [
        pod
        for pod in pods
        if any(
            selector and pod.metadata.namespace == namespace and selector.items() <= (pod.metadata.labels or {}).items()
            for namespace, selector in wanted
        )
    ]
