"""Documents become one cluster: names are checked against each other and endpoints join their pools.

Pools
-----
An endpoint that names a pool joins that pool of its namespace; any other joins every pool of its namespace whose
selector matches its labels, as pods do. Files without an InferencePool give one pool, ``default/default``, that all
endpoints join whatever their namespace.

Engines
-------
An endpoint's engine is its ``engine`` field, else the label ``llm-d.ai/engine-type``, else
``inference.networking.k8s.io/engine-type`` (the reference's labels), else the file's ``defaultEngine``.
``engineConfigs`` of any file hold for all; one with the name of a built-in engine replaces it.
"""

import re
from collections.abc import Collection, Iterable, Mapping

from shunter.scraper.core.cluster import Cluster, Member, as_address
from shunter.scraper.core.dialect import DIALECTS, Dialect, Gauge, Label, Reading, Spec, parse_spec
from shunter.scraper.core.documents import Document, near
from shunter.scraper.core.manifests import (
    DEFAULT_NAMESPACE,
    EndpointEntry,
    EndpointsFile,
    EngineConfig,
    InferenceModelManifest,
    Manifest,
    ObjectiveManifest,
    PoolManifest,
    PoolManifestV1Alpha2,
    PoolSpec,
    RewriteManifest,
)
from shunter.scraper.errors import ConfigError
from shunter.snapshot import InferenceModel, Objective, Pool, Rewrite, RewriteRule, Target

__all__ = ["assemble"]

ENGINE_LABELS = ("llm-d.ai/engine-type", "inference.networking.k8s.io/engine-type")
DEFAULT_POOL = Pool(name="default", namespace=DEFAULT_NAMESPACE)

_DNS_LABEL = r"[a-zA-Z0-9_](?:[a-zA-Z0-9_-]{0,61}[a-zA-Z0-9])?"
# The last label of a name is never a number: 10.0.0.256 is a mistyped address.
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:{_DNS_LABEL}\.)*(?![0-9]+\.?\Z){_DNS_LABEL}\.?")

_PATH = re.compile(r"/[!-~]*")
_AUTHORITY = re.compile(r"(?:\[([^\[\]]*)\]|([^:]*)):([0-9]{1,5})")


def assemble(documents: Iterable[Document]) -> Cluster:
    """Return the cluster that these documents describe; raises ConfigError."""
    documents = tuple(documents)
    files = [(place, content) for place, content in documents if isinstance(content, EndpointsFile)]
    manifests = [(place, content) for place, content in documents if isinstance(content, Manifest)]
    _refuse_twins((f"{m.kind} {m.metadata.namespace}/{m.metadata.name}", place) for place, m in manifests)

    pools = tuple(_pool(m) for _, m in manifests if isinstance(m, PoolManifest | PoolManifestV1Alpha2))
    names = {(pool.namespace, pool.name) for pool in pools} or {(DEFAULT_POOL.namespace, DEFAULT_POOL.name)}
    for place, manifest in manifests:
        if isinstance(manifest, ObjectiveManifest | RewriteManifest | InferenceModelManifest):
            ref = manifest.spec.pool_ref
            _check_pool(f"{place}: $.spec.poolRef.name", manifest.metadata.namespace, ref.name, names)

    dialects = dict(DIALECTS)
    _refuse_twins((f"engine {config.name}", place) for place, file in files for config in file.engine_configs)
    for place, file in files:
        for number, config in enumerate(file.engine_configs):
            dialects[config.name] = _dialect(f"{place}: $.engineConfigs[{number}]", config)
    for place, file in files:
        _known(f"{place}: $.defaultEngine", file.default_engine, dialects)

    entries = [
        (f"{place}: $.endpoints[{number}]", entry, file.default_engine)
        for place, file in files
        for number, entry in enumerate(file.endpoints)
    ]
    _refuse_twins((f"endpoint {entry.namespace}/{entry.name}", place) for place, entry, _ in entries)
    members = tuple(_member(place, entry, _engine(place, entry, default, dialects), pools) for place, entry, default in entries)
    _refuse_twins(
        (f"address {member.host} port {member.port}", place) for (place, _, _), member in zip(entries, members, strict=True)
    )
    return Cluster(
        pools=pools or (DEFAULT_POOL,),
        members=members,
        objectives=tuple(_objective(m) for _, m in manifests if isinstance(m, ObjectiveManifest)),
        rewrites=tuple(_rewrite(m) for _, m in manifests if isinstance(m, RewriteManifest)),
        models=tuple(_model(place, m) for place, m in manifests if isinstance(m, InferenceModelManifest)),
    )


def _refuse_twins(things: Iterable[tuple[str, str]]) -> None:
    """Raise ConfigError if two (thing, place) pairs name the same thing."""
    first: dict[str, str] = {}
    for thing, place in things:
        if thing in first:
            raise ConfigError(f"{place}: {thing} was there already, at {first[thing]}: remove one")
        first[thing] = place


def _check_pool(place: str, namespace: str, name: str, names: Collection[tuple[str, str]]) -> None:
    if (namespace, name) not in names:
        known = (known for home, known in names if home == namespace)
        raise ConfigError(f"{place}: there is no InferencePool {name!r} in namespace {namespace}; {near(name, known)}")


def _member(place: str, entry: EndpointEntry, dialect: Dialect, pools: tuple[Pool, ...]) -> Member:
    if not _is_host(entry.address):
        problem = "is neither an IP address, without brackets or scope, nor a DNS name"
        raise ConfigError(f"{place}.address: {entry.address!r} {problem}")
    path = entry.metrics_path or dialect.metrics_path
    if not _PATH.fullmatch(path):
        raise ConfigError(f"{place}.metricsPath: {path!r} is not a path: begin with / and leave out blanks")
    metrics_host, metrics_port = _metrics_authority(place, entry)
    joined = _joined(place, entry, pools)
    ports = pools[joined[0]].target_ports if pools and joined else ()
    return Member(
        name=entry.name,
        namespace=entry.namespace,
        host=as_address(entry.address) or entry.address,
        port=entry.port,
        rank=ports.index(entry.port) if entry.port in ports else 0,
        metrics_host=metrics_host,
        metrics_port=metrics_port,
        metrics_path=path,
        kv_events_port=entry.kv_events_port,
        kv_replay_port=entry.kv_replay_port,
        dialect=dialect,
        labels=entry.labels,
        pools=joined,
    )


def _metrics_authority(place: str, entry: EndpointEntry) -> tuple[str | None, int]:
    """Return where the metrics are, from ``metricsHost`` (the reference's host:port) or ``metricsPort``."""
    if entry.metrics_host is None:
        return None, entry.metrics_port or entry.port
    match = _AUTHORITY.fullmatch(entry.metrics_host)
    host, port = (match[1] or match[2], int(match[3])) if match else ("", 0)
    if not (_is_host(host) and 0 < port < 1 << 16) or entry.metrics_port:
        raise ConfigError(f"{place}.metricsHost: write host:port, and no metricsPort, found {entry.metrics_host!r}")
    return host, port


def _is_host(text: str) -> bool:
    return "%" not in text and bool(as_address(text) or _DNS_NAME.fullmatch(text))


def _joined(place: str, entry: EndpointEntry, pools: tuple[Pool, ...]) -> tuple[int, ...]:
    home = entry.namespace
    if entry.pool is not None:
        names = [(pool.namespace, pool.name) for pool in pools or (DEFAULT_POOL,)]
        _check_pool(f"{place}.pool", home, entry.pool, names)
        return (names.index((home, entry.pool)),)
    if not pools:
        return (0,)
    labels = entry.labels.items()
    return tuple(i for i, pool in enumerate(pools) if pool.namespace == home and pool.selector.items() <= labels)


def _engine(place: str, entry: EndpointEntry, default: str, dialects: Mapping[str, Dialect]) -> Dialect:
    if entry.engine:
        return _known(f"{place}.engine", entry.engine, dialects)
    label = next((label for label in ENGINE_LABELS if label in entry.labels), None)
    return _known(f"{place}.labels.{label}", entry.labels[label], dialects) if label else dialects[default]


def _known(place: str, engine: str, dialects: Mapping[str, Dialect]) -> Dialect:
    if engine not in dialects:
        raise ConfigError(f"{place}: {engine!r} is not an engine; {near(engine, dialects)}")
    return dialects[engine]


def _dialect(place: str, config: EngineConfig) -> Dialect:
    def spec(field: str, text: str) -> Spec | None:
        try:
            return parse_spec(text) if text else None
        except ConfigError as error:
            raise ConfigError(f"{place}.{field}: {error}") from None

    def gauge(field: str, text: str) -> tuple[Reading, ...]:
        found = spec(field, text)
        return (Gauge(found),) if found else ()

    if config.name == "default":
        raise ConfigError(f"{place}.name: 'default' is reserved; defaultEngine names the engine of all others")
    info = spec("cacheInfoSpec", config.cache_info_spec)
    block_size_label = (Label(info, config.cache_block_size_label_name),) if info else ()
    num_blocks_label = (Label(info, config.cache_num_blocks_label_name),) if info else ()
    return Dialect(
        name=config.name,
        waiting=gauge("queuedRequestsSpec", config.queued_requests_spec),
        running=gauge("runningRequestsSpec", config.running_requests_spec),
        kv_usage=gauge("kvUsageSpec", config.kv_usage_spec),
        block_size=gauge("cacheBlockSizeSpec", config.cache_block_size_spec) + block_size_label,
        num_blocks=gauge("cacheNumBlocksSpec", config.cache_num_blocks_spec) + num_blocks_label,
        adapters=spec("loraSpec", config.lora_spec),
    )


def _pool(manifest: PoolManifest | PoolManifestV1Alpha2) -> Pool:
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


def _objective(manifest: ObjectiveManifest) -> Objective:
    meta, spec = manifest.metadata, manifest.spec
    return Objective(name=meta.name, namespace=meta.namespace, pool=spec.pool_ref.name, priority=spec.priority)


def _rewrite(manifest: RewriteManifest) -> Rewrite:
    meta, spec = manifest.metadata, manifest.spec
    rules = tuple(
        RewriteRule(
            models=tuple(match.model.value for match in rule.matches),
            targets=tuple(Target(model=target.model_rewrite, weight=target.weight) for target in rule.targets),
        )
        for rule in spec.rules
    )
    return Rewrite(
        name=meta.name, namespace=meta.namespace, pool=spec.pool_ref.name, created=meta.creation_timestamp, rules=rules
    )


def _model(place: str, manifest: InferenceModelManifest) -> InferenceModel:
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
