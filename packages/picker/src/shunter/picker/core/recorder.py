"""A sample of decisions on its way into a file, each held back until it is known how it went."""

from collections import OrderedDict
from collections.abc import Sequence

from shunter.picker.core.decisions import KEEP_CANDIDATES, Ended, Entry
from shunter.picker.core.kinds import Dice

__all__ = ["PATIENCE_S", "Recorder"]

# A request that has not ended by then is written down without its end: records of requests come with their last byte, and most
# answers take less than a minute.
PATIENCE_S = 60.0


class Recorder:
    """Holds what is to be written; like the log of decisions it is bounded by their candidates."""

    name = "recorded decisions"

    def __init__(self, dice: Dice, sample: float) -> None:
        """Take the part ``sample`` of decisions."""
        self._dice = dice
        self._sample = sample
        self._held: OrderedDict[int, Entry] = OrderedDict()
        self._candidates = 0

    def follow(self, decided: Sequence[Entry], ended: Sequence[Ended]) -> None:
        """Hold decisions that are in the sample, and add how they went."""
        held = self._held
        for entry in decided:
            if entry.features is not None and self._dice.random() < self._sample:
                held[entry.ticket] = entry
                self._candidates += entry.candidates
        for ticket, outcome, _ in ended:
            if ticket in held:
                held[ticket].outcome = outcome.after(held[ticket].outcome)

    def take(self, now_s: float, most_candidates: int) -> list[Entry]:
        """Return, oldest first, what need not be held any longer, until it has so many candidates together."""
        taken: list[Entry] = []
        candidates = 0
        while self._held and candidates < most_candidates:
            ticket, entry = next(iter(self._held.items()))
            # Who does not see the response is told how it went by its record, some time after its end.
            known = entry.outcome is not None and entry.outcome.status is not None
            if not (known or now_s - entry.at_s >= PATIENCE_S or self._candidates > KEEP_CANDIDATES):
                break
            del self._held[ticket]
            self._candidates -= entry.candidates
            candidates += entry.candidates
            taken.append(entry)
        return taken
