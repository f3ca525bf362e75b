"""An intent becomes the static bootstrap of one Envoy."""

from ipaddress import ip_address

from shunter.envoyconf.core.envoy.cluster import body_router_cluster, collector_cluster, picker_cluster, pool_cluster
from shunter.envoyconf.core.envoy.listener import http_listener
from shunter.envoyconf.core.intent import Admin, Intent
from shunter.envoyconf.core.protojson import Resource, socket_address

__all__ = ["admin_interface", "bootstrap"]

# What a monitoring system outside needs; everything else of the admin interface can read secrets or stop Envoy.
PUBLIC_ADMIN_PATHS = ("/ready", "/stats/prometheus")


def bootstrap(intent: Intent) -> Resource:
    """Return the bootstrap in protobuf's JSON form; equal intents give equal bootstraps, down to the order of keys."""
    clusters = [pool_cluster(pool, intent.profile, intent.limits) for pool in intent.pools]
    clusters += [picker_cluster(pool, intent.profile, intent.limits) for pool in intent.pools]
    clusters += [body_router_cluster(intent.body_router, intent.limits)] if intent.body_router else []
    clusters += [collector_cluster(pool, intent.limits) for pool in intent.pools if pool.picker.collector]
    resource: Resource = {"admin": admin_interface(intent.admin)} if intent.admin else {}
    listeners = [http_listener(listener, intent) for listener in intent.listeners]
    return resource | {"static_resources": {"listeners": listeners, "clusters": clusters}}


def admin_interface(admin: Admin) -> Resource:
    """Return the admin interface: all of it on loopback, the harmless part elsewhere."""
    resource: Resource = {"address": socket_address(admin.address, admin.port)}
    if not ip_address(admin.address).is_loopback:
        resource["allow_paths"] = [{"exact": path} for path in PUBLIC_ADMIN_PATHS]
    return resource
