"""Which small number each endpoint has, and in which incarnation.

Everything that processes share about an endpoint (ledger rows, prefix index, decisions) is keyed by ``(slot,
incarnation)``, so:

1. An endpoint keeps its pair as long as it exists, over restarts of the scraper too.
2. Within one run a slot gets a new owner no sooner than QUARANTINE_NS after the former one vanished: others may still
   be writing in its rows. (The next run knows of those in the last topology only; the incarnation tells the others apart.)
3. The incarnation of an endpoint is the generation of the topology in which it first appeared. Generations rise with
   every topology, also over restarts, so a pair never returns and no history of slots has to be kept.
4. The smallest free slot is given first: arrays indexed by slot stay short.

An endpoint is the same while namespace, name, address and port are. Another address is another process with another
cache, and so is a pod of another name at an address that was reused.
"""

from collections.abc import Iterable
from typing import NamedTuple

from shunter.snapshot import Topology

__all__ = ["QUARANTINE_NS", "Identity", "Place", "Slots"]

# Longer than any reader sleeps on an old topology and than a request's last ledger entry waits for its stream to
# close normally.
QUARANTINE_NS = 30_000_000_000


class Identity(NamedTuple):
    """What makes an endpoint the same endpoint."""

    namespace: str
    name: str
    address: str
    port: int


class Place(NamedTuple):
    """The pair that everything shared is keyed by."""

    slot: int
    incarnation: int


class Slots:
    """Hands out slots; start from the topology that a former run left, if there is one."""

    def __init__(self, former: Topology | None = None) -> None:
        endpoints = former.endpoints if former else ()
        self._places = {
            Identity(one.namespace, one.name, one.address, one.port): Place(one.slot, one.incarnation) for one in endpoints
        }
        self._vacated_ns: dict[int, int] = {}

    def assign(self, identities: Iterable[Identity], *, generation: int, now_ns: int) -> dict[Identity, Place]:
        """Return the places of exactly these endpoints, in their order, in the topology of this ``generation``."""
        wanted = dict.fromkeys(identities)
        for identity in self._places.keys() - wanted.keys():
            self._vacated_ns[self._places.pop(identity).slot] = now_ns
        self._vacated_ns = {slot: at for slot, at in self._vacated_ns.items() if now_ns - at < QUARANTINE_NS}
        taken = {place.slot for place in self._places.values()} | self._vacated_ns.keys()
        free = (slot for slot in range(len(taken) + len(wanted)) if slot not in taken)
        for identity in wanted:
            if identity not in self._places:
                self._places[identity] = Place(next(free), generation)
        return {identity: self._places[identity] for identity in wanted}
