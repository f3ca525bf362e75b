"""What one worker tells the others: every booking and every release, in a log of shared memory that they replay.

A pick is worth only what it knows of the picks before it, those of the other workers included. So each worker writes down what
it books and releases, and each replays the others' journals into its own ledger, fleet and prefix index, where their requests
then count like its own. Nobody waits for anybody: no answer, no lock, nothing that a process could take with it when it dies.

A worker that starts replays every journal from the oldest record that is left, its predecessor's too: so what the dead one
learnt of prefixes lives on. What it had in flight does not: ``begun`` tells everybody that bookings of earlier lives of this
seat are void.

A record is one event in msgpack; one that cannot be read is skipped.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from shunter.picker.core.judgement import Outcome
from shunter.picker.core.ledger import Booking, Ledger, life_of
from shunter.snapshot import LogReader, LogWriter

__all__ = ["NOTHING", "Begun", "Booked", "Ended", "Journal", "Lasts", "News", "Peers", "Released", "Told", "read_event"]


class Begun(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=0):
    """A worker sat down; bookings of earlier lives of its seat are void."""

    life: int


class Booked(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """A request is in flight; if it was before, it is so elsewhere now."""

    ticket: int
    booking: Booking


class Released(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """A request is in flight no longer."""

    ticket: int


class Told(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """A plugin says something to itself in the other workers."""

    name: str
    data: bytes


class Measured(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """How a request went, from whoever saw it end."""

    ticket: int
    outcome: Outcome


class Lasts(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """A request whose stream is over goes on, at ``host``; its worker, which alone cares, is told when it ends."""

    ticket: int
    host: str


class Ended(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """A request whose stream was over has ended itself; for its worker."""

    ticket: int
    complete: bool


Event = Begun | Booked | Released | Told | Measured | Lasts | Ended

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Event).decode


def read_event(record: bytes) -> Event | None:
    """Read one record; None for one that cannot be read, which is skipped."""
    try:
        return _decode(record)
    except msgspec.MsgspecError:
        return None


class Journal:
    """The writing half: one worker's, over its seat's log."""

    def __init__(self, log: LogWriter, life: int) -> None:
        """Write nothing yet."""
        self._log = log
        self._life = life

    def begun(self) -> None:
        """Tell that whatever earlier lives of this seat have in flight is void."""
        self._log.append(_encode(Begun(self._life)))

    def booked(self, ticket: int, booking: Booking) -> None:
        """Tell that a request is in flight, or that it went elsewhere than was booked first."""
        self._log.append(_encode(Booked(ticket, booking)))

    def released(self, ticket: int) -> None:
        """Tell that a request is not in flight any longer."""
        self._log.append(_encode(Released(ticket)))

    def told(self, name: str, data: bytes) -> None:
        """Tell what a plugin says to itself elsewhere."""
        self._log.append(_encode(Told(name, data)))

    def measured(self, ticket: int, outcome: Outcome) -> None:
        """Tell how a request went, which only its worker cares for."""
        self._log.append(_encode(Measured(ticket, outcome)))

    def lasts(self, ticket: int, host: str) -> None:
        """Tell a worker that a request of its goes on, and who serves it."""
        self._log.append(_encode(Lasts(ticket, host)))

    def ended(self, ticket: int, *, complete: bool) -> None:
        """Tell a worker that a request of its has ended."""
        self._log.append(_encode(Ended(ticket, complete)))


class _Peer:
    """One journal as its reader knows it."""

    def __init__(self, log: LogReader) -> None:
        self.read = log.read
        self.life = 0  # of whoever wrote last


class News(msgspec.Struct, frozen=True):
    """What concerns the reader itself."""

    laps: int = 0  # in how many journals something was missed
    lasting: Sequence[tuple[int, str]] = ()  # tickets of its own whose stream is over, and who serves them
    ended: Sequence[tuple[int, bool]] = ()  # and those that have ended, and whether completely
    told: Sequence[tuple[str, bytes]] = ()  # what plugins elsewhere say: name, words
    measured: Sequence[tuple[int, Outcome]] = ()  # how its own requests went, by ticket


NOTHING = News()
"""What most looks bring."""


class Followers(Protocol):
    """Who follows the bookings: a Fleet, or those of several pools."""

    def add(self, booking: Booking, sign: int) -> None:
        """Follow a booking (+1) or its release (-1)."""
        ...

    def cache_size(self, slot: int) -> int | None:
        """Return the tokens that an endpoint's cache holds, if it is known."""
        ...


Remember = Callable[[Sequence[int], int, int, int | None], None]
"""Takes the hashes of a prompt's blocks, the slot and incarnation it was sent to, and the size of the cache there in tokens."""


class Peers:
    """The reading half: all journals there are."""

    def __init__(self, logs: Sequence[LogReader], life: int = 0) -> None:
        """Read nothing yet. The journal in which ``life`` begins is the reader's own: up to there it is its predecessors'."""
        self._peers = [_Peer(log) for log in logs]
        self._life = life

    def catch_up(self, ledger: Ledger, fleet: Followers, remember: Remember, live: Mapping[int, int]) -> News:
        """Enter what the others did since the last time into the accounts, and return what they cannot enter themselves.

        ``live`` are all endpoints, slot → incarnation. What was missed cannot be released, so all that was in flight there
        is dropped, and the engines' own figures have to make up for it.
        """
        batches = [(peer, batch) for peer in self._peers if (batch := peer.read()) is not None]
        if not batches:
            return NOTHING
        laps = 0
        lasting: list[tuple[int, str]] = []
        ended: list[tuple[int, bool]] = []
        told: list[tuple[str, bytes]] = []
        measured: list[tuple[int, Outcome]] = []
        for peer, batch in batches:
            if batch.lost:
                laps += 1
                _turn(peer, 0, ledger, fleet)
            for record in batch.records:
                event = read_event(record)
                if isinstance(event, Booked):
                    life = life_of(event.ticket)
                    if life != peer.life:
                        _turn(peer, life, ledger, fleet)
                    _book(event, ledger, fleet, remember, live)
                elif isinstance(event, Released):
                    _release(event.ticket, ledger, fleet)
                elif isinstance(event, Told):
                    told.append((event.name, event.data))
                elif isinstance(event, Measured):
                    if life_of(event.ticket) == self._life:
                        measured.append((event.ticket, event.outcome))
                elif isinstance(event, Lasts):
                    if life_of(event.ticket) == self._life:
                        lasting.append((event.ticket, event.host))
                elif isinstance(event, Ended):
                    if life_of(event.ticket) == self._life:
                        ended.append((event.ticket, event.complete))
                elif event is not None:
                    _turn(peer, event.life, ledger, fleet)
                    if event.life == self._life:
                        self._peers = [each for each in self._peers if each is not peer]
        return News(laps, lasting, ended, told, measured) if laps or lasting or ended or told or measured else NOTHING


def _turn(peer: _Peer, life: int, ledger: Ledger, fleet: Followers) -> None:
    """Take note of who writes; what a former one had in flight is void."""
    for booking in ledger.void(peer.life):
        fleet.add(booking, -1)
    peer.life = life


def _release(ticket: int, ledger: Ledger, fleet: Followers) -> None:
    booking = ledger.release(ticket)
    if booking is not None:
        fleet.add(booking, -1)


def _book(event: Booked, ledger: Ledger, fleet: Followers, remember: Remember, live: Mapping[int, int]) -> None:
    booking = event.booking
    hashes = booking.hashes
    if hashes:
        for each in booking.holders:
            slot, incarnation = each.slot, each.incarnation
            if live.get(slot) == incarnation:
                remember(hashes, slot, incarnation, fleet.cache_size(slot))
        # Who serves it is its owner's to watch; here the hashes of a long prompt would be 13 KB for nothing.
        booking = msgspec.structs.replace(booking, hashes=())
    _release(event.ticket, ledger, fleet)
    fleet.add(ledger.book(event.ticket, booking), +1)
