"""The regression gate: fails if the product's core has become dearer, as a multiple of the floor, than what was accepted.

And if to see everything, metrics, traces, lines and the page, adds more to a pick than was promised.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hack.bench import seeing
from hack.bench.inprocess import CASES, compare

__all__ = ["ACCEPTED", "accept", "check"]

ACCEPTED = Path(__file__).with_name("accepted.json")

# On a busy machine single turns differ by a third, but the least of many turns by a few per cent.
TOLERANCE = 0.15
TURNS = 7
ATTEMPTS = 6

# Turns of this are longer, and each has a ratio of its own.
SEEING = "seeing everything"
SEEING_TURNS = 5
PROMISED = 0.10  # of a pick


def measure(case: str) -> float:
    """The least that the product took over the least that the floor took."""
    cost = compare(case, TURNS)
    return min(cost.product_us) / min(cost.floor_us)


def measure_seeing() -> float:
    """What everything adds to a pick, as a part of it."""
    _, found = seeing.compare(SEEING_TURNS, {name: seeing.PARTS[name] for name in (seeing.BASE, seeing.ALL)})
    return seeing.added(found, seeing.ALL)


def accept() -> None:
    """Make the least that is measured now the rule."""
    ratios = {case: round(min(measure(case) for _ in range(ATTEMPTS)), 2) for case in CASES}
    ACCEPTED.write_text(json.dumps(ratios, indent=2) + "\n")


def check() -> list[str]:
    """Print a verdict for each case; return the cases that failed. Whoever fails is measured again, a few times."""
    failed: list[str] = []
    for case, accepted in json.loads(ACCEPTED.read_text()).items():
        limit = accepted * (1 + TOLERANCE)
        found = _least(partial(measure, case), limit)
        failed += [case] * (found > limit)
        _tell(case, f"{found:.2f} × the floor, accepted {accepted:.2f}, limit {limit:.2f}", ok=found <= limit)
    found = _least(measure_seeing, PROMISED)
    failed += [SEEING] * (found > PROMISED)
    _tell(SEEING, f"{100 * found:.1f} % of a pick, promised {100 * PROMISED:.0f} %", ok=found <= PROMISED)
    return failed


def _least(measured: Callable[[], float], limit: float) -> float:
    found = measured()
    for _ in range(ATTEMPTS - 1):
        if found <= limit:
            break
        found = min(found, measured())
    return found


def _tell(what: str, words: str, *, ok: bool) -> None:
    print(f"{what:>18}: {words}: {'ok' if ok else 'too much'}", flush=True)
