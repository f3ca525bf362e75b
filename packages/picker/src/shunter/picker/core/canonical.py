"""Of a sample of requests one line of the log each, once it is known how they went: who was chosen, why, what came of it."""

from collections import OrderedDict
from collections.abc import Sequence

from shunter.picker.core.decisions import KEEP_CANDIDATES, Ended, Entry
from shunter.picker.core.kinds import Dice
from shunter.picker.core.ledger import SEQUENCE, life_of
from shunter.picker.core.reasons import reason, score_at
from shunter.picker.core.tracecontext import read_traceparent

__all__ = ["RECORD_S", "Canon", "describe"]

# Envoy's record of a request comes about a second after its end. The log waits for what it tells, but not for one that never
# comes.
RECORD_S = 3.0

# A long prompt's entry is 80 KB, most of it the hashes of its blocks.
MOST_HELD = 1024


class Canon:
    """A Witness: holds the sampled decisions until they can be told; bounded as the log of decisions is."""

    name = "decisions in the log"

    def __init__(self, dice: Dice, share: float) -> None:
        """Take the part ``share`` of decisions, refusals too."""
        self._dice = dice
        self._share = share
        self._held: OrderedDict[int, Entry] = OrderedDict()
        self._ended: dict[int, float | None] = {}  # those whose status is not known: since when, as ``take`` saw it
        self._told: list[Entry] = []
        self._candidates = 0

    def follow(self, decided: Sequence[Entry], ended: Sequence[Ended]) -> None:
        """Hold decisions that are in the sample, and learn how they went."""
        for entry in decided:
            if self._dice.random() < self._share:
                self._hold(entry)
        held = self._held
        for ticket, outcome, _ in ended:
            if ticket in held:
                held[ticket].outcome = outcome
                if outcome.status is not None:
                    self._let_go(ticket)
                else:
                    self._ended.setdefault(ticket, None)

    def take(self, now_s: float | None) -> list[Entry]:
        """Return what is to be told now; None: all that there is, for nothing will be told later."""
        for ticket in [*self._held] if now_s is None else ():
            self._let_go(ticket)
        for ticket, since_s in [*self._ended.items()]:
            if since_s is None:
                self._ended[ticket] = now_s
            elif now_s is not None and now_s - since_s >= RECORD_S:
                self._let_go(ticket)
        told, self._told = self._told, []
        return told

    def _hold(self, entry: Entry) -> None:
        if entry.refusal is not None:
            self._told.append(entry)
            return
        self._held[entry.ticket] = entry
        self._candidates += entry.candidates
        while len(self._held) > MOST_HELD or self._candidates > KEEP_CANDIDATES:
            self._let_go(next(iter(self._held)))

    def _let_go(self, ticket: int) -> None:
        entry = self._held.pop(ticket)
        self._ended.pop(ticket, None)
        self._candidates -= entry.candidates
        self._told.append(entry)


def describe(entry: Entry) -> dict[str, object]:
    """Return the members of the line, JSON types only; what is not known or does not apply is left out. Never a prompt."""
    context, decision, outcome = read_traceparent(entry.traceparent), entry.decision, entry.outcome
    told: dict[str, object] = {
        "request_id": entry.request_id,
        "ticket": f"{life_of(entry.ticket)}.{entry.ticket & SEQUENCE}",
        "trace_id": context.trace_id if context is not None else None,
        "model": entry.model,
        "target_model": entry.target_model if entry.target_model != entry.model else None,
        "pool": entry.pool,
        "priority": entry.priority,
        "estimated_tokens": entry.prompt_tokens,
        "waited_s": _rounded(entry.waited_s),
    }
    if entry.refusal is not None:
        told |= {"refused": entry.refusal.code, "refused_reason": entry.refusal.reason, "why": entry.refusal.message}
    if decision is not None:
        candidates, totals = decision.candidates, decision.totals
        told |= {"candidates": len(candidates), "profile": entry.profile}
        if decision.chosen:
            first = decision.chosen[0]
            told |= {
                "endpoint": candidates[first].authority,
                "cached_share": _rounded(entry.prefix.share.get(candidates[first].slot, 0.0)),
                "total": _rounded(totals[first]) if totals else None,
                "scores": {scorer.name: _rounded(score_at(scores, first)) for scorer, scores in decision.scores},
            }
        told["why"] = reason(decision, entry.features.columns() if entry.features is not None else None, entry.prefix)
    if outcome is not None:
        told |= {
            "status": outcome.status,
            "complete": outcome.complete,
            "served": outcome.served,
            "first_token_s": _rounded(outcome.first_token_s),
            "duration_s": _rounded(outcome.duration_s),
            "prompt_tokens": outcome.prompt_tokens,
            "completion_tokens": outcome.completion_tokens,
            "cached_tokens": outcome.cached_tokens,
        }
    return {name: value for name, value in told.items() if value is not None}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
