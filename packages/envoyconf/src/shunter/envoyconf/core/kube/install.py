"""The picker of each pool, ready to be applied: a Deployment with the scraper in the same Pod, and all that belongs to it.

::

    ConfigMap <pool>-picker ── endpoints.yaml ──> scraper ── snapshots ──> picker <── gateway (grpc), probes (health)
                           └── picker.yaml ─────────────────────────────────^ └────── admin pages, Prometheus (metrics)

Both processes meet in memory that belongs to the Pod. The scraper is a sidecar in Kubernetes' sense (an init container that
is always restarted, Kubernetes 1.29): it is there before the picker and stays until the picker has answered its last request.
Nothing talks to the Kubernetes API: the scraper looks up the Pods of the pool by the name of a headless Service, which knows
those that are ready. Everything keeps the Pod Security Standard "restricted".
"""

import re
from collections.abc import Iterator
from typing import Any

from shunter.envoyconf.core.intent import Intent, Pool
from shunter.envoyconf.core.kube.gateway import kubernetes_object
from shunter.envoyconf.core.kube.inference_pool import inference_pool
from shunter.envoyconf.core.kube.rewrites import rewrite_artefacts
from shunter.envoyconf.core.output import Artefact
from shunter.envoyconf.core.places import (
    HEALTH_PORT,
    METRICS_PORT,
    PICKER_PORT,
    RECORDS_PORT,
    picker_service,
    service_host,
)
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.render import HEADER, render
from shunter.envoyconf.errors import IntentError

__all__ = ["LONGEST_NAME", "check_pickers", "installation", "picker_config", "pool_service", "tls_secret"]

# A label in DNS. (Before Kubernetes 1.36 it could not begin with a digit; its API says so.)
LONGEST_NAME = 63
SERVICE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

# Where the containers find what they share and what they are told.
MEMORY = "/run/shunter"
CONFIGURATION = "/etc/shunter"
CERTIFICATE = "/etc/shunter-tls"

# The numerical user "nonroot" of common base images; any but 0 will do, the same in both containers: their files are private.
USER = 65532

# Snapshots, the workers' journals and counters: 8 MiB measured with one worker and two endpoints; a prefix index grows to
# some dozen. The memory counts as the containers' own.
MEMORY_LIMIT = "256Mi"

# The picker's default for unfinished bodies of all requests together, and what it takes beside them: measured 120 MiB for
# supervisor, collector and one worker at rest.
BUFFERED_BYTES = 256 << 20
PICKER_BYTES = 768 << 20

# What gateways need to hear that a Pod is going before it stops listening. Kubernetes tells both at the same time.
LEAVING_S = 5

# The picker's own deadline for requests under way after SIGTERM, and what the kubelet grants it for that.
DRAIN_S = 30
GRACE_S = LEAVING_S + DRAIN_S + 10


def installation(
    intent: Intent, *, by_name: bool = True, always_tls: bool = False, one_choice: bool = False
) -> tuple[Artefact, ...]:
    """Return what is to be applied beside a gateway's own objects: Services of the model servers, and pickers.

    Pools whose pickers have addresses in the intent have them already, and need no Service then unless the gateway itself
    finds model servers by that (``by_name``). ``always_tls`` is for gateways that speak TLS to a picker whatever the intent
    says. They, and an intent that trusts anybody (``tls: {}``), are shown a certificate that each Pod makes for itself;
    others, that of the Secret which `tls_secret` names. ``one_choice`` is for gateways that understand no list of endpoints.
    """
    installed = _installed(intent)
    served = [pool for pool in intent.pools if pool.selector and (by_name or pool in installed)]
    check_pickers(intent)
    for pool in installed:
        _check_inference_pool(intent, pool)
    for pool in served:
        _check_name(intent, pool, pool.name)
    services = tuple(pool_service(intent, pool) for pool in served)
    pickers = tuple(
        each
        for pool in installed
        for each in _picker(intent, pool, tls=always_tls or pool.picker.tls is not None, one_choice=one_choice)
    )
    artefacts = (Artefact("models", services), Artefact("picker", pickers))
    return tuple(artefact for artefact in artefacts if artefact.documents)


def check_pickers(intent: Intent) -> None:
    """Raise IntentError if a picker that nobody gives an address has a name that no Service can have."""
    for pool in _installed(intent):
        _check_name(intent, pool, picker_service(pool))


def _installed(intent: Intent) -> list[Pool]:
    """Return the pools whose pickers come with the manifests."""
    asked = {pool.name for pool, profile in intent.ways if profile.asks}
    return [pool for pool in intent.pools if pool.name in asked and not pool.picker.addresses]


def pool_service(intent: Intent, pool: Pool) -> Resource:
    """Return the headless Service of a pool's model servers: its DNS name stands for the Pods that are ready."""
    protocol = {"appProtocol": "kubernetes.io/h2c"} if pool.http2 else {}
    ports = [{"name": f"http-{port}", "port": port, "targetPort": port, **protocol} for port in pool.target_ports]
    return _object(intent, "v1", "Service", pool.name, spec={"clusterIP": "None", "selector": pool.selector, "ports": ports})


def picker_config(*, one_choice: bool = False) -> Resource:
    """Return the picker's built-in default, written out as the place to change it. (Without plugins it chooses blindly.)"""
    single = {"parameters": {"maxNumOfEndpoints": 1}} if one_choice else {}
    plugins = ("adapter-ready-filter", "outlier-ejection-filter", "expected-delay-scorer", "max-score-picker")
    return {
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": [{"type": plugin, **(single if plugin == "max-score-picker" else {})} for plugin in plugins],
        "schedulingProfiles": [{"name": "default", "plugins": [{"pluginRef": plugin} for plugin in plugins]}],
    }


def tls_secret(pool: Pool) -> str | None:
    """Return the name of the kubernetes.io/tls Secret with the picker's certificate, if gateways are to verify that."""
    return f"{picker_service(pool)}-tls" if pool.picker.tls is not None and pool.picker.tls.ca_file else None


def _check_inference_pool(intent: Intent, pool: Pool) -> None:
    """Raise IntentError if the picker would be asked for another pool than the one it has."""
    if pool.inference_pool not in (None, pool.name, f"{intent.kubernetes.namespace}/{pool.name}"):
        raise IntentError(
            f"pools[{intent.pools.index(pool)}].inferencePool {pool.inference_pool!r}: the picker that is installed has the "
            f"pool {pool.name} alone; leave it out, or give picker.addresses of one that has others",
        )


def _check_name(intent: Intent, pool: Pool, service: str) -> None:
    """Raise IntentError if a pool's name makes none for a Service."""
    if not SERVICE_NAME.fullmatch(service):
        longest = LONGEST_NAME - len(service) + len(pool.name)
        raise IntentError(
            f"pools[{intent.pools.index(pool)}].name {pool.name!r} must have no dots and at most {longest} characters: "
            f"{service} is a Service" + ("" if service == pool.name else "; or give picker.addresses"),
        )


def _object(intent: Intent, api_version: str, kind: str, name: str, **fields: Any) -> Resource:
    return kubernetes_object(api_version, kind, name, intent.kubernetes.namespace, **fields)


def _picker(intent: Intent, pool: Pool, *, tls: bool, one_choice: bool) -> Iterator[Resource]:
    name = picker_service(pool)
    labels = {"app.kubernetes.io/name": "shunter-picker", "app.kubernetes.io/instance": name}
    budget = {"maxUnavailable": 1, "selector": {"matchLabels": labels}}
    yield _object(intent, "v1", "ServiceAccount", name, automountServiceAccountToken=False)
    yield _object(intent, "v1", "ConfigMap", name, data=_configuration(intent, pool, one_choice=one_choice))
    yield _object(intent, "apps/v1", "Deployment", name, spec=_deployment(intent, pool, labels, tls=tls))
    yield _object(intent, "v1", "Service", name, spec={"selector": labels, "ports": _service_ports(pool, tls=tls)})
    yield _object(intent, "policy/v1", "PodDisruptionBudget", name, spec=budget)


def _configuration(intent: Intent, pool: Pool, *, one_choice: bool) -> dict[str, str]:
    """Return the files that the two processes read; both follow their changes."""
    entry = {"namespace": intent.kubernetes.namespace, "address": service_host(pool.name, intent.kubernetes), "pool": pool.name}
    endpoints = [{"name": f"{pool.name}-{port}", **entry, "port": port} for port in pool.target_ports]
    rewrites = [each for artefact in rewrite_artefacts(intent, [pool]) for each in artefact.documents]
    documents = ({"endpoints": endpoints}, inference_pool(intent, intent.pools.index(pool)), *rewrites)
    return {"endpoints.yaml": "---\n".join(map(_text, documents)), "picker.yaml": _text(picker_config(one_choice=one_choice))}


def _text(document: Resource) -> str:
    return render(document).removeprefix(HEADER)


def _deployment(intent: Intent, pool: Pool, labels: dict[str, str], *, tls: bool) -> Resource:
    name, secret = picker_service(pool), tls_secret(pool)
    mounts: list[Resource] = [{"name": "memory", "mountPath": MEMORY}, {"name": "configuration", "mountPath": CONFIGURATION}]
    volumes: list[Resource] = [
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": MEMORY_LIMIT}},
        {"name": "configuration", "configMap": {"name": name}},
    ]
    certificate: list[Resource] = [{"name": "certificate", "mountPath": CERTIFICATE}] if tls else []
    if tls:
        source: Resource = {"secret": {"secretName": secret}} if secret else {"emptyDir": {"medium": "Memory"}}
        volumes.append({"name": "certificate", **source})
    before = [_container(intent, "certificate", _certify(intent, pool), certificate)] if tls and not secret else []
    scraper = _container(intent, "scraper", _scrape(), mounts, restartPolicy="Always", resources=_resources("100m", 256 << 20))
    picker = _container(
        intent,
        "picker",
        _pick(intent, pool, tls=tls),
        [*mounts, *certificate],
        env=[{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        ports=[{"name": port["name"], "containerPort": port["port"]} for port in _service_ports(pool, tls=tls)],
        startupProbe=_probe("liveness", periodSeconds=1, failureThreshold=60),
        livenessProbe=_probe("liveness", periodSeconds=10),
        readinessProbe=_probe("readiness", periodSeconds=2, failureThreshold=1),
        lifecycle={"preStop": {"sleep": {"seconds": LEAVING_S}}},
        resources=_resources("1", PICKER_BYTES + _buffered_bytes(intent)),
    )
    spec: Resource = {
        "serviceAccountName": name,
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": labels},
            },
        ],
        "initContainers": [*before, scraper],
        "containers": [picker],
        "volumes": volumes,
    }
    return {
        "replicas": intent.kubernetes.replicas,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": spec},
    }


def _container(intent: Intent, name: str, command: list[str], mounts: list[Resource], **fields: Any) -> Resource:
    return {
        "name": name,
        "image": intent.kubernetes.image,
        "command": command,
        **fields,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }


def _certify(intent: Intent, pool: Pool) -> list[str]:
    """Return the command that makes a certificate nobody has signed, as the reference picker makes one for itself."""
    name = picker_service(pool)
    short = f"{name}.{intent.kubernetes.namespace}.svc"
    return [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-days", "3650", "-subj", "/CN=picker"),
        *("-addext", f"subjectAltName=DNS:{name},DNS:{short},DNS:{service_host(name, intent.kubernetes)}"),
        *("-keyout", f"{CERTIFICATE}/tls.key", "-out", f"{CERTIFICATE}/tls.crt"),
    ]


def _scrape() -> list[str]:
    """Return the scraper's command."""
    return ["shunter", "scraper", "run", f"--endpoints={CONFIGURATION}/endpoints.yaml", f"--snapshot={MEMORY}/snapshot"]


def _pick(intent: Intent, pool: Pool, *, tls: bool) -> list[str]:
    """Return the picker's command.

    It listens on the Pod's address, of whichever family that is; its admin pages on all, for ``kubectl port-forward``. One
    worker: what needs more goes by replicas, which gateways can tell apart.
    """
    records = [f"--collector-port={RECORDS_PORT}", "--collector-host=$(POD_IP)"] if pool.picker.collector else []
    certificate = [f"--tls-cert-file={CERTIFICATE}/tls.crt", f"--tls-key-file={CERTIFICATE}/tls.key"] if tls else []
    return [
        *("shunter", "picker", "run", f"--config={CONFIGURATION}/picker.yaml", "--watch-config"),
        *(f"--snapshot={MEMORY}/snapshot", f"--runtime={MEMORY}/picker", "--workers=1"),
        *("--host=$(POD_IP)", f"--port={PICKER_PORT}", f"--health-port={HEALTH_PORT}"),
        *("--admin-host=::", f"--admin-port={METRICS_PORT}"),
        *(f"--body-bytes={intent.limits.body_bytes}", f"--buffered-bytes={_buffered_bytes(intent)}"),
        *(f"--drain-timeout={DRAIN_S}", *records, *certificate),
    ]


def _buffered_bytes(intent: Intent) -> int:
    """Return how much of unfinished bodies the picker may hold: several of the largest."""
    return max(BUFFERED_BYTES, 4 * intent.limits.body_bytes)


def _service_ports(pool: Pool, *, tls: bool) -> list[Resource]:
    """Return the Service's ports. Istio goes by appProtocol or names, GKE takes http2 for HTTP/2 over TLS."""
    records = [{"name": "tcp-records", "port": RECORDS_PORT}] if pool.picker.collector else []
    return [
        {"name": "grpc", "port": PICKER_PORT, "appProtocol": "http2" if tls else "kubernetes.io/h2c"},
        {"name": "grpc-health", "port": HEALTH_PORT},
        {"name": "http-metrics", "port": METRICS_PORT},
        *records,
    ]


def _probe(service: str, **fields: Any) -> Resource:
    return {"grpc": {"port": HEALTH_PORT, "service": service}, **fields}


def _resources(cpu: str, memory_bytes: int) -> Resource:
    """Ask for a share of CPU without a limit, which would stop a picker in mid-pick; memory is bounded."""
    memory = f"{memory_bytes >> 20}Mi"
    return {"requests": {"cpu": cpu, "memory": "256Mi"}, "limits": {"memory": memory}}
