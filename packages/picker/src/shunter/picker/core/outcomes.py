"""Records become figures: times, tokens, statuses, who served instead of whom, and how fast each endpoint is.

Only what ended is counted. A record without a host never reached an endpoint; one whose host is not in the snapshot is counted
as a stranger's and teaches nothing of endpoints: so the number of rows is bounded by the snapshot, whatever a peer says.
"""

import math
from collections.abc import Collection, Mapping

import msgspec

from shunter.picker.core.judgement import Outcome
from shunter.picker.core.learned import Learned, Row, row_key
from shunter.picker.core.ledger import Key
from shunter.picker.core.records import Record

__all__ = ["Outcomes", "outcome_of"]

# How many requests a running average remembers: an endpoint that changes is noticed within a few dozen.
REMEMBERED = 32

# A shorter prefill is mostly overhead and says nothing of a rate; so does a decode of a few tokens.
FEWEST_PREFILL_TOKENS = 64
FEWEST_DECODE_TOKENS = 8

# Envoy has some forty flags, and a record may have several; what a peer invents beyond that is counted as "other".
MOST_FLAGS = 64
LONGEST_FLAG = 16  # characters; Envoy's own have up to five

# Flags by which it is the endpoint that failed: connection failure or termination, reset by the endpoint, retries exhausted.
ENDPOINT_FAILED = frozenset({"UF", "UC", "UR", "URX", "UPE", "UT"})

# The flag of a client that hung up; if it did so before the response began, nobody failed.
CLIENT_LEFT = "DC"

LONGEST_S = 7 * 24 * 3600.0


class Outcomes:
    """Folds records into what was learnt so far."""

    def __init__(self, learned: Learned) -> None:
        """Go on from ``learned``, which is changed in place."""
        self.learned = learned

    def take(self, record: Record, endpoints: Mapping[str, Key]) -> None:
        """Count a request that ended; ``endpoints`` are those of the snapshot, by ``ip:port``."""
        learned = self.learned
        learned.records += 1
        flags = [flag for flag in record.flags.split(",") if flag not in {"-", ""}]
        status = f"{record.status // 100}xx" if 100 <= record.status < 600 else "left" if flags == [CLIENT_LEFT] else "none"
        learned.statuses[status] = learned.statuses.get(status, 0) + 1
        for flag in flags:
            known = flag in learned.flags or (len(flag) <= LONGEST_FLAG and len(learned.flags) < MOST_FLAGS)
            name = flag if known else "other"
            learned.flags[name] = learned.flags.get(name, 0) + 1
        learned.retries += max(0, min(record.attempts or 0, 1000) - 1)
        if record.host is None:
            return
        first = record.pick.split(",", 1)[0].strip() if record.pick else None
        learned.blind += first is None and record.pick is not msgspec.UNSET
        learned.fallbacks += first not in {None, record.host}
        key = endpoints.get(record.host)
        if key is None:
            learned.strangers += 1
            return
        row = learned.rows.setdefault(row_key(key), Row(slot=key[0], incarnation=key[1], endpoint=record.host))
        _learn(row, record, failed=record.status >= 500 or not ENDPOINT_FAILED.isdisjoint(flags))

    def retain(self, live: Collection[Key]) -> None:
        """Forget the endpoints that are gone."""
        kept = {row_key(key) for key in live}
        for gone in self.learned.rows.keys() - kept:
            del self.learned.rows[gone]


def outcome_of(record: Record) -> Outcome:
    """Return how a request went, as its worker would have noted it had it seen the response."""
    usage = record.usage
    return Outcome(
        complete=record.flags == "-" and record.status < 500,
        status=record.status,
        served=record.host,
        first_token_s=first_byte_s(record) if record.streamed else None,
        duration_s=_seconds(record.duration_ms, 1e3),
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        first_byte_s=first_byte_s(record),
        sent_bytes=max(record.sent, 0),
    )


def first_byte_s(record: Record) -> float | None:
    """Return the time to the first byte of the body of a response that is one, in seconds."""
    return _seconds(record.first_us, 1e6) if 200 <= record.status < 300 else None


def _seconds(value: int | None, per_s: float) -> float | None:
    return value / per_s if value is not None and 0 <= value <= LONGEST_S * per_s else None


def _learn(row: Row, record: Record, *, failed: bool) -> None:
    row.requests += 1
    row.failures += failed
    row.failing = _average(row.failing, float(failed))
    first_s, usage = first_byte_s(record), record.usage
    if failed or first_s is None or not record.streamed:
        return
    row.ttft_total_s += first_s
    row.ttfts += 1
    row.ttft_s = _average(row.ttft_s, first_s)
    computed = (usage.prompt_tokens or 0) - (usage.cached_tokens or 0)
    if computed >= FEWEST_PREFILL_TOKENS and first_s > 0:
        row.prefill_per_s = _rate(row.prefill_per_s, computed, first_s)
    duration_s, produced = _seconds(record.duration_ms, 1e3), (usage.completion_tokens or 0) - 1
    if duration_s is not None and duration_s > first_s and produced >= FEWEST_DECODE_TOKENS:
        row.decode_per_s = _rate(row.decode_per_s, produced, duration_s - first_s)


def _average(old: float | None, new: float) -> float:
    return new if old is None else old + (new - old) / REMEMBERED


def _rate(old: float | None, tokens: int, time_s: float) -> float:
    """Average times, not rates: of 1 s and 3 s for the same work half a second's worth is the middle, not two thirds."""
    pace = _average(None if old is None else 1 / old, time_s / tokens)
    return 1 / max(pace, math.ulp(1.0))
