"""Which filter reads a request's model, and which routes go by it."""

import re
from collections.abc import Iterable, Iterator

from shunter.envoyconf.core.lint.envoy.view import Branch, HttpFilter, Manager, Question, Route

__all__ = ["JSON_TO_METADATA", "asks_for_model", "body_routers", "picker", "without_model"]

JSON_TO_METADATA = "envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata"

PATH_MATCHES = ("prefix", "path", "path_separated_prefix", "safe_regex", "path_match_policy")

# By what body routers' filters and clusters are called (bbr, body-based-routing, body-router, model-extractor): a configuration
# does not say what an ext_proc server answers.
ROUTER_NAME = re.compile(r"\bbbr\b|body.?(based|router|routing)|model.?(extract|rout)", re.IGNORECASE)


def picker(branch: Branch) -> Question | None:
    """Return the question whose answer the branch's cluster follows: the last that may name an endpoint."""
    sources = [source for cluster in branch.followers for source in cluster.sources]
    by_header = any(source.header for source in sources)
    namespaces = [source.namespace for source in sources if source.namespace]
    for question in reversed(branch.questions):
        if by_header or any(question.receives(namespace) for namespace in namespaces):
            return question
    return None


def asks_for_model(route: Route) -> bool:
    """Whether a route is for requests of a certain model."""
    match = route.node.at("match")
    in_header = any("model" in each.at("name").text.lower() for each in match.at("headers").items())
    return in_header or any(_is_model(path) for path in _metadata_paths(route))


def _metadata_paths(route: Route) -> Iterator[list[str]]:
    for matcher in route.node.at("match", "dynamic_metadata").items():
        yield [step.at("key").text for step in matcher.at("path").items()]


def _is_model(path: list[str]) -> bool:
    return bool(path) and "model" in path[-1].lower()


def without_model(routes: Iterable[Route]) -> Iterator[Route]:
    """Yield those of a virtual host's routes that requests have whose model is not known, or not yet.

    They come after a route that asks for a model, for the same paths or all.
    """
    paths: list[object] = [("prefix", "/")]
    for route in routes:
        if asks_for_model(route):
            paths.append(_path(route))
        elif len(paths) > 1 and _path(route) in paths:
            yield route


def _path(route: Route) -> object:
    """Return the part of a route's match that is about the path."""
    match = route.node.at("match")
    return next(((kind, node.value) for kind in PATH_MATCHES if (node := match.at(kind))), None)


def body_routers(manager: Manager, routes: list[Route]) -> list[HttpFilter]:
    """Return the filters that find out by which model a request is to be routed."""
    by_model = [route for route in routes if asks_for_model(route)]
    namespaces = {
        matcher.at("filter").text for route in by_model for matcher in route.node.at("match", "dynamic_metadata").items()
    }
    in_headers = any(route.node.at("match", "headers") for route in by_model)
    return [
        each
        for each in manager.filters
        if (each.type == JSON_TO_METADATA and _written(each) & namespaces)
        or (in_headers and each.asks and _is_called_router(each))
    ]


def _is_called_router(each: HttpFilter) -> bool:
    server = each.config.at("grpc_service", "envoy_grpc", "cluster_name").text
    return bool(ROUTER_NAME.search(each.name) or ROUTER_NAME.search(server))


def _written(each: HttpFilter) -> set[str]:
    return {
        rule.at(outcome, "metadata_namespace").text
        for rule in each.config.at("request_rules", "rules").items()
        for outcome in ("on_present", "on_missing", "on_error")
    } - {""}
