"""The regression gate: fails if the product's core has become dearer, as a multiple of the floor, than what was accepted."""

import json
from pathlib import Path

from hack.bench.inprocess import CASES, compare

__all__ = ["ACCEPTED", "accept", "check"]

ACCEPTED = Path(__file__).with_name("accepted.json")

# On a busy machine single turns differ by a third, but the least of many turns by a few per cent.
TOLERANCE = 0.15
TURNS = 7
ATTEMPTS = 4


def measure(case: str) -> float:
    """The least that the product took over the least that the floor took."""
    cost = compare(case, TURNS)
    return min(cost.product_us) / min(cost.floor_us)


def accept() -> None:
    """Make the least that is measured now the rule."""
    ratios = {case: round(min(measure(case) for _ in range(ATTEMPTS)), 2) for case in CASES}
    ACCEPTED.write_text(json.dumps(ratios, indent=2) + "\n")


def check() -> list[str]:
    """Print a verdict for each case; return the cases that failed. Whoever fails is measured again, a few times."""
    failed: list[str] = []
    for case, accepted in json.loads(ACCEPTED.read_text()).items():
        limit, found = accepted * (1 + TOLERANCE), float("inf")
        for _ in range(ATTEMPTS):
            found = min(found, measure(case))
            if found <= limit:
                break
        else:
            failed.append(case)
        verdict = "too much" if case in failed else "ok"
        print(f"{case:>16}: {found:.2f} × the floor, accepted {accepted:.2f}, limit {limit:.2f}: {verdict}", flush=True)
    return failed
