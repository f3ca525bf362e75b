"""Rules against clients that choose where their requests go."""

from collections.abc import Iterator

from msgspec import UNSET

from shunter.envoyconf.core.lint.envoy.findings import found, of_envoys, of_pool_routes
from shunter.envoyconf.core.lint.envoy.headers import additions, cleaning, removed_always, removed_if_external
from shunter.envoyconf.core.lint.envoy.view import Envoy, Manager, Route
from shunter.envoyconf.core.lint.rule import Finding, Rule
from shunter.envoyconf.core.names import DESTINATION, PICKER_HEADERS

__all__ = ["RULES"]

UNDERSCORE_ACTIONS = ("ALLOW", "REJECT_REQUEST", "DROP_HEADER")


def _managers(envoy: Envoy) -> Iterator[tuple[Manager, dict[str, str], bool]]:
    """Yield connection managers before model servers, which header each cluster goes by, and whether only by headers on a path.

    A cluster that follows a header where nobody is asked, and not the picker protocol's, is a proxy of another kind.
    """
    for manager in envoy.managers:
        routes = [route for route in envoy.routes if route.manager is manager and route.to_pool]
        clusters = [cluster for route in routes for branch in route.branches for cluster in branch.followers]
        headers = {source.header: cluster.name for cluster in clusters for source in cluster.sources if source.header}
        if routes and (manager.asking or DESTINATION in headers or not headers):
            yield manager, headers, any(cluster.is_original_dst for cluster in clusters)


def steered_by_clients(envoy: Envoy) -> Iterator[Finding]:
    for manager, headers, anywhere in _managers(envoy):
        for header, cluster in headers.items():
            if not (removed_always(manager, header) or removed_if_external(manager, header)):
                yield found(
                    manager.node,
                    f"the cluster {cluster!r} goes where the header {header} says, and clients may send that header: whenever "
                    "the picker does not overwrite it (it is down, closes its stream, is not asked on a route) the client "
                    "chooses " + ("any host and port that Envoy reaches" if anywhere else "the endpoint, past the picker"),
                    f"remove {header} in early_header_mutation_extensions, or take the pick from dynamic metadata",
                    *cleaning(manager, [header]),
                )


def clients_value_first(envoy: Envoy) -> Iterator[Finding]:
    for route in envoy.routes:
        manager = route.manager
        if not (manager and route.to_pool):
            continue
        for branch in route.branches:
            for header, option in additions(manager.filters, branch.scopes):
                if header in PICKER_HEADERS and not removed_always(manager, header):
                    yield found(
                        option,
                        f"{header} is appended to the one that a client sent, and the first value counts: the client's",
                        "set append_action: OVERWRITE_IF_EXISTS_OR_ADD, or remove the header from requests first",
                        (option.at("append_action"), "OVERWRITE_IF_EXISTS_OR_ADD"),
                        *([(option.at("append"), UNSET)] if option.at("append") else []),
                    )


def trusted_clients(envoy: Envoy) -> Iterator[Finding]:
    for manager, headers, _ in _managers(envoy):
        ranges = manager.node.at("internal_address_config", "cidr_ranges")
        guarded = [
            header
            for header in dict.fromkeys((*headers, *PICKER_HEADERS))
            if removed_if_external(manager, header) and not removed_always(manager, header)
        ]
        if guarded and [*ranges.items()]:
            yield found(
                ranges,
                f"internal_only_headers keeps {guarded[0]} from external clients only, and these ranges say who is internal: "
                "whoever comes from them, or through a proxy in them, may send it",
                "remove the header in early_header_mutation_extensions, which asks nobody where a request comes from",
                *cleaning(manager, guarded),
            )


def removed_before_use(route: Route) -> Iterator[Finding]:
    for branch in route.branches:
        for cluster in branch.followers:
            headers = {source.header for source in cluster.sources}
            for scope in branch.scopes:
                removals = scope.at("request_headers_to_remove")
                for item in removals.items():
                    if headers == {item.text.lower()}:
                        outcome = "answers 503" if cluster.is_original_dst else "falls back to load balancing"
                        yield found(
                            item,
                            f"{item.text} is removed before the cluster {cluster.name!r} reads it: every request {outcome}, "
                            "picked or not",
                            "remove it from clients' requests in early_header_mutation_extensions instead",
                            (removals, [other for other in removals.texts if other != item.text] or UNSET),
                        )


def forged_headers(envoy: Envoy) -> Iterator[Finding]:
    for manager, headers, _ in _managers(envoy):
        kept = [
            header
            for header in PICKER_HEADERS
            if header not in headers and not removed_always(manager, header) and not removed_if_external(manager, header)
        ]
        if kept:
            yield found(
                manager.node,
                "clients may send "
                f"{kept[0]}{f' and {len(kept) - 1} more headers of pickers and gateways' if kept[1:] else ''}; what is behind "
                "this proxy takes them for the gateway's word: a subset of endpoints, a model, hosts for llm-d's sidecar to "
                "connect to",
                f"remove in early_header_mutation_extensions: {', '.join(kept)}",
                *cleaning(manager, kept),
            )


def underscores(envoy: Envoy) -> Iterator[Finding]:
    for manager, _, _ in _managers(envoy):
        action = manager.node.at("common_http_protocol_options", "headers_with_underscores_action")
        if action.choice(UNDERSCORE_ACTIONS) == "ALLOW":
            yield found(
                action or manager.node,
                "header names with underscores are let through: x_gateway_destination_endpoint passes what removes it with "
                "hyphens, and servers of the CGI school take both for the same",
                "set common_http_protocol_options.headers_with_underscores_action: REJECT_REQUEST",
                (action, "REJECT_REQUEST"),
            )


def unpicked(route: Route) -> Iterator[Finding]:
    manager = route.manager
    for branch in route.branches:
        cluster = next((each for each in branch.followers if each.is_original_dst), None)
        if not (manager and cluster) or branch.questions:
            continue
        header = cluster.sources[0].header
        if not (manager.asking or header == DESTINATION):
            continue
        is_open = header and not removed_always(manager, header) and not removed_if_external(manager, header)
        yield found(
            branch.place,
            f"no picker is asked on this route, and the cluster {cluster.name!r} goes only where one says: "
            + (f"clients choose any host by {header}" if is_open else "every request is answered 503"),
            "enable the picker's filter on this route, or lead it to a cluster that load balances",
        )


RULES = (
    Rule(
        "E21",
        "Clients can choose where their requests go",
        "Seen on 1.40.0: with a header as source, a client's own header was followed when the picker was down and failed open, "
        "when it closed its stream without a pick (even failing closed), when it picked in metadata only, and on routes "
        "without it. ORIGINAL_DST went to any address, override_host to any endpoint of the pool. Safe: early_header_mutation, "
        "a header_mutation filter before the picker's, dynamic metadata as source.",
        of_envoys(steered_by_clients),
        "llm-d/llm-d-router#242",
    ),
    Rule(
        "E22",
        "A picker's header is appended to the client's",
        "Envoy's default for added headers is to append, and override_host and ORIGINAL_DST read the first value. Seen on "
        "1.40.0, also for a picker's own answers with append: true.",
        of_envoys(clients_value_first),
        "Envoy API, HeaderValueOption.append_action",
    ),
    Rule(
        "W23",
        "Headers that are kept from external clients only",
        "Seen on 1.36.2 to 1.40.0: internal_only_headers removes a spoofed header, unless internal_address_config covers the "
        "client; then it is followed.",
        of_envoys(trusted_clients),
        "Envoy API, RouteConfiguration.internal_only_headers",
    ),
    Rule(
        "E24",
        "The pick is removed before it is read",
        "request_headers_to_remove takes effect before a host is chosen. Seen on 1.36.2 to 1.40.0: ORIGINAL_DST answers 503.",
        of_pool_routes(removed_before_use),
        "Envoy API, Route.request_headers_to_remove",
    ),
    Rule(
        "W25",
        "Clients can forge the headers of pickers and gateways",
        "Headers by which gateways, pickers and sidecars speak to each other have no signature. x-prefiller-host-port makes "
        "llm-d's sidecar connect to a host of the client's choice.",
        of_envoys(forged_headers),
        "llm-d/llm-d-router#242",
    ),
    Rule(
        "W27",
        "Header names with underscores pass",
        "WSGI and CGI map hyphens and underscores to the same variable. Seen on 1.36.2 to 1.40.0: REJECT_REQUEST answers 400.",
        of_envoys(underscores),
        "Envoy documentation, best practices for edge proxies",
    ),
    Rule(
        "E28",
        "A route past the picker to a cluster that needs it",
        "ORIGINAL_DST chooses nothing by itself. Seen on 1.40.0: with the filter disabled on a route, a client's header led to "
        "any host; without the header, 503.",
        of_pool_routes(unpicked),
    ),
)
