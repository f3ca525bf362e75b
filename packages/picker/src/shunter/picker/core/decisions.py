"""The last decisions and everything that led to them, for whoever asks "why did this request go there?".

The log is bounded by count and by size. It keeps what the scheduler computed as it is, and turns it into words only when asked.
"""

from collections import OrderedDict
from collections.abc import Mapping
from itertools import islice

import msgspec

from shunter.picker.core.judgement import Outcome, Refusal
from shunter.picker.core.kinds import Decision, Scores

__all__ = ["KEEP", "KEEP_CANDIDATES", "LONGEST_NAME", "DecisionLog", "Entry"]

# The last second under load, the last hours in a quiet pool.
KEEP = 256

# Of all decisions together. In a quiet pool each decision meets new load, so it has scores of its own: 110 bytes a candidate
# were measured, which makes 7 MB. A pool of 1,000 endpoints has its last 65 decisions here.
KEEP_CANDIDATES = 65_536

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
    rule: str | None = None  # that names the target
    pool: str | None = None  # None: all endpoints
    priority: int = 0
    prompt_tokens: int = 0
    prefix_blocks: int = 0  # of the prompt
    decision: Decision | None = None
    refusal: Refusal | None = None
    outcome: Outcome | None = None
    waited_s: float | None = None  # for room; None: it did not

    @property
    def candidates(self) -> int:
        """How many there were to choose from."""
        return len(self.decision.candidates) if self.decision is not None else 0

    def explain(self, shown: int = SHOWN) -> dict[str, object]:
        """Return plain data (JSON types only): the request, the chosen endpoints and the best ``shown`` candidates' scores."""
        told: dict[str, object] = {
            "ticket": self.ticket,
            "at_s": self.at_s,
            "request_id": self.request_id,
            "model": self.model,
            "target_model": self.target_model,
            "rule": self.rule,
            "pool": self.pool,
            "priority": self.priority,
            "prompt_tokens": self.prompt_tokens,
            "prefix_blocks": self.prefix_blocks,
        }
        if self.waited_s is not None:
            told["waited_s"] = self.waited_s
        if self.refusal is not None:
            told["refusal"] = {field: getattr(self.refusal, field) for field in ("status", "code", "message", "reason")}
        if self.decision is not None:
            told |= _explain(self.decision, shown)
        if self.outcome is not None:
            told["outcome"] = msgspec.to_builtins(self.outcome)
        return told


class DecisionLog:
    """The last ``keep`` decisions by ticket, fewer if they had more than KEEP_CANDIDATES candidates together."""

    def __init__(self, keep: int = KEEP) -> None:
        """Keep none if ``keep`` is 0."""
        self._keep = keep
        self._entries: OrderedDict[int, Entry] = OrderedDict()  # a dict would look for its oldest among all that went before
        self._candidates = 0

    def add(self, entry: Entry) -> None:
        """Enter a decision; beyond the bounds the oldest ones are dropped."""
        self._entries[entry.ticket] = entry
        self._candidates += entry.candidates
        while len(self._entries) > self._keep or (self._candidates > KEEP_CANDIDATES and len(self._entries) > 1):
            _, oldest = self._entries.popitem(last=False)
            self._candidates -= oldest.candidates

    def close(self, ticket: int, outcome: Outcome) -> None:
        """Add how the request ended, if its decision is still here."""
        entry = self._entries.get(ticket)
        if entry is not None:
            entry.outcome = outcome

    def waited(self, ticket: int, waited_s: float) -> None:
        """Add how long the request waited for room, if its decision is still here."""
        entry = self._entries.get(ticket)
        if entry is not None:
            entry.waited_s = waited_s

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
