"""The values of the Helm chart, as types: ``make docs`` writes values.yaml, its schema, the page of them, and the scraper's rights.

``--check`` writes nothing and fails if a file is not what the code says.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta, field

from shunter.envoyconf.shell import envoy
from shunter.picker.config import read_builtin
from shunter.picker.config.service_levels import LevelSpec
from shunter.scraper.core.rbac import rbac

__all__ = ["Values", "files"]

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "deploy" / "chart"
GENERATED = "by hack/gen_chart.py (make docs)"

Port = Annotated[int, Meta(ge=1, le=65535)]
# A label of DNS, with room for "-gateway-config" behind it.
PoolName = Annotated[str, Meta(pattern=r"^([a-z]([-a-z0-9]{0,46}[a-z0-9])?)?$")]
Quantity = Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
Text = Annotated[str, Meta(min_length=1)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A part of the values: what nobody knows is refused."""


class Image(Part, frozen=True):
    registry: Annotated[
        str, Meta(description="Put before the names of all images, with a slash; none: where the nodes look.")
    ] = ""
    tag: Annotated[str, Meta(description="Of Shunter's images; the chart's appVersion if empty.")] = ""
    pull_policy: Annotated[Literal["Always", "IfNotPresent", "Never"], Meta(description="When nodes ask for images.")] = (
        "IfNotPresent"
    )
    pull_secrets: Annotated[tuple[Text, ...], Meta(description="Names of Secrets with the registry's credentials.")] = ()


class Pool(Part, frozen=True):
    create: Annotated[bool, Meta(description="Make the InferencePool; false: there is one of that name.")] = True
    name: Annotated[PoolName, Meta(description="Its name; the release's if empty. Everything here is called after it.")] = ""
    selector: Annotated[
        dict[str, str], Meta(description="Labels of the model servers' Pods; all must be there. Required to create a pool.")
    ] = field(default_factory=dict)
    target_ports: Annotated[
        tuple[Port, ...],
        Meta(min_length=1, max_length=8, description="Where each Pod serves; several for data-parallel ranks."),
    ] = (8000,)
    app_protocol: Annotated[Literal["http", "kubernetes.io/h2c"], Meta(description="How model servers are spoken to.")] = "http"
    failure_mode: Annotated[
        Literal["FailOpen", "FailClose"], Meta(description="Without a picker, the gateway chooses itself, or refuses.")
    ] = "FailOpen"


class Objective(Part, frozen=True):
    name: Annotated[Text, Meta(description="Of the InferenceObjective, which requests name in x-gateway-inference-objective.")]
    priority: Annotated[int, Meta(ge=-(1 << 31), lt=1 << 31, description="The higher the sooner; below 0 may be shed.")] = 0


class Requests(Part, frozen=True):
    cpu: Quantity
    memory: Quantity


class Bound(Part, frozen=True):
    """Without a limit of CPU, which would stop a picker in mid-pick."""

    memory: Quantity


class Resources(Part, frozen=True):
    requests: Requests
    limits: Bound


class Log(Part, frozen=True):
    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="What is logged at least.")] = "info"
    format: Annotated[Literal["text", "json"], Meta(description="A line of the log: for people, or for programs.")] = "json"
    decisions: Annotated[
        float, Meta(ge=0, le=1, description="The part of the picker's decisions that has a line, with how the request went.")
    ] = 0


class Tracing(Part, frozen=True):
    endpoint: Annotated[
        str, Meta(description="A collector's OTLP over HTTP, such as http://otel-collector.observability:4318; none: no spans.")
    ] = ""
    sample_percent: Annotated[
        float, Meta(ge=0, le=100, description="Of requests that neither the client nor the gateway has decided of.")
    ] = 10


class Picker(Part, frozen=True):
    replicas: Annotated[int, Meta(ge=0, le=100, description="Pods, all of them active, each complete on its own.")] = 2
    workers: Annotated[int, Meta(ge=1, le=64, description="Processes in each that answer, behind one port.")] = 1
    config: Annotated[dict[str, Any], Meta(description="The EndpointPickerConfig; the picker's default if empty.")] = field(
        default_factory=dict
    )
    existing_config_map: Annotated[str, Meta(description="Name of a ConfigMap with it instead, under the key picker.yaml.")] = (
        ""
    )
    body_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 30, description="Largest request body; as the gateway's limit.")] = (
        32 << 20
    )
    buffered_bytes: Annotated[int, Meta(ge=1 << 20, description="Unfinished bodies altogether, in each worker.")] = 256 << 20
    drain_seconds: Annotated[int, Meta(ge=0, le=3600, description="For requests under way when a Pod is to go.")] = 30
    records: Annotated[bool, Meta(description="Take Envoy's records of requests, on port 24224.")] = False
    tracing: Annotated[Tracing, Meta(description="Where traces go (docs/tracing.md).")] = Tracing()
    service_levels: Annotated[
        tuple[LevelSpec, ...], Meta(description="What is fast enough for whom: name, target, ttft … (docs/slo.md).")
    ] = ()
    extra_args: Annotated[tuple[str, ...], Meta(description="Further options of shunter-picker run.")] = ()
    extra_env: Annotated[tuple[dict[str, Any], ...], Meta(description="Further environment, as in a container: OTEL_…")] = ()
    resources: Annotated[Resources, Meta(description="A request of 1 KB takes 0.4 ms of CPU, at 500 a second.")] = Resources(
        Requests("500m", "256Mi"), Bound("1Gi")
    )


class Scraper(Part, frozen=True):
    write_status: Annotated[
        bool, Meta(description="Tell objectives and rewrites whether they count; of several scrapers a lease's holder does.")
    ] = True
    extra_args: Annotated[tuple[str, ...], Meta(description="Further options of shunter-scraper run.")] = ()
    resources: Annotated[Resources, Meta(description="100 model servers at 20 scrapes a second take 0.2 CPUs.")] = Resources(
        Requests("100m", "128Mi"), Bound("256Mi")
    )


class Adapters(Part, frozen=True):
    enabled: Annotated[bool, Meta(description="Run shunter rollout sync for the pool, in a Pod of its own.")] = False
    config: Annotated[
        dict[str, Any],
        Meta(description="Which there should be, a vLLMLoRAConfig as in docs/rollouts.md. Taken up when changed."),
    ] = field(default_factory=dict)
    existing_config_map: Annotated[
        str, Meta(description="Name of a ConfigMap with it instead, under the key configmap.yaml.")
    ] = ""
    prune: Annotated[bool, Meta(description="Unload adapters that are not named.")] = False
    token_secret: Annotated[
        str, Meta(description="Name of a Secret with the model servers' bearer token, under the key token.")
    ] = ""
    extra_args: Annotated[tuple[str, ...], Meta(description="Further options of shunter-rollout sync.")] = ()
    resources: Annotated[Resources, Meta(description="It waits most of the time.")] = Resources(
        Requests("20m", "96Mi"), Bound("256Mi")
    )


class CertManager(Part, frozen=True):
    issuer: Annotated[
        str, Meta(description="Name of an issuer of cert-manager's, which then makes the Secret and renews it.")
    ] = ""
    kind: Annotated[Literal["Issuer", "ClusterIssuer"], Meta(description="Its kind.")] = "ClusterIssuer"


class Tls(Part, frozen=True):
    enabled: Annotated[bool, Meta(description="Whether gateways speak TLS to the picker, as they do to the reference's.")] = (
        True
    )
    secret: Annotated[
        str,
        Meta(
            description="A kubernetes.io/tls Secret; if empty, and no issuer, each Pod certifies itself. Renewals are taken up."
        ),
    ] = ""
    cert_manager: Annotated[CertManager, Meta(description="Who issues certificates, if cert-manager does.")] = CertManager()


class Sharing(Part, frozen=True):
    url: Annotated[str, Meta(description="Of a Redis or Valkey, redis://…; none: each picker knows of its own requests.")] = ""
    secret: Annotated[
        str, Meta(description="Name of a Secret with it instead, under the key url: for one with a password.")
    ] = ""


class Autoscaling(Part, frozen=True):
    enabled: Annotated[bool, Meta(description="Let the load say how many pickers there are.")] = False
    kind: Annotated[Literal["hpa", "keda"], Meta(description="By a HorizontalPodAutoscaler, or by KEDA's ScaledObject.")] = (
        "hpa"
    )
    min_replicas: Annotated[int, Meta(ge=1, description="At least.")] = 2
    max_replicas: Annotated[int, Meta(ge=1, description="At most.")] = 8
    cpu_percent: Annotated[int, Meta(ge=1, le=1000, description="Of the CPU that containers request, on average.")] = 70
    triggers: Annotated[tuple[dict[str, Any], ...], Meta(description="Further triggers of the ScaledObject.")] = ()


class NetworkPolicy(Part, frozen=True):
    enabled: Annotated[bool, Meta(description="Let nobody but these reach the picker.")] = False
    gateways: Annotated[
        tuple[dict[str, Any], ...],
        Meta(description="NetworkPolicyPeers that may ask it, and for its health; none: anybody in the cluster."),
    ] = ()
    monitoring: Annotated[
        tuple[dict[str, Any], ...], Meta(description="NetworkPolicyPeers that may read metrics and pages; none: anybody.")
    ] = ()


class Monitoring(Part, frozen=True):
    pod_monitor: Annotated[bool, Meta(description="Make a PodMonitor for Prometheus' operator.")] = False
    interval_seconds: Annotated[int, Meta(ge=1, description="Between its scrapes.")] = 15
    rules: Annotated[bool, Meta(description="Make a PrometheusRule of the alerts in deploy/observability/rules.yaml.")] = False
    labels: Annotated[dict[str, str], Meta(description="By which the operator finds both.")] = field(default_factory=dict)


class Gateway(Part, frozen=True):
    enabled: Annotated[bool, Meta(description="Run an Envoy in front, without any gateway's controller.")] = False
    replicas: Annotated[int, Meta(ge=0, le=100, description="Pods of it.")] = 1
    image: Annotated[Text, Meta(description="Envoy's image.")] = f"envoyproxy/envoy:distroless-v{envoy.VERSION}"
    port: Annotated[Port, Meta(description="Of its Service.")] = 80
    service_type: Annotated[Literal["ClusterIP", "NodePort", "LoadBalancer"], Meta(description="Of its Service.")] = "ClusterIP"
    profile: Annotated[
        Literal["lean", "usage", "strict", "headers", "full"], Meta(description="How Envoy and picker share the work.")
    ] = "lean"
    intent: Annotated[
        dict[str, Any], Meta(description="Further fields of the intent (docs/reference/intent.md): limits, security, routes …")
    ] = field(default_factory=dict)
    resources: Annotated[Resources, Meta(description="Of Envoy.")] = Resources(Requests("250m", "128Mi"), Bound("1Gi"))


class Values(Part, frozen=True):
    """All that a release may be told. One release is one pool."""

    pool: Annotated[Pool, Meta(description="The model servers.")] = Pool()
    objectives: Annotated[tuple[Objective, ...], Meta(description="Priorities that requests may name.")] = ()
    image: Annotated[
        Image, Meta(description="Where images come from: shunter-picker, shunter-scraper, shunter-envoyconf, shunter-rollout.")
    ] = Image()
    picker: Annotated[Picker, Meta(description="Who chooses.")] = Picker()
    scraper: Annotated[Scraper, Meta(description="Who looks at the cluster and at the model servers' metrics.")] = Scraper()
    adapters: Annotated[Adapters, Meta(description="Keep LoRA adapters loaded on all model servers of the pool.")] = Adapters()
    tls: Annotated[Tls, Meta(description="Between gateways and the picker.")] = Tls()
    sharing: Annotated[Sharing, Meta(description="By what pickers tell each other what they have sent where.")] = Sharing()
    log: Annotated[Log, Meta(description="Of picker and scraper.")] = Log()
    autoscaling: Annotated[Autoscaling, Meta(description="Of the pickers, by their CPU.")] = Autoscaling()
    network_policy: Annotated[NetworkPolicy, Meta(description="Who may connect to the picker.")] = NetworkPolicy()
    monitoring: Annotated[Monitoring, Meta(description="Prometheus.")] = Monitoring()
    gateway: Annotated[Gateway, Meta(description="An Envoy that needs nobody else.")] = Gateway()
    cluster_domain: Annotated[Text, Meta(description="Domain of the cluster's Services.")] = "cluster.local"
    pod_labels: Annotated[dict[str, str], Meta(description="Further labels of the pickers' Pods.")] = field(
        default_factory=dict
    )
    pod_annotations: Annotated[dict[str, str], Meta(description="Further annotations of them.")] = field(default_factory=dict)
    node_selector: Annotated[dict[str, str], Meta(description="Where pickers, and who keeps adapters, may run.")] = field(
        default_factory=dict
    )
    tolerations: Annotated[tuple[dict[str, Any], ...], Meta(description="Which taints they bear.")] = ()
    affinity: Annotated[dict[str, Any], Meta(description="With whom they like to be.")] = field(default_factory=dict)
    priority_class_name: Annotated[str, Meta(description="Of their Pods.")] = ""


def files() -> dict[Path, str]:
    """Return what is generated, by its place."""
    schema = msgspec.json.schema(Values, ref_template="#/$defs/{name}")
    # Helm itself puts these beside a chart's values when it is part of another.
    definition = schema["$defs"]["Values"]
    definition["properties"] |= {"global": {"type": "object"}, "enabled": {"type": "boolean"}}
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", **schema}
    # What the scraper must be allowed is the scraper's to say; names are the release's.
    rules = {
        name: next(each["rules"] for each in rbac("", "", "", [""], write_status=status) if each["kind"] == "Role")
        for name, status in (("reads", False), ("reads-and-writes-status", True))
    }
    lease = next(each["rules"] for each in rbac("", "", "", [], write_status=True) if each["kind"] == "Role")
    return {
        CHART / "values.yaml": f"# Generated {GENERATED}.\n" + "".join(_lines(Values, 0)),
        CHART / "values.schema.json": json.dumps(schema, indent=1) + "\n",
        CHART / "files" / "picker.yaml": read_builtin("default"),
        # Helm reads nothing outside of a chart.
        CHART / "files" / "rules.yaml": (ROOT / "deploy" / "observability" / "rules.yaml").read_text(),
        CHART / "files" / "rights.yaml": f"# Generated {GENERATED}.\n"
        + yaml.safe_dump(rules | {"lease": lease}, sort_keys=False),
        ROOT / "docs" / "reference" / "chart.md": _page(),
    }


def _lines(part: type[Part], depth: int) -> Iterator[str]:
    for name, about, default in _fields(part):
        yield f"{'  ' * depth}# {about}\n"
        if isinstance(default, Part) and not isinstance(default, Resources):
            yield f"{'  ' * depth}{name}:\n"
            yield from _lines(type(default), depth + 1)
        else:
            yield f"{'  ' * depth}{name}: {_shown(default)}\n"


def _page() -> str:
    def rows(part: type[Part], prefix: str) -> Iterator[str]:
        for name, about, default in _fields(part):
            if isinstance(default, Part) and not isinstance(default, Resources):
                yield f"| **`{prefix}{name}`** | | {about} |\n"
                yield from rows(type(default), f"{prefix}{name}.")
            else:
                yield f"| `{prefix}{name}` | `{_shown(default)}` | {about} |\n"

    return (
        "<!-- Generated by hack/gen_chart.py (make docs). Do not edit. -->\n\n# Values of the Helm chart\n\n"
        "A value that is not here, or of the wrong kind, is refused by `helm` before anything is changed.\n\n"
        "| value | default | meaning |\n|---|---|---|\n" + "".join(rows(Values, ""))
    )


def _fields(part: type[Part]) -> Iterator[tuple[str, str, Any]]:
    properties = msgspec.json.schema(part)["$defs"][part.__name__]["properties"]
    default = part()
    for each in msgspec.structs.fields(part):
        yield each.encode_name, properties[each.encode_name]["description"], getattr(default, each.name)


def _shown(default: Any) -> str:
    return json.dumps(msgspec.to_builtins(default), ensure_ascii=False)


def main() -> None:
    """Write the files, or compare them."""
    wrong = {path: text for path, text in files().items() if not path.exists() or path.read_text() != text}
    if "--check" in sys.argv:
        sys.exit(f"not what the code says: {', '.join(path.name for path in wrong)}; run: make docs" if wrong else 0)
    for path, text in wrong.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
