"""Benchmarks of the picker: ``python -m hack.bench COMMAND``.

picker      all subjects, through Envoy and straight, beside the floor: build/bench/picker.json and docs/performance.md
peers       other routers from PyPI: build/bench/peers.json
inprocess   the sans-IO core beside the floor
gate        fail if the core has become dearer
report      docs/performance.md again, from the two files
"""

import argparse
import sys
from functools import partial

from hack.bench.processes import ROOT

from shunter.picker.shell.allocator import keep_large_blocks

RESULTS = ROOT / "build" / "bench"
ROUNDS = 3


def measure_picker(*, quick: bool, rounds: int, only: str) -> None:
    from hack.bench.cases import CASES
    from hack.bench.measure import QUICK, THOROUGH, measure
    from hack.bench.report import table
    from hack.bench.rounds import measure_all
    from hack.bench.rows import write

    cases = [case for case in CASES if (case.quick or not quick) and only in case.name]
    times = QUICK if quick else THOROUGH
    result = measure_all(cases, partial(measure, times=times), 1 if quick else rounds, times.load, say)
    write(RESULTS / "picker.json", result)
    print(table(result.rows))
    if not quick and not only:
        write_page()


def write_page() -> None:
    from hack.bench.report import PAGE, page
    from hack.bench.rows import read

    peers = RESULTS / "peers.json"
    PAGE.write_text(page(read(RESULTS / "picker.json"), read(peers) if peers.exists() else None))
    print(f"wrote {PAGE.relative_to(ROOT)}")


def check_gate(*, accept: bool) -> int:
    from hack.bench import gate

    if accept:
        gate.accept()
    failed = gate.check()
    if failed:
        print(f"dearer than accepted: {', '.join(failed)}; cheaper code, or a reason and `make bench-gate ARGS=--accept`")
    return 1 if failed else 0


def print_inprocess() -> None:
    from hack.bench.inprocess import table

    for line in table():
        print(line, flush=True)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m hack.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("picker", "peers"):
        command = commands.add_parser(name)
        command.add_argument("--quick", action="store_true", help="one short round of the most important cases")
        command.add_argument("--rounds", type=int, default=ROUNDS)
        command.add_argument("--only", default="", help="cases with this in their name")
    commands.add_parser("inprocess")
    commands.add_parser("gate").add_argument("--accept", action="store_true", help="make what is measured now the rule")
    commands.add_parser("report")
    arguments = parser.parse_args()
    keep_large_blocks()
    match arguments.command:
        case "picker":
            measure_picker(quick=arguments.quick, rounds=arguments.rounds, only=arguments.only)
        case "inprocess":
            print_inprocess()
        case "gate":
            return check_gate(accept=arguments.accept)
        case "report":
            write_page()
    return 0


if __name__ == "__main__":
    sys.exit(main())
