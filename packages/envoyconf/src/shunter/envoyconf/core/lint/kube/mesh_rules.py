"""Rules about what Istio and AI Gateway make of an InferencePool."""

from collections.abc import Iterator

from shunter.envoyconf.core.kube.manifests import Manifest, Manifests
from shunter.envoyconf.core.kube.pickers import picker_of
from shunter.envoyconf.core.kube.platforms import Platform, RoutedRule, platform, rules
from shunter.envoyconf.core.lint.kube.findings import found, looking_at
from shunter.envoyconf.core.lint.rule import Finding, Fix, Rule

__all__ = ["RULES"]

# Istio puts both names into labels, whose values may have this many characters.
LABEL_CHARACTERS = 63


def _routed(manifests: Manifests, where: Platform) -> Iterator[tuple[RoutedRule, Manifest]]:
    """Yield the rules of a platform with each pool of theirs that is given."""
    for routed in rules(manifests):
        if routed.pools and platform(manifests, routed.route) is where:
            for reference in routed.pools:
                if pool := manifests.find(reference):
                    yield routed, pool


def _cors(manifests: Manifests) -> Iterator[Finding]:
    for routed in rules(manifests):
        if not routed.pools or platform(manifests, routed.route) is not Platform.ISTIO:
            continue
        for each in routed.rule["filters"]:
            if each["type"].text == "CORS":
                yield found(
                    each,
                    "a CORS filter in a rule with an InferencePool: Istio replaces the rule's picker by it, requests are "
                    "balanced round robin and nothing says so",
                    "give CORS a route of its own, such as one for the method OPTIONS",
                )


def _long_names(manifests: Manifests) -> Iterator[Finding]:
    for _, pool in _routed(manifests, Platform.ISTIO):
        picker = picker_of(pool)
        named = [(pool.name, pool.metadata["name"])] + ([(picker.name, picker.at["name"])] if picker else [])
        for name, at in named:
            if len(name) > LABEL_CHARACTERS:
                yield found(
                    at,
                    f"a name of {len(name)} characters: Istio makes it the value of a label, which holds {LABEL_CHARACTERS}, "
                    "and cannot create the pool's shadow Service",
                    f"choose a name of at most {LABEL_CHARACTERS} characters",
                )


def _no_failure_mode(manifests: Manifests) -> Iterator[Finding]:
    for _, pool in _routed(manifests, Platform.ISTIO):
        picker = picker_of(pool)
        if picker and not picker.at["failureMode"]:
            yield found(
                picker.at,
                "no failureMode: where the CRD gives it no default, Istio refuses the pool (InvalidDestination)",
                "write failureMode: FailClose, which it otherwise means, or FailOpen",
                Fix((*picker.at.path, "failureMode"), "FailClose"),
            )


def _ignored_failure_mode(manifests: Manifests) -> Iterator[Finding]:
    for _, pool in _routed(manifests, Platform.AI_GATEWAY):
        picker = picker_of(pool)
        if picker and picker.at["failureMode"].text == "FailOpen":
            at = picker.at["failureMode"]
            yield found(
                at,
                "FailOpen, which AI Gateway does not heed: without its picker every request of the pool is answered 500",
                "write FailClose, so that nobody relies on it, and run more than one picker",
                Fix(at.path, "FailClose"),
            )


RULES: tuple[Rule, ...] = (
    Rule(
        code="E69",
        title="Istio: a CORS filter drops the picker",
        why="Seen with Istio's master of August 2026: the per-route configuration holds either; all requests went round robin.",
        check=looking_at(_cors),
        source="Istio, HTTPRoute conversion",
    ),
    Rule(
        code="E73",
        title="Istio: a name that is too long for a label",
        why="Istio labels the shadow Service of a pool with the names of pool and picker.",
        check=looking_at(_long_names),
        source="Kubernetes, label values",
    ),
    Rule(
        code="W74",
        title="Istio: a pool without failureMode",
        why="Istio does not know the default; where the API server does not fill it in, the pool is refused.",
        check=looking_at(_no_failure_mode),
        source="InferencePool v1, spec.endpointPickerRef.failureMode",
    ),
    Rule(
        code="W76",
        title="AI Gateway: a pool that is to fail open and does not",
        why="Seen on AI Gateway 1.0.0: it always sets failure_mode_allow to false.",
        check=looking_at(_ignored_failure_mode),
        source="AI Gateway #2502, #2517",
    ),
)
