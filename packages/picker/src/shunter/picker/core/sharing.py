"""What replicas of a picker tell each other: journals of one machine, put in words that hold on another.

A record of a journal names an endpoint by slot and incarnation, which each machine's scraper gives out for itself, a request by
a ticket of one runtime directory, and a time by one machine's clock. So each booking is told with the endpoint's address, its
age, and a ticket that counts together with the name of the replica; and what is heard is booked under tickets of our own seat,
in our own journal, from where every worker of this machine takes it for that of one more worker. So is what workers take back
of the prompts that endpoints are expected to have cached (`core.withdrawals`).

::

    journals of all seats but ours ──> Teller ──> Message ──(a stream that all replicas read)──> Hearer ──> journal of our seat

What cannot be told in time is not told later: a message that is missing ends all that its replica had in flight here, as does a
silence of SILENT_S, and the engines' own figures have to make up for it. Nothing is waited for.

Messages are foreign bytes: whatever they are, they are read or they are a SharingError.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from shunter.picker.core.journal import Begun, Booked, Journal, Released, Told, read_event
from shunter.picker.core.ledger import Booking, Key, first_ticket, next_ticket
from shunter.picker.core.withdrawals import WITHDRAWN, Withdrawal, read_withdrawal, write_withdrawal
from shunter.picker.errors import SharingError
from shunter.snapshot import Batch

__all__ = [
    "HEARTBEAT_S",
    "MAX_EVENTS",
    "MAX_HEARD",
    "MAX_REPLICAS",
    "SILENT_S",
    "Hearer",
    "Message",
    "Over",
    "Sent",
    "Teller",
    "Withdrawn",
    "decode",
    "encode",
]

# A replica says something at least so often.
HEARTBEAT_S = 1.0
# Who says nothing for so long is dead, or cut off.
SILENT_S = 5.0

# Of one message: a prompt of 500 KB has 322 hashes of 9 bytes, so this is a megabyte and a half at most.
MAX_EVENTS = 512
# Requests in flight at all other replicas together; beyond it nobody is booked. 64 thousand is what Envoy opens to one picker.
MAX_HEARD = 4 * 65_536
# A picker has a handful of replicas, and one that is started anew is counted twice for SILENT_S. Whoever makes up names in the
# stream must not fill our memory with them.
MAX_REPLICAS = 256

# Blocks of the longest prompt that is looked at are 322; what claims more is not from a picker. At 9 bytes each these have room
# in a record of a journal, which is 32 KB at most, with companions and all.
Hashes = Annotated[tuple[Annotated[int, Meta(ge=0)], ...], Meta(max_length=3500)]
Tokens = Annotated[int, Meta(ge=0, le=1 << 40)]
Ticket = Annotated[int, Meta(ge=0)]


class Share(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A request's part on one endpoint, ``address:port``."""

    authority: Annotated[str, Meta(max_length=64)]
    tokens: Tokens = 0
    prefill_tokens: Tokens = 0
    decode_tokens: Tokens = 0


class Sent(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=0):
    """A request is in flight; if it was before, it is so elsewhere now. ``age_ms`` when the message was written."""

    ticket: Ticket
    age_ms: Annotated[int, Meta(ge=0, le=1 << 40)]
    share: Share
    hashes: Hashes = ()
    companions: Annotated[tuple[Share, ...], Meta(max_length=8)] = ()


class Over(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Requests are in flight no longer."""

    tickets: Annotated[tuple[Ticket, ...], Meta(max_length=1 << 16)]


class Withdrawn(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An endpoint did not compute a prompt of these blocks that it was sent."""

    authority: Annotated[str, Meta(max_length=64)]
    hashes: Hashes


class Message(msgspec.Struct, frozen=True, array_like=True):
    """What one replica says at once; ``number`` rises by one from message to message.

    What is new in a release stands behind the rest, where those that do not know of it do not look.
    """

    replica: Annotated[str, Meta(min_length=1, max_length=64)]
    number: Annotated[int, Meta(ge=0)]
    events: Annotated[tuple[Sent | Over, ...], Meta(max_length=MAX_EVENTS)] = ()
    withdrawn: Annotated[tuple[Withdrawn, ...], Meta(max_length=MAX_EVENTS)] = ()


encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


def decode(data: bytes) -> Message:
    """Read a message; raises SharingError."""
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise SharingError(f"this is no message of a picker: {error}") from None


class Teller:
    """Turns what the seats of this machine write into messages. ``authorities`` are those of all endpoints there are."""

    def __init__(self, replica: str) -> None:
        self._replica = replica
        self._number = 0
        self._open: dict[int, set[int]] = {}  # tickets in flight, by seat

    def tell(self, batches: Mapping[int, Batch], authorities: Mapping[Key, str], now_ns: int) -> list[Message]:
        """Return what is to be said of news of seats; nothing if there is none."""
        events: list[Sent | Over] = []
        withdrawn: list[Withdrawn] = []
        for seat, batch in batches.items():
            live = self._open.setdefault(seat, set())
            if batch.lost:
                self._end(live, events)
            for record in batch.records:
                event = read_event(record)
                if isinstance(event, Booked):
                    sent = _sent(event, authorities, now_ns)
                    if sent is not None:
                        live.add(event.ticket)
                        events.append(sent)
                elif isinstance(event, Released):
                    # A request may end in another seat than it began in: the collector's.
                    for each in self._open.values():
                        if event.ticket in each:
                            each.discard(event.ticket)
                            events.append(Over((event.ticket,)))
                elif isinstance(event, Begun):
                    self._end(live, events)
                elif isinstance(event, Told) and event.name == WITHDRAWN:
                    withdrawn += _withdrawn(event.data, authorities)
        messages = [self.heartbeat(events[at : at + MAX_EVENTS]) for at in range(0, len(events), MAX_EVENTS)]
        # A withdrawal undoes one sending, whichever it was, so it may come after later ones.
        rest = range(0, len(withdrawn), MAX_EVENTS)
        return messages + [self.heartbeat(withdrawn=withdrawn[at : at + MAX_EVENTS]) for at in rest]

    def heartbeat(self, events: Sequence[Sent | Over] = (), withdrawn: Sequence[Withdrawn] = ()) -> Message:
        """Return a message, by which others know at least that this replica lives."""
        self._number += 1
        return Message(self._replica, self._number, tuple(events), tuple(withdrawn))

    @staticmethod
    def _end(live: set[int], events: list[Sent | Over]) -> None:
        tickets = sorted(live)
        live.clear()
        events += [Over(tuple(tickets[at : at + MAX_EVENTS])) for at in range(0, len(tickets), MAX_EVENTS)]


class _Replica(msgspec.Struct):
    """Another one, as it was heard."""

    number: int
    heard_ns: int
    tickets: dict[int, int] = {}  # its own → ours


class Hearer:
    """Books what other replicas say into our seat's journal."""

    def __init__(self, replica: str, life: int, journal: Journal) -> None:
        """``replica`` is our own name, whose messages come back and are none of our business; ``life`` that of our seat."""
        self._name = replica
        self._journal = journal
        self._ticket = first_ticket(life)
        self._replicas: dict[str, _Replica] = {}
        self.refused = 0  # bookings beyond MAX_HEARD, or of replicas beyond MAX_REPLICAS
        self.gaps = 0  # messages that were missed, once for each time that some were

    @property
    def replicas(self) -> int:
        """How many others are heard of."""
        return len(self._replicas)

    @property
    def in_flight(self) -> int:
        """Requests of others that are booked here."""
        return sum(len(each.tickets) for each in self._replicas.values())

    def hear(self, message: Message, keys: Mapping[str, Key], now_ns: int, late_ms: int = 0) -> None:
        """Take a message that was written ``late_ms`` ago; ``keys`` are our endpoints by address."""
        if message.replica == self._name:
            return
        replica = self._replicas.get(message.replica)
        if replica is None:
            if len(self._replicas) >= MAX_REPLICAS:
                self.refused += sum(isinstance(event, Sent) for event in message.events)
                return
            replica = self._replicas[message.replica] = _Replica(message.number, now_ns)
        elif message.number <= replica.number:
            return  # it was read before
        elif message.number != replica.number + 1:
            self.gaps += 1
            self._end(replica)
        replica.number, replica.heard_ns = message.number, now_ns - late_ms * 1_000_000
        for event in message.events:
            if isinstance(event, Over):
                for ticket in event.tickets:
                    self._release(replica, ticket)
            else:
                self._book(replica, event, keys, now_ns - late_ms * 1_000_000)
        for each in message.withdrawn:
            key = keys.get(each.authority)
            if key is not None:
                self._journal.told(WITHDRAWN, write_withdrawal(Withdrawal(each.hashes, *key)))

    def expire(self, now_ns: int) -> None:
        """End what replicas have in flight that have not been heard of for long."""
        for name, replica in [*self._replicas.items()]:
            if now_ns - replica.heard_ns > SILENT_S * 1e9:
                self._end(replica)
                del self._replicas[name]

    def _book(self, replica: _Replica, event: Sent, keys: Mapping[str, Key], written_ns: int) -> None:
        booking = _booking(event, keys, written_ns)
        if booking is None:  # an endpoint that we do not know yet, or no longer
            self._release(replica, event.ticket)
            return
        ours = replica.tickets.get(event.ticket)
        if ours is None:
            if self.in_flight >= MAX_HEARD:
                self.refused += 1
                return
            self._ticket = ours = next_ticket(self._ticket)
            replica.tickets[event.ticket] = ours
        self._journal.booked(ours, booking)

    def _release(self, replica: _Replica, ticket: int) -> None:
        ours = replica.tickets.pop(ticket, None)
        if ours is not None:
            self._journal.released(ours)

    def _end(self, replica: _Replica) -> None:
        for ticket in [*replica.tickets]:
            self._release(replica, ticket)


def _sent(event: Booked, authorities: Mapping[Key, str], now_ns: int) -> Sent | None:
    booking = event.booking
    shares = [*_shares((booking, *booking.companions), authorities)]
    if not shares or (booking.slot, booking.incarnation) not in authorities:
        return None
    age_ms = max(0, now_ns - booking.booked_ns) // 1_000_000
    return Sent(event.ticket, age_ms, shares[0], tuple(booking.hashes), tuple(shares[1:]))


def _shares(bookings: Iterable[Booking], authorities: Mapping[Key, str]) -> Iterable[Share]:
    for each in bookings:
        authority = authorities.get((each.slot, each.incarnation))
        if authority is not None:
            yield Share(authority, each.tokens, each.prefill_tokens, each.decode_tokens)


def _withdrawn(data: bytes, authorities: Mapping[Key, str]) -> Iterable[Withdrawn]:
    read = read_withdrawal(data)
    authority = authorities.get((read.slot, read.incarnation)) if read is not None else None
    if read is not None and authority is not None:
        yield Withdrawn(authority, tuple(read.hashes))


def _booking(event: Sent, keys: Mapping[str, Key], written_ns: int) -> Booking | None:
    booked_ns = max(0, written_ns - event.age_ms * 1_000_000)
    key = keys.get(event.share.authority)
    if key is None:
        return None
    return Booking(
        *key,
        booked_ns,
        event.share.tokens,
        event.hashes,
        event.share.prefill_tokens,
        event.share.decode_tokens,
        tuple(
            Booking(*other, booked_ns, each.tokens, (), each.prefill_tokens, each.decode_tokens)
            for each in event.companions
            if (other := keys.get(each.authority)) is not None
        ),
    )
