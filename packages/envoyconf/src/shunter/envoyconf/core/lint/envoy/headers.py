"""What becomes of the headers that clients send, before a picker is asked."""

from collections.abc import Iterable, Iterator

from shunter.envoyconf.core.lint.envoy.node import Node, walk
from shunter.envoyconf.core.lint.envoy.view import FILTER_CONFIG, HttpFilter, Manager
from shunter.envoyconf.core.protojson import extension

__all__ = ["additions", "cleaning", "removed_always", "removed_if_external"]

EARLY_MUTATION = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
HEADER_MUTATION = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"

MUTATIONS = ("mutations", "request_mutations")

# What append_action may be, in the order of its numbers.
APPEND_ACTIONS = ("APPEND_IF_EXISTS_OR_ADD", "ADD_IF_ABSENT", "OVERWRITE_IF_EXISTS_OR_ADD", "OVERWRITE_IF_EXISTS")
KEEPS_CLIENTS_VALUE = APPEND_ACTIONS[:2]


def removed_always(manager: Manager, header: str) -> bool:
    """Whether a header is removed from each request before the first picker sees it.

    What a script does is not known; one that names the header is believed to remove it.
    """
    for mutation in manager.node.at("early_header_mutation_extensions").items():
        typed = mutation.at("typed_config")
        if typed.type == EARLY_MUTATION and _removes(typed.message.at("mutations"), header):
            return True
    for each in manager.filters:
        if each.asks:
            return False
        if each.type != HEADER_MUTATION and any(header in node.text.lower() for node in walk(each.config)):
            return True
        is_on = each.type == HEADER_MUTATION and each.is_enabled(())
        if is_on and _removes(each.config.at(*MUTATIONS), header):
            return True
        if each.type == HEADER_MUTATION and _removed_by_routes(manager.routing, each.name, header):
            return True
    return False


def _removed_by_routes(routing: Node, name: str, header: str) -> bool:
    """Whether what a filter is told by all routes, by each virtual host, or by each of its routes, removes a header."""

    def removed(scope: Node) -> bool:
        entry = scope.at("typed_per_filter_config").entry(name)
        return _removes((entry.at("config") if entry.type == FILTER_CONFIG else entry).message.at(*MUTATIONS), header)

    hosts = [*routing.at("virtual_hosts").items()]
    return removed(routing) or (
        bool(hosts) and all(removed(host) or all(removed(route) for route in host.at("routes").items()) for host in hosts)
    )


def _removes(mutations: Node, header: str) -> bool:
    for each in mutations.items():
        matcher = each.at("remove_on_match", "key_matcher")
        prefix = matcher.at("prefix").text.lower()
        if header in (each.at("remove").text.lower(), matcher.at("exact").text.lower()) or (
            prefix and header.startswith(prefix)
        ):
            return True
    return False


def removed_if_external(manager: Manager, header: str) -> bool:
    """Whether a header is removed from requests of clients that Envoy does not take for internal."""
    return header in {each.lower() for each in manager.routing.at("internal_only_headers").texts}


def cleaning(manager: Manager, headers: Iterable[str]) -> list[tuple[Node, object]]:
    """Return what has Envoy remove headers before anything looks at a request."""
    removals = [{"remove": header} for header in headers]
    extensions = manager.node.at("early_header_mutation_extensions")
    for each in extensions.items():
        if (typed := each.at("typed_config")).type == EARLY_MUTATION:
            mutations = typed.message.at("mutations")
            return [(mutations.item(mutations.length + number), removal) for number, removal in enumerate(removals)]
    message = EARLY_MUTATION.removeprefix("envoy.")
    mutation = extension("envoy.http.early_header_mutation.header_mutation", message, mutations=removals)
    return [(extensions.item(extensions.length), mutation)]


def additions(filters: tuple[HttpFilter, ...], scopes: tuple[Node, ...]) -> Iterator[tuple[str, Node]]:
    """Yield headers, in lower case, that are added to a request so that a client's own value stays before them."""
    options = [option for scope in scopes for option in scope.at("request_headers_to_add").items()]
    for each in filters:
        if each.type == HEADER_MUTATION:
            options += (one.at("append") for one in each.config.at(*MUTATIONS).items())
    for option in options:
        action = option.at("append_action")
        keeps = action.choice(APPEND_ACTIONS) in KEEPS_CLIENTS_VALUE if action else option.at("append").value is not False
        if keeps and (name := option.at("header", "key").text.lower()):
            yield name, option
