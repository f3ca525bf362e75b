"""Clusters: a pool of model servers that follows the picker, the workers of a picker, and its collector."""

from collections.abc import Iterable
from typing import Any

from shunter.envoyconf.core.authority import is_resolved, split_server
from shunter.envoyconf.core.envoy.ext_proc import STREAMS_BODIES, TELLS_SERVED
from shunter.envoyconf.core.envoy.tls import picker_transport_socket
from shunter.envoyconf.core.intent import BodyRouter, Intent, Limits, Pool, Profile
from shunter.envoyconf.core.names import (
    BODY_ROUTER,
    DESTINATION,
    NAMESPACE,
    SERVED,
    collector_cluster_name,
    native_cluster_name,
    picker_cluster_name,
    pool_cluster_name,
)
from shunter.envoyconf.core.places import endpoint_authorities, picker_authorities
from shunter.envoyconf.core.protojson import Resource, duration, extension, server_address, typed

__all__ = [
    "BY_NAME",
    "CIRCUIT_BREAKERS",
    "body_router_cluster",
    "collector_cluster",
    "grpc_cluster",
    "native_clusters",
    "picker_cluster",
    "pool_cluster",
    "pool_clusters",
]

# IPv4 where a name has both, as servers on localhost and most clusters do; the default prefers IPv6.
BY_NAME: Resource = {"type": "STRICT_DNS", "dns_lookup_family": "V4_PREFERRED"}

# Each live request holds a stream to its picker and one to its endpoint, so Envoy's default of 1024 would be a cap on the
# gateway; an overflowing picker cluster answers 500. Load is limited where it is understood, in the picker. Retries are
# bounded per request; by Envoy's default of 3 at a time in a whole cluster, a single dead endpoint would fail requests.
CIRCUIT_BREAKERS: Resource = {
    "thresholds": [{"max_connections": 65536, "max_pending_requests": 65536, "max_requests": 65536, "max_retries": 1024}],
}

# uvicorn (vLLM, SGLang) and llama.cpp close a connection that was idle for 5 s. A request sent at that moment is lost, and
# Envoy must not repeat it because it was sent: so Envoy closes first.
POOL_IDLE_SECONDS = 4

# Checks faster than a second, with a threshold of 1, declared live pickers dead on a busy machine: 975 picks lost in a run.
HEALTH_CHECK: Resource = {
    "timeout": "2s",
    "interval": "2s",
    "no_traffic_interval": "2s",  # default 60 s: a picker that starts after Envoy would stay unused that long
    "unhealthy_threshold": 2,
    "healthy_threshold": 1,
    "grpc_health_check": {"service_name": "envoy.service.ext_proc.v3.ExternalProcessor"},
}

# Of its share of what is under way in the cluster: above it, an endpoint's sessions go to others, drawn by their keys.
BALANCE_PERCENT = 125

# Two connections in a row that fail: the endpoint is left out for 5 s, then for 10, and so on. An engine that answers 5xx is
# not: the prompt that breaks one breaks the next.
OUTLIERS: Resource = {
    "split_external_local_origin_errors": True,
    "consecutive_local_origin_failure": 2,
    "enforcing_consecutive_5xx": 0,
    "enforcing_consecutive_gateway_failure": 0,
    "enforcing_success_rate": 0,
    "enforcing_local_origin_success_rate": 0,
    "base_ejection_time": "5s",
    "interval": "1s",
    "max_ejection_percent": 100,
}


def pool_clusters(pool: Pool, intent: Intent) -> list[str]:
    """Return the names of the clusters in which a pool's model servers are, whichever the routes lead to."""
    profiles = intent.profiles_of(pool)
    asked = [pool_cluster_name(pool.name)] if any(profile.asks for profile in profiles) else []
    return asked + [native_cluster_name(pool.name, keyed=keyed) for keyed in (False, True) if Profile.NATIVE in profiles]


def pool_cluster(pool: Pool, intent: Intent) -> Resource:
    """Return the cluster of a pool's endpoints.

    override_host takes the picker's ordered list from dynamic metadata, which no client can write, and moves one entry on
    with each retry; an address that is not an endpoint of the pool is passed over. Without a pick, or behind the end of
    the list, least-request chooses: this is what failing open means. It obeys a pick whatever health checks or outlier
    detection say of the endpoint, so there are none.
    """
    fields: Resource = {
        "override_host_sources": [{"metadata": _metadata_key(DESTINATION)}],
        "fallback_policy": _policies("least_request", "LeastRequest"),
    }
    if TELLS_SERVED & {*intent.profiles_of(pool)}:
        # The last attempt's endpoint, forwarded to the picker with the response headers (Envoy 1.38).
        fields["selected_host_key"] = _metadata_key(SERVED)
    return {
        **_model_servers(pool_cluster_name(pool.name), pool, intent),
        "load_balancing_policy": _policies("override_host", "OverrideHost", **fields),
    }


def native_clusters(pool: Pool, intent: Intent) -> list[Resource]:
    """Return the two clusters of the profile native, over the same endpoints: requests without a key, and those with one.

    Nobody picks, so Envoy itself has to notice which endpoints are gone. Keys meet endpoints by Maglev. Measured on Envoy
    1.40 with 100 endpoints, beside rings of 1,024 and 65,536 hashes: when half of the weights rise and half fall by a tenth,
    5.9 % of the keys move (rings 10.3 and 9.7; no way moves less than 5), when one falls to a tenth 1.3 % (44.8 and 3.0), when
    one endpoint goes 1.4 % (0.8 and 1.9); a push of weights costs 4 ms of CPU (2 and 8).
    """
    keyed = {"hash_balance_factor": BALANCE_PERCENT}
    policies = {
        False: _policies("least_request", "LeastRequest"),
        True: _policies("maglev", "Maglev", consistent_hashing_lb_config=keyed),
    }
    return [
        {
            **_model_servers(native_cluster_name(pool.name, keyed=keyed), pool, intent),
            "outlier_detection": OUTLIERS,
            "load_balancing_policy": policy,
        }
        for keyed, policy in policies.items()
    ]


def picker_cluster(pool: Pool, intent: Intent) -> Resource:
    """Return the cluster of a pool's picker workers: gRPC, so HTTP/2.

    Where bodies are streamed to the picker a request fails open only if Envoy knows that there is no picker before it sends
    the first part. Measured: with a refused connection and failure_mode_allow a GET was answered 200 but a POST 500; with the
    health check and no panic mode (which would send to dead workers when most are dead) the POST was answered 200 too.
    In lean the body stays in Envoy until the picker has answered, and retries find the living worker: no check needed.
    In strict nothing fails open, and retries find the living worker too.
    """
    cluster = grpc_cluster(picker_cluster_name(pool.name), picker_authorities(pool, intent.kubernetes), intent.limits)
    if pool.picker.tls is not None:
        cluster["transport_socket"] = picker_transport_socket(pool.picker.tls)
    if (STREAMS_BODIES - {Profile.STRICT}) & {*intent.profiles_of(pool)}:
        cluster["common_lb_config"] = {"healthy_panic_threshold": {"value": 0}}
        cluster["health_checks"] = [HEALTH_CHECK]
    return cluster


def body_router_cluster(router: BodyRouter, limits: Limits) -> Resource:
    """Return the cluster of the body router's workers."""
    cluster = grpc_cluster(BODY_ROUTER, router.addresses, limits)
    if router.tls is not None:
        cluster["transport_socket"] = picker_transport_socket(router.tls)
    return cluster


def collector_cluster(pool: Pool, limits: Limits) -> Resource:
    """Return the cluster of a pool's collector: one process, to which records go over TCP."""
    assert pool.picker.collector is not None  # noqa: S101 # the caller's promise
    return _endpoints(collector_cluster_name(pool.name), [pool.picker.collector], limits)


def grpc_cluster(name: str, authorities: Iterable[str], limits: Limits) -> Resource:
    """Return a cluster of gRPC servers, which speak HTTP/2."""
    cluster = _endpoints(name, authorities, limits)
    cluster["typed_extension_protocol_options"] = _http_protocol(explicit_http_config={"http2_protocol_options": {}})
    return cluster


def _model_servers(name: str, pool: Pool, intent: Intent) -> Resource:
    protocol = "http2_protocol_options" if pool.http2 else "http_protocol_options"
    return {
        **_endpoints(name, endpoint_authorities(pool, intent.kubernetes), intent.limits),
        "typed_extension_protocol_options": _http_protocol(
            common_http_protocol_options={"idle_timeout": duration(POOL_IDLE_SECONDS)},
            explicit_http_config={protocol: {}},
        ),
    }


def _endpoints(name: str, authorities: Iterable[str], limits: Limits) -> Resource:
    places = [split_server(authority) for authority in authorities]
    cluster: Resource = {"name": name, "type": "STATIC"}
    if not all(is_resolved(host) for host, _ in places):
        cluster |= BY_NAME
    endpoints = [{"endpoint": {"address": server_address(host, port)}} for host, port in places]
    return cluster | {
        "connect_timeout": duration(limits.connect_timeout_seconds),
        "circuit_breakers": CIRCUIT_BREAKERS,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }


def _http_protocol(**fields: Any) -> Resource:
    options = "extensions.upstreams.http.v3.HttpProtocolOptions"
    return {f"envoy.{options}": typed(options, **fields)}


def _policies(policy: str, message: str, **fields: Any) -> Resource:
    name = f"load_balancing_policies.{policy}"
    return {
        "policies": [{"typed_extension_config": extension(f"envoy.{name}", f"extensions.{name}.v3.{message}", **fields)}],
    }


def _metadata_key(key: str) -> Resource:
    return {"key": NAMESPACE, "path": [{"key": key}]}
