"""``python -m hack.calibration``: record what a vLLM does, fit the lab's engine to it, and check how far it is off.

    python -m hack.calibration record probes probes.jsonl.gz --max-num-seqs 8 --max-num-batched-tokens 512
    python -m hack.calibration record middle middle.jsonl.gz --max-num-seqs 8 --max-num-batched-tokens 512
    python -m hack.calibration fit probes.jsonl.gz > fit.json
    python -m hack.calibration check fit.json middle.jsonl.gz

Only `record` needs the server; start it with `--enable-prompt-tokens-details`.
"""

import argparse
import asyncio
from pathlib import Path

import msgspec
from hack.calibration.check import compare, table
from hack.calibration.fit import Fit, fit
from hack.calibration.pace import at_pace
from hack.calibration.record import record
from hack.calibration.recording import Recording
from hack.calibration.workload import LOADS, asks, probes


def main():
    parser = argparse.ArgumentParser(prog="python -m hack.calibration", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="drive a vLLM that runs (2 to 6 minutes)")
    recording.add_argument("load", choices=["probes", *LOADS])
    recording.add_argument("out", type=Path)
    recording.add_argument("--url", default="http://127.0.0.1:8000")
    recording.add_argument("--max-num-seqs", type=int, required=True, help="as the server was started with")
    recording.add_argument("--max-num-batched-tokens", type=int, required=True, help="as the server was started with")
    fitting = commands.add_parser("fit", help="print the costs that explain recorded probes")
    fitting.add_argument("probes", type=Path)
    checking = commands.add_parser("check", help="print how far the engine with a fit is off recorded loads")
    checking.add_argument("fit", type=Path)
    checking.add_argument("recordings", type=Path, nargs="+")
    checking.add_argument("--as-fitted", action="store_true", help="leave in what the machine was slower or faster meanwhile")
    args = parser.parse_args()
    if args.command == "record":
        load = probes if args.load == "probes" else lambda _: asks(LOADS[args.load])
        asyncio.run(record(args.url, load, args.max_num_seqs, args.max_num_batched_tokens, print)).write(args.out)
    elif args.command == "fit":
        print(msgspec.json.format(msgspec.json.encode(fit(Recording.read(args.probes)))).decode())
    else:
        costs = msgspec.json.decode(args.fit.read_bytes(), type=Fit)
        comparisons = {}
        for path in args.recordings:
            recording = Recording.read(path)
            comparisons[path.name.partition(".")[0]] = compare(
                recording, costs if args.as_fitted else at_pace(costs, recording)
            )
        print(table(comparisons), end="")


if __name__ == "__main__":
    main()
