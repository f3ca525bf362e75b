"""Kubernetes objects of an exam: a model server as a Pod with a Service, and an exam as a Job, as plain values.

A bare Pod and not a Deployment, because the exam ends the server to see how it ends, and a Deployment would bring up another
one at once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from shunter.conformance.core.image import SHM_BYTES, Image

__all__ = ["FILES", "OWNER_NAME", "OWNER_UID", "Resource", "exam_job", "server_objects"]

Resource = dict[str, Any]

# By these a server that an exam has started is found again, and removed by hand if need be.
LABELS = {"app.kubernetes.io/managed-by": "shunter-conformance"}
NAME_LABEL = "app.kubernetes.io/instance"

# An exam of all cases takes twenty minutes, and a big model as long to load; what runs longer was forgotten.
LIFETIME_S = 2 * 60 * 60

# For somebody to fetch the report.
JOB_STAYS_S = 24 * 60 * 60

# The variables by which an exam in a cluster knows its own Pod, which owns the server that it starts.
OWNER_NAME = "SHUNTER_EXAM_POD_NAME"
OWNER_UID = "SHUNTER_EXAM_POD_UID"

# Where the Job finds its waivers and leaves its report until it has printed it.
FILES = "/exam"
REPORT = "/tmp/run.ndjson"  # noqa: S108 – of a Pod of its own

# What an exam that starts a server does with Kubernetes, and nothing else.
RULES = (
    {"apiGroups": [""], "resources": ["pods", "services"], "verbs": ["create", "get", "delete"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create", "get"]},
)


def server_objects(image: Image, name: str, grace_s: float, owner: tuple[str, str] | None = None) -> tuple[Resource, Resource]:
    """Return a model server's Pod, and the Service that keeps one address in front of it.

    The Service leads to the Pod also when it is not ready or on its way out: the exam asks then, too. `owner` is the name and
    uid of the Pod with whose end these objects go.
    """
    container: Resource = {
        "name": "server",
        "image": image.name,
        "ports": [{"name": "http", "containerPort": image.port}],
        "readinessProbe": {"httpGet": {"path": image.health_path, "port": "http"}, "periodSeconds": 1, "timeoutSeconds": 5},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108 – the name that shared memory has
    }
    if image.arguments:
        container["args"] = [*image.arguments]
    if image.environment:
        container["env"] = [{"name": key, "value": value} for key, value in image.environment.items()]
    if image.gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": image.gpus}}
    pod = _object("Pod", name, owner) | {
        "spec": {
            "containers": [container],
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": round(grace_s),
            "activeDeadlineSeconds": LIFETIME_S,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,  # a Service named vllm would set VLLM_PORT, which vLLM takes for its own
            "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(SHM_BYTES)}}],
        }
    }
    service = _object("Service", name, owner) | {
        "spec": {
            "selector": {NAME_LABEL: name},
            "ports": [{"name": "http", "port": image.port, "targetPort": "http"}],
            "publishNotReadyAddresses": True,
        }
    }
    return pod, service


def exam_job(
    name: str, image: str, arguments: Sequence[str], *, files: Mapping[str, str], starts_servers: bool, secret: str = ""
) -> tuple[Resource, ...]:
    """Return `run` with these arguments as a Job, with its files, and with the rights to start a server if it does.

    The keys of the Secret are variables of its environment, which headers may name.

    The Job prints what the exam prints, and then its report as NDJSON, every line of which begins with a brace. Its Pod's
    termination message is the end of that, if the exam ends badly.
    """
    script = f'shunter-conformance "$@"; code=$?; cat {REPORT}; exit $code'
    container: Resource = {
        "name": "exam",
        "image": image,
        "command": ["sh", "-c", script, "exam", "run", "--report", REPORT, *arguments],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "files", "mountPath": FILES, "readOnly": True}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "env": [
            {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": path}}}
            for variable, path in ((OWNER_NAME, "metadata.name"), (OWNER_UID, "metadata.uid"))
        ],
    }
    if secret:
        container["envFrom"] = [{"secretRef": {"name": secret}}]
    spec: Resource = {
        "containers": [container],
        "restartPolicy": "Never",
        "automountServiceAccountToken": starts_servers,
        "volumes": [{"name": "files", "configMap": {"name": name}}, {"name": "tmp", "emptyDir": {}}],
    }
    rights: tuple[Resource, ...] = ()
    if starts_servers:
        spec["serviceAccountName"] = name
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
        rights = (
            _object("ServiceAccount", name),
            _object("Role", name) | {"rules": [*RULES]},
            _object("RoleBinding", name) | {"roleRef": role, "subjects": [{"kind": "ServiceAccount", "name": name}]},
        )
    job = _object("Job", name) | {
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": LIFETIME_S,
            "ttlSecondsAfterFinished": JOB_STAYS_S,
            "template": {"metadata": {"labels": LABELS | {NAME_LABEL: name}}, "spec": spec},
        }
    }
    return (*rights, _object("ConfigMap", name) | {"data": dict(files)}, job)


VERSIONS = {"Job": "batch/v1", "Role": "rbac.authorization.k8s.io/v1", "RoleBinding": "rbac.authorization.k8s.io/v1"}


def _object(kind: str, name: str, owner: tuple[str, str] | None = None) -> Resource:
    metadata: Resource = {"name": name, "labels": LABELS | {NAME_LABEL: name}}
    if owner:
        metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": "Pod", "name": owner[0], "uid": owner[1]}]
    return {"apiVersion": VERSIONS.get(kind, "v1"), "kind": kind, "metadata": metadata}
