"""Routes: a path prefix, and a model if that is asked for, lead to a pool and turn its picker on."""

from collections.abc import Iterator

from shunter.envoyconf.core.envoy.ext_proc import leave_out
from shunter.envoyconf.core.envoy.model import model_matches
from shunter.envoyconf.core.envoy.retry import request_retries
from shunter.envoyconf.core.intent import Intent, Route
from shunter.envoyconf.core.names import DESTINATION, SERVED, picker_filter_name, pool_cluster_name
from shunter.envoyconf.core.protojson import Resource, duration, typed

__all__ = ["pool_routes", "route_configuration"]


def route_configuration(intent: Intent) -> Resource:
    """Return all routes, in the intent's order, for every host name."""
    return {
        "name": "routes",
        "virtual_hosts": [
            {
                "name": "all",
                "domains": ["*"],
                "routes": [
                    *(each for route in intent.effective_routes for each in pool_routes(route, intent)),
                    *([no_pool(intent)] if intent.by_model else ()),
                ],
            },
        ],
    }


def no_pool(intent: Intent) -> Resource:
    """Return the last route: where a request is before its model is known, and ends if no other route fits then.

    It leads to a cluster that a header names which no request has at this point: that is a 404 with the flag NC. A direct
    response would be one too, but its route has no limit for the body, and Envoy's own is 1 MiB.
    """
    return {
        "name": "none",
        "match": {"prefix": "/"},
        "route": {"cluster_header": DESTINATION, "cluster_not_found_response_code": "NOT_FOUND"},
        "request_body_buffer_limit": intent.limits.body_bytes,
        "typed_per_filter_config": leave_out(intent.pools),
    }


def pool_routes(route: Route, intent: Intent) -> Iterator[Resource]:
    """Yield one route for each model, or the only one if it is for all.

    There is no timeout on the whole of a response: it would cut long streams (Envoy's default is 15 s). Silence ends a
    request instead. Bodies are kept up to the limit for the picker and for retries: with Envoy's default of 1 MiB, measured,
    larger requests were not retried or ended in 507.
    """
    limits, pool = intent.limits, route.shares[0].name
    match: Resource = {"prefix": "/"} if route.prefix == "/" else {"path_separated_prefix": route.prefix}
    resource: Resource = {
        "name": f"{pool}:{route.prefix}",
        "match": match,
        "route": {
            "cluster": pool_cluster_name(pool),
            "timeout": "0s",
            "idle_timeout": duration(limits.idle_timeout_seconds),
            "retry_policy": request_retries(limits.retries),
        },
        "request_body_buffer_limit": limits.body_bytes,
        "typed_per_filter_config": leave_out(each for each in intent.pools if each.name != pool)
        if intent.by_model
        # An empty configuration that enables the filter, which is disabled otherwise.
        else {picker_filter_name(pool): typed("config.route.v3.FilterConfig", config={})},
    }
    if intent.observability.served_header:
        header = {"key": SERVED, "value": "%UPSTREAM_HOST%"}
        resource["response_headers_to_add"] = [{"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]
    if not route.by_model:
        yield resource
    for name, by_name in model_matches(route, intent):
        yield {**resource, "name": f"{pool}:{route.prefix}:{name}", "match": {**match, **by_name}}
