"""Documents become one cluster: names are checked against each other and endpoints join their pools.

Pools
-----
An endpoint that names a pool joins that pool of its namespace; any other joins every pool of its namespace whose
selector matches its labels. So do pods (`core.pods`), which may stand in a file as ``kubectl get pods -o yaml`` prints
them. Files without an InferencePool give one pool, ``default/default``, that all
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
    ImportManifest,
    InferenceModelManifest,
    Manifest,
    ObjectiveManifest,
    PoolManifest,
    PoolManifestV1Alpha2,
    RewriteManifest,
)
from shunter.scraper.core.pods import Pod, engine_label, members_of
from shunter.scraper.core.records import import_of, model_of, objective_of, pool_of, rewrite_of
from shunter.scraper.errors import ConfigError
from shunter.snapshot import Pool

__all__ = ["assemble", "by_namespace"]

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

    pools = tuple(pool_of(m) for _, m in manifests if isinstance(m, PoolManifest | PoolManifestV1Alpha2))
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
    homes = by_namespace(pools)
    pods = [(place, content) for place, content in documents if isinstance(content, Pod)]
    _refuse_twins((f"Pod {pod.metadata.namespace}/{pod.metadata.name}", place) for place, pod in pods)
    default = files[0][1].default_engine if files else "vllm"
    for place, pod in pods:
        dialect = _labelled(f"{place}: $.metadata", pod.metadata.labels, dialects) or dialects[default]
        members += members_of(pod, homes.get(pod.metadata.namespace, ()), dialect)
    return Cluster(
        pools=pools or (DEFAULT_POOL,),
        members=members,
        objectives=tuple(objective_of(m) for _, m in manifests if isinstance(m, ObjectiveManifest)),
        rewrites=tuple(rewrite_of(m) for _, m in manifests if isinstance(m, RewriteManifest)),
        models=tuple(model_of(place, m) for place, m in manifests if isinstance(m, InferenceModelManifest)),
        imports=tuple(import_of(m) for _, m in manifests if isinstance(m, ImportManifest)),
    )


def by_namespace(pools: Iterable[Pool]) -> dict[str, list[tuple[int, Pool]]]:
    """Return the pools of each namespace, with their indices."""
    homes: dict[str, list[tuple[int, Pool]]] = {}
    for index, pool in enumerate(pools):
        homes.setdefault(pool.namespace, []).append((index, pool))
    return homes


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
    return _labelled(place, entry.labels, dialects) or dialects[default]


def _labelled(place: str, labels: Mapping[str, str], dialects: Mapping[str, Dialect]) -> Dialect | None:
    label = engine_label(labels)
    return _known(f"{place}.labels.{label}", labels[label], dialects) if label else None


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
