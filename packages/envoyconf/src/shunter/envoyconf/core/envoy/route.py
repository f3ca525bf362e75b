"""Routes: host, path, and a model if that is asked for, lead to a pool or several and turn their pickers on."""

from collections.abc import Iterator, Sequence

from shunter.envoyconf.core.envoy.affinity import key_places
from shunter.envoyconf.core.envoy.chain import idle_pickers, pool_switches, route_switches
from shunter.envoyconf.core.envoy.hosts import virtual_hosts
from shunter.envoyconf.core.envoy.model import model_matches
from shunter.envoyconf.core.envoy.overflow import overflow_retries, target_cluster_name
from shunter.envoyconf.core.envoy.record import release_metadata
from shunter.envoyconf.core.envoy.retry import request_retries
from shunter.envoyconf.core.intent import Intent, Profile, Route
from shunter.envoyconf.core.intent.hosts import ANY_HOST
from shunter.envoyconf.core.names import DESTINATION, OVERFLOW, SERVED, native_cluster_name, pool_cluster_name
from shunter.envoyconf.core.protojson import Resource, duration

__all__ = ["pool_routes", "route_configuration"]


def route_configuration(intent: Intent, hosts: Sequence[str] = (ANY_HOST,)) -> Resource:
    """Return the routes of listeners that serve these host names; a port that clients name beside them does not count.

    Each host has the routes of all that are wider than it once more: what they have in common is said once, by the host or for
    all. Bodies are kept up to the limit for the picker and for retries: with Envoy's default of 1 MiB, measured, larger
    requests were not retried or ended in 507.
    """
    in_common: Resource = {
        "request_body_buffer_limit": intent.limits.body_bytes,
        "retry_policy": request_retries(intent.limits.retries),
    }
    resources = [
        {
            "name": "all" if ANY_HOST in domains else domains[0],
            "domains": domains,
            **in_common,
            "routes": [
                *([overflow_route(intent)] if any(pool.overflow for pool in intent.pools) else ()),
                *(each for route in routes for each in pool_routes(route, intent)),
                *([no_pool()] if intent.by_model else ()),
            ],
        }
        for domains, routes in virtual_hosts(hosts, intent.effective_routes)
    ]
    if intent.reads_model and not any(ANY_HOST in each["domains"] for each in resources):
        # Without a route every picker would be asked, since none is told to leave the request alone.
        resources.append({"name": "none", "domains": [ANY_HOST], **in_common, "routes": [no_pool()]})
    by_name = any(domain != ANY_HOST for each in resources for domain in each["domains"])
    return {
        "name": "routes" if tuple(hosts) == (ANY_HOST,) else f"routes/{','.join(hosts)}",
        "virtual_hosts": resources,
        **_turned_on(idle_pickers(intent)),
        **({"ignore_port_in_host_matching": True} if by_name else {}),
    }


def overflow_route(intent: Intent) -> Resource:
    """Return the first route: of a request that its picker has refused, and instead named the overflow of its pool for.

    No client can, the header is removed from what comes in. The route is chosen again when the picker has answered. What the
    provider answers then is the answer: the host's retries, for model servers, do not hold.
    """
    return {
        "name": "overflow",
        "match": {"prefix": "/", "headers": [{"name": OVERFLOW, "present_match": True}]},
        "route": {
            "cluster_header": OVERFLOW,
            "timeout": "0s",
            "idle_timeout": duration(intent.limits.idle_timeout_seconds),
            "retry_policy": {},
        },
    }


def no_pool() -> Resource:
    """Return the last route: where a request is before its model is known, and ends if no other route fits then.

    It leads to a cluster that a header names which no request has at this point: that is a 404 with the flag NC. A direct
    response would be one too, but its route has no limit for the body, and Envoy's own is 1 MiB.
    """
    return {
        "name": "none",
        "match": {"prefix": "/"},
        "route": {"cluster_header": DESTINATION, "cluster_not_found_response_code": "NOT_FOUND"},
    }


def pool_routes(route: Route, intent: Intent) -> Iterator[Resource]:
    """Yield one route for each model, or the only one if it is for all; in the profile native, before it one for each key.

    There is no timeout on the whole of a response: it would cut long streams (Envoy's default is 15 s). Silence ends a
    request instead.
    """
    limits, profile = intent.limits, intent.profile_of(route)
    pools = intent.pools_of(route)
    names = "+".join(pool.name for pool in pools)
    match: Resource = {"prefix": "/"} if route.prefix == "/" else {"path_separated_prefix": route.prefix}
    matches = [] if route.by_model else [(f"{names}:{route.prefix}", match)]
    matches += [(f"{names}:{route.prefix}:{name}", _both(match, named)) for name, named in model_matches(route, intent)]
    keys = [*key_places(route.affinity)] if profile is Profile.NATIVE else []

    action: Resource = {
        "timeout": "0s",
        "idle_timeout": duration(limits.idle_timeout_seconds),
    }
    if any(pool.overflow for pool in pools):
        action["retry_policy"] = overflow_retries(request_retries(limits.retries), pools)
    rest: Resource = {**release_metadata(profile)}
    if intent.observability.served_header:
        header = {"key": SERVED, "value": "%UPSTREAM_HOST%"}
        rest["response_headers_to_add"] = [{"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]

    def entry(name: str, match: Resource, action: Resource, switches: Resource) -> Resource:
        return {"name": name, "match": match, "route": action, **_turned_on(switches), **rest}

    switches = pool_switches(intent, pools[0], profile) if len(pools) == 1 else {}
    plain, keyed = (_destination(route, intent, keyed=keyed) for keyed in (False, True))
    for name, matched in matches:
        for key, having, policy in keys:
            yield entry(f"{name} by {key}", _both(matched, having), {**keyed, **action, "hash_policy": [policy]}, switches)
        yield entry(name, matched, {**plain, **action}, route_switches(route, intent) | switches)


def _turned_on(switches: Resource) -> Resource:
    return {"typed_per_filter_config": switches} if switches else {}


def _destination(route: Route, intent: Intent, *, keyed: bool) -> Resource:
    """Return where requests go: to one cluster, or to several by weight, each of which turns its own pool's picker on.

    Turned on by the route, one picker would be asked for all pools. Which pool a request with a key meets depends on its
    key alone: a session that changed pools would find nothing of its own there.
    """
    profile = intent.profile_of(route)
    names = {
        pool.name: target_cluster_name(
            pool, pool_cluster_name(pool.name) if profile.asks else native_cluster_name(pool.name, keyed=keyed)
        )
        for pool in intent.pools_of(route)
    }
    if len(names) == 1:
        return {"cluster": next(iter(names.values()))}
    weighted = [
        {"name": names[pool.name], "weight": share.weight, **_turned_on(pool_switches(intent, pool, profile))}
        for share, pool in zip(route.shares, intent.pools_of(route), strict=True)
    ]
    return {"weighted_clusters": {"clusters": weighted, **({"use_hash_policy": True} if keyed else {})}}


def _both(match: Resource, other: Resource) -> Resource:
    """Return what matches requests that both match: lists of conditions are joined."""
    return match | {kind: [*match.get(kind, ()), *conditions] for kind, conditions in other.items()}
