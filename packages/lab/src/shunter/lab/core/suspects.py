"""Who failed of those that work for others, and how long that is held against them.

Rule 1  Who fails is a *suspect* until it does once what it is there for. Who is none is asked in its turn.
Rule 2  A failure begins a penalty, and each further one in a row a longer one; requests that were under way in a penalty, and
        fail, do not lengthen it.
Rule 3  A suspect in its penalty is asked after all others if it has failed at once, since that costs nothing, and not at all if
        it let somebody wait in vain.
Rule 4  After its penalty one request at a time tries it in its turn, and to all others the penalty goes on.

So a request may find nobody to ask, and whoever asks must know how to do without.
"""

from collections.abc import Iterable
from typing import Literal, TypeAlias

import msgspec

__all__ = ["FORGOTTEN_S", "MOST", "Attempt", "Failure", "Reason", "Suspect", "Suspects", "penalty_s"]

Reason: TypeAlias = Literal["timeout", "unreachable", "error", "nonsense", "blocks", "rejected"]
"""`blocks`: what it computed could not be fetched. `rejected`: it did not like the request, which is no fault of its own."""

# A restarted process is back sooner than in the longest, and one that hangs costs a request not much more often than it is
# waited for anyway.
FIRST_PENALTY_S = 1.0
LONGEST_PENALTY_S = 10.0
# Pods go and never come back; nobody is to read of them for ever.
FORGOTTEN_S = 300.0
# Names come from a header, hence from anywhere. A pool has not so many that fail at the same time.
MOST = 256


class Failure(msgspec.Struct, frozen=True):
    """Why there was no answer; `words` for people."""

    reason: Reason
    words: str


class Suspect(msgspec.Struct, eq=False):
    """One of whom the last that was heard is a failure."""

    failure: Failure
    since_s: float
    failed_s: float  # the last time
    until_s: float  # its penalty
    failures: int = 1
    tried: bool = False  # by a request that has not heard yet


class Attempt(msgspec.Struct):
    """A request that asks somebody; `tries`: the suspect whom it alone may ask."""

    address: str
    tries: Suspect | None = None


class Suspects:
    """Every attempt that `choose` returns must come to `clear`, `blame` or `leave`; any number of times, in any order."""

    def __init__(self) -> None:
        self._known: dict[str, Suspect] = {}  # who failed last is last

    def choose(self, addresses: Iterable[str], now_s: float) -> Attempt | None:
        """Return whom to ask next of those that are named, best first; None if nobody is left who may be asked."""
        self._forget(now_s)
        later = None
        for address in addresses:
            suspect = self._known.get(address)
            if suspect is None:
                return Attempt(address)
            if now_s >= suspect.until_s and not suspect.tried:
                suspect.tried = True
                return Attempt(address, suspect)
            if later is None and suspect.failure.reason != "timeout":
                later = Attempt(address)
        return later

    def clear(self, attempt: Attempt) -> Suspect | None:
        """It did well. Returns what it was suspected of until now, if it was."""
        self.leave(attempt)
        return self._known.pop(attempt.address, None)

    def blame(self, attempt: Attempt, failure: Failure, now_s: float) -> bool:
        """It failed. Returns whether that makes it a suspect, which it was not."""
        self.leave(attempt)
        if failure.reason == "rejected":
            return False
        self._forget(now_s)
        suspect = self._known.pop(attempt.address, None)
        if suspect is None:
            if len(self._known) == MOST:
                del self._known[next(iter(self._known))]
            self._known[attempt.address] = Suspect(failure, now_s, now_s, now_s + penalty_s(1))
            return True
        if now_s >= suspect.until_s:
            suspect.failures += 1
            suspect.until_s = now_s + penalty_s(suspect.failures)
        suspect.failure, suspect.failed_s = failure, now_s
        self._known[attempt.address] = suspect
        return False

    def leave(self, attempt: Attempt) -> None:
        """Nothing is to be learnt from it, or nothing more."""
        if attempt.tries is not None:
            attempt.tries.tried = False
            attempt.tries = None

    def known(self, now_s: float) -> list[tuple[str, Suspect]]:
        """Return all suspects, by their addresses."""
        self._forget(now_s)
        return list(self._known.items())

    def _forget(self, now_s: float) -> None:
        """Forget whom nobody has found failing for long; who is being tried may yet be found so."""
        while self._known:
            address, suspect = next(iter(self._known.items()))
            if suspect.tried or now_s < suspect.failed_s + FORGOTTEN_S:
                return
            del self._known[address]


def penalty_s(failures: int) -> float:
    """Return how long the penalty is after so many failures in a row."""
    return min(FIRST_PENALTY_S * 2.0 ** min(failures - 1, 16), LONGEST_PENALTY_S)
