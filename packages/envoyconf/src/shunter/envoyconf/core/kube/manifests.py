"""Kubernetes objects as they refer to each other: who is meant by a reference, and whether it can be known that nobody is."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, TypeVar

import msgspec

from shunter.envoyconf.core.cursor import Cursor
from shunter.envoyconf.core.documents import Document

__all__ = [
    "AI_GATEWAY",
    "ENVOY_GATEWAY",
    "GATEWAY_API",
    "GKE",
    "INFERENCE",
    "INFERENCE_OLD",
    "ISTIO",
    "LLM_D",
    "Manifest",
    "Manifests",
    "Reference",
    "is_selected",
    "refer",
]

T = TypeVar("T")

GATEWAY_API = "gateway.networking.k8s.io"
INFERENCE = "inference.networking.k8s.io"
INFERENCE_OLD = "inference.networking.x-k8s.io"
LLM_D = "llm-d.ai"
ENVOY_GATEWAY = "gateway.envoyproxy.io"
AI_GATEWAY = "aigateway.envoyproxy.io"
ISTIO = "networking.istio.io"
GKE = "networking.gke.io"

# Kinds without a namespace, of those that are looked at.
CLUSTER_WIDE = {"GatewayClass", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "Namespace"}


class Manifest(msgspec.Struct, frozen=True):
    """One object."""

    group: str  # empty for the core API
    version: str
    kind: str
    namespace: str  # empty if the kind has none
    name: str
    root: Cursor

    @property
    def spec(self) -> Cursor:
        """What is wanted."""
        return self.root["spec"]

    @property
    def metadata(self) -> Cursor:
        """Its name, labels and annotations."""
        return self.root["metadata"]

    @property
    def place(self) -> tuple[str, str, str]:
        """What a policy's targetRef has to match."""
        return (self.kind, self.namespace, self.name)

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class Reference(msgspec.Struct, frozen=True):
    """Whom a field means, defaults filled in."""

    group: str
    kind: str
    namespace: str
    name: str
    at: Cursor

    @property
    def place(self) -> tuple[str, str, str]:
        """As that of the manifest that is meant."""
        return (self.kind, self.namespace, self.name)

    @property
    def is_pool(self) -> bool:
        """Whether an InferencePool is meant, of whichever version."""
        return self.kind == "InferencePool"

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


def refer(at: Cursor, namespace: str, group: str = "", kind: str = "Service") -> Reference:
    """Return whom the reference at a place means, with the defaults that its field has."""
    named = at["group"]
    return Reference(
        group=named.text if named else group,
        kind=at["kind"].text or kind,
        namespace=at["namespace"].text or namespace,
        name=at["name"].text,
        at=at,
    )


class Manifests:
    """All objects that are given together."""

    def __init__(self, documents: Iterable[Document], namespace: str = "default") -> None:
        self.all = tuple(_manifest(document, namespace) for document in documents if document.kind)
        self._by_kind: dict[str, list[Manifest]] = {}
        self._by_place: dict[tuple[str, str, str], list[Manifest]] = {}
        self._names: dict[tuple[str, str], list[str]] = {}
        self._known: dict[Hashable, Any] = {}
        for manifest in self.all:
            self._by_kind.setdefault(manifest.kind, []).append(manifest)
            self._by_place.setdefault(manifest.place, []).append(manifest)
            self._names.setdefault((manifest.kind, manifest.namespace), []).append(manifest.name)

    def remember(self, key: Hashable, find: Callable[[], T]) -> T:
        """Return what is found, which is looked for once: rules ask the same of every route."""
        if key not in self._known:
            self._known[key] = find()
        return self._known[key]

    def of(self, *kinds: str, group: str | None = None) -> Iterator[Manifest]:
        """Yield the objects of some kinds, of a group if one is given."""
        for kind in kinds:
            yield from (each for each in self._by_kind.get(kind, ()) if group is None or each.group == group)

    def find(self, reference: Reference) -> Manifest | None:
        """Return the object that is meant; None if it is not among these."""
        return next((each for each in self.called(reference) if each.group == reference.group), None)

    def called(self, reference: Reference) -> list[Manifest]:
        """Return the objects of that kind, namespace and name, whatever their group."""
        return self._by_place.get(reference.place, [])

    def lacks(self, reference: Reference) -> bool:
        """Say whether nobody is meant: it is not here, though others of its kind and namespace are.

        Where none of them are, they are given somewhere else, and nothing can be said.
        """
        return bool(self.neighbours(reference)) and not self.called(reference)

    def neighbours(self, reference: Reference) -> list[str]:
        """Return the names that could have been meant."""
        return self._names.get((reference.kind, reference.namespace), [])

    def grants(self, user: tuple[str, str, str], reference: Reference) -> bool:
        """Say whether a ReferenceGrant lets objects of a group, kind and namespace refer to what is meant."""
        for grant in self.of("ReferenceGrant"):
            invited = any(
                (each["group"].text, each["kind"].text, each["namespace"].text) == user for each in grant.spec["from"]
            )
            opened = any(
                (each["group"].text, each["kind"].text) == (reference.group, reference.kind)
                and each["name"].text in ("", reference.name)
                for each in grant.spec["to"]
            )
            if grant.namespace == reference.namespace and invited and opened:
                return True
        return False

    def workloads(self, namespace: str) -> Iterator[tuple[Manifest, Cursor]]:
        """Yield what makes Pods in a namespace, each with its Pod template."""
        by_namespace = self.remember("workloads", lambda: _by_namespace(self._workloads()))
        yield from by_namespace.get(namespace, ())

    def _workloads(self) -> Iterator[tuple[Manifest, Cursor]]:
        for each in self.of("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"):
            yield each, each.spec["template"]
        for each in self.of("LeaderWorkerSet"):
            for template in ("leaderTemplate", "workerTemplate"):
                if found := each.spec.at("leaderWorkerTemplate", template):
                    yield each, found
        for each in self.of("Pod"):
            yield each, each.root

    def behind(self, service: Manifest) -> Iterator[tuple[Manifest, Cursor]]:
        """Yield what makes the Pods of a Service."""
        selector = service.spec["selector"].labels
        for workload, template in self.workloads(service.namespace):
            if is_selected(template, selector):
                yield workload, template


def _by_namespace(workloads: Iterable[tuple[Manifest, Cursor]]) -> dict[str, list[tuple[Manifest, Cursor]]]:
    found: dict[str, list[tuple[Manifest, Cursor]]] = {}
    for workload, template in workloads:
        found.setdefault(workload.namespace, []).append((workload, template))
    return found


def is_selected(template: Cursor, selector: dict[str, str]) -> bool:
    """Say whether a Pod template has all labels of a selector; an empty one selects nobody."""
    labels = template.at("metadata", "labels").labels
    return bool(selector) and all(labels.get(name) == value for name, value in selector.items())


def _manifest(document: Document, namespace: str) -> Manifest:
    root = Cursor.root(document)
    group, _, version = root["apiVersion"].text.rpartition("/")
    kind = root["kind"].text
    named = root.at("metadata", "namespace").text
    return Manifest(
        group=group,
        version=version,
        kind=kind,
        namespace="" if kind in CLUSTER_WIDE else named or namespace,
        name=root.at("metadata", "name").text,
        root=root,
    )
