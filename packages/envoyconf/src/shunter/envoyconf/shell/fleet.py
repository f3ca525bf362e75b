"""The scraper's snapshot, seen as the endpoints of an intent's pools: who is ready, and how much each is to get."""

from collections.abc import Hashable

from shunter.envoyconf.core.intent import Intent, Pool, Profile
from shunter.envoyconf.core.xds.members import Member
from shunter.envoyconf.core.xds.weights import Reading, Weights
from shunter.snapshot import Endpoint, Health, LoadRow, Topology, View

__all__ = ["Fleet"]

# Weights change no more often than this, and an endpoint's own far less.
PERIOD_S = 0.1


class Fleet:
    """Remembers weights from one view to the next."""

    def __init__(self) -> None:
        self._weights: dict[str, Weights] = {}
        self._last: dict[str, dict[Hashable, int]] = {}
        self._weighed_s = float("-inf")

    def members(self, intent: Intent, view: View, now_s: float) -> dict[str, tuple[Member, ...]]:
        """Return the ready endpoints of every pool that the snapshot knows, in the order of their addresses.

        In the profile native they have weights; where a picker is asked, it knows better.
        """
        weigh = now_s - self._weighed_s >= PERIOD_S
        self._weighed_s = now_s if weigh else self._weighed_s
        rows = {(row.slot, row.incarnation): row for row in view.load.rows()} if weigh else {}
        found: dict[str, tuple[Member, ...]] = {}
        for pool in intent.pools:
            number = _number(pool, view.topology)
            if number is None:
                continue
            endpoints = [each for each in view.topology.endpoints if each.ready and number in each.pools]
            weights: dict[Hashable, int] = {}
            if Profile.NATIVE in intent.profiles_of(pool):
                weights = self._weigh(pool.name, endpoints, rows, now_s) if weigh else self._last.get(pool.name, {})
            places = {(each.address, each.port): weights.get((each.slot, each.incarnation), 1) for each in endpoints}
            found[pool.name] = tuple(Member(address, port, weight) for (address, port), weight in sorted(places.items()))
        return found

    def _weigh(
        self, pool: str, endpoints: list[Endpoint], rows: dict[tuple[int, int], LoadRow], now_s: float
    ) -> dict[Hashable, int]:
        readings: dict[Hashable, Reading] = {}
        for each in endpoints:
            row = rows.get((each.slot, each.incarnation))
            readings[each.slot, each.incarnation] = (
                Reading(waiting=row.waiting, running=row.running, kv_usage=row.kv_usage)
                if row and row.health is Health.FRESH
                else Reading()
            )
        self._last[pool] = self._weights.setdefault(pool, Weights()).update(readings, now_s)
        return self._last[pool]


def _number(pool: Pool, topology: Topology) -> int | None:
    """Return which of the snapshot's pools an intent's pool is: the InferencePool it names, or the one of its own name."""
    namespace, _, name = (pool.inference_pool or pool.name).rpartition("/")
    for number, each in enumerate(topology.pools):
        if each.name == name and namespace in ("", each.namespace):
            return number
    return None
