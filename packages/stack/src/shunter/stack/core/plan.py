"""Which processes make up a stack, with which arguments and files: everything ``up`` does, before it is done."""

import msgspec

from shunter.envoyconf.core.intent import LONGEST_QUEUE_SECONDS

__all__ = ["Engine", "Plan", "Ports", "commands", "curl", "endpoints_file", "envoy_intent", "stages_config"]

LOOPBACK = "127.0.0.1"


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """Where everything listens, all on 127.0.0.1."""

    gateway: int
    picker: tuple[int, ...]  # one per worker
    health: int
    admin: int
    collector: int
    envoy_admin: int
    scraper: int


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
    YAML for the scraper beside the endpoints; ``shadow`` a configuration that decides without a say (empty: none).
    """

    directory: str
    profile: str
    model: str
    ports: Ports
    engines: tuple[Engine, ...]
    config: bytes = b""
    queue_s: float = 0.0
    manifests: bytes = b""
    shadow: bytes = b""


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
    documents = [msgspec.yaml.encode(document) for document in (pool, {"endpoints": endpoints})]
    return b"\n---\n".join([*documents, plan.manifests] if plan.manifests else documents)


def stages_config() -> bytes:
    """Prefill and decode on engines of their own, as llm-d's guide has it: always, by load and cached prefix, and by load."""
    profiles = {
        "prefill": {"prefill-filter": None, "prefix-cache-scorer": 3, "active-request-scorer": 2},
        "decode": {"decode-filter": None, "active-request-scorer": 1},
    }
    decider = "always-disagg-pd-decider"
    return msgspec.yaml.encode(
        {
            "apiVersion": "llm-d.ai/v1alpha1",
            "kind": "EndpointPickerConfig",
            "plugins": [
                {"type": decider},
                {"type": "disagg-profile-handler", "parameters": {"deciders": {"prefill": decider}}},
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
                        "addresses": [f"{LOOPBACK}:{port}" for port in plan.ports.picker],
                        "collector": f"{LOOPBACK}:{plan.ports.collector}",
                        "failureMode": "FailClose" if plan.profile == "strict" else "FailOpen",
                    },
                }
            ],
            "limits": {"queueSeconds": queue_s, "idleTimeoutSeconds": max(IDLE_S, queue_s + MARGIN_S)},
            "observability": {"accessLog": f"{plan.directory}/access.log", "servedHeader": True},
            "admin": {"address": LOOPBACK, "port": plan.ports.envoy_admin},
        }
    )


def commands(plan: Plan, envoy: str) -> dict[str, tuple[str, ...]]:
    """Name → argv of every process, in the order in which they start; Python modules begin with ``-m``."""
    here, ports = plan.directory, plan.ports
    started = {f"{engine.name}-server": engine.behind for engine in plan.engines if engine.behind}
    started |= {engine.name: engine.argv for engine in plan.engines if engine.argv}
    return started | {
        "scraper": (
            *("-m", "shunter.scraper", "run", "--endpoints", f"{here}/endpoints.yaml", "--snapshot", here),
            *("--admin-port", str(ports.scraper)),
        ),
        "picker": (
            *("-m", "shunter.picker", "run", "--config", f"{here}/picker.yaml", "--snapshot", here),
            *("--runtime", f"{here}/picker", "--health-port", str(ports.health), "--admin-port", str(ports.admin)),
            *("--collector-port", str(ports.collector)),
            *(("--shadow-config", f"{here}/shadow.yaml", "--shadow-sample", "1") if plan.shadow else ()),
            *(word for port in ports.picker for word in ("--port", str(port))),
        ),
        "control-plane": (
            *("-m", "shunter.envoyconf", "serve", "-f", f"{here}/intent.yaml", "--snapshot", here),
            *("--learned", f"{here}/picker", "--directory", f"{here}/envoy", "--status-port", "0"),
        ),
        "envoy": (
            *(envoy, "-c", f"{here}/envoy/envoy.yaml", "--log-level", "warn", "--concurrency", "1"),
            *("--disable-hot-restart", "--file-flush-interval-msec", "100"),
        ),
    }


def curl(plan: Plan) -> str:
    """One line to paste into a shell."""
    body = msgspec.json.encode(
        {"model": plan.model, "messages": [{"role": "user", "content": "Which track for wagon 7?"}], "max_tokens": 16}
    ).decode()
    return (
        f"curl -si http://{LOOPBACK}:{plan.ports.gateway}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"
    )
