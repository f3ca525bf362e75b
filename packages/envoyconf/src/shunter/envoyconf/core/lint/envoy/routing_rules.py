"""Rules for routes and the filters that they mean: by weight, by model, by name."""

from collections.abc import Iterable, Iterator

from msgspec import UNSET

from shunter.envoyconf.core.documents import Path
from shunter.envoyconf.core.lint.envoy.findings import found, of_envoys, of_managers, of_pool_routes
from shunter.envoyconf.core.lint.envoy.models import asks_for_model, body_routers, picker, without_model
from shunter.envoyconf.core.lint.envoy.node import Node
from shunter.envoyconf.core.lint.envoy.view import Branch, Envoy, HttpFilter, Manager, Question, Route
from shunter.envoyconf.core.lint.rule import Finding, Rule
from shunter.envoyconf.core.names import NAMESPACE
from shunter.envoyconf.core.spelling import suggest

__all__ = ["RULES"]

ON_DEMAND = "envoy.extensions.filters.http.on_demand.v3.OnDemand"


def one_picker_for_several(route: Route) -> Iterator[Finding]:
    asked: dict[tuple[object, ...], set[str]] = {}
    for branch in route.branches:
        if branch.followers and (question := picker(branch)):
            asked.setdefault(question.identity, set()).add(branch.followers[0].name)
    for clusters in asked.values():
        if len(clusters) > 1:
            names = " and ".join(sorted(clusters))
            yield found(
                route.action.at("weighted_clusters"),
                f"one picker is asked for {names}: Envoy has chosen the cluster by weight before, so a pick of the other's "
                "endpoints is not followed",
                "give each entry of weighted_clusters its own picker, in its typed_per_filter_config",
            )


def anothers_picker(envoy: Envoy) -> Iterator[Finding]:
    for manager, routes in _managers(envoy):
        asked = [(picked, branch) for route in routes for branch in route.branches if (picked := picker(branch))]
        pools: dict[tuple[str, ...], dict[str, Branch]] = {}  # who is asked for which clusters
        for question, branch in asked:
            pools.setdefault(_whom(question), {}).setdefault(branch.followers[0].name, branch)
        alone = {name: whom for whom, clusters in pools.items() if len(clusters) == 1 for name in clusters}
        astray = {whom: pair for whom, clusters in pools.items() if (pair := _strangers(clusters.values()))}
        for question, branch in asked:
            name, whom = branch.followers[0].name, _whom(question)
            if name in alone and (pair := _strangers([branch, *pools[whom].values()])):
                yield found(
                    branch.place,
                    f"requests for {name!r} are put to the picker {whom[0]!r} here, which is also asked for {pair[1]!r}, and "
                    f"these have no endpoint in common; elsewhere {name!r} has a picker of its own, {alone[name][0]!r}",
                    f"put these to {alone[name][0]!r}, or lead them to {pair[1]!r}",
                )
        for each in manager.asking:
            unheard = Question(each, (), None)
            if (
                astray
                and _whom(unheard) not in pools
                and unheard.receives(NAMESPACE)
                and each not in body_routers(manager, routes)
            ):
                whom, (one, other) = next(iter(astray.items()))
                yield found(
                    each.node.at("name"),
                    f"no request goes by what {each.name!r} answers, and those for {one!r} and {other!r}, which have no "
                    f"endpoint in common, all go by what {whom[0]!r} does: one pool's picks are not its endpoints, and not "
                    "followed",
                    "turn each pool's filter on on its own routes only: disabled: true at the filter, and FilterConfig or "
                    "ExtProcPerRoute in the route's typed_per_filter_config",
                )


def _whom(question: Question) -> tuple[str, ...]:
    """Return who is asked, and as whose: one picker may serve several pools if it is told which."""
    metadata = question.field("grpc_service").at("initial_metadata"), question.field("grpc_initial_metadata")
    return question.server_name.text, *(str(each.value) for each in metadata)


def _strangers(branches: Iterable[Branch]) -> tuple[str, str] | None:
    """Return the first cluster, and one with which it has no endpoint in common; None if there is none, or it is not known."""
    first, *others = branches
    for other in others:
        one, two = ({place for each in branch.followers for place in each.authorities} for branch in (first, other))
        if one and two and not one & two:
            return first.followers[0].name, other.followers[0].name
    return None


def picker_before_model(envoy: Envoy) -> Iterator[Finding]:
    for manager, routes in _managers(envoy):
        routers = body_routers(manager, routes)
        order = [each.node.path for each in manager.filters]
        for each, users in _pickers(routes) if routers else ():
            off = each.node.at("disabled")
            if off.is_true and all(asks_for_model(route) for route in users):
                yield found(
                    off,
                    f"the picker's filter {each.name!r} is off, and only routes that ask for a model turn it on: Envoy decides "
                    "which filters there are when a request's headers have come, before the model is known. It is never asked",
                    "leave disabled out, and have the other routes say ExtProcPerRoute: {disabled: true}, which counts in "
                    "its turn",
                )
            for router in routers:
                if order.index(each.node.path) < order.index(router.node.path):
                    yield found(
                        each.node,
                        f"the picker's filter {each.name!r} comes before {router.name!r}, which finds out the model: it is "
                        "asked for the route that a request has without one, or not at all",
                        f"put {router.name!r} first",
                    )


def _pickers(routes: list[Route]) -> list[tuple[HttpFilter, list[Route]]]:
    """Return the filters of pickers, and the routes that use each."""
    pickers: dict[Path, tuple[HttpFilter, list[Route]]] = {}
    for route in routes:
        for branch in route.branches:
            if branch.followers and (question := picker(branch)):
                pickers.setdefault(question.filter.node.path, (question.filter, []))[1].append(route)
    return [*pickers.values()]


def route_kept(envoy: Envoy) -> Iterator[Finding]:
    for manager, routes in _managers(envoy):
        for router in body_routers(manager, routes):
            action = router.config.at("route_cache_action")
            kept = router.config.at("disable_clear_route_cache")
            if (is_retained := action.choice(("DEFAULT", "CLEAR", "RETAIN")) == "RETAIN") or kept.is_true:
                yield found(
                    action if is_retained else kept,
                    f"the route is chosen before {router.name!r} finds out the model, and kept: no route that asks for a model "
                    "is ever taken",
                    "set route_cache_action: CLEAR",
                    (action, "CLEAR"),
                    *([(kept, UNSET)] if kept else []),
                )


def silent_default(envoy: Envoy) -> Iterator[Finding]:
    for host in {id(route.host.value): route.host for route in envoy.routes}.values():
        routes = [route for route in envoy.routes if route.host.value is host.value]
        if route := next((each for each in without_model(routes) if each.to_pool), None):
            yield found(
                route.node,
                "requests whose model no route before this one knows, or that name none, go to "
                f"{route.branches[0].place.text!r}: a misspelt model is answered by another one, or by its server's 404",
                "answer 404 here; or keep it, if unknown models are meant to go there",
            )


def unknown_filter(envoy: Envoy) -> Iterator[Finding]:
    # A route configuration may be used by several connection managers: one that has the filter is enough.
    scopes: dict[int, tuple[Node, set[str]]] = {}
    for route in envoy.routes:
        if route.manager:
            upstream = [
                each for branch in route.branches for cluster in branch.clusters for each in _upstream_filters(cluster.node)
            ]
            names = {each.name for each in route.manager.filters} | set(upstream)
            entries = list(route.action.at("weighted_clusters", "clusters").items())
            for scope in (*route.scopes, *entries):
                scopes.setdefault(id(scope.value), (scope, set()))[1].update(names)
    for scope, names in scopes.values():
        for name, entry in scope.at("typed_per_filter_config").entries():
            if name not in names and not entry.at("is_optional").is_true:
                yield found(
                    entry,
                    f"no filter is called {name!r}: Envoy ignores this without a word",
                    suggest(name, sorted(names)),
                )


def _upstream_filters(cluster: Node) -> Iterator[str]:
    for _, options in cluster.at("typed_extension_protocol_options").entries():
        for each in options.message.at("http_filters").items():
            yield each.at("name").text


def same_name(manager: Manager) -> Iterator[Finding]:
    seen: set[str] = set()
    for each in manager.filters:
        if each.name in seen and any(other.asks for other in manager.filters if other.name == each.name):
            yield found(
                each.node.at("name"),
                f"another filter is called {each.name!r} already: what a route says to that name goes to both",
                "give each filter a name of its own, such as envoy.filters.http.ext_proc/llama",
            )
        seen.add(each.name)


def unknown_cluster(envoy: Envoy) -> Iterator[Finding]:
    for route in envoy.routes:
        if route.manager and any(each.type == ON_DEMAND for each in route.manager.filters):  # it may fetch the cluster
            continue
        for branch in route.branches:
            if envoy.resources.is_whole and not branch.clusters and branch.place.text:
                yield found(
                    branch.place,
                    f"there is no cluster {branch.place.text!r}: these requests are answered 503 with an empty body. Envoy "
                    "looks only at routes that are written into a listener, and there only unless validate_clusters is false",
                    suggest(branch.place.text, sorted(envoy.clusters)),
                )


def _managers(envoy: Envoy) -> Iterator[tuple[Manager, list[Route]]]:
    for manager in envoy.managers:
        yield manager, [route for route in envoy.routes if route.manager is manager]


RULES = (
    Rule(
        "E29",
        "One picker for pools among which weights decide",
        "Envoy divides by weight before it asks. Seen on 1.36.2 to 1.40.0: with the picker in the weighted cluster's "
        "typed_per_filter_config 60 of 60 requests met their own cluster's picker; a picker of the whole route is asked for "
        "both.",
        of_pool_routes(one_picker_for_several),
        "istio/istio#61594",
    ),
    Rule(
        "E102",
        "Requests are put to another pool's picker",
        "A pick that is none of the cluster's endpoints is passed over. Seen on 1.36.2 to 1.40.0: with the filter of one pool "
        "on a route to the other, or both on every route (the last one's answer counts), every answer is a 200, from an "
        "endpoint that nobody picked.",
        of_envoys(anothers_picker),
    ),
    Rule(
        "E30",
        "The picker is asked before the model is known",
        "Filters run in their order, and which of them there are is decided before the first runs. Seen on 1.36.2 to 1.40.0: a "
        "picker's filter before the body router was never asked on the right route, nor was one that is disabled until a route "
        "that asks for a model turns it on.",
        of_envoys(picker_before_model),
    ),
    Rule(
        "E31",
        "The model is found out and not obeyed",
        "A route is chosen when the headers have come, and again only if the cache is cleared. Seen on 1.36.2 to 1.40.0: with "
        "RETAIN the first route won, a 404.",
        of_envoys(route_kept),
        "Envoy API, ext_proc ExternalProcessor.route_cache_action",
    ),
    Rule(
        "W32",
        "Requests for unknown models end up somewhere",
        "A route without a model, after those with one, takes what they do not: also what a client misspelt.",
        of_envoys(silent_default),
    ),
    Rule(
        "E33",
        "A route speaks to a filter that is not there",
        "Seen on 1.36.2 to 1.40.0: typed_per_filter_config under a name that no filter has is ignored, in --mode validate too; "
        "a picker that is disabled by default stays so.",
        of_envoys(unknown_filter),
    ),
    Rule(
        "E34",
        "Two filters with one name",
        "Seen on 1.40.0: Envoy takes it, and what a route says applies to both.",
        of_managers(same_name),
    ),
    Rule(
        "E35",
        "A route to a cluster that is not there",
        "Seen on 1.40.0: in routes that come by RDS, and with validate_clusters false, Envoy takes it and answers 503.",
        of_envoys(unknown_cluster),
        "Envoy API, RouteConfiguration.validate_clusters",
    ),
)
