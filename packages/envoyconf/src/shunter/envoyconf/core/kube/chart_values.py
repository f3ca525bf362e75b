"""Values of other Helm charts for pickers, as values of Shunter's: GIE's ``inferencepool``, and those of llm-d's router.

Each value of theirs is either moved to a name of ours or told to be left out, and why; none is lost in silence.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from shunter.envoyconf.core.cursor import Cursor, place
from shunter.envoyconf.core.documents import load_documents
from shunter.envoyconf.core.kube.quantities import read_seconds
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.errors import IntentError

__all__ = ["Conversion", "convert"]

# The parts that two generations of charts call differently.
PICKER = ("router.epp", "inferenceExtension")
SERVERS = ("router.modelServers", "inferencePool.modelServers")
MONITORING = ("router.monitoring", "inferenceExtension.monitoring")
TRACING = ("router.tracing", "inferenceExtension.tracing")


class Conversion(NamedTuple):
    """Values for Shunter's chart, and a line for each of theirs: where it went, or why it did not."""

    values: Resource
    notes: tuple[str, ...]


def convert(text: str, file: str) -> Conversion:
    """Convert the values of one of these charts; IntentError if there is none of them in the text."""
    documents = load_documents(text, file)
    if len(documents) != 1 or not documents[0].body.keys() & {"router", "inferenceExtension", "inferencePool"}:
        raise IntentError(
            f"{file}: no values of a chart for pickers; GIE's have inferenceExtension and inferencePool, llm-d's router"
        )
    values: Resource = {}
    notes: list[str] = []
    for at in _settings(Cursor.root(documents[0])):
        name = ".".join(map(str, at.path))
        move, reason = MOVES.get(name), _reason(name)
        found = move.read(at) if move else None
        if move and found is not None:
            _put(values, move.name.split("."), found)
            notes.append(f"{place(at)}: {name} is {move.name}")
        else:
            notes.append(f"{place(at)}: {name} is left out: {reason}")
    return Conversion(values, tuple(notes))


def _settings(at: Cursor) -> Iterator[Cursor]:
    """Yield every value that is known as a whole, and all others by their smallest parts."""
    for step, below in at.fields():
        name = ".".join(map(str, (*at.path, step)))
        known = name in REASONS and not any(each.startswith(f"{name}.") for each in MOVES)
        if name in MOVES or known or not list(below.fields()):
            yield below
        else:
            yield from _settings(below)


def _put(values: Resource, path: list[str], value: Any) -> None:
    for step in path[:-1]:
        values = values.setdefault(step, {})
    values[path[-1]] = value


def _reason(name: str) -> str:
    inner = [about for above, about in REASONS.items() if name == above or name.startswith(f"{above}.")]
    return inner[-1] if inner else "not understood" if name in MOVES else "Shunter's chart has no such value"


# -- what theirs are -------------------------------------------------------------------------------------------------------


def _count(at: Cursor) -> int | None:
    return at.number if at.number is not None and 0 <= at.number <= 100 else None


def _truth(at: Cursor) -> bool | None:
    value = {"true": True, "false": False}.get(at.text, at.value)
    return value if isinstance(value, bool) else None


def _labels(at: Cursor) -> dict[str, str] | None:
    return at.labels if at.labels and len(at.labels) == len(list(at.fields())) else None


def _text(at: Cursor) -> str | None:
    return at.text or None


def _mapping(at: Cursor) -> Resource | None:
    return {name: each.value for name, each in at.fields()} or None


def _mappings(at: Cursor) -> list[Any] | None:
    return at.value if list(at) and all(isinstance(each.value, dict) for each in at) else None


def _port(at: Cursor) -> int | None:
    return at.number if at.number is not None and 1 <= at.number <= 65535 else None


def _ports(at: Cursor) -> list[int] | None:
    given = [_port(each["number"] or each) for each in at] or [_port(at)]
    ports = [port for port in given if port is not None]
    return ports if len(ports) == len(given) <= 8 else None


def _protocol(at: Cursor) -> str | None:
    return {"http": "http", "grpc": "kubernetes.io/h2c"}.get(at.text)


def _mode(at: Cursor) -> str | None:
    return at.text if at.text in {"FailOpen", "FailClose"} else None


def _objectives(at: Cursor) -> list[Resource] | None:
    found: list[Resource] = []
    for each in at:
        name, priority = each["name"].text, each["priority"].number or 0
        if not name or not -(1 << 31) <= priority < 1 << 31:
            return None
        found.append({"name": name, "priority": priority})
    return found or None


def _configuration(at: Cursor) -> Resource | None:
    """Return the EndpointPickerConfig that pluginsConfigFile names among the texts of pluginsCustomConfig."""
    wanted = Cursor.root(at.document).at(*at.path[:-1])["pluginsConfigFile"].text or "default-plugins.yaml"
    try:
        documents = load_documents(at[wanted].text, f"{place(at)}: {wanted}")
    except IntentError:
        return None
    return documents[0].body if len(documents) == 1 else None


def _drain(at: Cursor) -> int | None:
    seconds = read_seconds(at)
    return None if seconds is None or seconds > 3600 else round(seconds)


def _interval(at: Cursor) -> int | None:
    return max(1, round(read_seconds(at) or 0)) if read_seconds(at) is not None else None


def _variables(at: Cursor) -> list[Any] | None:
    """Return what is said to OpenTelemetry; nothing else in the reference's environment means anything to us."""
    given = _mappings(at) or [{"name": name, "value": str(each.value)} for name, each in at.fields()]
    kept = [each for each in given if str(each.get("name", "")).startswith("OTEL_")]
    return kept or None


def _collector(at: Cursor) -> str | None:
    """Return where traces go; theirs by gRPC, ours by HTTP, whose port is the next."""
    return at.text.replace(":4317", ":4318") or None


def _percent(at: Cursor) -> float | None:
    """Return the argument of a sampler by ratio; the others have none."""
    try:
        percent = round(100 * float(at.text or str(at.value)), 9)  # 0.07 is 7, not 7.000000000000001
    except ValueError:
        return None
    return percent if 0 <= percent <= 100 else None


class Move(NamedTuple):
    """A name of ours, and what is read of theirs: None if that cannot be."""

    name: str
    read: Callable[[Cursor], Any]


def _moves(*table: tuple[tuple[str, ...], str, str, Callable[[Cursor], Any]]) -> dict[str, Move]:
    return {f"{part}{inner}": Move(ours, read) for parts, inner, ours, read in table for part in parts}


MOVES = _moves(
    (PICKER, ".replicas", "picker.replicas", _count),
    (PICKER, ".pluginsCustomConfig", "picker.config", _configuration),
    (PICKER, ".env", "picker.extraEnv", _variables),
    (PICKER, ".affinity", "affinity", _mapping),
    (PICKER, ".tolerations", "tolerations", _mappings),
    (PICKER, ".podAnnotations", "podAnnotations", _labels),
    (PICKER, ".flags.drain-timeout", "picker.drainSeconds", _drain),
    (PICKER, ".flags.secure-serving", "tls.enabled", _truth),
    (PICKER, ".failureMode", "pool.failureMode", _mode),
    (("router.inferencePool",), ".failureMode", "pool.failureMode", _mode),
    (("router.inferencePool",), ".create", "pool.create", _truth),
    (SERVERS, ".matchLabels", "pool.selector", _labels),
    (SERVERS, ".targetPorts", "pool.targetPorts", _ports),
    (("inferencePool",), ".targetPorts", "pool.targetPorts", _ports),
    (("inferencePool",), ".targetPortNumber", "pool.targetPorts", _ports),
    (SERVERS, ".protocol", "pool.appProtocol", _protocol),
    (("router",), ".inferenceObjectives", "objectives", _objectives),
    (("router",), ".clusterDomain", "clusterDomain", _text),
    (("router.proxy",), ".enabled", "gateway.enabled", _truth),
    (("router.proxy",), ".replicas", "gateway.replicas", _count),
    (MONITORING, ".interval", "monitoring.intervalSeconds", _interval),
    (MONITORING, ".prometheus.enabled", "monitoring.podMonitor", _truth),
    (MONITORING, ".prometheus.extraLabels", "monitoring.labels", _labels),
    (TRACING, ".otelExporterEndpoint", "picker.tracing.endpoint", _collector),
    (TRACING, ".sampling.samplerArg", "picker.tracing.samplePercent", _percent),
)

# The innermost counts.
REASONS: dict[str, str] = {
    "provider": "`shunter envoyconf generate` writes what a gateway needs beside",
    "httpRoute": "`shunter envoyconf generate` writes routes",
    "experimentalHttpRoute": "`shunter envoyconf generate` writes routes",
    "inferencePool.apiVersion": "pools are of inference.networking.k8s.io/v1",
    "router.proxy": "Envoy is configured by gateway.intent",
    "router.tokenizer": "tokens are estimated, or asked of the engines by the plugin tokenizer",
    "router.epp.latencyPredictor": "expected-delay-scorer learns without a server beside it",
    "inferenceExtension.latencyPredictor": "expected-delay-scorer learns without a server beside it",
    **{f"{part}.image": "images are of image.registry and image.tag" for part in PICKER},
    **{f"{part}.resources": "theirs are for another program; see picker.resources" for part in PICKER},
    **{f"{part}.pluginsConfigFile": "picker.config is what it names in pluginsCustomConfig" for part in PICKER},
    **{f"{part}.env": "only OTEL_… means something to Shunter" for part in PICKER},
    **{f"{part}.flags": "options of `shunter picker run` differ; see picker.extraArgs" for part in PICKER},
    **{f"{part}.{port}": "ports are 9002, 9003 and 9090" for part in PICKER for port in ("extProcPort", "grpcHealthPort")},
    "router.metricsPort": "ports are 9002, 9003 and 9090",
    **{f"{part}.sampling.sampler": "it is parentbased_traceidratio; see picker.tracing.samplePercent" for part in TRACING},
    **{f"{part}.enabled": "traces are sent as soon as there is an endpoint" for part in TRACING},
    **{f"{part}.type": "each engine's dialect is recognised" for part in SERVERS},
    "inferencePool.modelServerType": "each engine's dialect is recognised",
}
