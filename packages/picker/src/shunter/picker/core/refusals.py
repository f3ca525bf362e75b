"""Whom a judge refuses, and in which words: statuses, codes and messages as the reference has them (GIE digest §2.3)."""

from shunter.picker.core.judgement import DropReason, Refusal

__all__ = ["FILTERED", "GONE", "NO_CANDIDATES", "SHED", "TOO_DEEP"]

NO_CANDIDATES = Refusal(
    503,
    "ServiceUnavailable",
    "failed to find endpoint candidates for serving the request",
    DropReason.NO_ENDPOINTS,
)
SHED = Refusal(429, "ResourceExhausted", "system saturated, sheddable request dropped", DropReason.SATURATED)
FILTERED = Refusal(429, "ResourceExhausted", "no endpoints available for the given request", DropReason.SATURATED)
GONE = Refusal(503, "ServiceUnavailable", "nobody waits for the answer any longer", DropReason.CONTEXT_CANCELLED)
TOO_DEEP = Refusal(400, "BadRequest", "request body is nested too deeply")
