"""How requests for a model are split among targets: what resources ask for, and what came of it."""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from shunter.picker.core.models import belonging
from shunter.picker.core.tables import Ruling
from shunter.snapshot import Target, Topology

__all__ = ["Share", "Split", "splits"]


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """One target: the share of requests it is to get, 0 to 1, and how many it got."""

    model: str
    wanted: float
    requests: int


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """One model that clients ask for, "" for all that no rule names, and whom they get."""

    rule: str  # kind, namespace and name of the resource
    model: str
    shares: tuple[Share, ...]


def splits(topology: Topology, pool: str | None, rulings: Mapping[Ruling, int]) -> tuple[Split, ...]:
    """Return those of a pool (None: all); ``rulings`` count what the resources have decided."""
    return tuple(
        Split(
            rule=rule,
            model=model,
            shares=tuple(
                Share(model=target.model, wanted=wanted, requests=rulings.get((rule, model, target.model), 0))
                for target, wanted in zip(targets, _wanted(targets), strict=True)
            ),
        )
        for rule, model, targets in _rules(topology, pool)
    )


def _rules(topology: Topology, pool: str | None) -> Iterator[tuple[str, str, Sequence[Target]]]:
    for rewrite in belonging(topology.rewrites, topology.pools, pool):
        for rule in rewrite.rules:
            for model in rule.models or ("",):
                yield f"InferenceModelRewrite {rewrite.namespace}/{rewrite.name}", model, rule.targets
    for each in belonging(topology.models, topology.pools, pool):
        if each.targets:
            yield f"InferenceModel {each.namespace}/{each.name}", each.model, each.targets


def _wanted(targets: Sequence[Target]) -> list[float]:
    """Return each one's share; without any weight all have the same."""
    weights = [target.weight or 0 for target in targets]
    weights = weights if any(weights) else [1] * len(targets)
    return [weight / sum(weights) for weight in weights]
