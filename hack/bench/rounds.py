"""All cases, round after round, subjects in turns; what cannot be measured becomes a row that says why."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
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
    turns = [(case, subject) for case in cases for subject in case.subjects]
    samples: dict[tuple[Case, str], list[Sample]] = {turn: [] for turn in turns}
    troubles: dict[tuple[Case, str], list[str]] = {turn: [] for turn in turns}
    absent: dict[str, str] = {}
    for number in range(1, rounds + 1):
        for case, subject in turns if number % 2 else reversed(turns):
            if subject in absent or len(troubles[case, subject]) > MOST_TROUBLE:
                continue
            try:
                sample = measure(case, subject)
            except Unavailable as reason:
                absent[subject] = str(reason)
                say(f"{subject} is left out: {reason}")
            except Exception as error:  # noqa: BLE001  one accident must not cost half an hour of rows
                trouble = str(error) if isinstance(error, Trouble) else f"{type(error).__name__}: {error}"
                troubles[case, subject].append(trouble)
                say(f"round {number}/{rounds}, {case.name}, {subject}: {trouble}")
            else:
                samples[case, subject].append(sample)
                say(f"round {number}/{rounds}, {case.name}, {subject}: {_told(sample)}")
    rows = [_fold(turn, samples[turn], troubles[turn], absent) for turn in turns]
    theirs = {each.subject: versions[each.subject] for each in rows if each.rounds and each.subject in versions}
    return Result(head(begun, load_before, (before_us, calibrate()), rounds, round_s, theirs), rows)


def _fold(turn: tuple[Case, str], samples: list[Sample], troubles: list[str], absent: Mapping[str, str]) -> Row:
    case, subject = turn
    return row(case, subject, samples, troubles[-1] if troubles else None if samples else absent.get(subject))


def _told(sample: Sample) -> str:
    picker_us, envoy_us = sample.picker_us_per_request, sample.envoy_us_per_request
    return f"picker {picker_us:.0f} µs, Envoy {envoy_us:.0f} µs, p99 {sample.p99_ms:.1f} ms"
