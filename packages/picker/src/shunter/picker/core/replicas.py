"""How many endpoints of each role the load asks for: a hint for whoever adds and removes them.

An endpoint's *level* says how full it is: 1 where the reference calls it saturated, at 5 requests that wait for it or 80 % of
its KV cache in use, whichever is worse. One that only computes prompts (role prefill) keeps no cache for long: of it the prompt
tokens in flight count instead, 1 being two seconds of work. Requests that wait in the picker, for whoever decodes, add a fifth
of a level each. A role wants as many endpoints as keep the mean level at GOAL::

    desired = ceil((levels of all endpoints + requests that wait / 5) / GOAL)

and never fewer than one while it has any. An endpoint of which nothing is known, or that is not ready yet, counts as one at
GOAL: it is there, and no reason to want more or fewer. Within TOLERANCE of what there is nothing is changed, as a
HorizontalPodAutoscaler has it, so that the number does not flutter.

Roles are those of the label ``llm-d.ai/role``, prefill and decode; whoever does both, or has no label, is of role both.
"""

import math
from collections.abc import Sequence

from shunter.picker.core.ledger import PREFILL_PER_S
from shunter.picker.core.overview import Overview, Row

__all__ = ["GOAL", "TOLERANCE", "desired_replicas"]

# The reference's utilization-detector: a pool whose mean level is 1 is saturated, and sheds.
FULL_QUEUE = 5.0
FULL_CACHE = 0.8
FULL_PREFILL_S = 2.0

# A quarter is left for what comes while a new endpoint loads its model, which takes minutes.
GOAL = 0.75
TOLERANCE = 0.1

PREFILL_ROLES = frozenset({"prefill", "encode-prefill"})


def desired_replicas(overview: Overview) -> dict[str, int]:
    """Return by role how many endpoints there should be; nothing of roles that nobody has."""
    by_role: dict[str, list[Row]] = {}
    for row in overview.endpoints:
        by_role.setdefault(_role(row.role), []).append(row)
    waiting = sum((overview.queued or {}).values())
    deciders = "decode" if "decode" in by_role else "both"
    return {role: _desired(rows, role, waiting if role == deciders else 0) for role, rows in sorted(by_role.items())}


def _role(label: str | None) -> str:
    return "prefill" if label in PREFILL_ROLES else "decode" if label == "decode" else "both"


def _desired(rows: Sequence[Row], role: str, waiting: int) -> int:
    levels = sum([_level(row, role) for row in rows]) + waiting / FULL_QUEUE
    ratio = levels / (GOAL * len(rows))
    if abs(ratio - 1) <= TOLERANCE:
        return len(rows)
    return max(1, math.ceil(round(ratio * len(rows), 6)))


def _level(row: Row, role: str) -> float:
    if not row.ready or row.waiting is None or (role != "prefill" and row.kv_usage is None):
        return GOAL
    queue = row.waiting / FULL_QUEUE
    if role == "prefill":
        return max(queue, row.prefill_tokens / (PREFILL_PER_S * FULL_PREFILL_S))
    return max(queue, (row.kv_usage or 0.0) / FULL_CACHE)
