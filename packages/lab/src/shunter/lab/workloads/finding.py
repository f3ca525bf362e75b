"""A workload by what the command line calls it: a name, `unseen-` and a number, or a trace in a file."""

import difflib
from pathlib import Path

from shunter.lab.core.fleet import Fleet
from shunter.lab.core.machines import MACHINES
from shunter.lab.core.statistics import Slo
from shunter.lab.errors import TraceError
from shunter.lab.workloads.catalogue import WORKLOADS, Workload
from shunter.lab.workloads.recorded import Recorded
from shunter.lab.workloads.traces import read
from shunter.lab.workloads.unseen import PREFIX, unseen

__all__ = ["find_workload"]

# A trace says nothing of the machines it met. These are the anchor of published comparisons.
ENGINES = 8
MACHINE = "qwen3-32b-h100-tp2"


def find_workload(name: str) -> Workload:
    """Return the workload of a name, a number or a file; raises TraceError with the nearest names there are."""
    if name in WORKLOADS:
        return WORKLOADS[name]
    number = name.removeprefix(PREFIX)
    if number != name and number.isdecimal() and len(number) < 10:
        return unseen(int(number))
    if name.endswith((".ndjson", ".jsonl")):
        return _recorded(Path(name))
    near = difflib.get_close_matches(name, WORKLOADS, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`shunter lab workloads` lists them"
    raise TraceError(f"workload {name!r}: no such name, and not a .ndjson file of `shunter lab import`; {hint}")


def _recorded(path: Path) -> Workload:
    try:
        with path.open("rb") as lines:
            trace = sorted(read("lab", lines), key=lambda arrival: arrival.at_s)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from error
    if path.stem in WORKLOADS:
        raise TraceError(f"{path}: {path.stem} is the name of a workload that there is; call the file otherwise")
    recorded = Recorded(trace)
    return Workload(
        name=path.stem,
        about=f"{len(trace)} requests recorded at {recorded.qps:.3g} a second",
        traffic=recorded,
        fleet=Fleet(engines=(MACHINES[MACHINE],) * ENGINES),
        slo=Slo(2.0, 0.1),
        lasts_s=len(trace) / recorded.qps,
        guess_qps=recorded.qps,
    )
