"""How a share of the traffic is written down: as an InferenceModelRewrite, or as the weights of an HTTPRoute."""

from collections.abc import Mapping
from math import gcd
from typing import Any, cast

import msgspec

from shunter.rollout.core.spec import Rollout
from shunter.rollout.errors import ConfigError

__all__ = ["is_of", "rewrite", "route_share", "routed"]

# The annotation by which the scraper knows the header that keeps clients to one target.
STICKY = "shunter.dev/sticky-header"
# Of a backendRef, as the Gateway API's schema has it.
MAX_WEIGHT = 1_000_000


def rewrite(rollout: Rollout, share: int) -> dict[str, Any]:
    """Return the resource that sends ``share`` per cent to the new side; who gets nothing is no target (weights begin at 1)."""
    shares = {rollout.from_.model: 100 - share, rollout.to.model: share}
    metadata: dict[str, Any] = {"name": rollout.traffic.rewrite or rollout.name, "namespace": rollout.traffic.namespace}
    if rollout.traffic.sticky:
        metadata["annotations"] = {STICKY: rollout.traffic.sticky}
    rule = {
        "matches": [{"model": {"value": rollout.model}}],
        "targets": [{"modelRewrite": model, "weight": weight} for model, weight in shares.items() if weight],
    }
    return {
        "apiVersion": rollout.traffic.api_version,
        "kind": "InferenceModelRewrite",
        "metadata": metadata,
        "spec": {"poolRef": {"name": _pool(rollout)}, "rules": [rule]},
    }


def is_of(rollout: Rollout, found: Mapping[str, Any]) -> bool:
    """Tell whether a resource is a rewrite of this model in this pool and of nothing else: nothing is lost if it is replaced.

    A rule without matches is one of all models.
    """
    try:
        pool = found["spec"]["poolRef"]["name"]
        rules = [{match["model"]["value"] for match in rule["matches"]} for rule in found["spec"]["rules"]]
    except (KeyError, TypeError):  # another shape
        return False
    ours = pool == _pool(rollout) and all(models == {rollout.model} for models in rules)
    return found.get("kind") == "InferenceModelRewrite" and ours


def route_share(route: Mapping[str, Any], rollout: Rollout) -> int | None:
    """Return what percentage of both the new pool gets, None unless rules agree; raises ConfigError if none has both."""
    found: set[int | None] = set()
    for rule in _rules(route, rollout):
        weights = _weights(rule, rollout)
        old, new = (weights[name] for name in _names(rollout))
        found.add(round(100 * new / (old + new)) if old + new else None)
    return found.pop() if len(found) == 1 else None


def routed(route: Mapping[str, Any], rollout: Rollout, share: int) -> dict[str, Any]:
    """Return the HTTPRoute with these weights in every rule that has both pools; raises ConfigError if it cannot be.

    What both have together, and what every other backend has, stay the same fractions of the rule exactly: weights are whole
    numbers, so all of the rule's may grow by one factor.
    """
    changed = msgspec.json.decode(msgspec.json.encode(route))
    old, new = _names(rollout)
    for rule in _rules(changed, rollout):
        weights = _weights(rule, rollout)
        both = weights[old] + weights[new] or (0 if sum(weights.values()) else 100)
        if not both:
            raise ConfigError(
                f"{_called(rollout)}: {old} and {new} have weight 0 beside others: give one of them what is theirs"
            )
        factor = 100 // gcd(both, 100)
        hundredth = both * factor // 100
        halves = {old: (100 - share) * hundredth, new: share * hundredth}
        for backend in rule["backendRefs"]:
            backend["weight"] = halves.get(_name(backend, rollout), backend.get("weight", 1) * factor)
        if max(backend["weight"] for backend in rule["backendRefs"]) > MAX_WEIGHT:
            raise ConfigError(f"{_called(rollout)}: the weights {weights} cannot be split by hundredths: make them smaller")
    return changed


def _pool(rollout: Rollout) -> str:
    return rollout.pool.rpartition("/")[2] or "default"


def _rules(route: Mapping[str, Any], rollout: Rollout) -> list[dict[str, Any]]:
    rules = cast("list[dict[str, Any]]", route["spec"].get("rules", []))
    found = [rule for rule in rules if set(_names(rollout)) <= _weights(rule, rollout).keys()]
    if not found:
        old, new = _names(rollout)
        raise ConfigError(f"{_called(rollout)}: no rule has both {old} and {new} among its backendRefs")
    return found


def _weights(rule: Mapping[str, Any], rollout: Rollout) -> dict[str, int]:
    return {_name(backend, rollout): backend.get("weight", 1) for backend in rule.get("backendRefs", ())}


def _name(backend: Mapping[str, Any], rollout: Rollout) -> str:
    return f"{backend.get('namespace', rollout.traffic.namespace)}/{backend['name']}"


def _called(rollout: Rollout) -> str:
    return f"HTTPRoute {rollout.traffic.http_route}"


def _names(rollout: Rollout) -> tuple[str, str]:
    """Return what both pools are called, each with its namespace: by default that of the route."""
    old, new = (
        side.pool if "/" in side.pool else f"{rollout.traffic.namespace}/{side.pool}" for side in (rollout.from_, rollout.to)
    )
    return old, new
