"""Target ``gke``: an intent as manifests for GKE's Gateway controller, which programs Google's load balancers.

They check model servers by themselves, and by default on the path ``/``, which engines answer 404; and they end every
response after 30 s. So each pool has a HealthCheckPolicy and a GCPBackendPolicy. Timeouts in an HTTPRoute are not supported
there. Not tried: the load balancers are Google's. Schemas and rules of the policies are checked on the CRDs that GKE
publishes, one of which is that a health check with a port says USE_FIXED_PORT (manifests that are passed around do not).
"""

import math
from collections.abc import Iterator

from shunter.envoyconf.core.intent import Intent, Pool, Profile
from shunter.envoyconf.core.kube.gateway import GATEWAY_API, gateway, kubernetes_object
from shunter.envoyconf.core.kube.inference_pool import full_only, inference_pools, pool_reference, pool_routes, service_of
from shunter.envoyconf.core.kube.install import installation
from shunter.envoyconf.core.kube.manifests import GKE
from shunter.envoyconf.core.kube.wishes import refuse, unheeded, untold
from shunter.envoyconf.core.output import Artefact, Output, Settings
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.targets import Support
from shunter.envoyconf.errors import IntentError

__all__ = ["CLASS", "SUPPORT", "gke"]

NAME = "GKE"

# A regional load balancer that is reached from the internet; gke-l7-rilb is the one inside a network.
CLASS = "gke-l7-regional-external-managed"

SUPPORT: dict[Profile, Support] = full_only("GKE's load balancers stream requests and responses through the picker")

HEEDED = {"limits.bodyBytes", "limits.idleTimeoutSeconds", "observability.accessLog"}

INSTEAD = {
    "security": "attach a GCPBackendPolicy with securityPolicy (Cloud Armor) or iap to the pools",
    "overflow": "take an Envoy of your own in front",
}

# Where vLLM, SGLang, TGI, llama.cpp and trtllm-serve answer 200 once they serve; Triton does not.
HEALTH_PATH = "/health"

LAST_PORT = 65535


def gke(intent: Intent, settings: Settings) -> Output:  # noqa: ARG001 # every maker's signature
    """Return the manifests, with those of the model servers' Services and of the pickers."""
    refuse(intent, NAME, INSTEAD)
    documents = [gateway(intent, CLASS), *inference_pools(intent), *pool_routes(intent)]
    for pool in intent.pools:
        documents += [_health_check(intent, pool), _backend_policy(intent, pool)]
    documents += _body_routing(intent)
    artefacts = (Artefact("gateway", tuple(documents)), *installation(intent, by_name=False, always_tls=True, one_choice=True))
    return Output(artefacts, tuple(_warnings(intent)))


def _warnings(intent: Intent) -> Iterator[str]:
    seconds = math.ceil(intent.limits.idle_timeout_seconds)
    yield f"limits.idleTimeoutSeconds: GKE counts from a request's begin: a stream that takes longer than {seconds} s is cut"
    if intent.observability.access_log not in ("stdout", "none"):
        yield f"observability.accessLog: {NAME} writes no file, but logs to Cloud Logging"
    yield from unheeded(intent, NAME, HEEDED)
    yield from untold(intent, NAME, always_tls=True, one_choice=True)


def _health_check(intent: Intent, pool: Pool) -> Resource:
    check = {"requestPath": HEALTH_PATH, "portSpecification": "USE_FIXED_PORT", "port": pool.target_ports[0]}
    default = {"config": {"type": "HTTP", "httpHealthCheck": check}}
    return _policy(intent, "HealthCheckPolicy", pool.name, {"targetRef": pool_reference(pool.name), "default": default})


def _backend_policy(intent: Intent, pool: Pool) -> Resource:
    logged = intent.observability.access_log != "none"
    default = {"timeoutSec": math.ceil(intent.limits.idle_timeout_seconds), "logging": {"enabled": logged}}
    return _policy(intent, "GCPBackendPolicy", pool.name, {"targetRef": pool_reference(pool.name), "default": default})


def _body_routing(intent: Intent) -> list[Resource]:
    """Return who names the models of requests before routes are matched, and how GKE sees that it lives.

    Its health port is the one that follows the port for requests, as it is by default.
    """
    if intent.body_router is None:
        return []
    service, port = service_of(intent, "bodyRouter.addresses", intent.body_router.addresses)
    if port == LAST_PORT:
        raise IntentError(f"bodyRouter.addresses[0]: GKE asks the port after {port} for its health; take a port below")
    extension = {
        "name": "body-router",
        "authority": service,
        "timeout": f"{math.ceil(intent.limits.pick_timeout_seconds)}s",
        "supportedEvents": ["RequestHeaders", "RequestBody", "RequestTrailers"],
        "requestBodySendMode": "FullDuplexStreamed",
        "backendRef": {"group": "", "kind": "Service", "name": service, "port": port},
    }
    chains = [{"name": "body-router", "extensions": [extension]}]
    targets = [{"group": GATEWAY_API, "kind": "Gateway", "name": intent.kubernetes.gateway}]
    check = {"portSpecification": "USE_FIXED_PORT", "port": port + 1}
    health = {"config": {"type": "GRPC", "grpcHealthCheck": check}}
    target = {"group": "", "kind": "Service", "name": service}
    return [
        _policy(intent, "GCPRoutingExtension", service, {"targetRefs": targets, "extensionChains": chains}),
        _policy(intent, "HealthCheckPolicy", service, {"targetRef": target, "default": health}),
    ]


def _policy(intent: Intent, kind: str, name: str, spec: Resource) -> Resource:
    return kubernetes_object(f"{GKE}/v1", kind, name, intent.kubernetes.namespace, spec=spec)
