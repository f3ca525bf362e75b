"""A hosted provider behind a pool: who takes what the pool's model servers refuse, and what it must not be told.

::

    route ── spill/pool/llama ──┬─ first attempts ── pool/llama ────────── model servers
             (composite)        └─ the last one ──── overflow/llama ────── the listener overflow/llama, inside this Envoy
                                                                           └─ provider/llama ── TLS ── the provider

A composite cluster has a cluster for each attempt: the pool for as many of the picker's choices as any other request gets,
then the provider. Since Envoy 1.40 a pool without any endpoint goes there at once; before, that is a 503. An aggregate cluster
with the retry plugin previous_priorities would do all of this on 1.36 too, but 1.38 and 1.39 crash when override_host is to
tell who served (profiles headers and full) within one.

The listener is there because headers must differ between attempts. HTTP filters of the provider's cluster would be the
obvious place, but Envoy runs those of the route's cluster, not those of the cluster that a composite (or aggregate) one chose:
measured on 1.37 and 1.40, the client's key and all headers reached the provider, and its own key did not. A route's host
rewrite holds for every attempt, too.
"""

from collections.abc import Iterable, Iterator

from shunter.envoyconf.core.authority import split_authority
from shunter.envoyconf.core.envoy.cluster import CIRCUIT_BREAKERS
from shunter.envoyconf.core.envoy.local_reply import local_reply
from shunter.envoyconf.core.envoy.outside import outside_cluster
from shunter.envoyconf.core.intent import Limits, Overflow, Pool
from shunter.envoyconf.core.names import overflow_cluster_name
from shunter.envoyconf.core.protojson import Resource, duration, extension, typed

__all__ = [
    "INTERNAL_LISTENERS",
    "overflow_clusters",
    "overflow_listener",
    "overflow_retries",
    "overflow_secrets",
    "target_cluster_name",
]

# What an Envoy has to bring to have listeners for itself; in the bootstrap, whoever serves the rest.
INTERNAL_LISTENERS = extension(
    "envoy.bootstrap.internal_listener", "extensions.bootstrap.internal_listener.v3.InternalListener"
)

# A provider is told what its API needs. Not the client's key, cookies, organisation or addresses, nor what the gateway and
# its pickers add: nearly all of that begins with x-.
WITHHELD_PREFIXES = ("x-", "openai-organization", "openai-project")
WITHHELD = (
    *("authorization", "proxy-authorization", "api-key", "cookie", "forwarded", "via"),
    *("traceparent", "tracestate", "baggage"),
)

# Of the provider's, clients need not know for whom the gateway's key is, nor keep its cookies.
UNTOLD = ("set-cookie", "openai-organization", "openai-project")

# Load balancers in front of hosted APIs close idle connections after a minute or more; Envoy closes first.
IDLE_S = 30


def target_cluster_name(pool: Pool, cluster: str) -> str:
    """Return where a route leads that means one of a pool's clusters: there, or to what tries it first."""
    return f"spill/{cluster}" if pool.overflow else cluster


def overflow_clusters(pool: Pool, targets: Iterable[str], limits: Limits) -> Iterator[Resource]:
    """Yield the clusters of a pool's overflow: one for each cluster of the pool that a route leads to, and the way out."""
    overflow, name = _overflow(pool), overflow_cluster_name(pool.name)
    for target in targets:
        yield {
            "name": target_cluster_name(pool, target),
            "connect_timeout": duration(limits.connect_timeout_seconds),
            "lb_policy": "CLUSTER_PROVIDED",
            "circuit_breakers": CIRCUIT_BREAKERS,
            "cluster_type": extension(
                "envoy.clusters.composite",
                "extensions.clusters.composite.v3.ClusterConfig",
                clusters=[{"name": each} for each in (*[target] * (limits.retries + 1), name)],
            ),
        }
    inside = {"endpoint": {"address": {"envoy_internal_address": {"server_listener_name": name}}}}
    raw = extension("envoy.transport_sockets.raw_buffer", "extensions.transport_sockets.raw_buffer.v3.RawBuffer")
    yield {
        "name": name,
        "type": "STATIC",
        "connect_timeout": duration(limits.connect_timeout_seconds),
        "circuit_breakers": CIRCUIT_BREAKERS,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [inside]}]},
        "transport_socket": extension(
            "envoy.transport_sockets.internal_upstream",
            "extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
            transport_socket=raw,
        ),
    }
    host, port = split_authority(overflow.address)
    options = "extensions.upstreams.http.v3.HttpProtocolOptions"
    http1: Resource = {"http_protocol_options": {}}
    protocol: Resource = (
        {"auto_config": {**http1, "http2_protocol_options": {}}} if overflow.tls else {"explicit_http_config": http1}
    )
    yield outside_cluster(
        _provider(pool), host, port, limits.connect_timeout_seconds, tls=overflow.tls, ca_file=overflow.ca_file
    ) | {
        "circuit_breakers": CIRCUIT_BREAKERS,
        "typed_extension_protocol_options": {
            f"envoy.{options}": typed(options, common_http_protocol_options={"idle_timeout": duration(IDLE_S)}, **protocol)
        },
    }


def overflow_listener(pool: Pool, limits: Limits) -> Resource:
    """Return the listener inside Envoy from which a request goes out: without what is ours, with the gateway's own key."""
    overflow, name = _overflow(pool), overflow_cluster_name(pool.name)
    host, port = split_authority(overflow.address)
    is_default = port == (443 if overflow.tls else 80)
    authority = f"[{host}]" if ":" in host else host
    route = {
        "cluster": _provider(pool),
        "host_rewrite_literal": authority if is_default else f"{authority}:{port}",
        "timeout": "0s",
        "idle_timeout": duration(limits.idle_timeout_seconds),
    }
    manager = typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        generate_request_id=False,
        stream_idle_timeout=duration(limits.idle_timeout_seconds),
        local_reply_config=local_reply(by_model=False),
        route_config={
            "name": name,
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}],
        },
        http_filters=[
            _withholding(),
            *([_credential(pool)] if overflow.credential_file else ()),
            extension("envoy.filters.http.router", "extensions.filters.http.router.v3.Router", suppress_envoy_headers=True),
        ],
    )
    return {
        "name": name,
        "internal_listener": {},
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}],
    }


def overflow_secrets(pools: Iterable[Pool]) -> list[Resource]:
    """Return the providers' keys."""
    files = {overflow_cluster_name(pool.name): _overflow(pool).credential_file for pool in pools}
    return [{"name": name, "generic_secret": {"secret": {"filename": file}}} for name, file in files.items() if file]


def overflow_retries(policy: Resource, pools: Iterable[Pool]) -> Resource:
    """Return a route's retry policy with one more attempt if one of its pools has an overflow, to which that attempt goes.

    The policy is the route's, and not each pool's: beside a pool with an overflow one without tries the same statuses once
    more within itself.
    """
    statuses = {status for pool in pools if pool.overflow for status in pool.overflow.statuses}
    if not statuses:
        return policy
    return policy | {
        "retriable_status_codes": sorted({*policy["retriable_status_codes"], *statuses}),
        "num_retries": policy["num_retries"] + 1,
    }


def _overflow(pool: Pool) -> Overflow:
    assert pool.overflow is not None  # noqa: S101 # the caller's promise
    return pool.overflow


def _provider(pool: Pool) -> str:
    return f"provider/{pool.name}"


def _withholding() -> Resource:
    requests: list[Resource] = [{"remove": header} for header in WITHHELD]
    requests += [{"remove_on_match": {"key_matcher": {"prefix": prefix}}} for prefix in WITHHELD_PREFIXES]
    return extension(
        "envoy.filters.http.header_mutation",
        "extensions.filters.http.header_mutation.v3.HeaderMutation",
        mutations={"request_mutations": requests, "response_mutations": [{"remove": header} for header in UNTOLD]},
    )


def _credential(pool: Pool) -> Resource:
    return extension(
        "envoy.filters.http.credential_injector",
        "extensions.filters.http.credential_injector.v3.CredentialInjector",
        overwrite=True,
        credential=extension(
            "envoy.http.injected_credentials.generic",
            "extensions.http.injected_credentials.generic.v3.Generic",
            credential={"name": overflow_cluster_name(pool.name)},
            header="authorization",
            header_value_prefix="Bearer ",
        ),
    )
