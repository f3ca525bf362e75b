"""``python -m hack.conformance.steady``: examine a server again and again; its verdicts must always be the same.

Each exam starts a server of its own. Exit code 1 if a verdict of one differs from that of another: the reports, in
build/conformance/steady, have the evidence.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

TIMES = 20

REPORTS = Path(__file__).resolve().parents[2] / "build" / "conformance" / "steady"

# The exams under way: each ends what it has started when it is told to end itself.
RUNNING = []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("launch", nargs="*", default=["lab", "llamacpp"], help="what to launch; lab and llamacpp by default")
    parser.add_argument("--times", type=int, default=TIMES)
    parser.add_argument("--jobs", type=int, default=1, help="exams at a time")
    wanted = parser.parse_args()
    signal.signal(signal.SIGTERM, give_up)
    unsteady = [launch for launch in wanted.launch if not steady(launch, wanted.times, wanted.jobs)]
    sys.exit(bool(unsteady))


def give_up(number, _frame):
    """Take the exams along."""
    for exam in RUNNING:
        exam.send_signal(number)
    for exam in RUNNING:
        exam.wait()
    os._exit(128 + number)  # the pool would begin the next


def steady(launch, times, jobs):
    """Say which verdicts differed, and whether none did."""
    seen = {}
    codes = Counter()
    with ThreadPoolExecutor(jobs) as pool:
        for at, (verdicts, code) in enumerate(pool.map(examine, [launch] * times, range(times))):
            codes[code] += 1
            for case, verdict in verdicts.items():
                seen.setdefault(case, Counter())[verdict] += 1
            other = [f"{case} {verdict}" for case, verdict in verdicts.items() if len(seen[case]) > 1]
            same = f"others before: {', '.join(other)}" if other else "no other before"
            print(f"{launch}: {at + 1} of {times}, exit code {code}, {len(verdicts)} verdicts, {same}", flush=True)
    differ = {case: verdicts for case, verdicts in seen.items() if len(verdicts) > 1 or verdicts.total() != times}
    for case, verdicts in differ.items():
        print(f"  {case:<34} " + ", ".join(f"{verdict} {count}" for verdict, count in verdicts.most_common()))
    tally = Counter(verdicts.most_common(1)[0][0] for verdicts in seen.values())
    print(f"{launch}: {times} exams of {len(seen)} cases, {len(differ)} with differing verdicts; mostly {dict(tally)}")
    return not differ and len(codes) == 1


def examine(launch, at):
    """Examine a server; return the verdict of each case, and the exit code."""
    report = REPORTS / launch / f"{at + 1}.yaml"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "shunter.conformance", "run", "--launch", launch, "--report", str(report)]
    exam = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    RUNNING.append(exam)
    exam.wait()
    RUNNING.remove(exam)
    cases = yaml.safe_load(report.read_text())["cases"] if report.exists() else []
    return {case["id"]: case["verdict"] for case in cases}, exam.returncode


if __name__ == "__main__":
    main()
