"""The last decisions and everything that led to them, for whoever asks "why did this request go there?".

The log is bounded by count. It keeps what the scheduler computed as it is, and turns it into words only when asked.
"""

from collections.abc import Mapping
from itertools import islice

import msgspec

from shunter.picker.core.judgement import Outcome, Refusal
from shunter.picker.core.schedule import Decision, Scores

__all__ = ["KEEP", "LONGEST_NAME", "DecisionLog", "Entry"]

# A decision among 10 endpoints keeps about 1 KB, one among 1,000 about 40 KB, so 256 stay below 10 MB in the worst case;
# they are the last second under load, and the last hours in a quiet pool.
KEEP = 256

# Characters kept of a name that the client chose: a body may consist of little else than a model's name of many megabytes.
LONGEST_NAME = 256

# Candidates shown of a decision beside the chosen ones: enough to see who was close.
SHOWN = 10


class Entry(msgspec.Struct, gc=False):
    """One request's decision; ``outcome`` follows when the request has ended."""

    ticket: int
    at_s: float  # monotonic
    request_id: str
    model: str | None = None
    target_model: str | None = None
    priority: int = 0
    prompt_tokens: int = 0
    prefix_blocks: int = 0  # of the prompt
    decision: Decision | None = None
    refusal: Refusal | None = None
    outcome: Outcome | None = None

    def explain(self, shown: int = SHOWN) -> dict[str, object]:
        """Return plain data (JSON types only): the request, the chosen endpoints and the best ``shown`` candidates' scores."""
        told: dict[str, object] = {
            "ticket": self.ticket,
            "at_s": self.at_s,
            "request_id": self.request_id,
            "model": self.model,
            "target_model": self.target_model,
            "priority": self.priority,
            "prompt_tokens": self.prompt_tokens,
            "prefix_blocks": self.prefix_blocks,
        }
        if self.refusal is not None:
            told["refusal"] = msgspec.to_builtins(self.refusal)
        if self.decision is not None:
            told |= _explain(self.decision, shown)
        if self.outcome is not None:
            told["outcome"] = msgspec.to_builtins(self.outcome)
        return told


class DecisionLog:
    """The last ``keep`` decisions by ticket."""

    def __init__(self, keep: int = KEEP) -> None:
        """Keep none if ``keep`` is 0."""
        self._keep = keep
        self._entries: dict[int, Entry] = {}

    def add(self, entry: Entry) -> None:
        """Enter a decision; beyond the bound the oldest one is dropped."""
        self._entries[entry.ticket] = entry
        if len(self._entries) > self._keep:
            del self._entries[next(iter(self._entries))]

    def close(self, ticket: int, outcome: Outcome) -> None:
        """Add how the request ended, if its decision is still here."""
        entry = self._entries.get(ticket)
        if entry is not None:
            entry.outcome = outcome

    def latest(self, count: int = KEEP) -> list[Entry]:
        """Return up to ``count`` entries, newest first."""
        return list(islice(reversed(self._entries.values()), count))

    def find(self, request_id: str) -> Entry | None:
        """Return the newest entry of a request id."""
        return next((entry for entry in reversed(self._entries.values()) if entry.request_id == request_id), None)


def _explain(decision: Decision, shown: int) -> dict[str, object]:
    candidates, totals = decision.candidates, decision.totals
    ranked = sorted(range(len(totals)), key=lambda at: -totals[at])
    others = [at for at in ranked if at not in decision.chosen]
    return {
        "chosen": [candidates[at].authority for at in decision.chosen],
        "candidates": len(candidates),
        "weights": {scorer.name: scorer.weight for scorer, _ in decision.scores},
        "best": [
            {
                "endpoint": candidates[at].authority,
                "name": candidates[at].name,
                "total": round(totals[at], 4) if totals else None,
                "scores": {scorer.name: round(_score(scores, at), 4) for scorer, scores in decision.scores},
            }
            for at in [*decision.chosen, *others][: max(shown, len(decision.chosen))]
        ],
    }


def _score(scores: Scores, at: int) -> float:
    return scores.get(at, 0.0) if isinstance(scores, Mapping) else scores[at]
