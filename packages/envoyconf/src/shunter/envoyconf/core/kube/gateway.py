"""What every Gateway API gateway is told alike: a Gateway with the intent's listeners, an HTTPRoute for each of its routes.

Who decides among the routes that match a request is for `core.kube.precedence` to check. Of routes that are as specific as
each other the older decides, then the first by name; so those created together are named in order, and a model that an earlier
route of the same path takes is left out of the later one.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from shunter.envoyconf.core.envoy.hosts import hosts_of
from shunter.envoyconf.core.intent import Intent, Listener
from shunter.envoyconf.core.intent.hosts import ANY_HOST
from shunter.envoyconf.core.kube.split import REQUEST_ID, Part
from shunter.envoyconf.core.names import BASE_MODEL, MODEL
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.errors import IntentError

__all__ = [
    "GATEWAY_API",
    "check_count",
    "check_names",
    "gateway",
    "gateway_class",
    "http_route",
    "kubernetes_object",
    "model_header",
    "reference_grant",
    "route_name",
]

GATEWAY_API = "gateway.networking.k8s.io"

# Of the schemas of Gateway API 1.6: what one HTTPRoute holds, matches of one rule and of all rules together; and a Gateway.
ROUTE_HOSTS = 16
RULE_MATCHES = 64
ROUTE_MATCHES = 128
RULE_BACKENDS = 16
LONGEST_HEADER_VALUE = 4096
LONGEST_PATH = 1024
GATEWAY_LISTENERS = 64

WHOLE = Part(())


def check_count(field: str, what: str, count: int, holder: str, most: int) -> None:
    """Raise IntentError for more than a Kubernetes API takes."""
    if count > most:
        raise IntentError(f"{field}: {count} {what} are more than {holder} takes, {most}; have fewer, or divide them")


def check_names(documents: Iterable[Resource]) -> None:
    """Raise IntentError if two objects have one name: of those the second would take the first's place."""
    seen: set[tuple[str, str, str]] = set()
    for document in documents:
        metadata = document["metadata"]
        name = document["apiVersion"].partition("/")[0], document["kind"], metadata["name"]
        if name in seen:
            raise IntentError(
                f"two objects would be the {document['kind']} {metadata['name']}; rename a pool (what belongs to the picker of "
                "a pool llama is called llama-picker)",
            )
        seen.add(name)


def kubernetes_object(api_version: str, kind: str, name: str, namespace: str | None = None, **fields: Any) -> Resource:
    """Return an object, its metadata first."""
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields}


def gateway_class(name: str, controller: str, parameters: Resource | None = None) -> Resource:
    """Return a GatewayClass, for installations that do not bring one."""
    spec: Resource = {"controllerName": controller} | ({"parametersRef": parameters} if parameters else {})
    return kubernetes_object(f"{GATEWAY_API}/v1", "GatewayClass", name, spec=spec)


def gateway(intent: Intent, class_name: str, **fields: Any) -> Resource:
    """Return the Gateway: one listener for each host name of each of the intent's; ``fields`` go beside them into its spec.

    What the intent says of addresses is not for Kubernetes, where a Service makes them.
    """
    names = intent.kubernetes
    listeners: list[Resource] = []
    places: dict[tuple[int, str], int] = {}
    called: dict[str, int] = {}
    for index, listener in enumerate(intent.listeners):
        for each in _listeners(index, listener):
            if (other := called.setdefault(each["name"], index)) != index:
                raise IntentError(
                    f"listeners[{index}].name {listener.name!r}: a Gateway has a listener for each host, and {each['name']!r} "
                    f"is what one of listeners[{other}] is called; give it another name",
                )
            if (other := places.setdefault((each["port"], each.get("hostname", "*")), index)) != index:
                raise IntentError(
                    f"listeners[{index}] is listeners[{other}] once more to a Gateway, which knows ports and host names but no "
                    "addresses; give it another port, or hosts",
                )
            listeners.append(each)
    check_count("listeners", "hosts", len(listeners), "a Gateway", GATEWAY_LISTENERS)
    spec = {"gatewayClassName": names.gateway_class or class_name, **fields, "listeners": listeners}
    return kubernetes_object(f"{GATEWAY_API}/v1", "Gateway", names.gateway, names.namespace, spec=spec)


def model_header(intent: Intent) -> str | None:
    """Return the header that has the model when routes are matched; None if the gateway would have to read bodies for it."""
    return MODEL if intent.body_router else intent.model_header


def route_name(intent: Intent, index: int, part: Part = WHOLE) -> str:
    """Return the name of the HTTPRoute of the intent's route with that index, or of a part of it."""
    return f"{intent.kubernetes.gateway}-{index:02}{part.suffix}"


def http_route(
    intent: Intent, index: int, backends: list[Resource], *, header: str | None, part: Part = WHOLE, **fields: Any
) -> Resource:
    """Return the HTTPRoute of the intent's route with that index, or of a part of it.

    ``header`` is where the model is; ``fields`` go into each rule, such as timeouts. Raises IntentError for what Gateway API
    cannot say.
    """
    route = intent.effective_routes[index]
    names = intent.kubernetes
    spec: Resource = {"parentRefs": [{"group": GATEWAY_API, "kind": "Gateway", "name": names.gateway}]}
    if ANY_HOST not in hosts_of(route):
        check_count(f"routes[{index}].hosts", "hosts", len(route.hosts), "an HTTPRoute", ROUTE_HOSTS)
        spec["hostnames"] = list(route.hosts)
    elif len(route.hosts) > 1:
        raise IntentError(f"routes[{index}].hosts: an HTTPRoute has * or other names, not both; divide it into two routes")
    some: list[Resource] = (
        [{"type": "RegularExpression", "name": REQUEST_ID, "value": part.pattern}] if part.pattern is not None else []
    )
    matches = list(_matches(intent, index, header, some))
    if not matches:
        raise IntentError(f"routes[{index}] is never reached: each of its models goes where an earlier route sends it")
    check_count(f"routes[{index}].models", "models", len(matches), "an HTTPRoute", ROUTE_MATCHES)
    check_count(f"routes[{index}].pools", "ports of pools", len(backends), "a rule", RULE_BACKENDS)
    check_count(f"routes[{index}].prefix", "characters", len(route.prefix), "a path", LONGEST_PATH)
    for name in (*route.models, *route.base_models):
        check_count(f"routes[{index}].models", "characters in one", len(name), "a header's match", LONGEST_HEADER_VALUE)
    spec["rules"] = [
        {"matches": matches[start : start + RULE_MATCHES], **fields, "backendRefs": backends}
        for start in range(0, len(matches), RULE_MATCHES)
    ]
    return kubernetes_object(f"{GATEWAY_API}/v1", "HTTPRoute", route_name(intent, index, part), names.namespace, spec=spec)


def reference_grant(namespace: str, to: tuple[str, str, str], *, from_namespace: str) -> Resource:
    """Return the permission for HTTPRoutes of a namespace to refer to an object of another: ``to`` is its group, kind, name.

    In the version v1beta1, which clusters serve and store; v1 only those of Gateway API 1.5 or newer know.
    """
    group, kind, name = to
    spec = {
        "from": [{"group": GATEWAY_API, "kind": "HTTPRoute", "namespace": from_namespace}],
        "to": [{"group": group, "kind": kind, "name": name}],
    }
    return kubernetes_object(f"{GATEWAY_API}/v1beta1", "ReferenceGrant", f"{name}-{from_namespace}", namespace, spec=spec)


def _listeners(index: int, listener: Listener) -> Iterator[Resource]:
    field = f"listeners[{index}]"
    if listener.port == 0:
        raise IntentError(f"{field}.port 0 lets a kernel choose, which Gateways cannot: give a port from 1 to 65535")
    resource: Resource = {"port": listener.port, "protocol": "HTTP"}
    if tls := listener.tls:
        if tls.secret is None:
            raise IntentError(f"{field}.tls.secret is missing: gateways in Kubernetes are told a Secret, not files")
        if tls.client_ca_file:
            raise IntentError(
                f"{field}.tls.clientCaFile is a file of Envoy's machine, which no gateway in Kubernetes reads; leave it out",
            )
        resource |= {"protocol": "HTTPS", "tls": {"mode": "Terminate", "certificateRefs": [{"name": tls.secret}]}}
    for place, host in enumerate(listener.hosts):
        name = listener.name if len(listener.hosts) == 1 else f"{listener.name}-{place}"
        hostname = {} if host == "*" else {"hostname": host}
        yield {"name": name, **hostname, **resource, "allowedRoutes": {"namespaces": {"from": "Same"}}}


def _matches(intent: Intent, index: int, header: str | None, some: list[Resource]) -> Iterator[Resource]:
    """Yield the matches of a route, which are alternatives; ``some``: matches of other headers."""
    routes = intent.effective_routes
    route = routes[index]
    path: Resource = {"path": {"type": "PathPrefix", "value": route.prefix}}
    if not route.by_model:
        yield path | ({"headers": some} if some else {})
    if route.models and header is None:
        raise IntentError(
            f"routes[{index}].models: this gateway does not read bodies; give modelHeader if clients name the model in a "
            "header, or a bodyRouter",
        )
    taken: set[str] = set()
    for other in routes[:index]:
        if other.prefix == route.prefix and set(other.hosts) == set(route.hosts):
            taken |= {*other.models}
    for name in route.models:
        if name not in taken:
            yield path | {"headers": [{"type": "Exact", "name": header, "value": name}, *some]}
    for name in route.base_models:
        yield path | {"headers": [{"type": "Exact", "name": BASE_MODEL, "value": name}, *some]}
