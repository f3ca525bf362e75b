"""The objects of a Kubernetes API become a cluster, piece by piece: a pod that changes costs no look at the others.

What files make of the same objects (`core.assembly`) is made here, with one difference: a file is written by somebody who can
be told, so a mistake in it is an error. Objects come and go one by one, in any order. What cannot be used is left out, with a
complaint that names the object, and the rest keeps working:

* an object that does not fit its shape,
* one that refers to a pool that is not there (it counts as soon as the pool is),
* of two of one name in two groups, that of the older group,
* the engine label of a pod, or of a Service, that names no engine (it is taken for the default engine's).

Pools that nobody can be sent to are complained of too (`core.complaints`).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple, cast

from shunter.scraper.core.assembly import by_namespace
from shunter.scraper.core.cluster import Cluster, Member
from shunter.scraper.core.complaints import Complaint, Place, of_pools
from shunter.scraper.core.manifests import (
    ImportManifest,
    InferenceModelManifest,
    Key,
    Manifest,
    ObjectiveManifest,
    PoolManifest,
    PoolManifestV1Alpha2,
    RewriteManifest,
)
from shunter.scraper.core.pods import Pod, dialect_of, members_of
from shunter.scraper.core.records import import_of, model_of, objective_of, pool_of, rewrite_of
from shunter.scraper.core.reflection import Reflection
from shunter.scraper.core.slices import Service, Slice, members_of_service
from shunter.scraper.errors import ConfigError
from shunter.snapshot import InferenceModel, Objective, Pool, Rewrite

__all__ = ["Mirror"]


class Mirror:
    """Everything that the reflections of some namespaces know, as one cluster; ``complaints`` are by object."""

    def __init__(self, reflections: Sequence[Reflection], services: Sequence[tuple[str, Service]] = ()) -> None:
        """``services`` that are pools, with the namespaces where they are."""
        self.complaints: Mapping[Place, Complaint] = {}
        self._reflections = reflections
        self._services = services
        self._pools: tuple[Pool, ...] = ()
        self._served_pods: dict[Key, _Served] = {}

    def cluster(self) -> Cluster:
        """Return the cluster as of now."""
        complaints: dict[Place, Complaint] = {
            (each.resource.title, key): Complaint("Invalid", refusal.reason)
            for each in self._reflections
            for key, refusal in each.refused.items()
        }
        manifests = list(self._named(complaints))
        placed = [
            ((title, Key(each.metadata.namespace, each.metadata.name)), pool_of(each))
            for title, each in manifests
            if isinstance(each, PoolManifest | PoolManifestV1Alpha2)
        ]
        served = [*self._services_as_pools(len(placed), complaints)]
        pools = (*(pool for _, pool in placed), *(pool for pool, _ in served))
        imports = tuple(import_of(each) for _, each in manifests if isinstance(each, ImportManifest))
        abroad = {(each.namespace, each.name) for each in imports}
        names = {Key(pool.namespace, pool.name) for pool in pools}
        objectives: list[Objective] = []
        rewrites: list[Rewrite] = []
        models: list[InferenceModel] = []
        for title, each in manifests:
            if not isinstance(each, ObjectiveManifest | RewriteManifest | InferenceModelManifest):
                continue
            meta, pool = each.metadata, each.spec.pool_ref.name
            place = title, Key(meta.namespace, meta.name)
            if Key(meta.namespace, pool) not in names:
                hint = ", only one that is imported from other clusters" if (meta.namespace, pool) in abroad else " yet"
                words = f"spec.poolRef.name: there is no InferencePool {pool} in its namespace{hint}"
                complaints[place] = Complaint("PoolNotFound", words)
            elif isinstance(each, ObjectiveManifest):
                objectives.append(objective_of(each))
            elif isinstance(each, RewriteManifest):
                rewrites.append(rewrite_of(each))
            else:
                try:
                    models.append(model_of("it", each))
                except ConfigError as error:
                    complaints[place] = Complaint("Invalid", str(error))
        members = tuple(chain(*self._served(pools, complaints), *(members for _, members in served)))
        complaints.update(of_pools(placed, members, self._pods))
        self.complaints = complaints
        return Cluster(
            pools=pools,
            members=members,
            objectives=tuple(objectives),
            rewrites=tuple(rewrites),
            models=tuple(models),
            imports=imports,
        )

    def _named(self, complaints: dict[Place, Complaint]) -> Iterator[tuple[str, Manifest]]:
        """Yield each manifest with its resource, in a settled order, but of two of one kind and name only the first."""
        seen: dict[tuple[str, Key], str] = {}
        for each in self._reflections:
            plural = each.resource.plural
            for key, found in sorted(each.objects.items()):
                if isinstance(found, Manifest):
                    if (group := seen.get((plural, key))) and group != each.resource.group:
                        words = f"metadata.name: left out, since {plural}.{group} has one of this name, too"
                        complaints[each.resource.title, key] = Complaint("NameInUse", words)
                        continue
                    seen[plural, key] = each.resource.group
                    yield each.resource.title, found

    def _services_as_pools(self, index: int, complaints: dict[Place, Complaint]) -> Iterator[tuple[Pool, Sequence[Member]]]:
        """Yield each Service that is a pool, from this index on, with its members."""
        slices: dict[str, list[Slice]] = {}
        for each in self._reflections:
            for key, found in each.objects.items():
                if isinstance(found, Slice):
                    slices.setdefault(key.namespace, []).append(found)
        for at, (namespace, service) in enumerate(self._services, index):
            pool, members, complaint = members_of_service(service, namespace, at, slices.get(namespace, ()))
            if complaint:
                complaints["services", Key(namespace, service.name)] = complaint
            yield pool, members

    def _pods(self, namespace: str) -> Iterator[Pod]:
        return (served.pod for key, served in self._served_pods.items() if key.namespace == namespace)

    def _served(self, pools: tuple[Pool, ...], complaints: dict[Place, Complaint]) -> Iterator[tuple[Member, ...]]:
        """Yield the members of each pod, as before where neither it nor a pool has changed."""
        former = self._served_pods if pools == self._pools else {}
        homes = by_namespace(pools)
        self._pools, self._served_pods = pools, {}
        for each in self._reflections:
            if each.resource.shape is not Pod:
                continue
            for key, found in each.objects.items():
                served = former.get(key)
                if served is None or served.pod is not found:
                    served = _serve(cast("Pod", found), homes.get(key.namespace, ()))
                if served.complaint:
                    complaints[each.resource.title, key] = Complaint("UnknownEngine", served.complaint)
                self._served_pods[key] = served
                yield served.members


class _Served(NamedTuple):
    pod: Pod
    members: tuple[Member, ...]
    complaint: str


def _serve(pod: Pod, pools: Sequence[tuple[int, Pool]]) -> _Served:
    dialect, complaint = dialect_of(pod.metadata.labels)
    members = members_of(pod, pools, dialect)
    return _Served(pod, members, complaint if members else "")
