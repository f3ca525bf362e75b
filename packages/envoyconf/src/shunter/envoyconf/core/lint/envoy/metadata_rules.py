"""Rules for the pick on its way from the picker to load balancing, and for the report of what became of it."""

from collections.abc import Iterator

from msgspec import UNSET

from shunter.envoyconf.core.lint.envoy.findings import found, of_pool_routes
from shunter.envoyconf.core.lint.envoy.node import walk
from shunter.envoyconf.core.lint.envoy.view import Branch, HttpFilter, Route
from shunter.envoyconf.core.lint.rule import Finding, Rule, Subject
from shunter.envoyconf.core.versions import Feature

__all__ = ["RULES"]

# Filters that run somebody's code, which may set any metadata.
PROGRAMS = ("lua", "wasm", "golang", "dynamic_modules")


def dropped_pick(route: Route) -> Iterator[Finding]:
    for branch in route.branches:
        sources = [source for cluster in branch.followers for source in cluster.sources]
        namespaces = {source.namespace for source in sources if source.namespace}
        if (
            not (namespaces and branch.questions)
            or any(source.header for source in sources)
            or _may_arrive(route, branch, namespaces)
        ):
            continue
        question = branch.questions[-1]
        namespace = min(namespaces)
        untyped = question.field("metadata_options", "receiving_namespaces").at("untyped")
        yield found(
            untyped or question.filter.node,
            f"the cluster {branch.followers[0].name!r} takes the pick from dynamic metadata {namespace!r}, and no filter of "
            "this route takes that from a picker: Envoy drops each pick without a word, and load balances",
            f"add {namespace} to metadata_options.receiving_namespaces.untyped",
            (untyped, [*untyped.texts, namespace]),
        )


def _may_arrive(route: Route, branch: Branch, namespaces: set[str]) -> bool:
    if any(question.receives(namespace) for question in branch.questions for namespace in namespaces):
        return True
    others = (each for each in (route.manager.filters if route.manager else ()) if not each.asks)
    return any(_may_write(each, namespaces) for each in others if each.is_enabled(branch.scopes))


def _may_write(each: HttpFilter, namespaces: set[str]) -> bool:
    return any(word in each.type for word in PROGRAMS) or any(node.text in namespaces for node in walk(each.config))


def unreported_host(route: Route) -> Iterator[Finding]:
    for branch in route.branches:
        for cluster in branch.followers:
            namespace = cluster.override.at("selected_host_key", "key").text
            pickers = [each for each in branch.questions if any(each.receives(source.namespace) for source in cluster.sources)]
            for question in pickers if namespace else ():
                forwarded = question.field("metadata_options", "forwarding_namespaces").at("untyped")
                if question.mode("response_header_mode") == "SEND" and namespace not in forwarded.texts:
                    yield found(
                        forwarded or question.filter.node,
                        f"the cluster {cluster.name!r} notes in {namespace!r} who served a request, and the picker is sent the "
                        "response's headers without it: it has to believe that its first choice served",
                        f"add {namespace} to metadata_options.forwarding_namespaces.untyped",
                        (forwarded, [*forwarded.texts, namespace]),
                    )


def early_selected_host(subject: Subject) -> Iterator[Finding]:
    if Feature.SELECTED_HOST.in_version(subject.envoy_version):
        return
    for envoy in subject.envoys:
        for cluster in envoy.clusters.values():
            if key := cluster.override.at("selected_host_key"):
                yield found(
                    key,
                    f"selected_host_key is known since Envoy {Feature.SELECTED_HOST.since}; {subject.envoy_version} refuses it "
                    "in a file, and ignores it from a control plane",
                    "leave it out: the picker is not told who served; or use a newer Envoy",
                    (key, UNSET),
                )


RULES = (
    Rule(
        "E12",
        "A pick that Envoy drops",
        "Without receiving_namespaces Envoy ignores an answer's dynamic metadata. Seen on 1.36.2 to 1.40.0: every answer is a "
        "200, from an endpoint that nobody picked. The same with a namespace that is not the cluster's.",
        of_pool_routes(dropped_pick),
        "Envoy API, ext_proc MetadataOptions",
    ),
    Rule(
        "W13",
        "Who served is noted and not told",
        "The picker protocol has the gateway report the endpoint that served in metadata. Seen on 1.40.0: it reaches the "
        "picker only with forwarding_namespaces, in response_headers, and is the host of the last attempt.",
        of_pool_routes(unreported_host),
        "Gateway API Inference Extension, endpoint picker protocol: x-gateway-destination-endpoint-served",
    ),
    Rule(
        "E14",
        "selected_host_key before Envoy 1.38",
        "Refused by 1.36.2 and 1.37.0, accepted by 1.38.3, 1.39.3 and 1.40.0 (--mode validate).",
        early_selected_host,
        "Envoy API, OverrideHost.selected_host_key",
    ),
)
