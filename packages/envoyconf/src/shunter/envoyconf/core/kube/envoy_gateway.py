"""Target ``envoy-gateway``: an intent as manifests for Envoy Gateway 1.9, by its own kinds alone.

===================  ============================  =======================================================================
Gateway              one                           the intent's listeners; beside it EnvoyProxy and ClientTrafficPolicy
HTTPRoute            each route                    beside it a BackendTrafficPolicy of the same name
EnvoyExtensionPolicy each pool and profile         asks the picker of the routes that lead there
Backend, Service     each pool, each picker        where they are not Services already
===================  ============================  =======================================================================
"""

import math
from collections.abc import Iterator

from shunter.envoyconf.core.intent import FailureMode, Intent, Profile, Share
from shunter.envoyconf.core.kube.admission import counted_apart, security_objects, withheld
from shunter.envoyconf.core.kube.backends import ENVOY_GATEWAY, backend, backends, pool_references
from shunter.envoyconf.core.kube.gateway import gateway, gateway_class, http_route, model_header
from shunter.envoyconf.core.kube.install import installation
from shunter.envoyconf.core.kube.policies import (
    client_traffic_policy,
    envoy_proxy,
    extension_policy,
    route_traffic_policy,
    tracing_backend,
)
from shunter.envoyconf.core.kube.precedence import check_precedence
from shunter.envoyconf.core.kube.split import divided, parts
from shunter.envoyconf.core.kube.wishes import refuse, unmounted
from shunter.envoyconf.core.names import SERVED
from shunter.envoyconf.core.output import Artefact, Output, Settings
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.targets import Means, Support
from shunter.envoyconf.core.versions import Version
from shunter.envoyconf.errors import IntentError

__all__ = ["SUPPORT", "envoy_gateway", "gateway_with"]

# Envoy Gateway brings no GatewayClass; this is what the one is called that is made if the intent names none.
CLASS = "envoy-gateway"
CONTROLLER = "gateway.envoyproxy.io/gatewayclass-controller"

# Of a backendRef's schema.
MOST_WEIGHT = 1_000_000

# Which Envoys end the stream to a picker that is sent nothing of responses when these begin.
HASTY = (Version(1, 37), Version(1, 38))

PATCHED = "take the target envoy-gateway-patch or an Envoy of your own"

NO_RECORDS = "an EnvoyProxy cannot send records, and without them nobody would learn"

SUPPORT: dict[Profile, Support] = {
    Profile.LEAN: Support(
        Means.NATIVE,
        "the end of a request ends the picker's stream on Envoy 1.39 and newer; there are no records of it, so the picker "
        "knows loads and cached prefixes, but takes every endpoint for as fast as the others",
    ),
    Profile.USAGE: Support(Means.IMPOSSIBLE, f"{NO_RECORDS} of tokens", Profile.LEAN),
    Profile.STRICT: Support(
        Means.IMPOSSIBLE,
        f"{NO_RECORDS} of a request's end; take lean with failureMode FailClose, where a picker that dies takes the requests "
        "with it that it was asked about",
        Profile.LEAN,
    ),
    Profile.HEADERS: Support(
        Means.IMPOSSIBLE, f"{NO_RECORDS} of a request's end, nor is the picker told who served", Profile.FULL
    ),
    Profile.FULL: Support(
        Means.NATIVE, "with failureMode FailClose only; the picker sees every byte, but is not told in metadata who served"
    ),
    Profile.NATIVE: Support(
        Means.NATIVE, "by header or cookie, with Maglev, whose load is not bounded; bodies are not read, weights are fixed"
    ),
}


def envoy_gateway(intent: Intent, settings: Settings) -> Output:
    """Return the manifests, with those of the model servers' Services and of the pickers."""
    refuse(intent, "Envoy Gateway", {"bodyRouter": PATCHED, "overflow": PATCHED})
    if intent.reads_model:
        index = next(index for index, route in enumerate(intent.routes) if route.by_model)
        raise IntentError(
            f"routes[{index}].models: Envoy Gateway does not read bodies; {PATCHED}, or give modelHeader if clients name it "
            "in a header"
        )
    return Output((Artefact("gateway", tuple(_manifests(intent))), *installation(intent)), tuple(_warnings(intent, settings)))


def _manifests(intent: Intent) -> Iterator[Resource]:
    """Yield what makes the Gateway."""
    _check_pickers(intent)
    check_precedence(intent)
    yield from gateway_with(envoy_proxy(intent), intent)
    yield client_traffic_policy(intent)
    yield from security_objects(intent)
    filters = [*withheld(intent), *([_tell_served()] if intent.observability.served_header else ())]
    fields: Resource = {"filters": filters} if filters else {}
    for index in range(len(intent.effective_routes)):
        for part in parts(intent, index):
            refs = list(_references(intent, part.shares))
            timeouts = {"request": "0s", "backendRequest": "0s"}
            yield http_route(intent, index, refs, header=model_header(intent), part=part, timeouts=timeouts, **fields)
            yield route_traffic_policy(intent, index, part)
    for pool, profile in intent.ways:
        if profile.asks:
            yield extension_policy(intent, pool, profile)
    yield from backends(intent)
    if tracing := intent.observability.tracing:
        yield backend(tracing_backend(intent), intent, "observability.tracing.collector", [tracing.collector], h2c=True)


def gateway_with(proxy: Resource, intent: Intent) -> Iterator[Resource]:
    """Yield the Gateway whose Envoys are told at start what an EnvoyProxy says, and the GatewayClass unless there is one."""
    if intent.kubernetes.gateway_class is None:
        yield gateway_class(CLASS, CONTROLLER)
    yield proxy
    parameters = {"group": ENVOY_GATEWAY, "kind": "EnvoyProxy", "name": proxy["metadata"]["name"]}
    yield gateway(intent, CLASS, infrastructure={"parametersRef": parameters})


def _warnings(intent: Intent, settings: Settings) -> Iterator[str]:
    """Yield what is otherwise than the intent has it elsewhere."""
    if settings.envoy_version in HASTY and any(profile is Profile.LEAN for _, profile in intent.ways):
        yield (
            f"profile lean: Envoy {settings.envoy_version} ends the picker's stream when the response begins, and the request "
            "is taken for done; Envoy Gateway 1.9 starts 1.39, which does not"
        )
    if any(document["kind"] == "Backend" for document in backends(intent)) or intent.observability.tracing:
        yield "Backends: Envoy Gateway heeds them only with extensionApis.enableBackend: true in its configuration"
    if intent.admin:
        yield "admin: Envoy Gateway's Envoys have an admin interface of its own, on loopback"
    if intent.limits.queue_seconds:
        yield (
            "limits.queueSeconds: Envoy Gateway has one time limit for a picker, which is raised to this; one that hangs holds "
            "requests for as long"
        )
    for index, pool in enumerate(intent.pools):
        if pool.picker.collector:
            yield f"pools[{index}].picker.collector: {NO_RECORDS}; the target envoy-gateway-patch has them sent"
    for index, route in enumerate(intent.effective_routes):
        field, affinity = f"routes[{index}]", route.affinity
        if divided(intent, route):
            yield f"{field}.pools: requests are divided by their x-request-id, which therefore is always Envoy's own"
        if not intent.profile_of(route).asks:
            if affinity.header and affinity.cookie:
                yield f"{field}.affinity.cookie: Envoy Gateway looks at one thing only, the header {affinity.header}"
            if affinity.body:
                yield f"{field}.affinity.body: Envoy Gateway reads no bodies; requests without the header or cookie go anywhere"
    yield from unmounted(intent)
    yield from counted_apart(intent)


def _references(intent: Intent, shares: tuple[Share, ...]) -> Iterator[Resource]:
    """Yield what a rule leads to. A pool's weight is divided among its ports, each of which is a reference."""
    pools = {pool.name: pool for pool in intent.pools}
    found = [pool_references(pools[share.name]) for share in shares]
    whole = math.lcm(*map(len, found))
    weights = [share.weight * whole // len(each) for share, each in zip(shares, found, strict=True)]
    too_heavy = max(1, max(weights) / MOST_WEIGHT)
    for weight, references in zip(weights, found, strict=True):
        for reference in references:
            yield reference | ({"weight": max(1, int(weight / too_heavy))} if len(shares) > 1 else {})


def _tell_served() -> Resource:
    header = {"name": SERVED, "value": "%UPSTREAM_HOST%"}
    return {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [header]}}


def _check_pickers(intent: Intent) -> None:
    asked = {pool.name for pool, profile in intent.ways if profile.asks}
    for index, pool in enumerate(intent.pools):
        if pool.inference_pool and pool.picker.addresses and pool.name in asked:
            raise IntentError(
                f"pools[{index}].inferencePool: Envoy Gateway cannot tell a picker whose request it is asked about; give the "
                f"pool a picker of its own, or {PATCHED}"
            )
        full = any(each.name == pool.name and profile is Profile.FULL for each, profile in intent.ways)
        if full and pool.picker.failure_mode is FailureMode.OPEN:
            raise IntentError(
                f"pools[{index}].picker.failureMode must be FailClose in the profile full: Envoy Gateway refuses to fail open "
                "there, since requests of which the picker was sent a part fail anyway; for FailOpen choose the profile lean"
            )
