"""The shapes of everything that may stand in an endpoints file or directory.

Two families:

* The reference's file-discovery format, ``endpoints: [{name, namespace, address, port, labels}]``, unchanged and
  extended.
* Plain manifests of the Gateway API Inference Extension, as ``kubectl get -o yaml`` prints them (lists and server-set
  fields included).

YAML scalars arrive here as text and become numbers where a number is wanted: ``port: 8000``, ``port: "8000"`` (the
reference's own form) and the label value ``1`` all mean what they look like.
"""

from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

__all__ = [
    "DEFAULT_NAMESPACE",
    "GROUP",
    "KINDS",
    "LEGACY_GROUP",
    "LLMD_GROUP",
    "EndpointEntry",
    "EndpointsFile",
    "EngineConfig",
    "Glimpse",
    "ImportManifest",
    "InferenceModelManifest",
    "Key",
    "Manifest",
    "Name",
    "ObjectiveManifest",
    "PoolManifest",
    "PoolManifestV1Alpha2",
    "PoolSpec",
    "RewriteManifest",
]

DEFAULT_NAMESPACE = "default"
GROUP = "inference.networking.k8s.io"
LEGACY_GROUP = "inference.networking.x-k8s.io"
LLMD_GROUP = "llm-d.ai"

Port = Annotated[int, Meta(ge=1, le=65535)]
Name = Annotated[str, Meta(min_length=1, max_length=253)]
Weight = Annotated[int, Meta(ge=1, le=1_000_000)]
Selector = Annotated[dict[str, str], Meta(min_length=1, max_length=64)]


class Key(NamedTuple):
    """An object's place among those of its resource."""

    namespace: str
    name: str


class Shape(Struct, frozen=True, rename="camel"):
    """Base: camelCase outside. Unknown fields are refused where a file is read, and ignored in what an API server sends."""


class Glimpse(Shape, frozen=True):
    """Base of what we read a part of only: there are more fields, in files too."""


class EndpointEntry(Shape, frozen=True, kw_only=True):
    """One model server. The first five fields, and ``metricsHost`` (host:port), are the reference's; the others are ours.

    ``address`` is an IPv4 or IPv6 address without brackets, or a DNS name: one endpoint for each of its addresses.
    """

    name: Name
    namespace: Name = DEFAULT_NAMESPACE
    address: str
    port: Port
    labels: dict[str, str] = {}
    metrics_host: str | None = None
    metrics_port: Port | None = None
    metrics_path: str | None = None
    kv_events_port: Port | None = None
    kv_replay_port: Port | None = None
    pool: str | None = None
    engine: str | None = None


class EngineConfig(Shape, frozen=True, kw_only=True):
    """A custom engine in the words of the reference's core-metrics-extractor; an empty spec switches a signal off."""

    name: Name
    queued_requests_spec: str = ""
    running_requests_spec: str = ""
    kv_usage_spec: str = ""
    lora_spec: str = ""
    cache_info_spec: str = ""
    cache_block_size_label_name: str = "block_size"
    cache_num_blocks_label_name: str = "num_gpu_blocks"
    cache_block_size_spec: str = ""
    cache_num_blocks_spec: str = ""


class EndpointsFile(Shape, frozen=True, kw_only=True):
    """A document of the file-discovery format."""

    endpoints: list[EndpointEntry]
    engine_configs: list[EngineConfig] = []
    default_engine: str = "vllm"


class ObjectMeta(Shape, frozen=True, kw_only=True):
    """``metadata``: what we read, then what an API server adds."""

    name: Name
    namespace: Name = DEFAULT_NAMESPACE
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    creation_timestamp: str = ""
    deletion_timestamp: str = ""
    uid: str = ""
    deletion_grace_period_seconds: object = None
    finalizers: object = None
    generate_name: object = None
    generation: int = 0
    managed_fields: object = None
    owner_references: object = None
    resource_version: object = None
    self_link: object = None


class Manifest(Shape, frozen=True, kw_only=True):
    """Base of the Kubernetes resources; the items of a list are without version and kind."""

    api_version: str = ""
    kind: str = ""
    metadata: ObjectMeta
    status: object = None


class PoolRef(Shape, frozen=True, kw_only=True):
    """Which pool a resource belongs to; always in the resource's namespace."""

    name: Name
    group: Literal["inference.networking.k8s.io", "inference.networking.x-k8s.io"] = GROUP
    kind: Literal["InferencePool"] = "InferencePool"


class TargetPort(Shape, frozen=True):
    """A port of the pool's model servers."""

    number: Port


class LabelSelector(Shape, frozen=True):
    """Labels that a member of the pool must have."""

    match_labels: Selector


class PickerRef(Shape, frozen=True, kw_only=True):
    """The service of the endpoint picker (v1); only the failure mode is of interest here."""

    name: Name
    group: str = ""
    kind: str = "Service"
    port: TargetPort | None = None
    failure_mode: Literal["FailOpen", "FailClose"] = "FailClose"


class PoolSpec(Shape, frozen=True, kw_only=True):
    """InferencePool v1."""

    selector: LabelSelector
    target_ports: Annotated[list[TargetPort], Meta(min_length=1, max_length=8)]
    app_protocol: Literal["http", "kubernetes.io/h2c"] = "http"
    endpoint_picker_ref: PickerRef | None = None


class PoolManifest(Manifest, frozen=True, kw_only=True):
    """InferencePool v1."""

    spec: PoolSpec


class ExtensionRef(Shape, frozen=True, kw_only=True):
    """The service of the endpoint picker (v1alpha2)."""

    name: Name
    group: str = ""
    kind: str = "Service"
    port_number: Port | None = None
    failure_mode: Literal["FailOpen", "FailClose"] = "FailClose"


class PoolSpecV1Alpha2(Shape, frozen=True, kw_only=True):
    """InferencePool v1alpha2: a plain selector and one port."""

    selector: Selector
    target_port_number: Port
    extension_ref: ExtensionRef | None = None


class PoolManifestV1Alpha2(Manifest, frozen=True, kw_only=True):
    """InferencePool v1alpha2."""

    spec: PoolSpecV1Alpha2


class ObjectiveSpec(Shape, frozen=True, kw_only=True):
    """InferenceObjective v1alpha2."""

    pool_ref: PoolRef
    priority: Annotated[int, Meta(ge=-(2**31), lt=2**31)] | None = None


class ObjectiveManifest(Manifest, frozen=True, kw_only=True):
    """InferenceObjective v1alpha2."""

    spec: ObjectiveSpec


class ModelMatch(Shape, frozen=True):
    """An exact client model name."""

    value: Annotated[str, Meta(min_length=1)]
    type: Literal["Exact"] = "Exact"


class RewriteMatch(Shape, frozen=True):
    """One alternative of a rule."""

    model: ModelMatch


class RewriteTarget(Shape, frozen=True):
    """One weighted answer of a rule."""

    model_rewrite: Name
    weight: Weight | None = None


class RewriteRuleSpec(Shape, frozen=True):
    """Client model names, none meaning all, and the models that serve them."""

    targets: Annotated[list[RewriteTarget], Meta(min_length=1)]
    matches: list[RewriteMatch] = []


class RewriteSpec(Shape, frozen=True):
    """InferenceModelRewrite v1alpha2."""

    pool_ref: PoolRef
    rules: Annotated[list[RewriteRuleSpec], Meta(min_length=1)]


class RewriteManifest(Manifest, frozen=True, kw_only=True):
    """InferenceModelRewrite v1alpha2."""

    spec: RewriteSpec


class TargetModel(Shape, frozen=True):
    """One weighted model of an InferenceModel."""

    name: Name
    weight: Weight | None = None


class InferenceModelSpec(Shape, frozen=True, kw_only=True):
    """InferenceModel v1alpha2."""

    model_name: Annotated[str, Meta(min_length=1, max_length=256)]
    pool_ref: PoolRef
    criticality: Literal["Critical", "Standard", "Sheddable"] | None = None
    target_models: Annotated[list[TargetModel], Meta(max_length=10)] = []


class InferenceModelManifest(Manifest, frozen=True, kw_only=True):
    """InferenceModel v1alpha2."""

    spec: InferenceModelSpec


class ImportManifest(Manifest, frozen=True, kw_only=True):
    """InferencePoolImport v1alpha1: a pool of other clusters. It has no specification; its status is its controllers'."""


KINDS: dict[tuple[str, str], type[Manifest]] = {
    ("InferencePool", f"{GROUP}/v1"): PoolManifest,
    ("InferencePool", f"{LEGACY_GROUP}/v1alpha2"): PoolManifestV1Alpha2,
    ("InferencePoolImport", f"{LEGACY_GROUP}/v1alpha1"): ImportManifest,
    ("InferenceModel", f"{LEGACY_GROUP}/v1alpha2"): InferenceModelManifest,
    ("InferenceObjective", f"{LEGACY_GROUP}/v1alpha2"): ObjectiveManifest,
    ("InferenceObjective", f"{LLMD_GROUP}/v1alpha2"): ObjectiveManifest,
    ("InferenceModelRewrite", f"{LEGACY_GROUP}/v1alpha2"): RewriteManifest,
    ("InferenceModelRewrite", f"{LLMD_GROUP}/v1alpha2"): RewriteManifest,
}
