"""Ask what is broken in one way more than its own case, and keep what it failed in hack/conformance/mutations.ndjson.

Servers and gateways are asked every case of their side, pickers those of a section and what these need.

The tests of broken servers, pickers and gateways do the work, and fail where somebody fails another case than his own, or
none. It can be done in slices: ``--minutes 30``, and then ``--resume --minutes 30`` until nobody is left. Other arguments go to
pytest, such as the file of one side.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterable
from pathlib import Path

import msgspec
import pytest
from hack.conformance.mutants import MUTANTS
from hack.conformance.slices import Row, Slice, passed, read

from shunter.conformance.sections import CASES
from shunter.conformance.testing.gateways.faults import BROKEN
from shunter.conformance.testing.pickers.faults import FAULTS

ROOT = Path(__file__).resolve().parents[2]
KEPT = Path(__file__).with_name("mutations.ndjson")
TESTS = [f"packages/conformance/tests/test_{name}.py" for name in ("exam", "picker_exam", "gateways")]

# What the slices so far have seen, and the tests that have ended: written as they go, for a slice may be interrupted.
SLICES = ROOT / "build" / "conformance" / "mutations"
SEEN, ENDED = SLICES / "seen.ndjson", SLICES / "ended.ndjson"

ALL = {(fault.case, fault.breaks) for fault in (*MUTANTS, *FAULTS.values(), *BROKEN)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--near", action="store_true", help="only the cases of the section and what these need")
    parser.add_argument("--minutes", type=float, metavar="N", help="leave off after so long; what is half done is done anew")
    parser.add_argument("--resume", action="store_true", help="go on: who has passed since it was begun is not asked again")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="examine so many at a time")
    wanted, arguments = parser.parse_known_args()
    for number in (signal.SIGTERM, signal.SIGINT):  # in the background of a script, the latter is ignored by who is started
        signal.signal(number, signal.default_int_handler)
    if not wanted.resume:
        for file in (SEEN, ENDED):
            file.unlink(missing_ok=True)
    SLICES.mkdir(parents=True, exist_ok=True)
    status = ask(arguments, near=wanted.near, jobs=wanted.jobs, minutes=wanted.minutes)
    rows = read(SEEN)
    KEPT.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in merged(read(KEPT), rows, ALL)), "utf-8")
    subprocess.run([sys.executable, str(ROOT / "hack" / "gen_docs.py")], check=True)
    left = len(ALL - {named(row) for row in rows})
    print(f"{len(ALL) - left} of {len(ALL)} were asked" + (f"; --resume goes on with the other {left}" if left else ""))
    return status


def ask(arguments: list[str], *, near: bool = False, jobs: int = 1, minutes: float | None = None) -> int:
    """Run the tests that have not passed yet, for so long; return 0 unless one failed or could not be run."""
    until = None if minutes is None else time.time() + minutes * 60
    tests = [] if any(".py" in argument for argument in arguments) else TESTS
    words = ["-q", "-k", "broken", "-o", "faulthandler_timeout=0", "-p", "hack.conformance.slices", *tests, *arguments]
    environment = os.environ | {"SHUNTER_MUTATIONS": str(SEEN)} | ({} if near else {"SHUNTER_EVERY_CASE": "1"})
    before = read(ENDED)
    slices = [Slice(str(ENDED), frozenset(passed(before)), share, jobs, until) for share in range(jobs)]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest", *words],
            cwd=ROOT,
            env=environment | {"SHUNTER_SLICE": msgspec.json.encode(each).decode()},
            start_new_session=True,
        )
        for each in slices
    ]
    try:
        codes = {each.wait() for each in running}
    except KeyboardInterrupt:
        for each in running:
            each.send_signal(signal.SIGINT)
        codes = {each.wait() for each in running}
    in_order = {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}
    in_order |= {pytest.ExitCode.INTERRUPTED} if slices[0].over() else set()
    return int(not codes <= in_order or not all(row["passed"] for row in read(ENDED)[len(before) :]))


def named(row: Row) -> tuple[str, str]:
    return row["case"], row["breaks"]


def merged(kept: Iterable[Row], seen: Iterable[Row], known: Collection[tuple[str, str]]) -> list[Row]:
    """What was seen instead of what is kept of the same; of those who are broken today, in the order of the cases."""
    order = [case.id for case in CASES]
    latest = {named(row): row for row in (*kept, *seen) if named(row) in known}
    return sorted(latest.values(), key=lambda row: (order.index(row["case"]), row["breaks"]))


if __name__ == "__main__":
    sys.exit(main())
