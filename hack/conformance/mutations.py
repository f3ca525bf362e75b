"""Ask all that is broken in one way every case of its side, and keep what it failed in hack/conformance/mutations.ndjson.

The tests of broken servers, pickers and gateways do the work, and fail where somebody fails another case than his own, or
none. ``--near``: only the cases of the section and what these need, as in the default tests; other arguments go to pytest.
What is kept of an earlier run is replaced for the cases that were asked about.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from shunter.conformance.sections import CASES

ROOT = Path(__file__).resolve().parents[2]
KEPT = Path(__file__).with_name("mutations.ndjson")
TESTS = [f"packages/conformance/tests/test_{name}.py" for name in ("exam", "picker_exam", "gateways")]


def main() -> int:
    arguments = [argument for argument in sys.argv[1:] if argument != "--near"]
    with tempfile.TemporaryDirectory() as place:
        lines = Path(place, "lines")
        lines.touch()
        near = len(arguments) + 1 < len(sys.argv)
        environment = os.environ | {"SHUNTER_MUTATIONS": str(lines)} | ({} if near else {"SHUNTER_EVERY_CASE": "1"})
        tests = [*TESTS, *arguments] if not any(argument.endswith(".py") for argument in arguments) else arguments
        command = [sys.executable, "-m", "pytest", "-q", "-k", "broken", *tests]
        status = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        seen = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    keep(seen)
    subprocess.run([sys.executable, str(ROOT / "hack" / "gen_docs.py")], check=True)
    return status


def keep(seen: list[dict[str, object]]) -> None:
    """Merge what was seen with what is kept, in the order of the cases."""
    order = [case.id for case in CASES]
    kept = [json.loads(line) for line in KEPT.read_text(encoding="utf-8").splitlines()] if KEPT.exists() else []
    asked = {row["case"] for row in seen}
    rows = [row for row in kept if row["case"] not in asked and row["case"] in order] + seen
    rows.sort(key=lambda row: (order.index(row["case"]), row["breaks"]))
    KEPT.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
