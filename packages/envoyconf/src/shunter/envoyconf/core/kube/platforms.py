"""Whose gateway it is: by its GatewayClass, or by the policies that only one of them reads."""

from collections.abc import Iterator
from enum import Enum

import msgspec

from shunter.envoyconf.core.cursor import Cursor
from shunter.envoyconf.core.kube.manifests import AI_GATEWAY, ENVOY_GATEWAY, GATEWAY_API, Manifest, Manifests, Reference, refer

__all__ = ["Platform", "RoutedRule", "parents", "platform", "rules", "targets"]


class Platform(Enum):
    """What programs a Gateway."""

    ENVOY_GATEWAY = "Envoy Gateway"
    AI_GATEWAY = "AI Gateway"  # an extension of Envoy Gateway, which does what that does
    ISTIO = "Istio"
    GKE = "GKE"
    KGATEWAY = "kgateway"
    AGENTGATEWAY = "agentgateway"


CONTROLLERS = {
    "gateway.envoyproxy.io/gatewayclass-controller": Platform.ENVOY_GATEWAY,
    "istio.io/gateway-controller": Platform.ISTIO,
    "networking.gke.io/gateway": Platform.GKE,
    "kgateway.dev/kgateway": Platform.KGATEWAY,
    "kgateway.dev/agentgateway": Platform.AGENTGATEWAY,
    "agentgateway.dev/agentgateway": Platform.AGENTGATEWAY,
}

# The names that each installation gives its own classes.
CLASSES = {
    "istio": Platform.ISTIO,
    "kgateway": Platform.KGATEWAY,
    "agentgateway": Platform.AGENTGATEWAY,
}
GKE_CLASSES = "gke-l7-"


class RoutedRule(msgspec.Struct, frozen=True):
    """One rule of a route, and where it sends requests."""

    route: Manifest
    rule: Cursor
    backends: tuple[Reference, ...]

    @property
    def pools(self) -> tuple[Reference, ...]:
        """The InferencePools among them."""
        return tuple(each for each in self.backends if each.is_pool)


def rules(manifests: Manifests) -> Iterator[RoutedRule]:
    """Yield the rules of all HTTPRoutes, GRPCRoutes and AIGatewayRoutes."""
    for route in manifests.of("HTTPRoute", "GRPCRoute", "AIGatewayRoute"):
        kind = "AIServiceBackend" if route.kind == "AIGatewayRoute" else "Service"
        for rule in route.spec["rules"]:
            backends = tuple(refer(each, route.namespace, kind=kind) for each in rule["backendRefs"])
            yield RoutedRule(route, rule, backends)


def parents(manifests: Manifests, route: Manifest) -> Iterator[Manifest]:
    """Yield the Gateways that serve a route, as far as they are given."""
    for parent in route.spec["parentRefs"]:
        reference = refer(parent, route.namespace, GATEWAY_API, "Gateway")
        if gateway := manifests.find(reference):
            yield gateway


def targets(policy: Manifest) -> Iterator[Reference]:
    """Yield what a policy is attached to by name; what it selects by labels is not told apart."""
    spec = policy.spec
    for target in (*spec["targetRefs"], spec["targetRef"]):
        if target["name"]:
            yield refer(target, policy.namespace, GATEWAY_API, "")


def platform(manifests: Manifests, what: Manifest) -> Platform | None:
    """Return what programs a Gateway or the Gateways of a route; None if that cannot be seen."""
    if what.kind == "AIGatewayRoute":
        return Platform.AI_GATEWAY
    gateways = [what] if what.kind == "Gateway" else list(parents(manifests, what))
    known = [found for gateway in gateways if (found := _of_gateway(manifests, gateway))]
    if known:
        return known[0]
    attached = {target.place for policy in _policies(manifests) for target in targets(policy)}
    return Platform.ENVOY_GATEWAY if what.place in attached else None


def _of_gateway(manifests: Manifests, gateway: Manifest) -> Platform | None:
    name = gateway.spec["gatewayClassName"].text
    controllers = [each.spec["controllerName"].text for each in manifests.of("GatewayClass") if each.name == name]
    found = CONTROLLERS.get(controllers[0]) if controllers else CLASSES.get(name)
    if found is None and name.startswith(GKE_CLASSES):
        found = Platform.GKE
    if found not in (None, Platform.ENVOY_GATEWAY):
        return found
    routes = [
        route
        for route in manifests.of("HTTPRoute", "GRPCRoute", "AIGatewayRoute")
        if any(parent.place == gateway.place for parent in parents(manifests, route))
    ]
    if any(route.group == AI_GATEWAY for route in routes) or _asks_ai_gateway(manifests, routes):
        return Platform.AI_GATEWAY
    served = {gateway.place, *(route.place for route in routes)}
    if any(target.place in served for policy in _policies(manifests) for target in targets(policy)):
        return Platform.ENVOY_GATEWAY
    return found


def _asks_ai_gateway(manifests: Manifests, routes: list[Manifest]) -> bool:
    """Say whether a pool of these routes has an annotation that only AI Gateway reads."""
    names = {
        refer(each, route.namespace).place for route in routes for rule in route.spec["rules"] for each in rule["backendRefs"]
    }
    annotated = (pool.metadata["annotations"].labels for pool in manifests.of("InferencePool") if pool.place in names)
    return any(name.startswith(f"{AI_GATEWAY}/") for annotations in annotated for name in annotations)


def _policies(manifests: Manifests) -> Iterator[Manifest]:
    return (each for each in manifests.all if each.group == ENVOY_GATEWAY and each.kind.endswith("Policy"))
