"""The scraper's snapshot, seen as the endpoints of an intent's pools: who is ready, and how much each is to get."""

from collections.abc import Hashable, Mapping

from shunter.envoyconf.core.intent import Intent, Pool, Profile
from shunter.envoyconf.core.xds.members import Member
from shunter.envoyconf.core.xds.weights import USUAL_WEIGHT, Reading, Weights
from shunter.envoyconf.shell.speeds import Key
from shunter.snapshot import Health, Load, Topology, View

__all__ = ["Fleet"]

# Weights change no more often than this, and an endpoint's own far less.
PERIOD_S = 0.1

UNKNOWN = Reading()


class Fleet:
    """Remembers weights from one view to the next."""

    def __init__(self) -> None:
        self._weights: dict[str, Weights] = {}
        self._last: dict[str, dict[Hashable, int]] = {}
        self._weighed_s = float("-inf")
        self._intent: Intent | None = None
        self._topology: Topology | None = None
        self._found: dict[str, tuple[Member, ...]] = {}

    def members(
        self, intent: Intent, view: View, now_s: float, speeds: Mapping[Key, float] | None = None
    ) -> dict[str, tuple[Member, ...]]:
        """Return the ready endpoints of every pool that the snapshot knows, in the order of their addresses.

        In the profile native they have weights; where a picker is asked, it knows better. ``speeds`` are tokens per second.
        """
        native = any(Profile.NATIVE in intent.profiles_of(pool) for pool in intent.pools)
        weigh = native and now_s - self._weighed_s >= PERIOD_S
        if not weigh and intent is self._intent and view.topology is self._topology:
            return self._found  # load alone has changed, as it does twenty times a second
        self._weighed_s = now_s if weigh else self._weighed_s
        readings = _readings(view.load, speeds or {}) if weigh else {}
        found: dict[str, tuple[Member, ...]] = {}
        for pool in intent.pools:
            number = _number(pool, intent.kubernetes.namespace, view.topology)
            if number is None:
                continue
            endpoints = [each for each in view.topology.endpoints if each.ready and number in each.pools]
            weights: dict[Hashable, int] = {}
            usual = 1
            if Profile.NATIVE in intent.profiles_of(pool):
                if weigh:
                    known: dict[Hashable, Reading] = {
                        key: readings.get(key, UNKNOWN) for each in endpoints if (key := (each.slot, each.incarnation))
                    }
                    self._last[pool.name] = self._weights.setdefault(pool.name, Weights()).update(known, now_s)
                weights, usual = self._last.get(pool.name, {}), USUAL_WEIGHT
            places = {(each.address, each.port): weights.get((each.slot, each.incarnation), usual) for each in endpoints}
            found[pool.name] = tuple(Member(address, port, weight) for (address, port), weight in sorted(places.items()))
        self._intent, self._topology, self._found = intent, view.topology, found
        return found


def _readings(load: Load, speeds: Mapping[Key, float]) -> dict[Key, Reading]:
    """Return what is known of each endpoint. Row by row it takes ten times as long."""
    columns = zip(load.slot, load.incarnation, load.health, load.waiting, load.running, load.kv_usage, strict=True)
    return {
        (key := (slot, incarnation)): Reading(waiting=waiting, running=running, kv_usage=kv_usage, speed=speeds.get(key))
        for slot, incarnation, health, waiting, running, kv_usage in columns
        if health is Health.FRESH
    }


def _number(pool: Pool, home: str, topology: Topology) -> int | None:
    """Return which of the snapshot's pools an intent's pool is: the InferencePool it names, or the one of its own name.

    Where no namespace is named, that of the intent comes first.
    """
    namespace, _, name = (pool.inference_pool or pool.name).rpartition("/")
    named = [(number, each) for number, each in enumerate(topology.pools) if each.name == name]
    found = [(each.namespace != home, number) for number, each in named if namespace in ("", each.namespace)]
    return min(found)[1] if found else None
