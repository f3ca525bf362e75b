"""What ordinary load balancers do: chance, turns, the fewest requests in flight, and a hash of the session with a bound.

Each knows what a proxy knows: which requests it has sent where and which of them have ended. Only the hash is told more: the
engines' queues and caches, as weights that an ADS server pushes.
"""

# ruff: noqa: ARG002  choosers are told more than most want to know

from bisect import bisect_left
from collections.abc import Sequence
from math import ceil, fsum
from random import Random

from xxhash import xxh3_64_intdigest

from shunter.lab.core.arrivals import Arrival, Finished
from shunter.snapshot import Health, LoadRow

__all__ = ["Balancer", "BoundedHash", "Chance", "LeastRequest", "Turns"]

# Envoy's ring_hash has from 1,024 points up; with a hundred for each endpoint shares differ by some ten percent.
POINTS = 128

# Envoy's hash_balance_factor, in percent of the mean load: nobody gets more. Its documentation names 120 to 150 as sensible.
BALANCE_FACTOR = 1.5

# An endpoint that is full keeps a little weight, or it would be taken off the ring and its sessions would forget it.
LEAST_WEIGHT = 0.05


class Balancer:
    """Base of those who know nothing but what they have sent: `pick` says where the next request goes."""

    def __init__(self, endpoints: int, dice: Random) -> None:
        self.dice = dice
        self.active = [0] * endpoints
        """Requests in flight."""
        self._tried: dict[int, list[int]] = {}
        """Of every request in flight: where it was sent, the last one has it."""

    def pick(self, arrival: Arrival) -> int:
        """Name an endpoint."""
        raise NotImplementedError

    def choose(self, arrival: Arrival, index: int, now_s: float) -> int:
        """Pick, and count the request; one that nobody accepted goes to somebody who was not asked yet."""
        tried = self._tried.setdefault(index, [])
        if tried:
            self.active[tried[-1]] -= 1
        endpoint = self.pick(arrival)
        while endpoint in tried and len(tried) < len(self.active):
            endpoint = (endpoint + 1) % len(self.active)
        tried.append(endpoint)
        self.active[endpoint] += 1
        return endpoint

    def dispatch(self, now_s: float) -> Sequence[tuple[int, int]]:
        """Nobody waits here."""
        return ()

    def scraped(self, rows: Sequence[LoadRow], now_s: float) -> None:
        """Ignore it."""

    def first_token(self, index: int, now_s: float) -> None:
        """Ignore it."""

    def ended(self, index: int, finished: Finished, now_s: float) -> None:
        """Give the seat back."""
        tried = self._tried.pop(index, None)
        if tried:
            self.active[tried[-1]] -= 1


class Chance(Balancer):
    """Anybody."""

    def pick(self, arrival: Arrival) -> int:
        """Draw."""
        return int(self.dice.random() * len(self.active))


class Turns(Balancer):
    """One after the other, as a Kubernetes service or Envoy's round_robin; who begins is chance."""

    def __init__(self, endpoints: int, dice: Random) -> None:
        super().__init__(endpoints, dice)
        self._last = int(dice.random() * endpoints)

    def pick(self, arrival: Arrival) -> int:
        """Take the next."""
        self._last = (self._last + 1) % len(self.active)
        return self._last


class LeastRequest(Balancer):
    """Who has the fewest requests in flight; equals by chance. Envoy's least_request with a full scan."""

    def pick(self, arrival: Arrival) -> int:
        """Compare all of them."""
        return self.least([float(count) for count in self.active])

    def least(self, loads: Sequence[float]) -> int:
        """Return who has the least load."""
        lowest = min(loads)
        tied = [at for at, load in enumerate(loads) if load == lowest]
        return tied[int(self.dice.random() * len(tied))]


class BoundedHash(LeastRequest):
    """The `native` profile: a consistent hash of the session, clockwise past those who have more than their bound.

    The bound is BALANCE_FACTOR times the mean number in flight, in proportion to weights; a weight is what of the engine's
    cache is free, divided by its queue plus one. Who has no session goes where the fewest are for their weight.
    """

    def __init__(self, endpoints: int, dice: Random) -> None:
        super().__init__(endpoints, dice)
        self.weights = [1.0] * endpoints
        points = [(xxh3_64_intdigest(b"%d/%d" % (at, point)), at) for at in range(endpoints) for point in range(POINTS)]
        self._ring = sorted(points)

    def pick(self, arrival: Arrival) -> int:
        """Walk the ring from the session's point on."""
        if arrival.session:
            room = BALANCE_FACTOR * (sum(self.active) + 1) / fsum(self.weights)
            start = bisect_left(self._ring, (xxh3_64_intdigest(arrival.session.encode()), 0))
            for step in range(len(self._ring)):
                endpoint = self._ring[(start + step) % len(self._ring)][1]
                if self.active[endpoint] < ceil(room * self.weights[endpoint]):
                    return endpoint
        return self.least([count / weight for count, weight in zip(self.active, self.weights, strict=True)])

    def scraped(self, rows: Sequence[LoadRow], now_s: float) -> None:
        """Weigh everybody anew."""
        for row in rows:
            free = 1.0 - (row.kv_usage or 0.0) if row.health is Health.FRESH else 0.0
            self.weights[row.slot] = max(LEAST_WEIGHT, free / (1.0 + (row.waiting or 0.0)))
