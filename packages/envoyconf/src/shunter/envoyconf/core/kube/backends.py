"""Backends of Envoy Gateway: model servers, pickers and collectors that are no Services of the Gateway's namespace."""

from collections.abc import Collection, Iterable
from ipaddress import IPv6Address, ip_address
from typing import Any

from shunter.envoyconf.core.authority import is_ip, split_server
from shunter.envoyconf.core.intent import Intent, Pool
from shunter.envoyconf.core.kube.gateway import check_count, kubernetes_object
from shunter.envoyconf.core.kube.install import tls_secret
from shunter.envoyconf.core.places import PICKER_PORT, picker_authorities, picker_service
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.errors import IntentError

__all__ = ["BACKEND", "ENVOY_GATEWAY", "backend", "backends", "gateway_object", "picker_references", "pool_references"]

ENVOY_GATEWAY = "gateway.envoyproxy.io"

# Of the Backend's schema.
BACKEND_ENDPOINTS = 256

# What a reference to a Backend begins with.
BACKEND: Resource = {"group": ENVOY_GATEWAY, "kind": "Backend"}


def gateway_object(kind: str, name: str, intent: Intent, spec: Resource) -> Resource:
    """Return an object of one of Envoy Gateway's kinds."""
    return kubernetes_object(f"{ENVOY_GATEWAY}/v1alpha1", kind, name, intent.kubernetes.namespace, spec=spec)


def pool_references(pool: Pool) -> list[Resource]:
    """Return references to a pool's model servers: their Service once for each port, or a Backend."""
    if pool.selector:
        return [{"kind": "Service", "name": pool.name, "port": port} for port in pool.target_ports]
    return [BACKEND | {"name": pool.name}]


def picker_references(pool: Pool) -> list[Resource]:
    """Return references to a pool's picker: its Service, or a Backend where it has other addresses or TLS."""
    name = picker_service(pool)
    if _picker_is_a_service(pool):
        return [{"kind": "Service", "name": name, "port": PICKER_PORT}]
    return [BACKEND | {"name": name}]


def backends(intent: Intent) -> Iterable[Resource]:
    """Yield a Backend for each pool and each picker that is more than a Service of the namespace."""
    asked = {pool.name for pool, profile in intent.ways if profile.asks}
    for index, pool in enumerate(intent.pools):
        if not pool.selector:
            yield backend(pool.name, intent, f"pools[{index}].endpoints", pool.endpoints, h2c=pool.http2)
        if pool.name in asked and not _picker_is_a_service(pool):
            tls = _picker_tls(intent, index)
            authorities = picker_authorities(pool, intent.kubernetes)
            yield backend(picker_service(pool), intent, f"pools[{index}].picker.addresses", authorities, h2c=True, **tls)


def backend(
    name: str, intent: Intent, field: str, authorities: Collection[str], *, h2c: bool = False, **fields: Any
) -> Resource:
    """Return a Backend of what a field of the intent lists; ``h2c`` is for HTTP/2 that is not negotiated."""
    check_count(field, "addresses", len(authorities), "a Backend", BACKEND_ENDPOINTS)
    endpoints = [_endpoint(field, authority) for authority in authorities]
    if len({"fqdn" in each for each in endpoints}) > 1:
        raise IntentError(f"{field}: a Backend of Envoy Gateway has IP addresses or names, not both; write all of one kind")
    protocols = {"appProtocols": [f"{ENVOY_GATEWAY}/h2c"]} if h2c else {}
    return gateway_object("Backend", name, intent, {**protocols, "endpoints": endpoints, **fields})


def _endpoint(field: str, authority: str) -> Resource:
    host, port = split_server(authority)
    if host.startswith("/"):
        return {"unix": {"path": host}}
    if is_ip(host):
        # In full: the definition's pattern knows no ::1 nor much else that begins or ends short. Not as ``exploded`` has it,
        # which ends IPv4-mapped addresses in dots from Python 3.13 on.
        ip = ip_address(host)
        return {"ip": {"address": ip.packed.hex(":", 2) if isinstance(ip, IPv6Address) else str(ip), "port": port}}
    if "_" in host:
        raise IntentError(f"{field} {authority!r}: a Backend of Envoy Gateway takes no host name with _; give another")
    return {"fqdn": {"hostname": host.lower(), "port": port}}


def _picker_is_a_service(pool: Pool) -> bool:
    return not pool.picker.addresses and pool.picker.tls is None


def _picker_tls(intent: Intent, index: int) -> Resource:
    """Return how a picker is spoken to in TLS.

    ALPN is written out: without it picks would work, since Envoy takes HTTP/2 for granted, but a health check would fail for
    ever and a picker may hang up.
    """
    pool = intent.pools[index]
    tls = pool.picker.tls
    if tls is None:
        return {}
    if tls.cert_file:
        raise IntentError(
            f"pools[{index}].picker.tls.certFile is a file of Envoy's machine, not for gateways in Kubernetes; leave it out"
        )
    if (secret := tls_secret(pool)) is None:
        return {"tls": {"insecureSkipVerify": True, "alpnProtocols": ["h2"]}}
    if is_ip(tls.server_name) if tls.server_name else pool.picker.addresses:
        raise IntentError(
            f"pools[{index}].picker.tls.serverName must be a host name: Envoy Gateway looks for one in a picker's certificate"
        )
    # Without a name it would look for the client's; the certificate of a picker that is installed is for this one.
    name = (tls.server_name or f"{picker_service(pool)}.{intent.kubernetes.namespace}.svc").lower()
    authorities = [{"group": "", "kind": "Secret", "name": secret}]
    return {"tls": {"caCertificateRefs": authorities, "sni": name, "alpnProtocols": ["h2"]}}
