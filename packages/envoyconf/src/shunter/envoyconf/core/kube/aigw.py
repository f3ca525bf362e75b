"""Target ``aigw``: an intent as manifests for Envoy AI Gateway, the extension of Envoy Gateway that knows InferencePools.

Tried on its release 1.0.0 with a real Envoy. It speaks TLS to pickers and trusts any certificate. A pool's cluster takes the
picker's header as the one address to connect to: a list, or an answer in metadata alone, is a 503; and a client's own header
is followed where the picker says nothing. Its Envoys keep 32 KiB of a body, and longer prompts are answered 413. So what
holds for clients is always among the manifests. Models in bodies are read by AI Gateway itself, which knows no paths then and
answers 404 to GET and to models that no route names.

Beside ``duplex`` it can ask pickers ``buffered`` (an annotation of the pool), but then it buffers answers too, and streams
come in one piece: that is none of our profiles.
"""

from collections.abc import Iterator

from shunter.envoyconf.core.intent import FailureMode, Intent, Profile
from shunter.envoyconf.core.kube.admission import counted_apart, rate_limits, security_objects, withheld
from shunter.envoyconf.core.kube.backends import backend, gateway_object
from shunter.envoyconf.core.kube.envoy_gateway import gateway_with
from shunter.envoyconf.core.kube.gateway import GATEWAY_API, http_route
from shunter.envoyconf.core.kube.inference_pool import full_only, inference_pools, pool_reference, pool_routes
from shunter.envoyconf.core.kube.install import installation
from shunter.envoyconf.core.kube.manifests import AI_GATEWAY
from shunter.envoyconf.core.kube.policies import (
    CIRCUIT_BREAKER,
    client_traffic_policy,
    envoy_proxy,
    go_duration,
    tracing_backend,
)
from shunter.envoyconf.core.kube.precedence import check_precedence
from shunter.envoyconf.core.kube.wishes import one_pool, refuse, unheeded, untold
from shunter.envoyconf.core.output import Artefact, Output, Settings
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.targets import Support
from shunter.envoyconf.errors import IntentError

__all__ = ["SUPPORT", "aigw"]

NAME = "AI Gateway"

SUPPORT: dict[Profile, Support] = full_only("AI Gateway streams requests and responses through the picker, or buffers both")

# Where AI Gateway puts the model that it read out of a body.
MODEL = "x-ai-eg-model"

# How it asks a pool's picker: its default, written out.
BODY_MODE = f"{AI_GATEWAY}/processing-body-mode"

HEEDED = {"limits.bodyBytes", "limits.idleTimeoutSeconds", "observability.accessLog", "observability.tracing"}

INSTEAD = {
    "bodyRouter": "AI Gateway reads the models itself",
    "overflow": "name the provider as an AIServiceBackend of a route of your own",
}

# The whole of a response has none: AI Gateway's own 60 s would cut long streams.
TIMEOUTS = {"request": "0s", "backendRequest": "0s"}


def aigw(intent: Intent, settings: Settings) -> Output:  # noqa: ARG001 # every maker's signature
    """Return the manifests, with those of the model servers' Services and of the pickers."""
    refuse(intent, NAME, INSTEAD)
    one_pool(intent, "AI Gateway lets a rule have one InferencePool")
    artefacts = (
        Artefact("gateway", tuple(_gateway(intent))),
        *installation(intent, by_name=False, always_tls=True, one_choice=True),
    )
    return Output(artefacts, tuple(_warnings(intent)))


def _gateway(intent: Intent) -> Iterator[Resource]:
    yield from gateway_with(envoy_proxy(intent), intent)
    yield client_traffic_policy(intent)
    yield _traffic_policy(intent)
    yield from security_objects(intent)
    for pool in inference_pools(intent):
        pool["metadata"]["annotations"] = {BODY_MODE: "duplex"}
        yield pool
    yield from _routes(intent)
    if tracing := intent.observability.tracing:
        yield backend(tracing_backend(intent), intent, "observability.tracing.collector", [tracing.collector], h2c=True)


def _traffic_policy(intent: Intent) -> Resource:
    """Return what holds for all routes: Envoy's 1024 requests at once are too few, and rate limits if there are any."""
    gateways = [{"group": GATEWAY_API, "kind": "Gateway", "name": intent.kubernetes.gateway}]
    spec = {"targetRefs": gateways, "circuitBreaker": CIRCUIT_BREAKER, **rate_limits(intent)}
    return gateway_object("BackendTrafficPolicy", intent.kubernetes.gateway, intent, spec)


def _routes(intent: Intent) -> list[Resource]:
    by_model = [bool(route.models) and intent.model_header is None for route in intent.effective_routes]
    if not any(by_model):
        filters = withheld(intent)
        return pool_routes(intent, timeouts=TIMEOUTS, **({"filters": filters} if filters else {}))
    if not all(by_model):
        index = by_model.index(False)
        raise IntentError(
            f"routes[{index}].models are missing: where AI Gateway goes by the model it answers 404 to models that no route "
            "names; name them, or give modelHeader",
        )
    check_precedence(intent)
    return [_model_route(intent, index) for index in range(len(intent.effective_routes))]


def _model_route(intent: Intent, index: int) -> Resource:
    """Return the AIGatewayRoute of a route by model: an HTTPRoute whose rules match headers alone."""
    route = intent.effective_routes[index]
    if route.prefix != "/":
        raise IntentError(
            f"routes[{index}].prefix {route.prefix!r}: where AI Gateway goes by the model it knows no paths; use /"
        )
    idle = go_duration(intent.limits.idle_timeout_seconds)
    backends = [pool_reference(route.shares[0].name)]
    resource = http_route(intent, index, backends, header=MODEL, timeouts=TIMEOUTS, streamIdleTimeout=idle)
    for rule in resource["spec"]["rules"]:
        rule["matches"] = [{"headers": match["headers"]} for match in rule["matches"]]
    return resource | {"apiVersion": f"{AI_GATEWAY}/v1beta1", "kind": "AIGatewayRoute"}


def _warnings(intent: Intent) -> Iterator[str]:
    for index, pool in enumerate(intent.pools):
        if pool.picker.failure_mode is FailureMode.OPEN:
            yield (
                f"pools[{index}].picker.failureMode: AI Gateway 1.0 fails requests whose picker does not answer (500), "
                "FailOpen or not"
            )
    yield from counted_apart(intent)
    if intent.security.jwt and any(route.models for route in intent.routes):
        yield "security.jwt: an AIGatewayRoute cannot keep clients' tokens from the model servers"
    if intent.observability.tracing:
        yield "observability.tracing: Envoy Gateway heeds a Backend only with extensionApis.enableBackend: true"
    yield from unheeded(intent, NAME, HEEDED)
    yield from untold(intent, NAME, always_tls=True, one_choice=True)
