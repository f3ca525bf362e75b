"""Routes: a path prefix leads to a pool and turns its picker on."""

from shunter.envoyconf.core.intent import Intent, Limits, Route
from shunter.envoyconf.core.names import SERVED, picker_filter_name, pool_cluster_name
from shunter.envoyconf.core.protojson import Resource, duration, typed
from shunter.envoyconf.core.retry import request_retries

__all__ = ["pool_route", "route_configuration"]


def route_configuration(intent: Intent) -> Resource:
    """Return all routes, in the intent's order, for every host name."""
    return {
        "name": "routes",
        "virtual_hosts": [
            {
                "name": "all",
                "domains": ["*"],
                "routes": [
                    pool_route(route, intent.limits, intent.observability.served_header) for route in intent.effective_routes
                ],
            },
        ],
    }


def pool_route(route: Route, limits: Limits, served_header: bool) -> Resource:
    """Return one route.

    There is no timeout on the whole of a response: it would cut long streams (Envoy's default is 15 s). Silence ends a
    request instead. Bodies are kept up to the limit for the picker and for retries: with Envoy's default of 1 MiB, measured,
    larger requests were not retried or ended in 507.
    """
    resource: Resource = {
        "name": f"{route.pool}:{route.prefix}",
        "match": {"prefix": "/"} if route.prefix == "/" else {"path_separated_prefix": route.prefix},
        "route": {
            "cluster": pool_cluster_name(route.pool),
            "timeout": "0s",
            "idle_timeout": duration(limits.idle_timeout_seconds),
            "retry_policy": request_retries(limits.retries),
        },
        "request_body_buffer_limit": limits.body_bytes,
        # An empty configuration that enables the filter, which is disabled otherwise.
        "typed_per_filter_config": {picker_filter_name(route.pool): typed("config.route.v3.FilterConfig", config={})},
    }
    if served_header:
        header = {"key": SERVED, "value": "%UPSTREAM_HOST%"}
        resource["response_headers_to_add"] = [{"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]
    return resource
