"""All cases, round after round, subjects in turns; what cannot be measured becomes a row that says why."""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

from hack.bench.cases import Case
from hack.bench.inprocess import compare
from hack.bench.processes import Trouble, Unavailable
from hack.bench.rows import Result, Row, Sample, head, row

__all__ = ["calibrate", "measure_all"]

CALIBRATION_TURNS = 9

# Of three rounds, one may fail for a reason that goes away.
MOST_TROUBLE = 1

Measure = Callable[[Case, str], Sample]


def calibrate() -> float:
    """CPU µs of the floor's 1 KB exchange, in process: how fast this machine is at this minute."""
    return round(median(compare("1 KB", CALIBRATION_TURNS).floor_us), 1)


def measure_all(
    cases: Sequence[Case],
    measure: Measure,
    rounds: int,
    round_s: float,
    say: Callable[[str], None],
    versions: Mapping[str, str],
) -> Result:
    """Measure every subject of every case once in each round, every other time the last one first.

    Who is not to be had is asked for once. ``versions``: of the subjects that are not ours.
    """
    begun, load_before, before_us = time.monotonic(), os.getloadavg()[0], calibrate()
    samples: dict[tuple[str, str], list[Sample]] = {}
    troubles: dict[tuple[str, str], list[str]] = {}
    absent: dict[str, str] = {}
    for at in range(rounds):
        for case in cases:
            for subject in case.subjects[:: (-1) ** at]:
                key = case.name, subject
                samples.setdefault(key, [])
                known = troubles.setdefault(key, [])
                if subject in absent or len(known) > MOST_TROUBLE:
                    continue
                try:
                    sample = measure(case, subject)
                except Unavailable as reason:
                    absent[subject] = str(reason)
                    say(f"{subject} is left out: {reason}")
                except Trouble as trouble:
                    known.append(str(trouble))
                    say(f"{case.name}: {subject}: {trouble}")
                else:
                    samples[key].append(sample)
                    say(
                        f"round {at + 1}/{rounds}, {case.name}, {subject}: picker {sample.picker_us_per_request:.0f} µs,"
                        f" Envoy {sample.envoy_us_per_request:.0f} µs, p99 {sample.p99_ms:.1f} ms"
                    )
    rows = [_fold(key, samples[key], troubles[key], absent) for key in _keys(cases)]
    measured = {row.subject for row in rows if row.rounds}
    theirs = {name: number for name, number in versions.items() if name in measured}
    return Result(head(begun, load_before, (before_us, calibrate()), rounds, round_s, theirs), rows)


def _keys(cases: Iterable[Case]) -> list[tuple[str, str]]:
    return [(case.name, subject) for case in cases for subject in case.subjects]


def _fold(key: tuple[str, str], samples: list[Sample], troubles: list[str], absent: dict[str, str]) -> Row:
    case, subject = key
    reason = absent.get(subject) if not samples else None
    return row(case, subject, samples, reason or (troubles[-1] if troubles else None))
