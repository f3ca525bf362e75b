"""An intent becomes the static bootstrap of one Envoy."""

from ipaddress import ip_address

from shunter.envoyconf.core.envoy.cluster import (
    body_router_cluster,
    collector_cluster,
    native_clusters,
    picker_cluster,
    pool_cluster,
    pool_clusters,
)
from shunter.envoyconf.core.envoy.gates import check_features
from shunter.envoyconf.core.envoy.listener import http_listener
from shunter.envoyconf.core.envoy.overflow import (
    INTERNAL_LISTENERS,
    overflow_clusters,
    overflow_listener,
    overflow_secrets,
)
from shunter.envoyconf.core.envoy.security import security_clusters
from shunter.envoyconf.core.envoy.tracing import tracing_clusters
from shunter.envoyconf.core.intent import Admin, Intent, Pool, Profile
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.protojson import Resource, listening_address

__all__ = ["admin_interface", "bootstrap", "clusters"]

# What a monitoring system outside needs; everything else of the admin interface can read secrets or stop Envoy.
PUBLIC_ADMIN_PATHS = ("/ready", "/stats/prometheus")


def bootstrap(intent: Intent, settings: Settings | None = None) -> Resource:
    """Return the bootstrap in protobuf's JSON form; equal intents give equal bootstraps, down to the order of keys.

    Raises IntentError for what that version of Envoy cannot do.
    """
    version = (settings or Settings()).envoy_version
    check_features(intent, version)
    resource: Resource = {"admin": admin_interface(intent.admin)} if intent.admin else {}
    spilling = _spilling(intent)
    resource |= {"bootstrap_extensions": [INTERNAL_LISTENERS]} if spilling else {}
    secrets = overflow_secrets(spilling)
    listeners = [http_listener(listener, intent, version) for listener in intent.listeners]
    listeners += [overflow_listener(pool, intent.limits) for pool in spilling]
    return resource | {
        "static_resources": {
            "listeners": listeners,
            "clusters": clusters(intent),
            **({"secrets": secrets} if secrets else {}),
        }
    }


def clusters(intent: Intent) -> list[Resource]:
    """Return the clusters of whatever some route leads to."""
    asked = [pool for pool in intent.pools if any(profile.asks for profile in intent.profiles_of(pool))]
    native = [pool for pool in intent.pools if Profile.NATIVE in intent.profiles_of(pool)]
    told = [pool for pool in intent.pools if pool.picker.collector and intent.profiles_of(pool)]
    return [
        *(pool_cluster(pool, intent) for pool in asked),
        *(cluster for pool in native for cluster in native_clusters(pool, intent)),
        *(picker_cluster(pool, intent) for pool in asked),
        *([body_router_cluster(intent.body_router, intent.limits)] if intent.body_router else []),
        *(collector_cluster(pool, intent.limits) for pool in told),
        *(each for pool in _spilling(intent) for each in overflow_clusters(pool, pool_clusters(pool, intent), intent.limits)),
        *tracing_clusters(intent.observability.tracing, intent.limits),
        *security_clusters(intent.security, intent.limits),
    ]


def _spilling(intent: Intent) -> list[Pool]:
    """Return the pools that have an overflow, if requests come there at all."""
    return [pool for pool in intent.pools if pool.overflow and intent.profiles_of(pool)]


def admin_interface(admin: Admin) -> Resource:
    """Return the admin interface: all of it on loopback, the harmless part elsewhere."""
    resource: Resource = {"address": listening_address(admin.address, admin.port)}
    if not ip_address(admin.address).is_loopback:
        resource["allow_paths"] = [{"exact": path} for path in PUBLIC_ADMIN_PATHS]
    return resource
