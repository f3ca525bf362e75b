"""What a trace shows of one request in the picker: a few spans, each with all that is known.

::

    gateway.request                         the whole request, until its last byte: model, tokens, times, who served, status
    ├── shunter.queue                       if it waited for room
    └── gateway.request_orchestration       the decision: the engine's model, priority, what was known of the prompt
        └── run_scheduler_profile           of each profile: candidates, the chosen, the winner's scores, why it won

Names of spans, and of attributes where the meaning is the same, are those of the reference (``llm_d.epp.*``), which has a
span for each filter, scorer and picker too: what those say is in attributes here, so that a trace of a thousand requests a
second is three thousand spans and not ten. Of the client's request and of its answer it says what OpenTelemetry's conventions
for generative AI and for HTTP call so (``gen_ai.*``, ``server.*``, ``http.*``, ``error.type``). Never a prompt.
"""

from collections.abc import Mapping, Sequence
from heapq import nlargest
from typing import Literal

import msgspec

from shunter.picker.core.decisions import Entry
from shunter.picker.core.judgement import Outcome
from shunter.picker.core.kinds import Decision
from shunter.picker.core.prefix import Match
from shunter.picker.core.reasons import reason, score_at
from shunter.picker.core.service_levels import tpot_s
from shunter.picker.core.tracecontext import TraceContext

__all__ = ["Attribute", "Span", "describe_decision", "describe_end", "describe_profile", "describe_request", "split_authority"]

Attribute = str | bool | int | float | Sequence[str] | Sequence[float]

# What a request asks for, by how its path ends, where OpenTelemetry has a name for that.
OPERATIONS = {
    "/chat/completions": "chat",
    "/messages": "chat",
    "/responses": "chat",
    "/completions": "text_completion",
    "/generate": "text_completion",
    "/inference/v1/generate": "text_completion",
    "/embeddings": "embeddings",
}

# Of a profile's candidates, those shown with their totals: the chosen and who else was close.
SHOWN = 5


# More would be no port, and a number that no span can carry takes its whole batch with it.
PORT_DIGITS = 5


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One span. Times are monotonic seconds: who sends it away knows what time of day that was."""

    name: str
    context: TraceContext  # its own
    parent_id: str | None
    began_s: float
    ended_s: float
    attributes: Mapping[str, Attribute]
    kind: Literal["server", "internal"] = "internal"
    events: Sequence[tuple[float, str]] = ()
    error: str | None = None  # why it counts as failed; None: it does not


def describe_request(entry: Entry) -> dict[str, Attribute]:
    """Return what is known of a request as soon as it is decided."""
    found: dict[str, Attribute | None] = {
        "gen_ai.operation.name": OPERATIONS.get(entry.suffix),
        "gen_ai.request.id": entry.request_id,
        "gen_ai.request.model": entry.model,
        "gen_ai.request.max_tokens": entry.max_output_tokens,
        "gen_ai.request.stream": entry.stream,
        "shunter.ticket": entry.ticket,
        "shunter.pool": entry.pool,
        "shunter.objective": entry.objective,
        "shunter.fairness_id": entry.fairness_id,
        "shunter.queue_s": entry.waited_s,
    }
    if (refusal := entry.refusal) is not None:
        found |= {
            "http.response.status_code": refusal.status,
            "error.type": refusal.code,
            "shunter.refusal": refusal.reason.value if refusal.reason else None,
        }
    elif entry.decision is not None and entry.decision.chosen:
        found |= _place(entry.decision.candidates[entry.decision.chosen[0]].authority)
    return _known(found)


def describe_decision(entry: Entry) -> dict[str, Attribute]:
    """Return what the decision went by."""
    return _known(
        {
            "target_model": entry.target_model,
            "request_prio": entry.priority,
            "shunter.model_rule": entry.rule,
            "shunter.prompt_tokens": entry.prompt_tokens,  # estimated
            "shunter.prefix_blocks": entry.prefix_blocks,
        }
    )


def describe_profile(entry: Entry, name: str, decision: Decision) -> dict[str, Attribute]:
    """Return how one profile chose."""
    candidates, chosen, totals = decision.candidates, decision.chosen, decision.totals
    met = len(decision.narrowed[0][1]) if decision.narrowed else len(candidates)
    best = nlargest(SHOWN, range(len(totals)), key=totals.__getitem__)
    shown = [*chosen, *(at for at in best if at not in chosen)][: max(SHOWN, len(chosen))]
    found: dict[str, Attribute | None] = {
        "llm_d.epp.scheduling.profile.name": name,
        "llm_d.epp.filter.candidate_endpoints": met,
        "llm_d.epp.filter.filtered_endpoints": len(candidates),
        "llm_d.epp.picker.top_endpoints": [candidates[at].authority for at in shown],
        "llm_d.epp.picker.top_scores": [round(totals[at], 4) for at in shown] if totals else None,
        "shunter.reason": reason(decision, entry.features.columns() if entry.features else None, entry.prefix),
    }
    if chosen:
        winner = chosen[0]
        found["shunter.cached_tokens"] = _cached_tokens(entry.prefix, candidates[winner].slot)
        found |= {f"shunter.score.{each.name}": round(score_at(scores, winner), 4) for each, scores in decision.scores}
    return _known(found)


def describe_end(outcome: Outcome, first_choice: str | None) -> dict[str, Attribute]:
    """Return what is known of a request when it has ended."""
    found: dict[str, Attribute | None] = {
        "http.response.status_code": outcome.status or None,
        "gen_ai.usage.input_tokens": outcome.prompt_tokens,
        "gen_ai.usage.output_tokens": outcome.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": outcome.cached_tokens,
        "gen_ai.response.time_to_first_chunk": outcome.first_token_s,
        "shunter.time_per_output_token_s": tpot_s(outcome),
        "shunter.complete": outcome.complete,
    }
    if outcome.status is not None and outcome.status >= 500:
        found["error.type"] = str(outcome.status)
    if outcome.served is not None:
        found |= _place(outcome.served)
        found["shunter.fallback"] = outcome.served != first_choice if first_choice is not None else None
    return _known(found)


def split_authority(authority: str) -> tuple[str, int | None]:
    """Return address and port of ``ip:port``, of an IPv6 address without its brackets; what is no port is left out."""
    address, _, port = authority.rpartition(":")
    return address.strip("[]"), int(port) if port.isascii() and port.isdecimal() and len(port) <= PORT_DIGITS else None


def _place(authority: str) -> Mapping[str, Attribute | None]:
    address, port = split_authority(authority)
    return {"server.address": address, "server.port": port}


def _cached_tokens(prefix: Match, slot: int) -> int:
    return round(prefix.share.get(slot, 0.0) * prefix.tokens)


def _known(found: Mapping[str, Attribute | None]) -> dict[str, Attribute]:
    return {name: value for name, value in found.items() if value is not None}
