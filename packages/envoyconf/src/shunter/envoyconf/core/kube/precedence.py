"""Whether Gateway API gives each request to the route that the intent means; where not, nothing is generated.

By the intent it goes to the route whose host is the most exact, and among equals to the first. A gateway has, for each host
name of a listener, the routes whose hosts are that name there, and no others: seen on Envoy Gateway 1.9, a request for
a.example that only a route for all hosts matches is answered 404 once any route is for a.example. Among those that it has, the
longest path decides, then the number of headers, then which is older, then which is first by name; those created together are
named in order. Where a listener has one name, routes for that name and for all names are the same to it.
"""

import msgspec

from shunter.envoyconf.core.envoy.hosts import hosts_of, virtual_hosts
from shunter.envoyconf.core.intent import Intent, Route
from shunter.envoyconf.core.intent.hosts import meet
from shunter.envoyconf.core.kube.split import divided
from shunter.envoyconf.errors import IntentError

__all__ = ["check_precedence"]


def check_precedence(intent: Intent) -> None:
    """Raise IntentError if a gateway would give a request to another route than the intent, or to none."""
    routes = intent.effective_routes
    by_port: dict[int, list[str]] = {}
    for listener in intent.listeners:
        by_port.setdefault(listener.port, []).extend(listener.hosts)
    for served in by_port.values():
        for host in served:
            for names, wanted in virtual_hosts([host], routes):
                order = [routes.index(route) for route in wanted]
                for name in names:
                    if not any(meet(other, name) == name and meet(other, host) == other != host for other in served):
                        _check(intent, host, name, order)


def _check(intent: Intent, served: str, name: str, order: list[int]) -> None:
    """Check the routes for one host name that a listener serves; ``order``: who is to be asked first."""
    routes = intent.effective_routes
    known = {index for index in order if name in {meet(served, host) for host in hosts_of(routes[index])}}
    for place, index in enumerate(order):
        route, sooner = routes[index], order[:place]
        if index not in known:
            if not any(_of_any_host(routes[each]).covers(_of_any_host(route)) for each in sooner):
                raise IntentError(
                    f"routes[{index}] ({route.prefix}) takes what no route for {name} does, but a gateway answers 404: of a "
                    "host that some route names it knows the routes that name it; add one with hosts "
                    f"[{name}] that leads where routes[{index}] does",
                )
            continue
        for each in sooner:
            if each in known and _meet(routes[each], route) and _rank(intent, index) > _rank(intent, each):
                raise IntentError(
                    f"routes[{each}] ({routes[each].prefix}) comes before routes[{index}] ({route.prefix}) for requests to "
                    f"{name}, but of two routes for a host Gateway API takes the one with the longer path, then the one for a "
                    "model, then the first: put that one first, or keep their requests apart",
                )


def _rank(intent: Intent, index: int) -> tuple[int, bool, bool, int]:
    """Return what Gateway API goes by, the larger the sooner."""
    route = intent.effective_routes[index]
    return len(route.prefix), route.by_model, divided(intent, route), -index


def _of_any_host(route: Route) -> Route:
    return msgspec.structs.replace(route, hosts=())


def _meet(first: Route, second: Route) -> bool:
    """Say whether there is a request that both match, on a host of both."""
    if not _is_below(first.prefix, second.prefix) and not _is_below(second.prefix, first.prefix):
        return False
    if not first.by_model or not second.by_model:
        return True
    # An adapter may be named by one route and be of the other's base model.
    crossed = bool(first.base_models and second.models) or bool(first.models and second.base_models)
    return crossed or not {*first.models, *first.base_models}.isdisjoint({*second.models, *second.base_models})


def _is_below(path: str, other: str) -> bool:
    return f"{path.rstrip('/')}/".startswith(f"{other.rstrip('/')}/")
