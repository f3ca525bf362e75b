"""Whose gateway it is: by its GatewayClass, or by the policies that only one of them reads."""

from collections.abc import Iterator
from enum import Enum

import msgspec

from shunter.envoyconf.core.cursor import Cursor
from shunter.envoyconf.core.kube.manifests import AI_GATEWAY, ENVOY_GATEWAY, GATEWAY_API, Manifest, Manifests, Reference, refer

__all__ = ["Platform", "RoutedRule", "attached", "parents", "platform", "policies_by_target", "rules", "targets"]


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


def rules(manifests: Manifests) -> list[RoutedRule]:
    """Return the rules of all HTTPRoutes, GRPCRoutes and AIGatewayRoutes."""
    return manifests.remember("rules", lambda: list(_rules(manifests)))


def _rules(manifests: Manifests) -> Iterator[RoutedRule]:
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
    """Yield what a policy is attached to by name."""
    spec = policy.spec
    for target in (*spec["targetRefs"], spec["targetRef"]):
        if target["name"]:
            yield refer(target, policy.namespace, GATEWAY_API, "")


def policies_by_target(manifests: Manifests) -> dict[tuple[str, str, str], list[tuple[Manifest, str]]]:
    """Return the policies of Envoy Gateway that are attached to each object, each with the section of it that it is for."""

    def find() -> dict[tuple[str, str, str], list[tuple[Manifest, str]]]:
        attached: dict[tuple[str, str, str], list[tuple[Manifest, str]]] = {}
        for policy in manifests.all:
            if policy.group == ENVOY_GATEWAY and policy.kind.endswith("Policy"):
                for target in targets(policy):
                    attached.setdefault(target.place, []).append((policy, target.at["sectionName"].text))
                for place in _selected(manifests, policy):
                    attached.setdefault(place, []).append((policy, ""))
        return attached

    return manifests.remember("policies", find)


def attached(manifests: Manifests, kind: str, routed: RoutedRule) -> list[Manifest]:
    """Return the policies of a kind that hold for a rule: its own, its route's, or its Gateways'."""
    by_target = policies_by_target(manifests)
    own = [each for each in by_target.get(routed.route.place, ()) if each[1] in ("", routed.rule["name"].text)]
    own += [each for gateway in parents(manifests, routed.route) for each in by_target.get(gateway.place, ())]
    return [policy for policy, _ in own if policy.kind == kind]


def _selected(manifests: Manifests, policy: Manifest) -> Iterator[tuple[str, str, str]]:
    """Yield what a policy selects by labels; what its expressions or other namespaces leave out is not told apart."""
    for selector in policy.spec["targetSelectors"]:
        wanted = selector["matchLabels"].labels
        for each in manifests.of(selector["kind"].text, group=GATEWAY_API):
            labels = each.metadata["labels"].labels
            if all(labels.get(name) == value for name, value in wanted.items()):
                yield each.place


def platform(manifests: Manifests, what: Manifest) -> Platform | None:
    """Return what programs a Gateway or the Gateways of a route; None if that cannot be seen."""
    return manifests.remember(("platform", what.place), lambda: _platform(manifests, what))


def _platform(manifests: Manifests, what: Manifest) -> Platform | None:
    if what.kind == "AIGatewayRoute":
        return Platform.AI_GATEWAY
    gateways = [what] if what.kind == "Gateway" else list(parents(manifests, what))
    for gateway in gateways:
        if found := manifests.remember(("gateway", gateway.place), lambda gateway=gateway: _of_gateway(manifests, gateway)):
            return found
    return Platform.ENVOY_GATEWAY if what.place in policies_by_target(manifests) else None


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
    attached = policies_by_target(manifests)
    if gateway.place in attached or any(route.place in attached for route in routes):
        return Platform.ENVOY_GATEWAY
    return found


def _asks_ai_gateway(manifests: Manifests, routes: list[Manifest]) -> bool:
    """Say whether a pool of these routes has an annotation that only AI Gateway reads."""
    names = {
        refer(each, route.namespace).place for route in routes for rule in route.spec["rules"] for each in rule["backendRefs"]
    }
    annotated = (pool.metadata["annotations"].labels for pool in manifests.of("InferencePool") if pool.place in names)
    return any(name.startswith(f"{AI_GATEWAY}/") for annotations in annotated for name in annotations)
