"""Requests by class, and service levels, as they are shown."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce

from shunter.picker.core import families
from shunter.picker.core.account_book import Class, ClassTally
from shunter.picker.core.buckets import Histogram
from shunter.picker.core.families import Family
from shunter.picker.core.samples import Labels, Samples, Value, single
from shunter.picker.core.service_levels import SIGNALS, Level, LevelTally

__all__ = ["class_samples", "level_samples"]

BY_CLASS = {
    "duration": families.DURATION,
    "tpot": families.TPOT,
    "ntpot": families.NTPOT,
    "input_tokens": families.INPUT_TOKENS,
    "cached_tokens": families.CACHED_INPUT_TOKENS,
    "output_tokens": families.OUTPUT_TOKENS,
    "request_bytes": families.REQUEST_SIZE,
    "response_bytes": families.RESPONSE_SIZE,
}
OF_ALL = {"processing": families.PROCESSING, "scheduler": families.SCHEDULER, "hit_ratio": families.HIT_RATIOS}


def class_samples(classes: Mapping[Class, ClassTally], folded: int, given_up: int) -> Iterator[Samples]:
    """Yield everything that is counted by class; of figures only those that are known."""
    rows = [((*key[:3], str(key[3])), tally) for key, tally in sorted(classes.items())]
    picked = [(labels, tally) for labels, tally in rows if tally.requests]
    yield Samples(families.REQUESTS, {labels: tally.requests for labels, tally in picked})
    yield Samples(families.RUNNING, {labels: tally.running for labels, tally in picked})
    errors = {(*labels, code): count for labels, tally in rows for code, count in tally.errors.items()}
    yield Samples(families.REQUEST_ERRORS, errors)
    stages: Counter[Labels] = Counter()
    for labels, tally in rows:
        stages.update({(labels[0], stage): count for stage, count in tally.stages.items()})
    yield Samples(families.DISAGGREGATION, stages)
    times: dict[Labels, Value] = {}
    for labels, tally in rows:
        for streaming, name in (("true", "ttft"), ("false", "first_byte")):
            if name in tally.figures:
                times[*labels, streaming] = tally.figures[name]
    yield Samples(families.TTFT, times)
    for name, family in BY_CLASS.items():
        yield Samples(family, {labels: tally.figures[name] for labels, tally in rows if name in tally.figures})
    for name, family in OF_ALL.items():
        yield single(family, _sum(family, [tally.figures[name] for _, tally in rows if name in tally.figures]))
    yield single(families.FOLDED, folded)
    yield single(families.GIVEN_UP, given_up)


def level_samples(levels: Sequence[Level], tallies: Mapping[str, LevelTally]) -> Iterator[Samples]:
    """Yield the counts of the levels in force, those of 0 too: a rate needs a beginning."""
    promised = [
        ((level.name, signal), which, level, limit_s)
        for level in levels
        for which, (signal, limit_s) in enumerate(zip(SIGNALS, level.thresholds, strict=True))
        if limit_s is not None
    ]
    if not promised:
        return
    known = {level.name: tallies.get(level.name, LevelTally()) for level in levels}
    yield Samples(families.LEVEL_REQUESTS, {key: known[level.name].requests[which] for key, which, level, _ in promised})
    yield Samples(families.LEVEL_GOOD, {key: known[level.name].good[which] for key, which, level, _ in promised})
    yield Samples(families.LEVEL_TARGET, {key: level.target for key, _, level, _ in promised})
    yield Samples(families.LEVEL_THRESHOLD, {key: limit_s for key, _, _, limit_s in promised})


def _sum(family: Family, histograms: Iterable[Histogram]) -> Histogram:
    return reduce(Histogram.plus, histograms, Histogram.of(family.buckets))
