"""Rules for what is tried again: retries that silently stop, that go nowhere, and that do work twice."""

from collections.abc import Iterator

from msgspec import UNSET

from shunter.envoyconf.core.envoy.retry import request_retries
from shunter.envoyconf.core.lint.envoy.findings import found, of_pool_routes
from shunter.envoyconf.core.lint.envoy.models import JSON_TO_METADATA, body_routers, without_model
from shunter.envoyconf.core.lint.envoy.node import Node
from shunter.envoyconf.core.lint.envoy.view import Route
from shunter.envoyconf.core.lint.rule import Finding, Rule, Subject
from shunter.envoyconf.core.versions import Feature

__all__ = ["RULES"]

# What Envoy buffers of a connection if nobody says otherwise.
DEFAULT_BUFFER_BYTES = 1 << 20

# Room for a prompt with pictures.
PROMPT_BYTES = 32 << 20

# Triggers that repeat what an engine may have begun.
RECKLESS = {
    "reset": "a connection that breaks in the middle of a generation",
    "gateway-error": "every 502, 503 and 504, and a broken connection",
    "5xx": "every 5xx, and a broken connection",
}


def _retries(policy: Node) -> bool:
    number = policy.at("num_retries").number
    return bool(policy.at("retry_on").text) and number != 0


def _triggers(policy: Node) -> list[str]:
    return [each.strip() for each in policy.at("retry_on").text.split(",") if each.strip()]


def small_buffer(subject: Subject) -> Iterator[Finding]:
    has_limit = Feature.ROUTE_BODY_LIMIT.in_version(subject.envoy_version)
    for envoy in subject.envoys:
        for route in envoy.routes:
            if route.to_pool and (use := _use_of_buffer(route)):
                yield from _small_buffer(route, use, has_limit=has_limit)
        for manager in envoy.managers:
            routes = [route for route in envoy.routes if route.manager is manager]
            if body_routers(manager, routes):
                for route in without_model(routes):
                    if not route.to_pool:
                        use = "longer ones are answered 413: this is the route that requests have until their model is known"
                        yield from _small_buffer(route, use, has_limit=has_limit)


def _small_buffer(route: Route, use: str, *, has_limit: bool) -> Iterator[Finding]:
    nothing = Node(route.node.document)
    listener = route.manager.listener.at("per_connection_buffer_limit_bytes") if route.manager else nothing
    limits = [scope.at("request_body_buffer_limit") for scope in route.scopes[:2]]
    own = next((limit for limit in limits if limit.number is not None), nothing)
    obeys = has_limit and bool(route.action)  # Envoy takes the field of a direct response too, and heeds it not
    place = own if own and obeys else listener
    limit = place.number if place.number is not None else DEFAULT_BUFFER_BYTES
    if limit <= DEFAULT_BUFFER_BYTES:
        message = f"at most {limit:.15g} bytes of a request are kept{'' if place else ', the default'}, and {use}"
        if not route.action:
            remedy = "make it a route to a cluster_header that no request has, with cluster_not_found_response_code and "
            yield found(route.node, message, f"{remedy}request_body_buffer_limit")
            return
        whose = "request_body_buffer_limit of the route" if has_limit else "per_connection_buffer_limit_bytes of the listener"
        change = route.node.at("request_body_buffer_limit") if has_limit else listener
        yield found(
            place or route.node,
            message,
            f"set {whose} above the longest prompt, for example {PROMPT_BYTES}",
            *([(change, PROMPT_BYTES)] if has_limit or listener else []),
        )


def _use_of_buffer(route: Route) -> str:
    """Return what happens to longer requests, if anything."""
    if any(question.mode("request_body_mode") == "BUFFERED" for question in route.questions):
        return "longer ones are answered 413, since the picker is sent them whole"
    filters = route.manager.filters if route.manager else ()
    reading = [each for each in filters if each.type == JSON_TO_METADATA and each.config.at("request_rules")]
    if any(each.is_enabled(route.scopes) for each in reading):
        return "longer ones are answered 413, since json_to_metadata reads them whole"
    if _retries(route.retry_policy):
        return "longer ones are not tried again: a 503 stays a 503, a refused connection ends in 503 or 507"
    return ""


def first_choice_only(route: Route) -> Iterator[Finding]:
    policy = route.retry_policy
    followers = [cluster for branch in route.branches for cluster in branch.followers if cluster.override]
    if not followers or not any(route.questions) or route.action.at("retry_policy_typed_config"):
        return
    if not _retries(policy):
        place = policy.at("num_retries") if policy.at("num_retries").number == 0 else policy
        yield found(
            place or route.action,
            f"nothing is tried again: of a picker's list only the first endpoint of {followers[0].name!r} is ever used, and a "
            "connection that it refuses is a 503",
            "set a retry_policy with connect-failure, refused-stream and reset-before-request, and as many retries as the list "
            "has further entries",
            (policy or route.action.at("retry_policy"), request_retries(2)),
        )
    elif policy.at("retriable_status_codes") and "retriable-status-codes" not in _triggers(policy):
        retry_on = policy.at("retry_on")
        yield found(
            retry_on,
            "retriable_status_codes does nothing without the trigger retriable-status-codes: those answers are final",
            "add retriable-status-codes to retry_on",
            (retry_on, ",".join((*_triggers(policy), "retriable-status-codes"))),
        )


def nowhere_else(route: Route) -> Iterator[Finding]:
    policy = route.retry_policy
    for branch in route.branches:
        cluster = next((each for each in branch.followers if each.is_original_dst), None)
        if cluster and _retries(policy) and branch.questions:
            yield found(
                policy,
                f"the cluster {cluster.name!r} is ORIGINAL_DST: each retry goes to the same address again, and a picker that "
                "names several ('a,b', as multi-endpoint pickers do) is answered 503 at once",
                "use a cluster with known endpoints and override_host, which goes on along the list; or have the picker name "
                "one",
            )


def done_twice(route: Route) -> Iterator[Finding]:
    policy = route.retry_policy
    if not _retries(policy):
        return
    retry_on, triggers = policy.at("retry_on"), _triggers(policy)
    if reckless := [each for each in triggers if each in RECKLESS]:
        left = [each for each in triggers if each not in RECKLESS]
        yield found(
            retry_on,
            f"retry_on {reckless[0]} repeats {RECKLESS[reckless[0]]}: seconds of a GPU spent again, and a prompt that breaks "
            "one model server is given to the next",
            "use connect-failure,refused-stream,reset-before-request, which repeat only what nobody has begun",
            (retry_on, ",".join(left or ("connect-failure", "refused-stream", "reset-before-request"))),
        )
    codes = policy.at("retriable_status_codes")
    numbers = [each.number for each in codes.items()]
    # A cluster that is made of others, such as a pool and a provider for what it cannot take, sends the retry to the next.
    overflows = any(cluster.members for branch in route.branches for cluster in branch.clusters)
    if 429 in numbers and "retriable-status-codes" in triggers and not overflows:
        yield found(
            codes,
            "429 is tried again: when the pool is full every request becomes several, and the client learns of it later",
            "leave 429 to the client; the picker has chosen the least loaded already",
            (codes, [number for number in numbers if number != 429] or UNSET),
        )


def health_that_nobody_heeds(route: Route) -> Iterator[Finding]:
    for branch in route.branches:
        for cluster in branch.followers if branch.questions else ():
            for field in ("health_checks", "outlier_detection"):
                if cluster.override and (node := cluster.node.at(field)):
                    yield found(
                        node,
                        f"{field} of {cluster.name!r} counts only where nobody has picked: a picked endpoint is used though it "
                        "is ejected or unhealthy",
                        "let the picker know health, take endpoints that are gone out of the cluster, and retry along a list",
                    )


RULES = (
    Rule(
        "W47",
        "Long prompts are treated differently",
        "Seen on 1.40.0 with a listener's 32 KiB, the default of Envoy Gateway: BUFFERED and json_to_metadata answered 413, "
        "and a prompt of 33 KiB was not tried again (503). With Envoy's 1 MiB the same above it, or 507. "
        "request_body_buffer_limit of a route lifts it, also above the listener's; 1.36 obeys it only up to 1 MiB, and a "
        "direct response never (1.37 to 1.40).",
        small_buffer,
        "envoyproxy/ai-gateway#827",
    ),
    Rule(
        "W48",
        "Only the first of several picks is ever tried",
        "override_host moves along a list only with a retry. Seen on 1.40.0 for 'dead,alive': without a policy 503 (UF), with "
        "connect-failure 200 in two attempts; retriable_status_codes without its trigger: one attempt.",
        of_pool_routes(first_choice_only),
        "Envoy API, OverrideHost",
    ),
    Rule(
        "W49",
        "Retries that all go to the same host",
        "Seen on 1.36.2 to 1.40.0: ORIGINAL_DST answers a list of addresses 503 (UH), and repeats the one address that it has.",
        of_pool_routes(nowhere_else),
    ),
    Rule(
        "W50",
        "Retries that do a generation twice",
        "A judgement: what an engine may have begun costs seconds of a GPU to begin again, and 429 is an answer for the "
        "client. Seen on 1.36.2 and 1.40.0: reset, gateway-error and 5xx send a request again to an engine that has read it "
        "and hangs up.",
        of_pool_routes(done_twice),
    ),
    Rule(
        "W51",
        "Health that a pick does not heed",
        "Seen on 1.40.0: override_host used picked hosts that were UNHEALTHY or DRAINING in EDS, failed their health check or "
        "were ejected as outliers; override_host_status changed nothing.",
        of_pool_routes(health_that_nobody_heeds),
        "Envoy API, OverrideHost",
    ),
)
