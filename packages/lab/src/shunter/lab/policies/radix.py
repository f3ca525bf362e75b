"""SGLang's router: the longest prefix in an approximate tree, unless loads are too unequal.

Its rules and defaults (`cache_aware`, sgl-router 0.2): if the most loaded worker has more than 64 requests more than the least
loaded and more than 1.5 times as many, the least loaded one gets the request. Otherwise the worker with the longest matching
prefix gets it if that is more than half of the prompt, else the worker whose tree is smallest. Everything sent is entered
into the tree at once. The tree forgets beyond 2^24 characters a worker; no run here comes near.
"""

from random import Random

from shunter.lab.core.arrivals import Arrival
from shunter.lab.policies.balancers import LeastRequest

__all__ = ["RadixTree"]

CACHE_THRESHOLD = 0.5
IMBALANCE_REQUESTS = 64
IMBALANCE_RATIO = 1.5


class RadixTree(LeastRequest):
    """Cache-aware until unbalanced. Prompts are compared by segments, the same that engines cache."""

    def __init__(self, endpoints: int, dice: Random) -> None:
        super().__init__(endpoints, dice)
        self._nodes: dict[tuple[int, object], int] = {}  # (parent, what follows) → node; the root is 0
        self._owners: dict[int, list[int]] = {}  # node → who was sent it, in that order
        self._sizes = [0] * endpoints  # tokens of each one's tree

    def pick(self, arrival: Arrival) -> int:
        """Apply the rules, and remember."""
        path = [self._step(0, arrival.adapter)]
        for segment in arrival.prompt:
            path.append(self._step(path[-1], segment.id))
        most, fewest = max(self.active), min(self.active)
        if most - fewest > IMBALANCE_REQUESTS and most > IMBALANCE_RATIO * fewest:
            endpoint = super().pick(arrival)
        else:
            endpoint = self._match(arrival, path[1:])
        for node, segment in zip(path[1:], arrival.prompt, strict=True):
            owners = self._owners.setdefault(node, [])
            if endpoint not in owners:
                owners.append(endpoint)
                self._sizes[endpoint] += segment.tokens
        return endpoint

    def _step(self, node: int, key: object) -> int:
        return self._nodes.setdefault((node, key), len(self._nodes) + 1)

    def _match(self, arrival: Arrival, path: list[int]) -> int:
        owners, matched, total = list[int](), 0, 0
        for node, segment in zip(path, arrival.prompt, strict=True):
            total += segment.tokens
            if node in self._owners and matched == total - segment.tokens:
                owners, matched = self._owners[node], total
        if matched > CACHE_THRESHOLD * total:
            return owners[0]
        return self._sizes.index(min(self._sizes))
