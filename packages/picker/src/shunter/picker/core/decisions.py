"""The last decisions and everything that led to them, for whoever asks "why did this request go there?".

The log is bounded by count and by size. It keeps what the scheduler computed as it is, and turns it into words only when asked.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol, TypeAlias

import msgspec

from shunter.picker.core.features import Features
from shunter.picker.core.judgement import Outcome, Refusal
from shunter.picker.core.kinds import Decision, Verdict
from shunter.picker.core.prefix import NO_MATCH, Match
from shunter.picker.core.reasons import reason, score_at
from shunter.picker.core.request import DEFAULT_FLOW, Request
from shunter.picker.core.tracecontext import read_traceparent

__all__ = ["KEEP", "KEEP_CANDIDATES", "LONGEST_NAME", "DecisionLog", "Ended", "Entry", "enter"]

# The last seconds under load, the last hours in a quiet pool; as many as a new configuration is tried on.
KEEP = 1024

# Of all decisions together. In a quiet pool each decision meets new load, so it has scores and a fleet of its own: 320 bytes a
# candidate were measured, which makes 10 MB. A pool of 1,000 endpoints has its last 32 decisions here.
KEEP_CANDIDATES = 32_768

# Characters kept of a name that the client chose: a body may consist of little else than a model's name of many megabytes.
LONGEST_NAME = 256

# Decisions of which witnesses are told together. One by one, with all that a pick does in between, they were measured to cost
# three times as much. A worker that is killed takes with it what they have not been told: a tenth of a second's at most.
BATCH = 64

NOTHING: Mapping[str, Any] = {}

# Candidates shown of a decision beside the chosen ones: enough to see who was close.
SHOWN = 10


class Entry(msgspec.Struct, gc=False):
    """One request's decision; ``outcome`` follows when the request has ended."""

    ticket: int
    at_s: float  # monotonic; the whole request was there, and room for it
    request_id: str
    model: str | None = None
    target_model: str | None = None
    rule: str | None = None  # that names the target
    pool: str | None = None  # None: all endpoints
    priority: int = 0
    objective: str | None = None
    fairness_id: str = DEFAULT_FLOW
    suffix: str = ""  # of the path, by which the body's format was known
    size_bytes: int = 0  # of the body
    prompt_tokens: int = 0
    max_output_tokens: int | None = None
    stream: bool = False
    prefix: Match = NO_MATCH  # what was known of the prompt's beginning
    matches: Mapping[str, Match] = {}  # the same by producer, where there are several
    features: Features | None = None  # the fleet that was met
    decision: Decision | None = None
    others: Mapping[str, Decision] = {}  # of further profiles
    profile: str = ""  # whose decision it is
    refusal: Refusal | None = None
    outcome: Outcome | None = None
    began_s: float | None = None  # when the first of the request came, monotonic
    waited_s: float | None = None  # for room, until ``at_s``; None: it did not
    took_s: float | None = None  # the choice, by the stopwatch
    traceparent: str | None = None  # as it came, cut to LONGEST_NAME: see core.tracecontext

    @property
    def prefix_blocks(self) -> int:
        """How many blocks the prompt has."""
        return len(self.prefix.hashes)

    @property
    def at_ns(self) -> int:
        """When it was decided, as the snapshots have it."""
        return int(self.at_s * 1e9)

    @property
    def cached_share(self) -> float:
        """Which part of the prompt the chosen endpoint is taken to have cached, 0 to 1."""
        decision = self.decision
        return self.prefix.share.get(decision.candidates[decision.chosen[0]].slot, 0.0) if decision and decision.chosen else 0.0

    @property
    def candidates(self) -> int:
        """How many there were to choose from, in all profiles."""
        if self.decision is None:
            return 0
        count = len(self.decision.candidates)
        return count + sum([len(each.candidates) for each in self.others.values()]) if self.others else count

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
        if (trace := read_traceparent(self.traceparent)) is not None:
            told["trace_id"] = trace.trace_id
        if self.waited_s is not None:
            told["waited_s"] = self.waited_s
        if self.refusal is not None:
            told["refusal"] = {field: getattr(self.refusal, field) for field in ("status", "code", "message", "reason")}
        if self.decision is not None:
            columns = self.features.columns() if self.features is not None else None
            told |= {"profile": self.profile, "reason": reason(self.decision, columns, self.prefix)}
            told |= _explain(self.decision, shown, self.prefix)
            told["others"] = {
                name: {"reason": reason(each, columns, self.prefix), **_explain(each, shown, self.prefix)}
                for name, each in self.others.items()
            }
        if self.outcome is not None:
            told["outcome"] = msgspec.to_builtins(self.outcome)
        return told


def enter(
    request: Request, now_s: float, fate: Verdict | Refusal, features: Features | None = None, took_s: float | None = None
) -> Entry:
    """Return the entry of what became of a request; its body and its headers are not kept."""
    facts = request.facts
    refused = isinstance(fate, Refusal)
    # By position: two dozen names would take msgspec longer than all the rest.
    return Entry(
        request.ticket,
        now_s,
        (request.request_id or "")[:LONGEST_NAME],
        request.model and request.model[:LONGEST_NAME],
        request.target_model and request.target_model[:LONGEST_NAME],
        request.rule,
        request.pool,
        request.priority,
        request.objective and request.objective[:LONGEST_NAME],
        request.fairness_id[:LONGEST_NAME],
        request.format.suffix if request.format is not None else "",
        request.size_bytes,
        request.prompt_tokens,
        request.max_output_tokens,
        request.stream,
        request.prefix,
        {name: fact for name, fact in facts.items() if isinstance(fact, Match)} if facts else NOTHING,
        features,
        None if refused else fate.decision,
        NOTHING if refused else fate.others,
        "" if refused else fate.profile,
        fate if refused else None,
        None,
        request.began_s,
        request.waited_s,
        took_s,
        request.traceparent and request.traceparent[:LONGEST_NAME],
    )


Ended: TypeAlias = tuple[int, Outcome, float]
"""A ticket, how that request went as far as it is known, and when it was told, monotonic."""


class Witness(Protocol):
    """Follows a log, a little later, and may remember for longer."""

    name: str
    """What suffers if it fails, in words."""

    def follow(self, decided: Sequence[Entry], ended: Sequence[Ended]) -> None:
        """Learn what was entered, and how requests ended; of one perhaps more than once, later with more."""
        ...


class DecisionLog:
    """The last ``keep`` decisions by ticket, fewer if they had more than KEEP_CANDIDATES candidates together."""

    def __init__(self, complain: Callable[[str, Exception], None], keep: int = KEEP) -> None:
        """Keep none if ``keep`` is 0; ``complain`` is told which witness raised, and what."""
        self._complain = complain
        self._keep = keep
        self.witnesses: list[Witness] = []
        """Who learns of every entry and of every end; in this order."""
        self._decided: list[Entry] = []  # of which they have not been told
        self._ended: list[Ended] = []
        self._entries: OrderedDict[int, Entry] = OrderedDict()  # a dict would look for its oldest among all that went before
        self._candidates = 0

    def add(self, entry: Entry) -> None:
        """Enter a decision; beyond the bounds the oldest ones are dropped."""
        self._entries[entry.ticket] = entry
        self._candidates += entry.candidates
        while len(self._entries) > self._keep or (self._candidates > KEEP_CANDIDATES and len(self._entries) > 1):
            _, oldest = self._entries.popitem(last=False)
            self._candidates -= oldest.candidates
        self._decided.append(entry)
        if len(self._decided) >= BATCH:
            self.tell()

    def close(self, ticket: int, outcome: Outcome, now_s: float) -> None:
        """Add how the request ended, if its decision is still here."""
        entry = self._entries.get(ticket)
        if entry is not None:
            entry.outcome = outcome.after(entry.outcome)
        self._ended.append((ticket, outcome, now_s))
        if len(self._ended) >= 2 * BATCH:  # of most requests it is told twice
            self.tell()

    def tell(self) -> None:
        """Let the witnesses know what is new. One that raises has not seen this batch, or not all of it; the others have."""
        decided, self._decided = self._decided, []
        ended, self._ended = self._ended, []
        for witness in self.witnesses:
            try:
                witness.follow(decided, ended)
            except Exception as error:  # noqa: BLE001  who looks on must not cost the request that fills a batch
                self._complain(witness.name, error)

    def get(self, ticket: int) -> Entry | None:
        """Return a decision, if it is still here."""
        return self._entries.get(ticket)

    def latest(self, count: int = KEEP) -> list[Entry]:
        """Return up to ``count`` entries, newest first."""
        return list(islice(reversed(self._entries.values()), count))

    def before(self, at_s: float | None) -> Iterator[Entry]:
        """Yield the entries from before a time (None: all), newest first."""
        return (entry for entry in reversed(self._entries.values()) if at_s is None or entry.at_s < at_s)

    def find(self, request_id: str) -> Entry | None:
        """Return the newest entry of a request id."""
        return next((entry for entry in reversed(self._entries.values()) if entry.request_id == request_id), None)


def _explain(decision: Decision, shown: int, prefix: Match) -> dict[str, object]:
    candidates, totals = decision.candidates, decision.totals
    ranked = sorted(range(len(totals)), key=lambda at: -totals[at])
    others = [at for at in ranked if at not in decision.chosen]
    had = [len(before) for _, before in decision.narrowed]
    return {
        "chosen": [candidates[at].authority for at in decision.chosen],
        "candidates": len(candidates),
        "narrowed": {name: before for (name, _), before in zip(decision.narrowed, had, strict=True)},
        "weights": {scorer.name: scorer.weight for scorer, _ in decision.scores},
        "best": [
            {
                "endpoint": candidates[at].authority,
                "name": candidates[at].name,
                "total": round(totals[at], 4) if totals else None,
                "cached": round(prefix.share.get(candidates[at].slot, 0.0), 4),
                "scores": {scorer.name: round(score_at(scores, at), 4) for scorer, scores in decision.scores},
            }
            for at in [*decision.chosen, *others][: max(shown, len(decision.chosen))]
        ],
    }
