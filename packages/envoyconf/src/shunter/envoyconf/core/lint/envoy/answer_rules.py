"""Rules for a picker's answers: not heeded, not asked for, forbidden, or had by holding responses back."""

import re
from collections.abc import Iterator

from msgspec import UNSET

from shunter.envoyconf.core.lint.envoy.cluster import Cluster, Source
from shunter.envoyconf.core.lint.envoy.findings import found, of_envoys, of_pool_routes
from shunter.envoyconf.core.lint.envoy.models import picker
from shunter.envoyconf.core.lint.envoy.node import Node
from shunter.envoyconf.core.lint.envoy.view import Branch, Envoy, HttpFilter, Manager, Route
from shunter.envoyconf.core.lint.rule import Finding, Rule
from shunter.envoyconf.core.names import DESTINATION, NAMESPACE
from shunter.envoyconf.core.spelling import is_slip

__all__ = ["RULES"]

# Policies that go by load, or by a hash of what a client says, and by nothing that a picker does.
OWN_CHOICE = (
    "round_robin",
    "least_request",
    "random",
    "ring_hash",
    "maglev",
    "client_side_weighted_round_robin",
    "wrr_locality",
)


def unheeded(envoy: Envoy) -> Iterator[Finding]:
    """Of each picker's filter whose picks no route's cluster looks at, one finding; and each source that is nearly the word."""
    asked: dict[int, list[Branch]] = {}
    for route in envoy.routes:
        for branch in route.branches:
            for question in branch.questions:
                if question.receives(NAMESPACE):
                    asked.setdefault(id(question.filter.node.value), []).append(branch)
    reported: set[str] = set()
    for branches in asked.values():
        if all(branch.clusters and all(_chooses_itself(each) for each in branch.clusters) for branch in branches):
            cluster = branches[0].clusters[0]
            if cluster.name not in reported:
                reported.add(cluster.name)
                yield found(
                    cluster.node.at("load_balancing_policy") or cluster.node.at("name"),
                    f"the cluster {cluster.name!r} chooses by itself, and requests for it wait for a picker whose choice comes "
                    f"to nothing: no cluster looks at what it writes into {NAMESPACE}",
                    "give the cluster the load balancing policy override_host, with its own as fallback_policy",
                )
    for cluster in envoy.clusters.values():
        for source in cluster.sources:
            word = _word(source)
            if is_slip(word.text, DESTINATION):  # pickers can be told to use a word of their own
                yield found(
                    word,
                    f"the cluster {cluster.name!r} looks for the pick in {word.text!r}, where no picker writes it unless it is "
                    "told to: each pick is passed over without a word",
                    f"did you mean {DESTINATION}?",
                    (word, DESTINATION),
                )


def _chooses_itself(cluster: Cluster) -> bool:
    node = cluster.node
    policies = [
        each.at("typed_extension_config", "typed_config").type for each in node.at("load_balancing_policy", "policies").items()
    ]
    return not (
        cluster.sources
        or cluster.is_original_dst
        or node.at("cluster_type")
        or node.at("lb_subset_config")
        or any(not any(f".{own}." in policy for own in OWN_CHOICE) for policy in policies)
    )


def _word(source: Source) -> Node:
    """Return where it stands under which name the pick is looked for: a header, or the last step into the metadata."""
    return [*source.node.at("path").items()][-1].at("key") if source.namespace and source.node.at("path") else source.node


def never_asked(envoy: Envoy) -> Iterator[Finding]:
    for manager in envoy.managers:
        routes = [route for route in envoy.routes if route.manager is manager]
        idle = [route for route in routes if route.to_pool and not any(branch.questions for branch in route.branches)]
        if _speak_to_nobody(manager, routes):  # which is another rule's, and reason enough
            continue
        asked = {question.filter.node.path for route in routes for question in route.questions}
        for each in manager.asking:
            if idle and each.node.path not in asked and (off := _switched_off(each, idle[0])):
                yield found(
                    off,
                    f"the filter {each.name!r} is disabled, and no route turns it on: nobody is asked, and the cluster "
                    f"{idle[0].branches[0].place.text!r} goes by its fallback policy, or answers 503 if it has none",
                    f"in typed_per_filter_config of the routes to model servers, give {each.name} an ExtProcPerRoute with "
                    "overrides; or leave disabled out",
                )


def _switched_off(each: HttpFilter, route: Route) -> Node | None:
    """Return where it is said, of all routes or of a host's, that a filter is off."""
    entries = [scope.at("typed_per_filter_config").entry(each.name) for scope in (route.host, route.routing)]
    places = [each.node.at("disabled"), *(entry.message.at("disabled") for entry in entries)]
    return next((place for place in places if place.is_true), None)


def _speak_to_nobody(manager: Manager, routes: list[Route]) -> bool:
    names = {each.name for each in manager.filters}
    scopes = (scope for route in routes for branch in route.branches for scope in branch.scopes)
    return any(name not in names for scope in scopes for name, _ in scope.at("typed_per_filter_config").entries())


def refusals_forbidden(route: Route) -> Iterator[Finding]:
    for branch in route.branches:
        question = picker(branch)
        if question and (node := question.field("disable_immediate_response")).is_true:
            yield found(
                node,
                "with disable_immediate_response a picker that refuses a request, such as by 429 when all is full, is not "
                + (
                    "obeyed: the request goes on to any endpoint"
                    if question.fails_open
                    else "understood: the client gets a 500, or what status_on_error says"
                ),
                "leave it out",
                (node, UNSET),
            )


def unwritable_pick(route: Route) -> Iterator[Finding]:
    for branch in route.branches:
        question = picker(branch)
        sources = [source for cluster in branch.followers for source in cluster.sources]
        if not question or any(question.receives(source.namespace) for source in sources if source.namespace):
            continue
        rules = question.filter.config.at("mutation_rules")
        for header in dict.fromkeys(source.header for source in sources if source.header):
            if refusal := _refusal(rules, header):
                place, remedy, changes = refusal
                outcome = "is answered 503" if branch.followers[0].is_original_dst else "goes to any endpoint"
                yield found(
                    place or question.filter.node,
                    f"the cluster {branch.followers[0].name!r} takes the pick from the header {header}, which the picker may "
                    f"not write: Envoy leaves it out without a word, and every request {outcome}",
                    remedy,
                    *changes,
                )


def _refusal(rules: Node, header: str) -> tuple[Node, str, list[tuple[Node, object]]] | None:
    """Return what keeps an ext_proc server from writing a header, the remedy and the change. Envoy asks in this order."""
    if _fits(forbidden := rules.at("disallow_expression"), header):
        return forbidden, f"have disallow_expression leave out {header}", []
    if _fits(allowed := rules.at("allow_expression"), header):
        return None
    if (everything := rules.at("disallow_all")).is_true:
        expression = "|".join(filter(None, (allowed.at("regex").text, header)))
        return everything, f"add to allow_expression: {header}", [(allowed, {"regex": expression})]
    if header.startswith("x-envoy-") and not (ours := rules.at("allow_envoy")).is_true:
        remedy = "set mutation_rules.allow_envoy: true; or have cluster and picker use a header of another name"
        return rules, remedy, [(ours, True)]
    return None


def _fits(expression: Node, header: str) -> bool:
    try:
        return bool(re.fullmatch(expression.at("regex").text, header))
    except re.error:  # Envoy's expressions are RE2's, which are nearly Python's
        return False


def held_back(route: Route) -> Iterator[Finding]:
    for branch in route.branches:
        for question in branch.questions:
            mode = question.mode("response_body_mode")
            if branch.followers and mode in ("BUFFERED", "BUFFERED_PARTIAL"):
                yield found(
                    question.field("processing_mode").at("response_body_mode"),
                    f"response_body_mode {mode} keeps an answer in Envoy until all of it is there, or the buffer is full: a "
                    "client that streams gets its first token with the last one",
                    "set NONE, if nobody has to read responses; else FULL_DUPLEX_STREAMED or STREAMED",
                )


RULES = (
    Rule(
        "E95",
        "Picks that nobody heeds",
        "A pick is a wish: only override_host and ORIGINAL_DST look at it, and only where they are told. Seen on 1.36.2 to "
        "1.40.0: with another policy, or another key, every answer is a 200, from an endpoint that nobody picked.",
        of_envoys(unheeded),
        "Envoy API, OverrideHost; Gateway API Inference Extension, endpoint picker protocol",
    ),
    Rule(
        "W96",
        "Refusals that are not passed on",
        "Seen on 1.40.0, of a picker that answers 429: failing open, requests go on without a pick; else they are answered 500 "
        "or as status_on_error says, with the details unhandled_immediate_response_due_to_config_disabled_it.",
        of_pool_routes(refusals_forbidden),
        "Envoy API, ext_proc ExternalProcessor.disable_immediate_response",
    ),
    Rule(
        "W97",
        "Streams that come all at once",
        "BUFFERED collects the body before anything of it goes on. Seen on 1.36.2 to 1.40.0: of two events with a pause "
        "between them the first did not come before the second.",
        of_pool_routes(held_back),
        "Envoy API, ext_proc ProcessingMode.BodySendMode",
    ),
    Rule(
        "E98",
        "A picker that is never asked",
        "A disabled filter is there for the routes that turn it on. Seen on 1.36.2 to 1.40.0: if none does, every answer is a "
        "200, from an endpoint that nobody picked.",
        of_envoys(never_asked),
        "Envoy API, HttpFilter.disabled",
    ),
    Rule(
        "E103",
        "A pick that the picker may not write",
        "mutation_rules say which headers an ext_proc server may set, and by default none of x-envoy-…, which an ORIGINAL_DST "
        "cluster reads if it is told no other. Seen on 1.36.2 to 1.40.0: the picker's header is left out, which "
        "only rejected_header_mutations counts, and requests are answered 503 or load balanced. Metadata obeys no such rule.",
        of_pool_routes(unwritable_pick),
        "Envoy API, HeaderMutationRules",
    ),
)
