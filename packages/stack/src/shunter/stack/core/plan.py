"""Which processes make up a stack, with which arguments and files: everything ``up`` does, before it is done."""

import msgspec

from shunter.envoyconf.core.intent import LONGEST_QUEUE_SECONDS

__all__ = [
    "CONFIG",
    "MANIFESTS",
    "Engine",
    "Plan",
    "Ports",
    "commands",
    "curl",
    "endpoints_file",
    "environment",
    "envoy_intent",
    "scrapes",
    "stages_config",
]

LOOPBACK = "127.0.0.1"

# What files are called in the directory of a stack that may be links to the user's own.
CONFIG = "picker.yaml"
MANIFESTS = "cluster/manifests.yaml"


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """Where everything listens, all on 127.0.0.1."""

    gateway: int
    picker: tuple[int, ...]  # one per worker
    health: int
    admin: int
    collector: int
    envoy_admin: int
    scraper: int
    otlp_grpc: int = 0  # 0: nobody takes spans
    otlp_http: int = 0
    jaeger_otlp: int = 0  # 0: no Jaeger shows them
    jaeger: int = 0
    prometheus: int = 0  # 0: nobody scrapes


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """One model server; ``argv`` is what starts it after the interpreter's name, empty for one that runs already.

    With a ``role`` it does a stage of each request only. One that decodes is behind a sidecar: that is what ``argv`` starts and
    what listens at the port, and ``behind`` starts the server itself.
    """

    name: str
    address: str
    port: int
    dialect: str
    argv: tuple[str, ...] = ()
    role: str = ""
    behind: tuple[str, ...] = ()

    @property
    def authority(self) -> str:
        """``address:port``, IPv6 in brackets."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A whole stack. ``directory`` holds its files, rings, state and logs.

    ``config`` is the picker's (empty: the one that comes with it), which lets requests wait up to ``queue_s``; ``manifests`` is
    YAML for the scraper beside the endpoints; ``shadow`` a configuration that decides without a say (empty: none);
    ``picker_options`` whatever else the picker is told; ``originals`` are the user's own files, by the names they have among
    those of the stack. With ``sockets`` the picker's workers are at such in the file system, and as many as it has ports.
    """

    directory: str
    profile: str
    model: str
    ports: Ports
    engines: tuple[Engine, ...]
    sockets: bool = False
    config: bytes = b""
    queue_s: float = 0.0
    manifests: bytes = b""
    shadow: bytes = b""
    picker_options: tuple[str, ...] = ()
    originals: dict[str, str] = {}

    @property
    def workers(self) -> list[str]:
        """Where Envoy asks each of the picker's workers."""
        ports = self.ports.picker
        if not self.sockets:
            return [f"{LOOPBACK}:{port}" for port in ports]
        return [self.socket] if len(ports) == 1 else [f"{self.socket}.{number}" for number in range(len(ports))]

    @property
    def socket(self) -> str:
        """What the picker calls its workers' sockets."""
        return f"unix:{self.directory}/worker"

    @property
    def traces(self) -> bool:
        """Whether everybody sends spans."""
        return self.ports.otlp_grpc > 0


# Of Envoy: spans are sent five times a second, for whoever waits to see them.
TELL_SOON = msgspec.json.encode(
    {
        "layered_runtime": {
            "layers": [
                {
                    "name": "traces",
                    "static_layer": {
                        "tracing.opentelemetry.flush_interval_ms": 200,
                        "tracing.opentelemetry.min_flush_spans": 1,
                    },
                }
            ]
        }
    }
).decode()

# By Prometheus, which keeps what it scrapes in the stack's directory: at this pace 20 MB of shared memory an hour.
SCRAPED_EVERY = "5s"
SERIES_AT_MOST = "256MB"  # half a day; unasked it would keep 15 days

# How long Envoy bears silence on a request, in seconds, and how much longer than a request may wait.
IDLE_S, MARGIN_S = 300.0, 2.0


def endpoints_file(plan: Plan) -> bytes:
    """What the scraper reads instead of a Kubernetes API: upstream's file-discovery format and an InferencePool."""
    pool = {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": "engines", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "engine"}},
            "targetPorts": [{"number": plan.engines[0].port}],
            "endpointPickerRef": {
                "name": "shunter-picker",
                "port": {"number": plan.ports.picker[0]},
                "failureMode": "FailOpen",
            },
        },
    }
    endpoints = [
        {
            "name": engine.name,
            "namespace": "default",
            "address": engine.address,
            "port": str(engine.port),
            "labels": {"app": "engine", "llm-d.ai/engine-type": engine.dialect}
            | ({"llm-d.ai/role": engine.role} if engine.role else {}),
        }
        for engine in plan.engines
    ]
    return b"\n---\n".join(msgspec.yaml.encode(document) for document in (pool, {"endpoints": endpoints}))


def stages_config(*, encode: bool = False) -> bytes:
    """Prefill and decode on engines of their own, as llm-d's guide has it: always, by load and cached prefix, and by load.

    With ``encode`` whatever has a picture in it has that encoded by others, by their load.
    """
    profiles = {
        "prefill": {"prefill-filter": None, "prefix-cache-scorer": 3, "active-request-scorer": 2},
        "decode": {"decode-filter": None, "active-request-scorer": 1},
    }
    deciders = {"prefill": "always-disagg-pd-decider"}
    if encode:
        profiles["encode"] = {"encode-filter": None, "active-request-scorer": 1}
        deciders["encode"] = "always-disagg-multimodal-decider"
    return msgspec.yaml.encode(
        {
            "apiVersion": "llm-d.ai/v1alpha1",
            "kind": "EndpointPickerConfig",
            "plugins": [
                *({"type": decider} for decider in deciders.values()),
                {"type": "disagg-profile-handler", "parameters": {"deciders": deciders}},
                *({"type": name} for name in dict.fromkeys(name for names in profiles.values() for name in names)),
                {"type": "max-score-picker", "parameters": {"maxNumOfEndpoints": 3}},
            ],
            "schedulingProfiles": [
                {
                    "name": profile,
                    "plugins": [
                        *({"pluginRef": name} | ({"weight": weight} if weight else {}) for name, weight in plugins.items()),
                        {"pluginRef": "max-score-picker"},
                    ],
                }
                for profile, plugins in profiles.items()
            ],
        }
    )


def envoy_intent(plan: Plan) -> bytes:
    """What ``shunter envoyconf`` turns into Envoy's bootstrap."""
    queue_s = min(plan.queue_s, LONGEST_QUEUE_SECONDS)
    return msgspec.yaml.encode(
        {
            "profile": plan.profile,
            "listeners": [{"name": "gateway", "address": LOOPBACK, "port": plan.ports.gateway}],
            "pools": [
                {
                    "name": "engines",
                    "endpoints": [engine.authority for engine in plan.engines],
                    "picker": {
                        "addresses": plan.workers,
                        "collector": f"{LOOPBACK}:{plan.ports.collector}",
                        "failureMode": "FailClose" if plan.profile == "strict" else "FailOpen",
                    },
                }
            ],
            "limits": {"queueSeconds": queue_s, "idleTimeoutSeconds": max(IDLE_S, queue_s + MARGIN_S)},
            "observability": {"accessLog": f"{plan.directory}/access.log", "servedHeader": True}
            | ({"tracing": {"collector": f"{LOOPBACK}:{plan.ports.otlp_grpc}", "samplePercent": 100}} if plan.traces else {}),
            "admin": {"address": LOOPBACK, "port": plan.ports.envoy_admin},
        }
    )


def scrapes(plan: Plan) -> bytes:
    """What Prometheus is to scrape, and the rules that it is to keep: a file beside."""
    ports = plan.ports
    targets = {"picker": (ports.admin, "/metrics"), "scraper": (ports.scraper, "/metrics")}
    targets["envoy"] = (ports.envoy_admin, "/stats/prometheus")
    jobs = [
        {"job_name": name, "metrics_path": path, "static_configs": [{"targets": [f"{LOOPBACK}:{port}"]}]}
        for name, (port, path) in targets.items()
    ]
    jobs.append({"job_name": "engines", "static_configs": [{"targets": [engine.authority for engine in plan.engines]}]})
    every = {"scrape_interval": SCRAPED_EVERY, "evaluation_interval": SCRAPED_EVERY}
    return msgspec.yaml.encode({"global": every, "rule_files": ["rules.yaml"], "scrape_configs": jobs})


def commands(plan: Plan, envoy: str, jaeger: str = "", prometheus: str = "") -> dict[str, tuple[str, ...]]:
    """Name → argv of every process, in the order in which they start; Python modules begin with ``-m``."""
    here, ports = plan.directory, plan.ports
    started = _watchers(plan, jaeger)
    if ports.prometheus:
        started["prometheus"] = (
            *(prometheus, f"--config.file={here}/prometheus.yaml", f"--web.listen-address={LOOPBACK}:{ports.prometheus}"),
            *(f"--storage.tsdb.path={here}/prometheus", f"--storage.tsdb.retention.size={SERIES_AT_MOST}", "--log.level=warn"),
        )
    started |= {f"{engine.name}-server": engine.behind for engine in plan.engines if engine.behind}
    started |= {engine.name: engine.argv for engine in plan.engines if engine.argv}
    return started | {
        "scraper": (
            *("-m", "shunter.scraper", "run", "--endpoints", f"{here}/cluster", "--snapshot", here),
            *("--admin-port", str(ports.scraper)),
        ),
        "picker": (
            *("-m", "shunter.picker", "run", "--config", f"{here}/{CONFIG}", "--snapshot", here),
            *("--runtime", f"{here}/picker", "--health-port", str(ports.health), "--admin-port", str(ports.admin)),
            *("--collector-port", str(ports.collector)),
            *(("--shadow-config", f"{here}/shadow.yaml", "--shadow-sample", "1") if plan.shadow else ()),
            *(("--host", plan.socket, "--workers", str(len(ports.picker))) if plan.sockets else ()),
            *(word for port in ports.picker if not plan.sockets for word in ("--port", str(port))),
            *(("--watch-config",) if CONFIG in plan.originals else ()),
            *plan.picker_options,
        ),
        "control-plane": (
            *("-m", "shunter.envoyconf", "serve", "-f", f"{here}/intent.yaml", "--snapshot", here),
            *("--learned", f"{here}/picker", "--directory", f"{here}/envoy", "--status-port", "0"),
        ),
        "envoy": (
            *(envoy, "-c", f"{here}/envoy/envoy.yaml", "--log-level", "warn", "--concurrency", "1"),
            *("--disable-hot-restart", "--file-flush-interval-msec", "100"),
            *(("--config-yaml", TELL_SOON) if plan.traces else ()),
        ),
    }


def _watchers(plan: Plan, jaeger: str) -> dict[str, tuple[str, ...]]:
    """Who takes spans, and who shows them."""
    ports = plan.ports
    if not plan.traces:
        return {}
    collector = (
        *("-m", "shunter.stack.traces", "--directory", plan.directory),
        *("--grpc-port", str(ports.otlp_grpc), "--http-port", str(ports.otlp_http)),
    )
    if not jaeger:
        return {"traces": collector}
    elsewhere = ("admin.http", "collector.grpc-server", "collector.http-server", "collector.otlp.grpc", "query.grpc-server")
    return {
        "jaeger": (
            *(jaeger, "--log-level", "warn", *(f"--{each}.host-port={LOOPBACK}:0" for each in elsewhere)),
            f"--collector.otlp.http.host-port={LOOPBACK}:{ports.jaeger_otlp}",
            f"--query.http-server.host-port={LOOPBACK}:{ports.jaeger}",
        ),
        "traces": (*collector, "--forward", f"http://{LOOPBACK}:{ports.jaeger_otlp}/v1/traces"),
    }


def environment(plan: Plan, name: str) -> dict[str, str]:
    """Return what a process finds in its environment beside ours: where its spans go, and that a caller says which."""
    if not plan.traces or not (name == "picker" or any(name.startswith(engine.name) for engine in plan.engines)):
        return {}
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{LOOPBACK}:{plan.ports.otlp_http}",
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    } | ({} if name == "picker" else {"OTEL_SERVICE_NAME": name.removesuffix("-server")})


def curl(plan: Plan) -> str:
    """One line to paste into a shell."""
    body = msgspec.json.encode(
        {"model": plan.model, "messages": [{"role": "user", "content": "Which track for wagon 7?"}], "max_tokens": 16}
    ).decode()
    return (
        f"curl -si http://{LOOPBACK}:{plan.ports.gateway}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"
    )
