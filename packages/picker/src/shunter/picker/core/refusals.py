"""Whom a judge refuses, and in which words: statuses, codes and messages as the reference has them."""

from shunter.picker.core.decisions import LONGEST_NAME
from shunter.picker.core.judgement import Ask, DropReason, Refusal
from shunter.picker.core.request import Request
from shunter.snapshot import Topology

__all__ = ["BROKEN", "FILTERED", "GONE", "NO_CANDIDATES", "SHED", "TOO_DEEP", "unknown_pool", "unread"]

NO_CANDIDATES = Refusal(
    503,
    "ServiceUnavailable",
    "failed to find endpoint candidates for serving the request",
    DropReason.NO_ENDPOINTS,
)
SHED = Refusal(429, "ResourceExhausted", "system saturated, sheddable request dropped", DropReason.SATURATED)
FILTERED = Refusal(429, "ResourceExhausted", "no endpoints available for the given request", DropReason.SATURATED)
GONE = Refusal(503, "ServiceUnavailable", "nobody waits for the answer any longer", DropReason.CONTEXT_CANCELLED)
BROKEN = Refusal(500, "Internal", "the picker failed to choose; its log says why")
TOO_DEEP = Refusal(400, "BadRequest", "request body is nested too deeply")


def unknown_pool(name: str, topology: Topology | None, served: str | None) -> Refusal:
    """Say which pools there are instead of the one that the gateway names, and which is ``served`` if that is only one."""
    if topology is None:
        return NO_CANDIDATES
    known = ", ".join(f"{each.namespace}/{each.name}" for each in topology.pools)
    only = f"; it serves {served} only" if served else ""
    words = f"the gateway names the pool {name[:LONGEST_NAME]}, which this picker does not know; pools: "
    return Refusal(503, "ServiceUnavailable", f"{words}{known or 'none'}{only}", DropReason.NO_ENDPOINTS)


def unread(ask: Ask, ticket: int) -> Request:
    """Return what is known of a request that is refused before it is read."""
    return Request(
        headers=ask.headers,
        request_id=ask.headers.get("x-request-id"),
        ticket=ticket,
        pool=ask.pool and ask.pool[:LONGEST_NAME],
        traceparent=ask.traceparent,
        began_s=ask.began_s,
    )
