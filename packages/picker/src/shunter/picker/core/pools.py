"""The pools that a picker serves: each with endpoints, rules and a lobby of its own, over one account of what is in flight.

Which pool a request is for, the gateway says when it opens the stream; a request of which it says nothing is for the default
one, which is all endpoints there are unless the picker is told to serve a single pool. Pools are named as in ``is_called``.
An endpoint may belong to several.
"""

from collections.abc import Callable, Iterator

from shunter.picker.core.fleet import Fleet, Roster, is_called
from shunter.picker.core.ledger import Booking, Key, Ledger
from shunter.picker.core.lobby import Lobby
from shunter.picker.core.models import Rulebook
from shunter.snapshot import Health, Topology, View

__all__ = ["Ward", "Wards"]


NOBODY: frozenset[Key] = frozenset()


class Ward:
    """One pool, as long as the picker lives; its rules change with the topology."""

    __slots__ = ("lobby", "name", "roster", "rules")

    def __init__(self, name: str | None, roster: Roster, lobby: Lobby | None) -> None:
        self.name = name
        self.roster = roster
        self.rules = Rulebook()
        self.lobby = lobby

    def adopt(self, topology: Topology | None) -> None:
        """Index a new topology's rules."""
        self.rules = Rulebook(topology, self.name)
        if self.lobby is not None:
            self.lobby.gate.retain(self.rules.priorities)

    @property
    def fleet(self) -> Fleet:
        """Its ready endpoints as they were seen last."""
        return self.roster.current

    def names(self) -> frozenset[str]:
        """Return the models that clients may ask for: by its rules, as adapters that are loaded, or as engines list them."""
        fleet = self.fleet
        adapters = (*fleet.running_adapters, *fleet.waiting_adapters)
        return self.rules.names.union(*adapters, *[endpoint.models for endpoint in fleet.endpoints])


class Wards:
    """All pools that somebody has asked for, and the default one."""

    def __init__(
        self, ledger: Ledger, name: str | None, stale_after_ns: int, make_lobby: Callable[[str | None], Lobby | None]
    ) -> None:
        """``name`` is that of the only pool served; None: any."""
        self._ledger = ledger
        self._stale_after_ns = stale_after_ns
        self._make_lobby = make_lobby
        self._topology: Topology | None = None
        self._view: View | None = None
        self._now_ns = 0
        self.default = Ward(name, Roster(ledger, pool=name, stale_after_ns=stale_after_ns), make_lobby(name))
        self._others: dict[str, Ward] = {}  # by namespace/name, or by what several are called
        self._called: dict[str, Ward] = {}  # the same, as requests name them while the topology is what it is

    def __iter__(self) -> Iterator[Ward]:
        """Yield the default one, then the others."""
        yield self.default
        yield from self._others.values()

    def find(self, name: str) -> Ward | None:
        """Return the pool of that name; None if there is none, or it is not ours to serve."""
        ward = self._called.get(name)
        if ward is None:
            meant = [each for each in self._topology.pools if is_called(each, name)] if self._topology else []
            only = self.default.name
            if not meant or (only is not None and not any(is_called(each, only) for each in meant)):
                return None
            if only is not None:
                return self.default
            full = name if len(meant) > 1 else f"{meant[0].namespace}/{meant[0].name}"
            ward = self._called[name] = self._others.get(full) or self._open(full)
        return ward

    def _open(self, name: str) -> Ward:
        roster = Roster(self._ledger, pool=name, stale_after_ns=self._stale_after_ns)
        ward = self._others[name] = Ward(name, roster, self._make_lobby(name))
        ward.adopt(self._topology)
        roster.fleet(self._view, self._now_ns)
        return ward

    def adopt(self, topology: Topology | None) -> None:
        """Index a new topology's rules; forget the pools that are gone, unless somebody waits there."""
        self._topology = topology
        self._called.clear()
        pools = topology.pools if topology else ()
        for name, ward in list(self._others.items()):
            awaited = ward.lobby is not None and len(ward.lobby)
            if not awaited and not any(is_called(each, name) for each in pools):
                del self._others[name]
        for ward in self:
            ward.adopt(topology)

    def look(self, view: View | None, now_ns: int, *, wanted: bool = True) -> frozenset[Key]:
        """Bring everybody's fleet up to date; return who accepts no connections since.

        Where nobody has ``wanted`` it only if it matters by itself: a new load, 20 times a second, is for who chooses.
        """
        last, self._view, self._now_ns = self._view, view, now_ns
        roster = self.default.roster
        if view is roster.view and now_ns <= roster.good_until_ns and not self._others:
            return NOBODY
        if not wanted and view and last and view.topology is last.topology:
            load, before = view.load, last.load
            if Health.UNREACHABLE not in (*load.health, *before.health) and load.num_blocks == before.num_blocks:
                return NOBODY
        gone = _look(roster, view, now_ns)
        if self._others:
            gone = gone.union(*[_look(ward.roster, view, now_ns) for ward in self._others.values()])
        return gone

    def add(self, booking: Booking, sign: int) -> None:
        """Follow a booking (+1) or its release (-1), wherever its endpoint is."""
        self.default.roster.current.add(booking, sign)
        if self._others:
            for ward in self._others.values():
                ward.roster.current.add(booking, sign)

    def cache_size(self, slot: int) -> int | None:
        """Return the tokens that an endpoint's cache holds, if it tells."""
        fleet = self.default.roster.current
        at = fleet.index.get(slot)
        size = None if at is None else fleet.cache_tokens[at]
        if size is None and self._others:
            size = next((size for ward in self if (size := ward.fleet.cache_size(slot)) is not None), None)
        return size

    def successor(self, booking: Booking, endpoint: str) -> Key | None:
        """Return who serves a request instead of whom it was booked on; None if it is that one, or nobody we know."""
        fleet = self.default.roster.current
        at = fleet.index.get(booking.slot)
        if at is not None and fleet.authorities[at] == endpoint:  # so it is of nearly all
            return None
        for ward in self:
            fleet = ward.fleet
            at = fleet.index.get(booking.slot)
            if at is not None and fleet.authorities[at] == endpoint:
                return None
            if endpoint in fleet.authorities:
                return fleet.key(fleet.authorities.index(endpoint))
        return None


def _look(roster: Roster, view: View | None, now_ns: int) -> frozenset[Key]:
    """Bring its fleet up to date; return who accepts no connections since."""
    before = roster.gone
    roster.fleet(view, now_ns)
    return NOBODY if roster.gone is before else roster.gone - before
