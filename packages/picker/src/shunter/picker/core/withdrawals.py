"""Prompts that were sent and not computed: what endpoints are taken to have cached is taken back, in all workers.

A prefix counts as cached from the pick on, since the next request with it may come before the answer. An error is the answer
that it was not: an endpoint that refuses a model in a millisecond would draw all the prompts to itself that it never ran.
Where another one was to compute the prompt nobody tells which of both failed, and it is taken back at both: a prompt that was
computed all the same is computed once more, which is little beside an endpoint that draws prompts and fails them.
"""

from collections.abc import Callable, Collection, Sequence

import msgspec

from shunter.picker.core.decisions import Entry
from shunter.picker.core.judgement import Outcome
from shunter.picker.core.ledger import Booking
from shunter.picker.core.prefix import PrefixIndex

__all__ = ["WITHDRAWN", "Withdrawal", "Withdrawals", "failed", "read_withdrawal", "write_withdrawal"]

# Under this name workers tell each other; no plugin's begins with that character.
WITHDRAWN = "\0withdrawn"

# Who waited gave up, be it the client or a gateway: the prompt may have been computed.
GAVE_UP = frozenset({408, 499, 504})


class Withdrawal(msgspec.Struct, frozen=True, array_like=True):
    """An endpoint was sent a prompt of these blocks, and did not compute it."""

    hashes: Sequence[int]
    slot: int
    incarnation: int


write_withdrawal = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Withdrawal).decode


def read_withdrawal(data: bytes) -> Withdrawal | None:
    """Read what a worker told; what cannot be read is from another release of the picker."""
    try:
        return _decode(data)
    except msgspec.MsgspecError:
        return None


class Withdrawals:
    """One worker's; ``tell`` carries what it takes back to the other workers' ``hear``."""

    def __init__(self, indices: Collection[PrefixIndex], tell: Callable[[bytes], None], prefill: str = "") -> None:
        """``indices`` are told of every prompt that is sent; ``prefill`` is the profile whose choice computes it for others."""
        self._indices = indices
        self._tell = tell
        self._prefill = prefill

    def follow(self, entry: Entry | None, outcome: Outcome, booking: Booking | None = None) -> None:
        """Take back what was expected of a request that failed, once.

        That is known by its decision, or by the ``booking`` that ends with it where the decision is not remembered any more.
        """
        if entry is None or entry.decision is None:
            if booking is not None:
                self.undo(booking)
            return
        if entry.outcome is not None and failed(entry.outcome):  # it is told twice: by the stream, and by Envoy's record
            return
        candidates = entry.decision.candidates
        first = candidates[entry.decision.chosen[0]]
        holder = next((each for each in candidates if each.authority == outcome.served), first)
        self.take_back(entry.prefix.hashes, holder.slot, holder.incarnation)
        ahead = entry.others.get(self._prefill)
        prefiller = ahead.candidates[ahead.chosen[0]] if ahead is not None and ahead.chosen else first
        if prefiller.slot != first.slot:
            self.take_back(entry.prefix.hashes, prefiller.slot, prefiller.incarnation)

    def undo(self, booking: Booking) -> None:
        """Take back all that was expected of a booking."""
        for each in booking.holders:
            self.take_back(booking.hashes, each.slot, each.incarnation)

    def take_back(self, hashes: Sequence[int], slot: int, incarnation: int) -> None:
        """Forget here and everywhere that the endpoint was sent these blocks once."""
        if hashes:
            withdrawal = Withdrawal(hashes, slot, incarnation)
            self._forget(withdrawal)
            self._tell(write_withdrawal(withdrawal))

    def hear(self, data: bytes) -> None:
        """Take back what another worker says."""
        withdrawal = read_withdrawal(data)
        if withdrawal is not None:
            self._forget(withdrawal)

    def _forget(self, withdrawal: Withdrawal) -> None:
        for index in self._indices:
            index.take_back(withdrawal.hashes, withdrawal.slot, withdrawal.incarnation)


def failed(outcome: Outcome) -> bool:
    """Say whether the answer was an error that comes instead of the prompt's computation."""
    return outcome.status is not None and outcome.status >= 400 and outcome.status not in GAVE_UP
