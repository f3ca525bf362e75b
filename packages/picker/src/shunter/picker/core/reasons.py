"""Why an endpoint won, in a sentence."""

from collections.abc import Iterator, Mapping
from itertools import pairwise

from shunter.picker.core.features import Columns
from shunter.picker.core.kinds import Decision, Scores
from shunter.picker.core.prefix import NO_MATCH, Match

__all__ = ["reason", "score_at"]

# Weighted scores closer than this decide nothing that a person would want to read of.
SLIGHT = 0.005


def reason(decision: Decision, columns: Columns | None = None, prefix: Match = NO_MATCH) -> str:
    """Return why the first choice was chosen, and who had been left out before; ``columns`` are the fleet that was met.

    It is compared with the best of the others: what spoke for it and what against it, each with its weighted difference, and
    in what they differed.
    """
    left = _left(decision)
    tail = f"; {left}." if left else "."
    if not decision.chosen:
        return f"nobody was left{tail}"
    candidates, totals, winner = decision.candidates, decision.totals, decision.chosen[0]
    name = candidates[winner].authority
    if len(candidates) == 1:
        return f"{name} was the only candidate{tail}"
    if not totals:
        return f"{name} had the fewest requests in flight: a plugin failed, and nobody was scored{tail}"
    rival = max((at for at in range(len(totals)) if at != winner), key=totals.__getitem__)
    other, ahead = candidates[rival].authority, totals[winner] - totals[rival]
    if ahead < -SLIGHT:
        return f"{name} was drawn, although {other} had {-ahead:.2f} more{tail}"
    if ahead <= SLIGHT:
        equal = sum(abs(total - totals[winner]) <= SLIGHT for total in totals)
        return f"{name} was drawn among {equal} of {len(totals)} that were equally good{tail}"
    by = [(each.name, each.weight * (score_at(scores, winner) - score_at(scores, rival))) for each, scores in decision.scores]
    by.sort(key=lambda each: -abs(each[1]))
    merits = [f"{scorer} +{more:.2f}" for scorer, more in by if more > SLIGHT]
    faults = [f"{scorer} −{-more:.2f}" for scorer, more in by if more < -SLIGHT]
    why = " and ".join(merits)
    if faults:
        why += f" {'outweighs' if len(merits) == 1 else 'outweigh'} {' and '.join(faults)}"
    met = ", ".join(_differences(candidates[winner].slot, candidates[rival].slot, columns, prefix))
    return f"{name} won by {ahead:.2f} over {other}: {why}{f'; it had {met}' if met else ''}{tail}"


def score_at(scores: Scores, at: int) -> float:
    """Return the score of one position."""
    return scores.get(at, 0.0) if isinstance(scores, Mapping) else scores[at]


def _differences(winner: int, rival: int, columns: Columns | None, prefix: Match) -> Iterator[str]:
    """Yield in what two slots differ that scorers look at."""
    mine, theirs = (round(100 * prefix.share.get(slot, 0.0)) for slot in (winner, rival))
    if mine != theirs:
        yield f"{mine} % of the prompt cached against {theirs} %"
    if columns is None:
        return
    position = {endpoint.slot: at for at, endpoint in enumerate(columns.endpoints)}
    if not {winner, rival} <= position.keys():
        return
    for what, column, scale in (
        ("waiting", columns.waiting, 1),
        ("in flight", columns.in_flight, 1),
        ("% of its KV cache used", columns.kv_usage, 100),
    ):
        mine, theirs = (round(scale * column[position[slot]]) for slot in (winner, rival))
        if mine != theirs:
            yield f"{mine} {what} against {theirs}"


def _left(decision: Decision) -> str:
    """Say which filters dropped somebody, and how many they left."""
    sizes = [*[len(before) for _, before in decision.narrowed], len(decision.candidates)]
    names = [name for name, _ in decision.narrowed]
    return ", ".join(f"{name} left {left} of {had}" for name, (had, left) in zip(names, pairwise(sizes), strict=True))
