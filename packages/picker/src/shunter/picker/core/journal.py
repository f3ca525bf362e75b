"""What one worker tells the others: every booking and every release, in a log of shared memory that they replay.

A pick is worth only what it knows of the picks before it, those of the other workers included. So each worker writes down what
it books and releases, and each replays the others' journals into its own ledger, fleet and prefix index, where their requests
then count like its own. Nobody waits for anybody: no answer, no lock, nothing that a process could take with it when it dies.

A worker that starts replays every journal from the oldest record that is left, its predecessor's too: so what the dead one
learnt of prefixes lives on. What it had in flight does not: ``begun`` tells everybody that bookings of earlier lives of this
seat are void.

Records are fixed and native: processes of one release on one machine. A record of another kind or length is skipped.
"""

import struct
from collections.abc import Mapping, Sequence

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.ledger import Booking, Ledger, life_of
from shunter.picker.core.prefix import PrefixIndex
from shunter.snapshot import LogReader, LogWriter

__all__ = ["Journal", "Peers"]

BEGUN, BOOKED, RELEASED = 1, 2, 3

# kind, then: life | ticket, slot, tokens, incarnation, booked_ns, hashes to the end | ticket
_begun = struct.Struct("=QQ")
_booked = struct.Struct("=QQIIQq")
_released = struct.Struct("=QQ")

MOST = (1 << 32) - 1


class Journal:
    """The writing half: one worker's, over its seat's log."""

    def __init__(self, log: LogWriter, life: int) -> None:
        """Write nothing yet."""
        self._log = log
        self._life = life

    def begun(self) -> None:
        """Tell that whatever earlier lives of this seat have in flight is void."""
        self._log.append(_begun.pack(BEGUN, self._life))

    def booked(self, ticket: int, booking: Booking) -> None:
        """Tell that a request is in flight, or that it went elsewhere than was booked first."""
        hashes = booking.hashes
        tokens = min(booking.tokens, MOST)
        fields = _booked.pack(BOOKED, ticket, booking.slot, tokens, booking.incarnation, booking.booked_ns)
        self._log.append(fields + struct.pack(f"={len(hashes)}Q", *hashes))

    def released(self, ticket: int) -> None:
        """Tell that a request is not in flight any longer."""
        self._log.append(_released.pack(RELEASED, ticket))


class _Peer:
    """One journal as its reader knows it."""

    def __init__(self, log: LogReader) -> None:
        self.read = log.read
        self.life = 0  # of whoever wrote last


class Peers:
    """The reading half: all journals there are."""

    def __init__(self, logs: Sequence[LogReader], life: int = 0) -> None:
        """Read nothing yet. The journal in which ``life`` begins is the reader's own: up to there it is its predecessors'."""
        self._peers = [_Peer(log) for log in logs]
        self._life = life

    def catch_up(self, ledger: Ledger, fleet: Fleet, prefix: PrefixIndex | None, live: Mapping[int, int]) -> int:
        """Enter what the others did since the last time into the accounts; return in how many journals something was missed.

        ``live`` are all endpoints, slot → incarnation. What was missed cannot be released, so all that was in flight there
        is dropped, and the engines' own figures have to make up for it.
        """
        laps = 0
        for peer in tuple(self._peers):
            batch = peer.read()
            if batch is None:
                continue
            if batch.lost:
                laps += 1
                _turn(peer, 0, ledger, fleet)
            for record in batch.records:
                size = len(record)
                if size < _released.size or size % 8:
                    continue
                kind, number = _released.unpack_from(record)
                if kind == RELEASED:
                    _release(number, ledger, fleet)
                elif kind == BOOKED and size >= _booked.size:
                    _turn(peer, life_of(number), ledger, fleet)
                    _book(record, ledger, fleet, prefix, live)
                elif kind == BEGUN:
                    _turn(peer, number, ledger, fleet)
                    if number == self._life:
                        self._peers.remove(peer)
        return laps


def _turn(peer: _Peer, life: int, ledger: Ledger, fleet: Fleet) -> None:
    """Take note of who writes; what a former one had in flight is void."""
    if peer.life != life:
        for booking in ledger.void(peer.life):
            fleet.add(booking, -1)
        peer.life = life


def _release(ticket: int, ledger: Ledger, fleet: Fleet) -> None:
    booking = ledger.release(ticket)
    if booking is not None:
        fleet.add(booking, -1)


def _book(record: bytes, ledger: Ledger, fleet: Fleet, prefix: PrefixIndex | None, live: Mapping[int, int]) -> None:
    _, ticket, slot, tokens, incarnation, booked_ns = _booked.unpack_from(record)
    _release(ticket, ledger, fleet)  # a request that went elsewhere is booked again
    fleet.add(ledger.book(ticket, Booking(slot, incarnation, booked_ns, tokens)), +1)
    if prefix is not None and len(record) > _booked.size and live.get(slot) == incarnation:
        hashes = memoryview(record)[_booked.size :].cast("Q").tolist()
        at = fleet.index.get(slot)
        prefix.insert(hashes, slot, incarnation, None if at is None else fleet.cache_tokens[at])
