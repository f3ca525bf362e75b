"""Where the parts of a gateway are: what the intent says, and where it says nothing, the Services that the manifests make.

In Kubernetes a pool ``llama`` has these objects, all in one namespace, under the same names from every target:

=================  ==================================================================================================
``llama``          the InferencePool; a headless Service of the model servers, which Envoys outside its API look up
``llama-picker``   Deployment, ServiceAccount, ConfigMap, PodDisruptionBudget and Service of the picker
                   (ports grpc 9002, health 9003, metrics 9090; records 24224 if the intent names a collector)
=================  ==================================================================================================
"""

from shunter.envoyconf.core.intent import Kubernetes, Pool

__all__ = [
    "HEALTH_PORT",
    "METRICS_PORT",
    "PICKER_PORT",
    "RECORDS_PORT",
    "endpoint_authorities",
    "picker_authorities",
    "picker_service",
    "service_host",
]

# Those of the reference picker, where it has them.
PICKER_PORT = 9002
HEALTH_PORT = 9003
METRICS_PORT = 9090
RECORDS_PORT = 24224


def picker_service(pool: Pool) -> str:
    """Return the name of the picker's Service and of all that belongs to it."""
    return f"{pool.name}-picker"


def service_host(name: str, kubernetes: Kubernetes) -> str:
    """Return the DNS name of a Service."""
    return f"{name}.{kubernetes.namespace}.svc.{kubernetes.cluster_domain}"


def endpoint_authorities(pool: Pool, kubernetes: Kubernetes) -> tuple[str, ...]:
    """Return host:port of the model servers: as listed, or the headless Service of the selector's Pods, once for each port."""
    return pool.endpoints or tuple(f"{service_host(pool.name, kubernetes)}:{port}" for port in pool.target_ports)


def picker_authorities(pool: Pool, kubernetes: Kubernetes) -> tuple[str, ...]:
    """Return host:port or unix:PATH of the picker's workers: as listed, or the picker's Service."""
    return pool.picker.addresses or (f"{service_host(picker_service(pool), kubernetes)}:{PICKER_PORT}",)
