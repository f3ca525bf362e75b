"""Manifests of the inference extension as records of the snapshot."""

import msgspec

from shunter.scraper.core.cluster import Import
from shunter.scraper.core.manifests import (
    ImportManifest,
    InferenceModelManifest,
    ObjectiveManifest,
    PoolManifest,
    PoolManifestV1Alpha2,
    PoolSpec,
    RewriteManifest,
)
from shunter.scraper.errors import ConfigError
from shunter.snapshot import InferenceModel, Objective, Pool, Rewrite, RewriteRule, Target

__all__ = ["STICKY", "import_of", "model_of", "objective_of", "pool_of", "rewrite_of"]

# An annotation of an InferenceModelRewrite: the request header by which clients keep to one of its targets.
STICKY = "shunter.dev/sticky-header"


def pool_of(manifest: PoolManifest | PoolManifestV1Alpha2) -> Pool:
    """Either version."""
    meta, spec = manifest.metadata, manifest.spec
    if isinstance(spec, PoolSpec):
        selector, ports = spec.selector.match_labels, [port.number for port in spec.target_ports]
        app_protocol, picker = spec.app_protocol, spec.endpoint_picker_ref
    else:
        selector, ports, app_protocol, picker = spec.selector, [spec.target_port_number], "http", spec.extension_ref
    return Pool(
        name=meta.name,
        namespace=meta.namespace,
        selector=selector,
        target_ports=tuple(ports),
        app_protocol=app_protocol,
        failure_mode=picker.failure_mode if picker else "FailClose",
    )


def objective_of(manifest: ObjectiveManifest) -> Objective:
    """Priorities are as given: None is not 0."""
    meta, spec = manifest.metadata, manifest.spec
    return Objective(name=meta.name, namespace=meta.namespace, pool=spec.pool_ref.name, priority=spec.priority)


def rewrite_of(manifest: RewriteManifest) -> Rewrite:
    """Rules keep their order; the annotation names a header."""
    meta, spec = manifest.metadata, manifest.spec
    rules = tuple(
        RewriteRule(
            models=tuple(match.model.value for match in rule.matches),
            targets=tuple(Target(model=target.model_rewrite, weight=target.weight) for target in rule.targets),
        )
        for rule in spec.rules
    )
    return Rewrite(
        name=meta.name,
        namespace=meta.namespace,
        pool=spec.pool_ref.name,
        created=meta.creation_timestamp,
        rules=rules,
        sticky=meta.annotations.get(STICKY, "").lower(),
    )


class _Controller(msgspec.Struct, rename="camel"):
    exporting_clusters: list[dict[str, object]] = []


class _ImportStatus(msgspec.Struct):
    controllers: list[_Controller] = []


def import_of(manifest: ImportManifest) -> Import:
    """Whatever its controllers say: a status that cannot be read names no clusters."""
    try:
        status = msgspec.convert(manifest.status or {}, _ImportStatus)
    except msgspec.ValidationError:
        status = _ImportStatus()
    clusters = {str(each.get("name", "")) for one in status.controllers for each in one.exporting_clusters}
    return Import(manifest.metadata.namespace, manifest.metadata.name, tuple(sorted(clusters - {""})))


def model_of(place: str, manifest: InferenceModelManifest) -> InferenceModel:
    """Raises ConfigError, with ``place``, if only some targets have a weight."""
    meta, spec = manifest.metadata, manifest.spec
    if len({target.weight is None for target in spec.target_models}) > 1:
        raise ConfigError(f"{place}: $.spec.targetModels: give all of them a weight or none")
    return InferenceModel(
        name=meta.name,
        namespace=meta.namespace,
        pool=spec.pool_ref.name,
        model=spec.model_name,
        criticality=spec.criticality,
        targets=tuple(Target(model=target.name, weight=target.weight) for target in spec.target_models),
        created=meta.creation_timestamp,
    )
