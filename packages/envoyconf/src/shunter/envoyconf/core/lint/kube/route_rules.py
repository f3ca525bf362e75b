"""Rules about routes to InferencePools, whichever gateway reads them."""

from collections.abc import Iterator

from msgspec import UNSET

from shunter.envoyconf.core.cursor import Cursor
from shunter.envoyconf.core.kube.manifests import AI_GATEWAY, GATEWAY_API, INFERENCE, Manifest, Manifests, Reference, refer
from shunter.envoyconf.core.kube.platforms import Platform, platform, rules
from shunter.envoyconf.core.lint.kube.findings import found, looking_at, meant
from shunter.envoyconf.core.lint.rule import Finding, Fix, Rule

__all__ = ["RULES"]


def _port_ignored(manifests: Manifests) -> Iterator[Finding]:
    for routed in rules(manifests):
        for pool in routed.pools:
            if at := pool.at["port"]:
                yield found(
                    at,
                    f"port {at.value} of a reference to an InferencePool is ignored: the pool's targetPorts decide",
                    "leave it out",
                    Fix(at.path, UNSET),
                )


def _group_missing(manifests: Manifests) -> Iterator[Finding]:
    for routed in rules(manifests):
        for backend in routed.backends:
            if backend.is_pool and not backend.group:
                yield found(
                    backend.at,
                    f"kind InferencePool without a group means one of the core API, which has none: {routed.route} answers 500",
                    f"write group: {INFERENCE}",
                    Fix((*backend.at.path, "group"), INFERENCE),
                )
            elif backend.kind == "Service" and backend.group == INFERENCE and not backend.at["kind"]:
                yield found(
                    backend.at,
                    f"group {INFERENCE} without a kind means a Service of that group, which has none: {routed.route} answers "
                    "500",
                    "write kind: InferencePool",
                    Fix((*backend.at.path, "kind"), "InferencePool"),
                )


def _pool_missing(manifests: Manifests) -> Iterator[Finding]:
    for routed in rules(manifests):
        for pool in routed.pools:
            if not pool.group or not pool.name or manifests.find(pool):
                continue
            others = [each for each in manifests.of("InferencePool") if each.place == pool.place]
            if others:
                yield found(
                    pool.at,
                    f"{pool} is of {others[0].group}, the reference says {pool.group}: requests are answered 500",
                    f"write group: {others[0].group}",
                    Fix((*pool.at.path, "group"), others[0].group),
                )
            elif manifests.lacks(pool):
                yield found(
                    pool.at["name"],
                    f"there is no {pool}: requests are answered 500{meant(pool.name, manifests.neighbours(pool))}",
                    "name an InferencePool of that namespace",
                )


def _homeless(manifests: Manifests) -> Iterator[Finding]:
    """Of each route to a pool, the Gateways that are given and do not take it."""
    for route in {each.route.place: each.route for each in rules(manifests) if each.pools}.values():
        for parent in route.spec["parentRefs"]:
            reference = refer(parent, route.namespace, GATEWAY_API, "Gateway")
            if reference.kind == "Gateway" and manifests.lacks(reference):
                yield found(
                    parent["name"],
                    f"there is no {reference}: no request comes to {route}"
                    f"{meant(reference.name, manifests.neighbours(reference))}",
                    "name the Gateway, and its namespace if that is another one",
                )
            elif gateway := manifests.find(reference):
                yield from _not_taken(route, gateway, parent)


def _not_taken(route: Manifest, gateway: Manifest, parent: Cursor) -> Iterator[Finding]:
    section = parent["sectionName"]
    names = [each["name"].text for each in gateway.spec["listeners"]]
    listeners = [each for each in gateway.spec["listeners"] if section.text in ("", each["name"].text)]
    if section and not listeners:
        yield found(
            section,
            f"{gateway} has no listener {section.text!r}: no request comes to {route}{meant(section.text, names)}",
            "name a listener, or leave sectionName out",
        )
    allowed = [each.at("allowedRoutes", "namespaces", "from").text or "Same" for each in listeners]
    are_stated = route.metadata["namespace"] and gateway.metadata["namespace"]  # else they are where somebody applies them
    if are_stated and route.namespace != gateway.namespace and allowed and set(allowed) == {"Same"}:
        yield found(
            parent,
            f"{gateway} takes routes of its own namespace only: no request comes to {route} (NotAllowedByListeners)",
            "set allowedRoutes.namespaces.from of the listener to All, or to Selector with the namespace's labels",
        )


def _no_grant(manifests: Manifests) -> Iterator[Finding]:
    for routed in rules(manifests):
        for backend in routed.backends:
            user = (routed.route.group, routed.route.kind, routed.route.namespace)
            if backend.namespace == routed.route.namespace or manifests.grants(user, backend):
                continue
            if routed.route.kind == "AIGatewayRoute" and backend.is_pool:
                yield found(
                    backend.at["namespace"],
                    f"AI Gateway looks for {backend.name} in the route's namespace {routed.route.namespace}, whatever stands "
                    "here",
                    "put route and pool into one namespace",
                )
            elif any(each.namespace == backend.namespace for each in manifests.all):
                yield found(
                    backend.at["namespace"],
                    f"nothing in {backend.namespace} grants {routed.route.kind}s of {routed.route.namespace} a reference to "
                    f"{backend}: the reference is refused (RefNotPermitted) and requests are answered 500",
                    f"add a ReferenceGrant to {backend.namespace}: from "
                    f"{{group: {routed.route.group}, kind: {routed.route.kind}, namespace: "
                    f"{routed.route.namespace}}} to {{group: {backend.group}, kind: {backend.kind}}}",
                )


def _young_grants(manifests: Manifests) -> Iterator[Finding]:
    for grant in manifests.of("ReferenceGrant", group=GATEWAY_API):
        if grant.version == "v1":
            at = grant.root["apiVersion"]
            yield found(
                at,
                f"{at.text} is served by Gateway API 1.5 and newer only; on an older cluster the grant cannot be applied and "
                "every reference across namespaces is refused",
                "write v1beta1, which all versions serve",
                Fix(at.path, f"{GATEWAY_API}/v1beta1"),
            )


# What a gateway does with a second pool in a rule, as far as is known.
ONE_POOL = {
    Platform.AI_GATEWAY: "AI Gateway allows one in a rule and refuses the route",
    Platform.ISTIO: "Istio asks the picker of one pool for the requests of both, and sends the other pool's to whom nobody "
    "picked",
}


def _several_pools(manifests: Manifests) -> Iterator[Finding]:
    for routed in rules(manifests):
        if len({pool.place for pool in routed.pools}) < 2:
            continue
        if harm := ONE_POOL.get(platform(manifests, routed.route) or Platform.GKE):
            yield found(
                routed.rule["backendRefs"],
                f"{len(routed.pools)} InferencePools in one rule: {harm}",
                "give each pool a rule of its own, told apart by path, header or host",
            )


def _kgateway(manifests: Manifests) -> Iterator[Finding]:
    for routed in rules(manifests):
        for pool in routed.pools:
            if platform(manifests, routed.route) is Platform.KGATEWAY:
                yield found(
                    pool.at,
                    f"{routed.route} belongs to a Gateway of class kgateway, whose Envoys have no InferencePools since 2.2: "
                    "requests are answered 500",
                    "use the GatewayClass agentgateway",
                )


def _refused_pool(manifests: Manifests) -> Iterator[Finding]:
    if any(True for _ in manifests.of("EnvoyGateway")) and not _extended(manifests):
        for pool in _pools_of_envoy_gateway(manifests):
            yield found(
                pool.at,
                "the EnvoyGateway that is given has no extension for InferencePools: the reference is refused (InvalidKind) "
                "and requests are answered 500",
                "install AI Gateway and list the pool in extensionManager.backendResources (group "
                f"{INFERENCE}, kind InferencePool, version v1), or {WITHOUT_EXTENSION}",
            )


def _doubtful_pool(manifests: Manifests) -> Iterator[Finding]:
    if any(True for _ in manifests.of("EnvoyGateway")):
        return
    for pool in _pools_of_envoy_gateway(manifests):
        yield found(
            pool.at,
            "Envoy Gateway alone refuses a reference to an InferencePool (InvalidKind) and answers 500; with AI Gateway as its "
            "extension it works, which cannot be seen here",
            f"see that AI Gateway is installed, or {WITHOUT_EXTENSION}",
        )


WITHOUT_EXTENSION = (
    "route to the headless Service of the pool's Pods with an EnvoyExtensionPolicy, as `shunter envoyconf generate --target "
    "envoy-gateway` does"
)


def _pools_of_envoy_gateway(manifests: Manifests) -> Iterator[Reference]:
    if any(each.group == AI_GATEWAY for each in manifests.all):
        return
    for routed in rules(manifests):
        if routed.pools and platform(manifests, routed.route) is Platform.ENVOY_GATEWAY:
            yield from routed.pools


def _extended(manifests: Manifests) -> bool:
    """Say whether Envoy Gateway is told of InferencePools."""
    for config in manifests.of("EnvoyGateway"):
        for each in config.root.at("extensionManager", "backendResources"):
            if refer(each, "").is_pool and each["version"].text == "v1":
                return True
    return False


RULES: tuple[Rule, ...] = (
    Rule(
        code="W36",
        title="A port beside an InferencePool",
        why="Gateway API's references have a port for Services. Of a pool it means nothing, and whoever changes it waits in "
        "vain.",
        check=looking_at(_port_ignored),
        source="GIE conformance suite 1.6, port validation",
    ),
    Rule(
        code="E100",
        title="A route that no Gateway takes",
        why="A route that is not attached is no error to anybody: it says so in its status, and requests are answered 404.",
        check=looking_at(_homeless),
        source="Gateway API, HTTPRoute spec.parentRefs; Gateway spec.listeners.allowedRoutes",
    ),
    Rule(
        code="E37",
        title="A reference into another namespace that nobody grants",
        why="Gateway API lets a route refer into another namespace only by a ReferenceGrant there. AI Gateway looks for pools "
        "in the route's namespace whatever the reference says.",
        check=looking_at(_no_grant),
        source="Gateway API, ReferenceGrant; AI Gateway #2230",
    ),
    Rule(
        code="E54",
        title="An InferencePool behind an Envoy Gateway that has no extension for it",
        why="Envoy Gateway 1.9.1 answered 500 and said InvalidKind in the route's status. The version must be the pool's: AI "
        "Gateway 1.0.0 lists v1alpha2.",
        check=looking_at(_refused_pool),
        source="kserve #4833",
    ),
    Rule(
        code="E57",
        title="An InferencePool behind kgateway's Envoys",
        why="kgateway deprecated inference support in its Envoys in 2.1 and removed it in 2.2; agentgateway has it.",
        check=looking_at(_kgateway),
        source="kgateway #12442, #12689",
    ),
    Rule(
        code="W61",
        title="A ReferenceGrant in a version that older clusters lack",
        why="Clusters store v1beta1, and every release serves it; v1 came with Gateway API 1.5.",
        check=looking_at(_young_grants),
        source="Gateway API, ReferenceGrant CRD",
    ),
    Rule(
        code="E75",
        title="Several InferencePools in one rule",
        why="AI Gateway's CRD allows one pool in a rule. Istio gives ext_proc its picker per rule: two pools share one.",
        check=looking_at(_several_pools),
        source="AI Gateway 1.0 CRD; Istio #61594",
    ),
    Rule(
        code="E84",
        title="An InferencePool that is meant, but not named as one",
        why="group and kind of a reference have defaults of their own (the core API, Service): one without the other names "
        "something that does not exist.",
        check=looking_at(_group_missing),
        source="Gateway API, BackendObjectReference",
    ),
    Rule(
        code="E90",
        title="A route to a pool that is not there",
        why="A reference that cannot be resolved is answered 500 (BackendNotFound in the route's status).",
        check=looking_at(_pool_missing),
        source="Gateway API, HTTPRoute",
    ),
    Rule(
        code="W91",
        title="An InferencePool behind Envoy Gateway, where AI Gateway is not to be seen",
        why="Envoy Gateway 1.9.1 answered 500 and said InvalidKind in the route's status; AI Gateway teaches it the kind.",
        check=looking_at(_doubtful_pool),
        source="kserve #4833",
    ),
)
