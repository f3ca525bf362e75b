"""The lab's benchmark runs and shows where the time goes."""

import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[1] / "bench_simulation.py"


def test_it_prints_the_rate_and_its_parts():
    command = [sys.executable, str(BENCHMARK), "--requests", "40", "--rounds", "1"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "requests per second and core" in printed
    parts = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("| ")]
    assert parts == ["part", "---", "engines, caches, events", "judge", "bodies"]
