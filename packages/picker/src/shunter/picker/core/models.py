"""Which model the engine is asked for, and how urgent the request is: the pool's rewrites, models and objectives.

The name the engine gets comes from the first of these that has one:

1. an InferenceModelRewrite rule whose match names the client's model exactly,
2. an InferenceModelRewrite rule without matches, which fits every model,
3. the header ``x-llm-d-model-name-rewrite``,
4. an InferenceModel (GIE v0.3) of the client's model name,
5. the client's own words: a model unknown to any rule is the engines' affair, not an error.

Of several resources that fit, the oldest wins, then list order. Among weighted targets the dice decide; or, in a rewrite that
names a header for it, what the request says there, so that one client keeps to one target. Each client stands for a point of a
line that the targets share in their order; so, when the last one's weight grows, nobody who has it already loses it.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

import msgspec
import xxhash

from shunter.picker.core.fleet import is_called
from shunter.picker.core.kinds import Dice
from shunter.picker.core.request import Request
from shunter.snapshot import InferenceModel, Objective, Pool, Rewrite, Target, Topology

__all__ = ["CRITICALITY", "REWRITE", "Rulebook", "belonging", "known_names"]

# What is told as the rule where the header names the target.
REWRITE = "x-llm-d-model-name-rewrite"

# InferenceModel's criticality in terms of InferenceObjective's priority: below zero may be shed when the pool is saturated.
CRITICALITY = {"Critical": 1, "Standard": 0, "Sheddable": -1}

Resource = TypeVar("Resource", Objective, Rewrite, InferenceModel)
Dated = TypeVar("Dated", Rewrite, InferenceModel)


class Rule(msgspec.Struct, frozen=True):
    """Where the requests of some models go."""

    words: str  # kind, namespace and name of the resource
    targets: Sequence[Target]
    sticky: str = ""  # the header that decides instead of the dice, where a request has it


class Rulebook:
    """The rules of one pool, indexed."""

    def __init__(self, topology: Topology | None = None, pool: str | None = None) -> None:
        """Index the resources that refer to ``pool`` (a name or ``namespace/name``; None: all resources)."""
        self._exact: dict[str, Rule] = {}
        self._generic: Rule | None = None
        self._models: dict[str, InferenceModel] = {}
        self._priorities: dict[str, int] = {}
        if topology is None:
            return
        for rewrite in _oldest_first(belonging(topology.rewrites, topology.pools, pool)):
            for each in rewrite.rules:
                rule = Rule(f"InferenceModelRewrite {rewrite.namespace}/{rewrite.name}", each.targets, rewrite.sticky)
                for model in each.models:
                    self._exact.setdefault(model, rule)
                if not each.models:
                    self._generic = self._generic or rule
        for model in _oldest_first(belonging(topology.models, topology.pools, pool)):
            self._models.setdefault(model.model, model)
        for objective in belonging(topology.objectives, topology.pools, pool):
            self._priorities.setdefault(objective.name, objective.priority or 0)

    def match(self, model: str) -> str:
        """Return a model's name if a resource has it by that name, "" if not: clients may call theirs anything."""
        return model if model in self._exact or model in self._models else ""

    @property
    def names(self) -> frozenset[str]:
        """All models that clients may ask for by a rule."""
        return frozenset(self._exact).union(self._models)

    @property
    def priorities(self) -> Collection[int]:
        """All that objectives give."""
        return set(self._priorities.values())

    def target(self, request: Request, dice: Dice) -> tuple[str | None, str | None]:
        """Return the name of the model that the engine is asked for, and what says so.

        It has no name for a request that names none, and nothing says so if these are the client's own words.
        """
        name = request.model
        if name is None:
            return None, None
        rule = self._exact.get(name) or self._generic
        if rule is not None:
            client = request.headers.get(rule.sticky) if rule.sticky else None
            return _draw(rule.targets, dice if client is None else Lot(f"{name} {client}")), rule.words
        if request.rewrite:
            return request.rewrite, REWRITE
        model = self._models.get(name)
        if model is None:
            return name, None
        return _draw(model.targets, dice) if model.targets else name, f"InferenceModel {model.namespace}/{model.name}"

    def priority(self, request: Request) -> int:
        """Return the priority of the objective that the request names; else its InferenceModel's; else 0."""
        if request.objective is not None:
            return self._priorities.get(request.objective, 0)
        model = self._models.get(request.model or "")
        return CRITICALITY.get(model.criticality or "", 0) if model else 0


def known_names(topology: Topology | None) -> frozenset[str]:
    """Return all models that a resource has a name for, or an engine."""
    if topology is None:
        return frozenset()
    rules = [rule for rewrite in topology.rewrites for rule in rewrite.rules]
    names = {name for rule in rules for name in rule.models}
    names.update(target.model for each in (*rules, *topology.models) for target in each.targets)
    names.update(each.model for each in topology.models)
    return frozenset(names.union(*[endpoint.models for endpoint in topology.endpoints]))


def belonging(resources: Iterable[Resource], pools: Sequence[Pool], pool: str | None) -> list[Resource]:
    """Return the resources that refer to ``pool``, as in Rulebook."""
    if pool is None:
        return list(resources)
    owners = {(each.namespace, each.name) for each in pools if is_called(each, pool)}
    return [resource for resource in resources if (resource.namespace, resource.pool) in owners]


def _oldest_first(resources: Iterable[Dated]) -> list[Dated]:
    return sorted(resources, key=lambda resource: resource.created)  # RFC 3339 in UTC sorts as text


class Lot:
    """Dice that fall the same for the same words: at the same point of any range, on every worker and every picker."""

    def __init__(self, words: str) -> None:
        """Draw it."""
        self._point = xxhash.xxh3_64_intdigest(words.encode(errors="surrogateescape"))

    def randrange(self, count: int) -> int:
        """Return the number at that point from 0 to ``count`` - 1."""
        return self._point * count >> 64


def _draw(targets: Sequence[Target], dice: "Dice | Lot") -> str:
    """Draw by weight; a target without one is drawn only when no target has any."""
    if len(targets) == 1:
        return targets[0].model
    weights = [target.weight or 0 for target in targets]
    left = dice.randrange(sum(weights) or len(targets))
    for target, weight in zip(targets, weights if any(weights) else [1] * len(targets), strict=True):
        left -= weight
        if left < 0:
            return target.model
    return targets[-1].model
