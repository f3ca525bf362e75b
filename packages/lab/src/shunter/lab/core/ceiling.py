"""What a perfect prefix cache would find: the part of every prompt that somebody has sent or been answered before.

The cache is shared by all engines, never forgets, and knows a prompt from the moment it arrives and an answer from the moment
the request that has it in its prompt can exist. What a fleet's own caches find, divided by this, says how well requests were
sent to where their beginning was.
"""

from collections.abc import Iterable

from shunter.lab.core.arrivals import Arrival

__all__ = ["ceiling"]


def ceiling(arrivals: Iterable[Arrival], block_size: int) -> list[int]:
    """Return, for arrivals in the order in which they came, how many of each one's prompt tokens could be cached.

    Engines cache whole blocks, and the last token of a prompt is always computed.
    """
    nodes: dict[tuple[int, object], int] = {}  # (parent, what follows) → node; the root is 0
    found: list[int] = []
    for arrival in arrivals:
        known = total = 0
        node, fresh = _step(nodes, 0, arrival.adapter)
        for segment in arrival.prompt:
            node, unseen = _step(nodes, node, segment.id)
            fresh = fresh or unseen
            total += segment.tokens
            if not fresh:
                known = total
        _step(nodes, node, arrival.output.id)
        found.append(min(known, total - 1) // block_size * block_size)
    return found


def _step(nodes: dict[tuple[int, object], int], node: int, key: object) -> tuple[int, bool]:
    """Go down, making the way if it is new; return where that leads and whether it was."""
    count = len(nodes)
    return nodes.setdefault((node, key), count + 1), len(nodes) > count
