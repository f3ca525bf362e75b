"""``python -m hack.chaos``: strike a stack under load in every profile, and tell what it cost.

Exit code 1 if the default profile lost a request, or left requests without a pick for more than a second.
"""

import argparse
import os
import platform
import secrets
import signal
import sys
from pathlib import Path
from random import Random

import msgspec
import uvloop
from hack.chaos import report
from hack.chaos.faults import FAULTS
from hack.chaos.stage import WORKERS, stage
from hack.chaos.trial import DEFAULT, undergo

from shunter.envoyconf.shell import envoy

ROOT = Path(__file__).parents[2]
PROFILES = ("lean", "usage", "strict", "headers", "full")
RATE_PER_S = 320
# The default profile bears them all; a quarter will do to compare the others. A quick run is to see that all is well.
PART_OF_OTHERS = 4
PART_OF_QUICK = 20
QUICK_FAULTS_OF_OTHERS = 3


def plan(profile, *, quick):
    """Return what befalls a profile, and how often."""
    faults = FAULTS[:QUICK_FAULTS_OF_OTHERS] if quick and profile != DEFAULT else FAULTS
    part = (1 if profile == DEFAULT else PART_OF_OTHERS) * (PART_OF_QUICK if quick else 1)
    return [(fault, max(1, fault.times // part)) for fault in faults]


def strike(profile, faults, rate_per_s, dice):
    """Bring one stack up and let everything befall it; yield a row for each fault."""
    with stage(profile) as stack:
        for fault, times in faults:
            yield uvloop.run(undergo(stack, fault, times, rate_per_s, dice))


def keep(root, header, rows, *, whole):
    """Write the figures down and return where: beside the page if nothing was left out, else out of their way."""
    at = root / "build" / ("chaos.json" if whole else "chaos-part.json")
    at.parent.mkdir(exist_ok=True)
    at.write_bytes(msgspec.json.format(msgspec.json.encode({"header": header, "rows": rows}), indent=1))
    if whole:
        (root / "docs" / "chaos.md").write_text(report.page(header, rows))
    return at


def count(text):
    if int(text) < 1:
        raise ValueError
    return int(text)


def main():
    parser = argparse.ArgumentParser(prog="python -m hack.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few strikes, into build/chaos-part.json; docs/chaos.md stays")
    parser.add_argument("--profile", action="append", choices=PROFILES, help="only this one; repeatable")
    parser.add_argument("--fault", action="append", choices=[fault.name for fault in FAULTS], help="only this one; repeatable")
    parser.add_argument("--rate", type=count, default=RATE_PER_S, metavar="N", help=f"requests a second (default {RATE_PER_S})")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="of the dice (default: a new one)")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and what was started is ended
    header = report.Header(
        seed=chosen.seed,
        rate_per_s=chosen.rate,
        workers=WORKERS,
        cores=os.cpu_count(),
        python=platform.python_version(),
        envoy=envoy.VERSION,
        kernel=platform.release(),
    )
    print(report.describe(header), end="\n\n", flush=True)
    print(report.HEAD, flush=True)
    rows, done = [], False
    try:
        for profile in chosen.profile or PROFILES:
            faults = plan(profile, quick=chosen.quick)
            faults = [(fault, times) for fault, times in faults if not chosen.fault or fault.name in chosen.fault]
            # Each profile has dice of its own, so that it can be run again alone.
            for row in strike(profile, faults, chosen.rate, Random(f"{chosen.seed} {profile}")):
                rows.append(row)
                print(report.line(row), flush=True)
        done = not (chosen.quick or chosen.profile or chosen.fault)
    finally:
        print(f"\n{keep(ROOT, header, rows, whole=done).relative_to(ROOT)}")
    return 0 if all(report.holds(row) for row in rows if row.default) else 1


if __name__ == "__main__":
    sys.exit(main())
