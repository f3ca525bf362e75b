"""A workload by what the command line calls it: a name, `unseen-` and a number, or a trace in a file."""

import difflib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from shunter.lab.core.arrivals import Arrival
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
            trace = _in_order(list(read("lab", lines)))
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from error
    if path.stem in WORKLOADS:
        raise TraceError(f"{path}: {path.stem} is the name of a workload that there is; call the file otherwise")
    recorded = Recorded(trace)
    if not recorded.lasts_s > 0:
        raise TraceError(f"{path}: {len(trace)} request{'s' * (len(trace) != 1)} at one instant, so there is no rate")
    return Workload(
        name=path.stem,
        about=f"{len(trace)} requests recorded at {recorded.qps:.3g} a second",
        traffic=recorded,
        fleet=Fleet(engines=(MACHINES[MACHINE],) * ENGINES),
        slo=Slo(2.0, 0.1),
        lasts_s=len(trace) / recorded.qps,
        guess_qps=recorded.qps,
    )


def _in_order(trace: Sequence[Arrival]) -> list[Arrival]:
    """Return a trace in order of time; raises TraceError if two arrivals cannot be of one trace."""
    order = sorted(range(len(trace)), key=lambda at: trace[at].at_s)
    place = {at: number for number, at in enumerate(order)}
    lengths: dict[int, int] = {}
    ordered: list[Arrival] = []
    for number, at in enumerate(order):
        arrival = trace[at]
        after = None if arrival.after is None else place[arrival.after]
        if after is not None and after >= number:
            raise TraceError(f"arrival {at} comes after arrival {arrival.after}, which is later")
        for segment in (*arrival.prompt, arrival.output):
            if lengths.setdefault(segment.id, segment.tokens) != segment.tokens:
                raise TraceError(
                    f"arrival {at}: segment {segment.id} has {segment.tokens} tokens here and {lengths[segment.id]} elsewhere"
                )
        ordered.append(msgspec.structs.replace(arrival, after=after))
    return ordered
