"""Routes: a path prefix leads to a pool and turns its picker on."""

from shunter.envoyconf.core.intent import Intent, Limits, Route
from shunter.envoyconf.core.names import SERVED, picker_filter, pool_cluster
from shunter.envoyconf.core.protojson import Resource, duration, extension, typed

__all__ = ["retry_policy", "route", "route_configuration"]


def route_configuration(intent: Intent) -> Resource:
    """Return all routes, in the intent's order, for every host name."""
    return {
        "name": "routes",
        "virtual_hosts": [
            {
                "name": "all",
                "domains": ["*"],
                "routes": [route(each, intent.limits, intent.observability.served_header) for each in intent.effective_routes],
            },
        ],
    }


def route(route: Route, limits: Limits, served_header: bool) -> Resource:
    """Return one route.

    There is no timeout on the whole of a response: it would cut long streams (Envoy's default is 15 s). Silence ends a
    request instead. Bodies are kept up to the limit for the picker and for retries: with Envoy's default of 1 MiB, measured,
    larger requests were not retried or ended in 507.
    """
    resource: Resource = {
        "name": f"{route.pool}:{route.prefix}",
        "match": {"prefix": "/"} if route.prefix == "/" else {"path_separated_prefix": route.prefix},
        "route": {
            "cluster": pool_cluster(route.pool),
            "timeout": "0s",
            "idle_timeout": duration(limits.idle_timeout_seconds),
            "retry_policy": retry_policy(limits.retries),
        },
        "request_body_buffer_limit": limits.body_bytes,
        # An empty configuration that enables the filter, which is disabled otherwise.
        "typed_per_filter_config": {picker_filter(route.pool): typed("config.route.v3.FilterConfig", config={})},
    }
    if served_header:
        header = {"key": SERVED, "value": "%UPSTREAM_HOST%"}
        resource["response_headers_to_add"] = [{"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]
    return resource


def retry_policy(retries: int) -> Resource:
    """Return when and how a request is tried again on the picker's next choice.

    Only what no engine has begun is repeated: a generation costs seconds of a GPU and must not run twice. So connections
    that fail, streams that are refused, resets before the request was sent, and 503, by which engines say that they take no
    requests (llama.cpp and SGLang while they load a model, servers that drain). Not 429: a busy engine's answer is for the
    client, and the picker, which knows every queue, chose this one as the least bad. Not 500: the prompt that breaks one
    engine breaks the next. Not a reset in the middle: nobody knows what was done. previous_hosts keeps load balancing, when
    the picker's list is used up, from choosing a dead endpoint again.
    """
    return {
        "retry_on": "connect-failure,refused-stream,reset-before-request,retriable-status-codes",
        "retriable_status_codes": [503],
        "num_retries": retries,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.250s"},
        "retry_host_predicate": [
            extension(
                "envoy.retry_host_predicates.previous_hosts", "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
            ),
        ],
        "host_selection_retry_max_attempts": 3,
    }
