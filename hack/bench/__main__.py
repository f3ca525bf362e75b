"""Benchmarks of the picker: ``python -m hack.bench COMMAND``.

picker      all subjects, through Envoy and straight, beside the floor: build/bench/picker.json and docs/performance.md
peers       other routers from PyPI: build/bench/peers.json
inprocess   the sans-IO core beside the floor
seeing      the picks' CPU with metrics, traces, lines of the log and the page on and off
gate        fail if the core has become dearer
report      docs/performance.md again, from the two files
"""

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial

import msgspec
from hack.bench import gate, inprocess, rounds, rows, seeing
from hack.bench.cases import CASES, Case
from hack.bench.measure import QUICK, THOROUGH, measure
from hack.bench.peers import PEER_CASES, PEER_VERSIONS, PEERS
from hack.bench.processes import ROOT
from hack.bench.reference import go_epp, go_epp_version
from hack.bench.report import PAGE, page, peer_table, table
from hack.bench.subjects import SUBJECTS, Start

from shunter.picker.shell.allocator import keep_large_blocks

RESULTS = ROOT / "build" / "bench"
ROUNDS = 3


Subjects = Mapping[str, Start]
Versions = Mapping[str, str]


def measure_all(arguments: argparse.Namespace, cases: Sequence[Case], subjects: Subjects, versions: Versions) -> rows.Result:
    """Measure and keep the rows; of a part, not in the place of the whole."""
    quick, only = arguments.quick, arguments.only
    chosen = [case for case in cases if (case.quick or not quick) and only in case.name]
    times = QUICK if quick else THOROUGH
    take = partial(measure, times=times, subjects=subjects)
    count = arguments.rounds or (1 if quick else ROUNDS)
    result = rounds.measure_all(chosen, take, count, times.load, say, versions)
    rows.write(RESULTS / f"{'part-of-' if only else ''}{arguments.command}.json", result)
    return result


def write_page() -> None:
    picker = kept("picker")
    if picker is None:
        say("no page without `make bench-picker`")
        return
    PAGE.write_text(page(picker, kept("peers")))
    say(f"wrote {PAGE.relative_to(ROOT)}")


def kept(name: str) -> rows.Result | None:
    path = RESULTS / f"{name}.json"
    try:
        return rows.read(path) if path.exists() else None
    except msgspec.ValidationError as error:
        say(f"{path.relative_to(ROOT)} is of another version, and left out: {error}")
        return None


def check_gate(*, accept: bool) -> int:
    if accept:
        gate.accept()
    failed = gate.check()
    if failed:
        say(f"dearer than accepted: {', '.join(failed)}; cheaper code, or a reason and `make bench-gate ARGS=--accept`")
    return 1 if failed else 0


def give_up(number: int, _frame: object) -> None:
    """Take along what was started."""
    raise SystemExit(128 + number)


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
        command.add_argument("--rounds", type=int)
        command.add_argument("--only", default="", help="cases with this in their name")
    commands.add_parser("inprocess")
    commands.add_parser("seeing")
    commands.add_parser("gate").add_argument("--accept", action="store_true", help="make what is measured now the rule")
    commands.add_parser("report")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, give_up)
    keep_large_blocks()
    whole = False
    match arguments.command:
        case "picker":
            subjects = {**SUBJECTS, "go-epp": go_epp}
            print(table(measure_all(arguments, CASES, subjects, {"go-epp": go_epp_version()}).rows))
            whole = not (arguments.quick or arguments.only)
        case "peers":
            print(peer_table(measure_all(arguments, PEER_CASES, PEERS, PEER_VERSIONS).rows))
            whole = not (arguments.quick or arguments.only)
        case "inprocess" | "seeing":
            for line in (inprocess if arguments.command == "inprocess" else seeing).table():
                print(line, flush=True)
        case "gate":
            return check_gate(accept=arguments.accept)
        case "report":
            whole = True
    if whole:
        write_page()
    return 0


if __name__ == "__main__":
    sys.exit(main())
