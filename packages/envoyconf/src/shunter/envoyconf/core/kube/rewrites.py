"""The names under which pools serve models, as pickers are told them: an InferenceModelRewrite for each pool.

The scraper reads it from a file (``shunter scraper run --endpoints``), also in the Pods that are installed in Kubernetes;
somebody else's picker there from the API, to which it is applied like the rest.
"""

from collections.abc import Iterable

from shunter.envoyconf.core.intent import Intent, Pool, Rewrite
from shunter.envoyconf.core.kube.gateway import kubernetes_object
from shunter.envoyconf.core.output import Artefact
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.errors import IntentError

__all__ = ["rewrite_artefacts"]


def rewrite_artefacts(intent: Intent, pools: Iterable[Pool]) -> tuple[Artefact, ...]:
    """Return the file of some pools' rewrites, if there are any.

    Raises IntentError if two routes rewrite one model of a pool differently: a picker sees models and not paths or hosts.
    """
    documents = tuple(_object(pool, rules, intent) for pool in pools if (rules := _rules(pool, intent)))
    return (Artefact("rewrites", documents),) if documents else ()


def _rules(pool: Pool, intent: Intent) -> list[Resource]:
    owners: dict[str, tuple[int, tuple[Rewrite, ...]]] = {}
    rules: list[Resource] = []
    for index, route in enumerate(intent.routes):
        if not route.rewrites or pool.name not in {share.name for share in route.shares}:
            continue
        fresh = [model for model in route.models if owners.setdefault(model, (index, route.rewrites))[0] == index]
        for model in route.models:
            owner, rewrites = owners[model]
            if rewrites != route.rewrites:
                raise IntentError(
                    f"routes[{index}].rewrites differ from those of routes[{owner}] for {model!r} of pool {pool.name}: its "
                    "picker sees models, not paths or hosts; give both the same, or pools of their own"
                )
        if fresh:
            targets = [{"modelRewrite": each.model, "weight": each.weight} for each in route.rewrites if each.weight]
            rules.append({"matches": [{"model": {"value": model}} for model in fresh], "targets": targets})
    return rules


def _object(pool: Pool, rules: list[Resource], intent: Intent) -> Resource:
    namespace, _, name = (pool.inference_pool or pool.name).rpartition("/")
    spec: Resource = {"poolRef": {"name": name}, "rules": rules}
    return kubernetes_object(
        "llm-d.ai/v1alpha2", "InferenceModelRewrite", pool.name, namespace or intent.kubernetes.namespace, spec=spec
    )
