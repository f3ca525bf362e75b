"""The Kubernetes resources that say who exists: where they are, and what is read of their objects."""

from msgspec import Struct

from shunter.scraper.core.manifests import (
    GROUP,
    LEGACY_GROUP,
    LLMD_GROUP,
    ImportManifest,
    InferenceModelManifest,
    Manifest,
    ObjectiveManifest,
    PoolManifest,
    PoolManifestV1Alpha2,
    RewriteManifest,
)
from shunter.scraper.core.pods import Pod
from shunter.scraper.core.slices import Slice

__all__ = ["RESOURCES", "RESOURCES_OF_SERVICES", "Object", "Resource"]

Object = Manifest | Pod | Slice
"""What is read of an object."""


class Resource(Struct, frozen=True):
    """One resource of the API. ``required``: nothing is known of a cluster before it has been listed."""

    kind: str
    group: str
    version: str
    shape: type[Object]
    required: bool = False

    @property
    def plural(self) -> str:
        """As URLs name it."""
        return f"{self.kind.lower()}s"

    @property
    def title(self) -> str:
        """As ``kubectl`` names it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str | None) -> str:
        """Return the URL path of the objects of a namespace, or of all."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return f"{root}/namespaces/{namespace}/{self.plural}" if namespace else f"{root}/{self.plural}"


# What belongs to a pool, whatever says which pools there are.
# Of two objects of one name in two groups, that of the earlier line counts: the newer group's.
_OF_POOLS = (
    Resource("InferenceObjective", LLMD_GROUP, "v1alpha2", ObjectiveManifest),
    Resource("InferenceObjective", LEGACY_GROUP, "v1alpha2", ObjectiveManifest),
    Resource("InferenceModelRewrite", LLMD_GROUP, "v1alpha2", RewriteManifest),
    Resource("InferenceModelRewrite", LEGACY_GROUP, "v1alpha2", RewriteManifest),
    Resource("InferenceModel", LEGACY_GROUP, "v1alpha2", InferenceModelManifest),
)
RESOURCES = (
    Resource("Pod", "", "v1", Pod, required=True),
    Resource("InferencePool", GROUP, "v1", PoolManifest),
    Resource("InferencePool", LEGACY_GROUP, "v1alpha2", PoolManifestV1Alpha2),
    Resource("InferencePoolImport", LEGACY_GROUP, "v1alpha1", ImportManifest),
    *_OF_POOLS,
)
# Where Services are the pools.
RESOURCES_OF_SERVICES = (Resource("EndpointSlice", "discovery.k8s.io", "v1", Slice, required=True), *_OF_POOLS)
