"""Target ``envoy-gateway-patch``: Envoy Gateway keeps the Envoys, addresses and certificates; requests go as in ours.

An EnvoyPatchPolicy puts resources into what Envoy Gateway sends its Envoys, the same as a bootstrap of ours has::

    Listener             its connection manager is replaced: filters, access log, records
    RouteConfiguration   all of it is replaced but its name
    Cluster              added: pools, pickers, collectors

So every profile is there, and nothing is anchored but by the names of listeners and routes, which depend on Envoy Gateway's
XDSNameScheme. The Gateway is for this alone: routes and policies of others that are attached to it have no effect. Endpoints
and pickers with a selector are found by DNS, in their Services.
"""

from collections.abc import Iterator

import msgspec

from shunter.envoyconf.core.envoy.bootstrap import clusters
from shunter.envoyconf.core.envoy.listener import http_connection_manager
from shunter.envoyconf.core.envoy.remote import AGGREGATED
from shunter.envoyconf.core.intent import Intent, Listener, Profile
from shunter.envoyconf.core.kube.backends import gateway_object
from shunter.envoyconf.core.kube.envoy_gateway import gateway_with
from shunter.envoyconf.core.kube.gateway import GATEWAY_API
from shunter.envoyconf.core.kube.install import installation
from shunter.envoyconf.core.kube.wishes import unmounted
from shunter.envoyconf.core.names import collector_cluster_name
from shunter.envoyconf.core.output import Artefact, Output, Settings
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.targets import Means, Support
from shunter.envoyconf.core.versions import Version
from shunter.envoyconf.errors import IntentError

__all__ = ["SUPPORT", "envoy_gateway_patch"]

SUPPORT = dict.fromkeys(Profile, Support(Means.PATCH, "by EnvoyPatchPolicy, which Envoy Gateway heeds only if it is told to"))

# Of the Envoys that Envoy Gateway 1.9 starts; it refuses patches with fields that it does not know.
SHIPPED = Version(1, 39)

# Envoy's own default; Envoy Gateway's is 32 KiB, with which large bodies go through in small pieces.
BUFFER_BYTES = 1 << 20

MANAGER = "envoy.filters.network.http_connection_manager"


def envoy_gateway_patch(intent: Intent, settings: Settings) -> Output:
    """Return the Gateway and its patch, with the manifests of the model servers' Services and of the pickers."""
    _check(intent)
    plain = msgspec.structs.replace(intent, listeners=tuple(_of_any_host(each) for each in intent.listeners))
    artefacts = (Artefact("gateway", tuple(_gateway(intent, plain, settings))), *installation(intent))
    return Output(artefacts, tuple(_warnings(intent, settings)))


def _warnings(intent: Intent, settings: Settings) -> Iterator[str]:
    if intent.admin:
        yield "admin: Envoy Gateway's Envoys have an admin interface of its own, on loopback"
    if intent.security.api_keys:
        yield "security.apiKeys: they stand in the EnvoyPatchPolicy, for everybody to see who may read those"
    yield "EnvoyPatchPolicy: Envoy Gateway heeds it only with extensionApis.enableEnvoyPatchPolicy: true in its settings"
    yield from unmounted(intent)
    yield f"EnvoyPatchPolicy: written for names of XDSNameScheme v{settings.xds_names}; its status says if they are others"


def _gateway(intent: Intent, plain: Intent, settings: Settings) -> Iterator[Resource]:
    names = intent.kubernetes
    yield from gateway_with(_envoy_proxy(intent), plain)
    spec = {
        "targetRef": {"group": GATEWAY_API, "kind": "Gateway", "name": names.gateway},
        "type": "JSONPatch",
        "jsonPatches": list(_patches(intent, settings)),
    }
    yield gateway_object("EnvoyPatchPolicy", names.gateway, intent, spec)


def _envoy_proxy(intent: Intent) -> Resource:
    """Return what the Envoys are started with: collectors' clusters, without which Envoy takes no listener that logs to them.

    By CDS they would come, and the listener be refused for good all the same: it is read before they are ready.
    """
    place = "/static_resources/clusters/-"
    additions = [{"op": "add", "path": place, "value": each} for each in clusters(intent) if _is_a_collectors(each, intent)]
    spec: Resource = {"bootstrap": {"type": "JSONPatch", "jsonPatches": additions}} if additions else {}
    spec["telemetry"] = {"accessLog": {"disable": True}}  # the connection manager that is patched in has one
    return gateway_object("EnvoyProxy", intent.kubernetes.gateway, intent, spec)


def _is_a_collectors(cluster: Resource, intent: Intent) -> bool:
    return cluster["name"] in {collector_cluster_name(pool.name) for pool in intent.pools}


def _patches(intent: Intent, settings: Settings) -> Iterator[Resource]:
    for cluster in clusters(intent):
        if not _is_a_collectors(cluster, intent):
            yield _patch("cluster.v3.Cluster", cluster["name"], op="add", path="", value=cluster)
    for listener in intent.listeners:
        manager = http_connection_manager(listener, intent, min(settings.envoy_version, SHIPPED))
        routes = manager.pop("route_config")
        at, routes_at = _names(listener, intent, settings.xds_names)
        manager["rds"] = {"config_source": AGGREGATED, "route_config_name": routes_at}
        here = f"$..filters[?(@.name=='{MANAGER}')]"
        yield _patch("listener.v3.Listener", at, op="replace", jsonPath=here, path="typed_config", value=manager)
        yield _patch("listener.v3.Listener", at, op="add", path="/per_connection_buffer_limit_bytes", value=BUFFER_BYTES)
        for field, value in {**routes, "ignore_port_in_host_matching": True}.items():
            if field != "name":
                yield _patch("route.v3.RouteConfiguration", routes_at, op="add", path=f"/{field}", value=value)


def _patch(kind: str, name: str, **operation: object) -> Resource:
    return {"type": f"type.googleapis.com/envoy.config.{kind}", "name": name, "operation": operation}


def _names(listener: Listener, intent: Intent, scheme: int) -> tuple[str, str]:
    """Return what Envoy Gateway calls a listener, and its routes. Tried on 1.9.1: in v2 routes in TLS keep the name of v1."""
    name = f"{intent.kubernetes.namespace}/{intent.kubernetes.gateway}/{listener.name}"
    if scheme == 1:
        return name, name
    return f"tcp-{listener.port}", name if listener.tls else f"http-{listener.port}"


def _of_any_host(listener: Listener) -> Listener:
    """Hosts are told apart by the routes that are patched in."""
    return msgspec.structs.replace(listener, hosts=("*",))


def _check(intent: Intent) -> None:
    """Raise IntentError for what would need files that the Envoys do not have, or listeners that cannot be added."""
    for index, pool in enumerate(intent.pools):
        if pool.overflow:
            raise IntentError(
                f"pools[{index}].overflow needs an Envoy's own bootstrap; take the target envoy-static, or leave it out"
            )
        if pool.picker.tls and (pool.picker.tls.ca_file or pool.picker.tls.cert_file):
            raise IntentError(
                f"pools[{index}].picker.tls names files of Envoy's machine, which Envoy Gateway's Envoys do not have; say tls: "
                "{}, or take the target envoy-gateway"
            )
    for index, jwt in enumerate(intent.security.jwt):
        if jwt.jwks_file:
            raise IntentError(f"security.jwt[{index}].jwksFile is a file of Envoy's machine; give jwksUri")
