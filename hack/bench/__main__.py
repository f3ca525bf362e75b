"""Benchmarks of the picker: ``python -m hack.bench inprocess`` and ``gate``."""

import argparse
import sys

from shunter.picker.shell.allocator import keep_large_blocks


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m hack.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("inprocess", help="the sans-IO core beside the floor")
    gate = commands.add_parser("gate", help="fail if the core has become dearer")
    gate.add_argument("--accept", action="store_true", help="make what is measured now the rule")
    arguments = parser.parse_args()
    keep_large_blocks()
    if arguments.command == "inprocess":
        from hack.bench.inprocess import table

        for line in table():
            print(line, flush=True)
        return 0
    from hack.bench.gate import accept, check

    if arguments.accept:
        accept()
    failed = check()
    if failed:
        print(f"dearer than accepted: {', '.join(failed)}; cheaper code, or a reason and `make bench-gate ARGS=--accept`")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
